"""One process of train.py in its run's folder: started, watched, told to stop."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ddfnet.train import EXIT_CODE

from . import attempts
from .folders import Lock, read_summary, this_process
from .plan import Run

ROOT = Path(__file__).resolve().parent.parent.parent
LOG = "log.txt"


@dataclass(frozen=True)
class Job:
    """What it takes to start a run anywhere, in values that a cluster's node understands."""

    name: str
    folder: Path
    command: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The command as a user would type it in the checkout."""
        return shlex.join(
            ["python", *(os.path.relpath(a) if a == str(ROOT / "train.py") else a for a in self.command[1:])]
        )


def job_of(run: Run, processes: int, on_gpu: bool) -> Job:
    """`processes` > 1 are started by torchrun, one a GPU."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    device = ["run.device=cuda"] if on_gpu and run.config.run.device == "auto" else []  # no quiet falling back to a CPU
    config = str(run.config_file)
    config = f"./{config}" if config.startswith(("~", "-")) else config  # no home, no option
    script = [str(ROOT / "train.py"), "--config", config]
    return Job(run.name, run.folder, (*launcher, *script, *run.overrides, *device))


def _ignore_warnings_of_schedulers() -> None:
    """A cluster announces the end of a job by one of these to all its processes; the launcher answers for this one."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


class Attempt:
    """Starts the process; it appends to the run's log.txt and holds the lock of the run's folder to its end, even if
    the sweep that started it dies.

    Raises:
        Busy: a process of an earlier sweep still trains there.
    """

    def __init__(self, job: Job, gpus: list[str], threads: int):
        self.job = job
        self.asked = False
        self._exit: int | None = None
        self._lock = Lock(job.folder).take(this_process("being started"))
        try:
            self._process = self._start(gpus, threads)
        except BaseException:  # a full disk, a log.txt that cannot be written: the next attempt finds the folder free
            self._lock.release()
            raise
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            self._lock.say(this_process("training", self._process.pid))

    def _start(self, gpus: list[str], threads: int) -> subprocess.Popen:
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        env.setdefault("OMP_NUM_THREADS", str(threads))
        attempts.record_start(self.job.folder, list(self.job.command), gpus, int(env["OMP_NUM_THREADS"]))
        with open(self.job.folder / LOG, "a") as log:
            self._log_start = log.tell()
            return subprocess.Popen(
                self.job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=[self._lock.fd],
                start_new_session=True,  # Ctrl-C reaches it through the sweep alone
                preexec_fn=_ignore_warnings_of_schedulers,
            )

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        if self._exit is None and (code := self._process.poll()) is not None:
            self._exit = code
            attempts.record_end(self.job.folder, code)
            self._lock.release()
        return self._exit

    def stop(self) -> None:
        """It finishes its step and saves."""
        self.asked = True
        if self.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """At once; but torchrun is left to end its ranks itself, which it does within half a minute of being asked.

        It is asked once: a second signal would take it away from ranks that it still waits for.
        """
        if "torch.distributed.run" not in self.job.command:
            self.asked = True
            if self.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        elif not self.asked:
            self.stop()
        self._process.wait()
        self.poll()

    @property
    def outcome(self) -> str:
        """done, stopped (asked by us), again (asked by another) or failed, of a process that has ended."""
        if self._exit == 0 and read_summary(self.job.folder) is not None:
            return "done"
        if self.asked:
            return "stopped"
        return "again" if self._exit == EXIT_CODE else "failed"

    def last_words(self) -> list[str]:
        return last_words(self.job.folder, self._exit, self._log_start)


def last_words(folder: Path, code: int | None, start: int = 0) -> list[str]:
    """What a run said last, and how it ended."""
    with open(folder / LOG, "rb") as log:
        log.seek(start)
        said = [line.rstrip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
    return [*said[-5:], f"({how}; all of it in {folder / LOG})"]
