"""Commands as a user runs them, `python train.py ...`, without the five seconds that each would take to import torch.

A server, started once for a worker of pytest, has imported what the commands import and done nothing else; each command
is a fork of it that runs the script as `__main__`. How a process begins and how it ends with threads of its own is left
to tests that start a real one: `command(..., fresh=True)`.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = ("torch", "torchvision", "timm", "tensorboard", "sklearn.datasets", "rich.table", "ddfnet.tasks")


def command(*arguments, cwd=ROOT, threads=1, timeout=None, fresh=False, **options) -> subprocess.CompletedProcess:
    """Run `python *arguments`, by default in the repository's root, and return its exit code and what it said.

    Args:
        timeout: seconds, after which it is killed and subprocess.TimeoutExpired is raised.
        fresh: start a Python of its own; `options` are those of subprocess.run.
    """
    if not fresh:
        return Started(*arguments, cwd=cwd, threads=threads).wait(timeout)
    env = os.environ | _environment(threads)
    options = dict(cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout) | options
    return subprocess.run([sys.executable, *map(str, arguments)], **options)


class Started:
    """A command that runs, with more in its environment."""

    def __init__(self, *arguments, cwd=ROOT, threads=1, **environment: str):
        self.arguments = [str(argument) for argument in arguments]
        self._said = tempfile.TemporaryDirectory()
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload([*IMPORTED])
        environment = os.environ | _environment(threads) | environment
        self._process = server.Process(target=_run, args=(self.arguments, cwd, environment, threads, self._said.name))
        self._process.start()

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def wait(self, timeout: float | None = None) -> subprocess.CompletedProcess:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        texts = [Path(self._said.name, name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(self.arguments, self._process.exitcode, *texts)


def start_ranks(size: int, *arguments) -> list[Started]:
    """Start a command as torchrun does, once for each rank; they meet at a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = dict(WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=port, GLOO_SOCKET_IFNAME="lo")
    return [Started(*arguments, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(size)]


def _environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def _run(arguments: list[str], cwd: Path, environment: dict[str, str], threads: int, said: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{said}/{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    import torch

    torch.set_num_threads(threads)
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)  # not as this one's own
    sys.argv = arguments
    sys.path[0] = str((cwd / arguments[0]).parent)
    code: object = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(int(code or 0))
