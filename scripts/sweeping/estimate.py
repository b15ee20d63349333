"""How long each row will take: from its finished runs, from how far a begun one came, or from a few steps now."""

import contextlib
import ctypes
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ddfnet.config import as_override
from ddfnet.counted import counted

from .attempt import Job, job_of
from .attempts import cost
from .folders import read_metrics, read_progress
from .local import Stop
from .plan import Run

STEPS = 6  # the first, which warms up, does not count
PATIENCE = 180  # seconds for start and steps
GRACE = 15  # seconds to end when asked
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # of Linux' prctl


@dataclass(frozen=True)
class Estimate:
    seconds: float | None  # of a whole run; None where nothing is known
    source: str


UNKNOWN = Estimate(None, "unknown")


def from_finished(runs: list[Run]) -> Estimate:
    """Of one row's runs: the mean time of the finished ones, else the speed that a begun one had."""
    taken = [c.seconds for run in runs if read_progress(run.folder).state == "finished" and (c := cost(run.folder))]
    if taken:
        return Estimate(statistics.mean(taken), f"mean of {len(taken)} finished")
    for run in runs:
        speeds = [line["images_per_second"] for line in read_metrics(run.folder) if line["kind"] == "train"]
        seconds = _at_speed(run, run.folder, speeds)
        if seconds:
            return Estimate(seconds, f"speed of {run.name}, without evaluations")
    return UNKNOWN


def by_trying(run: Run, processes: int, gpus: list[str], threads: int, stop: Stop) -> Estimate:
    """Trains a few steps in a folder that is thrown away.

    `train.py --dry-run` would evaluate all validation pictures, and its single step is the slowest of all.
    """
    folder = Path(tempfile.mkdtemp(prefix="ddfnet-sweep-"))
    env = os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
    env.setdefault("OMP_NUM_THREADS", str(threads))
    job = job_of(run, processes, bool(gpus))
    own = as_override("run.dir", str(folder / "run"))
    command = [*job.command, own, "run.log_every=1", "run.wandb=false"]
    log = folder / "log.txt"
    try:
        with open(log, "w") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
                preexec_fn=_asked_to_end_with_the_sweep,
            )
        _wait_for_steps(process, folder / "run", stop)
        failed = process.returncode not in (None, 0)
        _end(process, job)
        lines = [line for line in read_metrics(folder / "run") if line["kind"] == "train"]
        if failed or not lines:
            words = log.read_text(errors="replace").strip().splitlines()
            return Estimate(None, f"unknown: {words[-1]}" if failed and words else "unknown: no step came in time")
        speeds = [line["images_per_second"] for line in lines]
        return Estimate(
            _at_speed(run, folder / "run", speeds), f"measured, {counted(len(lines), 'step')}, without evaluations"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _asked_to_end_with_the_sweep() -> None:
    """Else the trial of a sweep that is killed would train to its last epoch. SIGTERM, since torchrun heeds it."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _at_speed(run: Run, folder: Path, images_per_second: list[float]) -> float | None:
    """Seconds of a whole run at the median speed; the folder's log says how many pictures an epoch has."""
    now = read_progress(folder)
    if not now.epoch or not images_per_second:
        return None
    images = now.step * run.config.train.batch_size / now.epoch
    epochs = run.config.train.epochs + run.config.train.cooldown_epochs
    return epochs * images / statistics.median(images_per_second[1:] or images_per_second)


def _wait_for_steps(process: subprocess.Popen, folder: Path, stop: Stop) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline and not stop.times:
        if sum(line["kind"] == "train" for line in read_metrics(folder)) >= STEPS:
            return
        time.sleep(0.1)


def _end(process: subprocess.Popen, job: Job) -> None:
    """Nothing of it is kept; torchrun takes its ranks along when it is asked, not when it is killed."""
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE if "torch.distributed.run" not in job.command else 4 * GRACE)
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()
