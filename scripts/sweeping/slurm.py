"""Runs as one job array of a SLURM cluster, through submitit; this process watches, and may be gone meanwhile.

A job that nears its time limit saves, goes back into the queue and continues. The jobs go on if the watching process
dies; the same command watches them again. All of it lies in the sweep's folder, which the nodes must share.
"""

import getpass
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from ddfnet.counted import counted
from ddfnet.errors import UserError, first_line, one_line
from ddfnet.files import write_whole
from ddfnet.train import EXIT_CODE

from .attempt import LOG, Attempt, Job, last_words
from .attempts import read_events
from .board import Board
from .folders import Busy, read_summary
from .local import POLL, TRIES, Stop, finished, indented
from .slurm_options import job_name

WATCH = 3  # seconds between looks at the queue
GONE = 3  # looks at which a job was missing before it counts as ended: files of other nodes come late
IDS = "slurm.json"  # in the sweep's folder: run -> job
STOP = ".stop"  # in a run's folder: finish the step, save, end


class Task:
    """What a node runs: the job, once more if it fails."""

    def __init__(self, job: Job):
        self.job = job
        self._attempt: Attempt | None = None

    def __call__(self) -> str:
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", 1))
        outcome = "failed"
        for _ in range(TRIES):
            self._attempt = self._start(gpus, threads)
            while self._attempt.poll() is None:
                if (self.job.folder / STOP).exists() and not self._attempt.asked:
                    self._attempt.stop()
                time.sleep(POLL)
            outcome = self._attempt.outcome
            if outcome != "failed":
                break
        return outcome

    def _start(self, gpus: list[str], threads: int) -> Attempt:
        while True:
            try:
                return Attempt(self.job, gpus, threads)
            except Busy:  # what an earlier attempt left running
                time.sleep(POLL)

    def checkpoint(self) -> Any:
        """submitit calls it before the time is up, and puts what it returns back into the queue."""
        from submitit.helpers import DelayedSubmission

        if self._attempt is not None:
            self._attempt.stop()
            while self._attempt.poll() is None:
                time.sleep(POLL)
        return DelayedSubmission(Task(self.job))


def run_slurm(jobs: list[Job], folder: Path, at_once: int, options: dict[str, Any], board: Board, stop: Stop) -> None:
    """Submit what is not in the queue yet, then watch until all have left it.

    Raises:
        UserError: submitit or SLURM is not there, or SLURM refuses the job.
    """
    ids = _in_queue(folder)
    new = [job for job in jobs if job.name not in ids]
    for job in jobs:
        (job.folder / STOP).unlink(missing_ok=True)
    ids |= _submit(new, folder, at_once, options)
    ids = {job.name: ids[job.name] for job in jobs}
    write_whole(folder / IDS, json.dumps(ids, indent=1) + "\n")
    numbers = {number.partition("_")[0] for number in ids.values()}
    there = f"{counted(len(new), 'run')} submitted, {len(jobs) - len(new)} there already"
    board.say(f"job {', '.join(sorted(numbers))} of the cluster: {there}")
    missing = dict.fromkeys(ids, 0)
    by_name = {job.name: job for job in jobs}
    told = 0
    while missing:
        if stop.times > told:
            told = stop.times
            _stop_all([by_name[name] for name in missing], [ids[name] for name in missing], told, board)
        queue = _queue()
        for name in list(missing):
            state = queue.get(ids[name]) if queue is not None else "UNKNOWN"
            missing[name] = 0 if state else missing[name] + 1
            if state:
                board.set(name, "running" if state in ("RUNNING", "COMPLETING") else "waiting", state.lower())
            elif missing[name] >= GONE or read_summary(by_name[name].folder) is not None:
                del missing[name]
                _settle(by_name[name], bool(told), folder, ids[name], board)
        board.refresh()
        if missing:
            time.sleep(WATCH)


def _submit(jobs: list[Job], folder: Path, at_once: int, options: dict[str, Any]) -> dict[str, str]:
    if not jobs:
        return {}
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher slurm needs submitit: pip install '.[slurm]'") from None
    if not str(folder.resolve()).isprintable():  # sbatch's files name it, a line for each option
        raise UserError(f"{str(folder)!r}: SLURM takes no folder with control characters: give another by --dir")
    scripts = Path(__file__).resolve().parent.parent
    paths = [str(scripts), str(scripts.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # sbatch hands it on
    try:
        executor = submitit.SlurmExecutor(folder.resolve() / "slurm", max_num_timeout=10_000)
        executor.update_parameters(**{"job_name": job_name(folder), "array_parallelism": at_once} | options)
        submitted = executor.submit_array([Task(job) for job in jobs])
    except ValueError as error:  # submitit, on an option it does not know
        raise UserError(f"--slurm: {first_line(error)}") from None
    except (submitit.core.utils.FailedJobError, RuntimeError) as error:
        raise UserError(f"SLURM does not take the job: {one_line(error)}") from None
    return {job.name: handle.job_id for job, handle in zip(jobs, submitted, strict=True)}


def _settle(job: Job, asked: bool, folder: Path, number: str, board: Board) -> None:
    """What became of a job that has left the queue, by what it left behind."""
    if read_summary(job.folder) is not None:
        finished(job, board)
        return
    events = read_events(job.folder)
    code = events[-1].get("exit") if events else None
    if asked or code == EXIT_CODE:
        board.set(job.name, "stopped")
        return
    if (job.folder / LOG).exists():
        words = last_words(job.folder, code)
    else:  # it never came to the training
        logs = sorted((folder / "slurm").glob(f"{number}_*_log.err"))
        said = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
        words = [*said[-5:], f"(job {number} left the queue before it began; see {folder / 'slurm'})"]
    board.say("\n".join([f"{job.name}: failed", *indented(words)]))
    board.set(job.name, "failed", words[-2] if len(words) > 1 else words[-1])


def _stop_all(jobs: list[Job], ids: list[str], times: int, board: Board) -> None:
    """First by a file that the tasks look for: a signal would reach train.py more than once, which ends it at once."""
    board.say("stopping: every run finishes its step and saves; again cancels them" if times == 1 else "cancelling")
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / STOP).touch()
    subprocess.run(["scancel", *(["--state=PENDING"] if times == 1 else []), *ids], capture_output=True)


def _queue() -> dict[str, str] | None:
    """{job: state} of what is in the queue; None where SLURM does not answer just now."""
    query = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %T"]
    said = subprocess.run(query, capture_output=True, text=True)
    return dict(line.split() for line in said.stdout.splitlines()) if said.returncode == 0 else None


def _in_queue(folder: Path) -> dict[str, str]:
    """The jobs that an earlier sweep over this folder submitted and that have not ended."""
    if not (folder / IDS).exists():
        return {}
    try:
        queue = _queue()
    except FileNotFoundError:
        queue = None
    if queue is None:
        raise UserError(
            f"{folder / IDS}: jobs were submitted from here, and squeue, which knows of them, does not answer"
        )
    ids = json.loads((folder / IDS).read_text())
    return {name: number for name, number in ids.items() if number in queue}
