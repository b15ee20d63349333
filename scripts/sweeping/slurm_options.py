"""--slurm KEY=VALUE: text for sbatch, exactly as typed, but for what submitit computes with or takes as a list.

What would not stand on one line of the job's script is refused.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddfnet.config.yaml_file import Plain, has_comment, parse_yaml
from ddfnet.errors import UserError

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
            options[key] = READ.get(key, text_of)(value)
        except (ValueError, UserError) as error:
            shown = pair if pair.isprintable() else repr(pair)
            raise UserError(f"--slurm {shown}: expected {error}") from None
    return options


def job_name(folder: Path) -> str:
    """What the queue calls a sweep: its folder, whatever that is called."""
    return "".join(letter if letter.isprintable() else "_" for letter in folder.resolve().name)


def text_of(text: str) -> str:
    if not text.isprintable():
        raise ValueError("text of one line, without control characters")
    return text


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


def exclusive(text: str) -> bool | str | None:
    if not text:
        raise ValueError("true, false, or user, mcs or topo as sbatch has it")
    return flag_or_text(Plain(text))


def flag_or_text(value: Any) -> bool | str | None:
    """True is the option alone, without a value; None leaves it out."""
    if isinstance(value, Plain) and value in ("true", "false"):
        return True if value == "true" else None
    if not isinstance(value, str):
        raise ValueError(f"text, true or false in place of {value!r}")
    return text_of(str(value))


def from_yaml(text: str, kind: type, example: str) -> Any:
    value = parse_yaml(text, example)
    if not isinstance(value, kind) or has_comment(text):
        raise ValueError(example)
    return value


def commands(text: str) -> list[str]:
    example = "a list such as [module load cuda]"
    values = from_yaml(text, list, example)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(example)
    return [str(value) for value in values]


def parameters(text: str) -> dict[str, bool | str]:
    read = from_yaml(text, dict, "a mapping such as {mail-user: me}")
    given = {text_of(str(key)): flag_or_text(value) for key, value in read.items()}
    return {key: value for key, value in given.items() if value is not None}


READ: dict[str, Callable[[str], Any]] = {
    "time": minutes,
    "nodes": whole,
    "ntasks_per_node": whole,
    "array_parallelism": whole,
    "signal_delay_s": whole,
    "exclusive": exclusive,
    "stderr_to_stdout": flag,
    "use_srun": flag,
    "setup": commands,
    "teardown": commands,
    "srun_args": commands,
    "additional_parameters": parameters,
}
