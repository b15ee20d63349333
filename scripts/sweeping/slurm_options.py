"""--slurm KEY=VALUE: text for sbatch, exactly as typed, but for what submitit computes with or takes as a list."""

import math
import re
from collections.abc import Callable
from typing import Any

from ddfnet.by_schema import decided
from ddfnet.errors import UserError
from ddfnet.yaml_file import parse_yaml

TIME = re.compile(r"(?:(?P<days>\d+)-(?=\d))?(?P<parts>\d+(?::\d+){0,2})", re.ASCII)


def slurm_options(pairs: list[str], workers: int, gpus_per_run: int) -> dict[str, Any]:
    """What submitit is told: a day, a process with its loaders' cores, its GPUs; then what the user says.

    Raises:
        UserError: no KEY=VALUE, or a value that is none of the kind that submitit needs.
    """
    options: dict[str, Any] = {"time": 1440, "cpus_per_task": max(1, gpus_per_run) * (workers + 1)}
    options |= {"gpus_per_node": gpus_per_run} if gpus_per_run else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"--slurm {pair}: expected KEY=VALUE such as partition=gpu")
        try:
            options[key] = READ.get(key, str)(value)
        except ValueError as error:
            raise UserError(f"--slurm {pair}: expected {error}") from None
    return options


def minutes(text: str) -> int:
    """Of a time in one of sbatch's notations, rounded up: submitit computes when a job nears its end."""
    match = TIME.fullmatch(text)
    if match is None:
        raise ValueError("minutes, or M:S, H:M:S, D-H, D-H:M, D-H:M:S as sbatch has it")
    numbers = [int(part) for part in match["parts"].split(":")]
    if match["days"] is None and len(numbers) < 3:  # they begin with minutes
        numbers = [0, *numbers]
    hours, minute, second = (*numbers, 0, 0)[:3]
    return (int(match["days"] or 0) * 24 + hours) * 60 + minute + math.ceil(second / 60)


def whole(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]*", text):
        raise ValueError("a whole number")
    return int(text)


def flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def flag_or_text(text: str) -> bool | str:
    return True if text == "true" else text  # submitit writes the option alone, without a value


def as_yaml(kind: Any, example: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = decided(parse_yaml(text, "--slurm"), kind, lambda key: "--slurm")
        if not isinstance(value, list if kind == list[str] else dict):
            raise ValueError(example)
        return value

    return read


COMMANDS = as_yaml(list[str], "a list such as [module load cuda]")
READ: dict[str, Callable[[str], Any]] = {
    "time": minutes,
    "nodes": whole,
    "ntasks_per_node": whole,
    "array_parallelism": whole,
    "signal_delay_s": whole,
    "exclusive": flag_or_text,
    "stderr_to_stdout": flag,
    "use_srun": flag,
    "setup": COMMANDS,
    "teardown": COMMANDS,
    "srun_args": COMMANDS,
    "additional_parameters": as_yaml(dict, "a mapping such as {mail-user: me}"),
}
