"""Runs on this machine, so many at once, each on GPUs of its own."""

import os
import signal
import subprocess
import time
from collections import deque

from ddfnet.errors import UserError

from .attempt import Attempt, Job
from .board import Board
from .folders import Busy, read_summary
from .plan import refuse_other_settings

POLL = 0.3  # seconds
TRIES = 2  # of a run that fails


class Stop:
    """Ctrl-C and SIGTERM between `with` and its end: the first asks for a clean end, a second for one at once."""

    def __init__(self) -> None:
        self.times = 0

    def __enter__(self) -> "Stop":
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        self.times += 1


def visible_gpus() -> list[str]:
    """The GPUs that programs of this shell would use, without touching them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu.strip()]
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return []
    return said.stdout.split() if said.returncode == 0 else []


def gpu_sets(gpus: list[str], gpus_per_run: int) -> list[list[str]]:
    """[["0", "1"], ["2", "3"]] of four GPUs at two a run; one empty set where there are none."""
    if not gpus:
        return [[]]
    if len(set(gpus)) < len(gpus):
        raise UserError(f"--gpus {','.join(gpus)}: one of them stands there twice")
    if len(gpus) % gpus_per_run:
        raise UserError(
            f"--gpus {','.join(gpus)}: {len(gpus)} do not divide into sets of --gpus-per-run {gpus_per_run}"
        )
    return [gpus[i : i + gpus_per_run] for i in range(0, len(gpus), gpus_per_run)]


def run_local(jobs: list[Job], sets: list[list[str]], at_once: int, threads: int, board: Board, stop: Stop) -> None:
    """Every job to its end, as many `at_once`, spread over the GPU sets; the board tells of them and keeps the states.

    A job that fails comes last once more; one that another process trains in is waited for.
    """
    waiting = deque(jobs)
    running: dict[str, tuple[Attempt, int]] = {}  # with the number of its GPU set
    failures: dict[str, int] = {}
    told = 0
    try:
        while waiting or running:
            if stop.times > told:
                told = stop.times
                _stop_all([attempt for attempt, _ in running.values()], waiting, told, board)
            for _ in range(len(waiting) if len(running) < at_once else 0):
                _start(waiting.popleft(), running, sets, threads, waiting, failures, board)
                if len(running) == at_once:
                    break
            for name, (attempt, _) in list(running.items()):
                if attempt.poll() is not None:
                    del running[name]
                    _settle(attempt, failures, waiting, board)
            board.refresh()
            if waiting or running:
                time.sleep(POLL)
    finally:
        for attempt, _ in running.values():  # only where something unforeseen ended the loop
            attempt.stop()


def _stop_all(running: list[Attempt], waiting: deque, times: int, board: Board) -> None:
    board.say("stopping: every run finishes its step and saves; again ends them at once" if times == 1 else "ending")
    for attempt in running:
        attempt.stop() if times == 1 else attempt.kill()
    for job in waiting:
        board.set(job.name, "stopped")
    waiting.clear()


def _start(
    job: Job, running: dict, sets: list[list[str]], threads: int, waiting: deque, failures: dict, board: Board
) -> None:
    """On the freest GPU set; not yet where another process is at work: an earlier sweep died, its train.py did not."""
    used = [number for _, number in running.values()]
    freest = min(range(len(sets)), key=used.count)
    if board.lines[job.name].state == "elsewhere" and read_summary(job.folder) is not None:
        finished(job, board)  # by the other
        return
    try:
        running[job.name] = (Attempt(job, sets[freest], threads), freest)
    except Busy as busy:
        board.set(job.name, "elsewhere", str(busy))
        waiting.append(job)
        return
    except (UserError, OSError) as error:  # a full disk, a folder of another user
        _failed(job, [str(error)], failures, waiting, board)
        return
    board.set(job.name, "running", f"GPU {','.join(sets[freest])}" if sets[freest] else "")


def _settle(attempt: Attempt, failures: dict[str, int], waiting: deque, board: Board) -> None:
    job, outcome = attempt.job, attempt.outcome
    if outcome == "again":
        board.set(job.name, "waiting")
        board.say(f"{job.name}: another than the sweep stopped it; it will continue")
        waiting.append(job)
    elif outcome == "failed":
        _failed(job, attempt.last_words(), failures, waiting, board)
    elif outcome == "done":
        finished(job, board)
    else:
        board.set(job.name, outcome)


def finished(job: Job, board: Board) -> None:
    """Its folder holds a result: that of this run, or of another that somebody trained there meanwhile, which stays."""
    try:
        refuse_other_settings(board.lines[job.name].run)
    except UserError as error:
        board.say(f"{job.name}: failed: {error}")
        board.set(job.name, "failed", str(error))
    else:
        board.set(job.name, "done")


def _failed(job: Job, words: list[str], failures: dict[str, int], waiting: deque, board: Board) -> None:
    failures[job.name] = failures.get(job.name, 0) + 1
    again = failures[job.name] < TRIES
    board.say("\n".join([f"{job.name}: failed{', will be tried once more' if again else ' again'}", *indented(words)]))
    if again:
        board.set(job.name, "waiting")
        waiting.append(job)
    else:
        board.set(job.name, "failed", words[-2] if len(words) > 1 else words[-1])


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
