"""Where the time of a step goes: torch's profiler over a few steps, for `train.py --profile`."""

import contextlib
import gzip
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, schedule

from ..counted import counted
from ..files import write_whole

FIRST, LAST = 10, 20  # steps of this process, counted from 1: the workers have started and caches are warm
ROWS = 15


class Profile(contextlib.AbstractContextManager):
    """Between `with` and its end `step` is called after every step; steps 10 to 20 are recorded.

    They give folder/steps-A-B.json.gz, for chrome://tracing or https://ui.perfetto.dev, and folder/steps-A-B.txt, the
    costliest operators, which are said too. A and B are steps of the run.

    Args:
        step: of the run, before the first step here.
        enabled: on one process only; on the others nothing happens.
        say: prints a text.

    Raises:
        OSError: by `step` and at the end, naming the file that cannot be written.
    """

    def __init__(self, folder: Path, step: int, device: torch.device, enabled: bool, say: Callable[[str], None]):
        self.folder, self.step_before, self.device, self.say = folder, step, device, say
        self.steps = 0  # so far
        self._profiler: torch.profiler.profile | None = None
        self._written = False
        if enabled:
            on_gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
            self._profiler = torch.profiler.profile(
                activities=[ProfilerActivity.CPU, *on_gpu],
                schedule=schedule(wait=FIRST - 2, warmup=1, active=LAST - FIRST + 1, repeat=1),
                on_trace_ready=self._write,
            )

    def __enter__(self) -> "Profile":
        if self._profiler is not None:
            self._profiler.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        """A run that ends before step 20 gives what there is; one that ends by an error gives nothing."""
        if self._profiler is None:
            return
        if kind is not None:
            self._profiler.on_trace_ready = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a profiler that was stopped while it warmed up
            self._profiler.stop()
        self._profiler = None
        if not self._written and kind is None:
            self.say(f"no profile: the run ended after {counted(self.steps, 'step')} here, it begins at step {FIRST}")

    def step(self) -> None:
        if self._profiler is None:
            return
        self.steps += 1
        self._profiler.step()
        if self._written:  # of no more use, and each further step would cost its bookkeeping
            self._profiler.stop()
            self._profiler = None

    def _write(self, profiler: torch.profiler.profile) -> None:
        recorded = min(self.steps, LAST) - FIRST + 1
        if recorded < 1:
            return
        first, last = self.step_before + FIRST, self.step_before + FIRST + recorded - 1
        trace, table = self.folder / f"steps-{first}-{last}.json.gz", costliest(profiler, recorded, self.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            profiler.export_chrome_trace(f"{scratch}/trace.json")
            write_whole(trace, gzip.compress(Path(scratch, "trace.json").read_bytes(), 5))
        write_whole(trace.with_name(f"steps-{first}-{last}.txt"), f"{table}\n")
        self._written = True
        short = "" if recorded == LAST - FIRST + 1 else f" ({recorded} of {LAST - FIRST + 1}: the run ended)"
        self.say(f"profile of steps {first} to {last}{short}: {trace}\n{table}")


def costliest(profiler: torch.profiler.profile, steps: int, device: torch.device) -> str:
    """A table of the operators with the most time of their own, on the GPU where there is one."""
    where = "GPU" if device.type == "cuda" else "CPU"
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = [event for event in profiler.key_averages() if not event.key.startswith("ProfilerStep")]
    total = sum(getattr(event, attribute) for event in events) or 1
    lines = [f"{'operator':<60} {'calls/step':>10} {f'{where} ms/step':>12} {'share':>7}"]
    for event in sorted(events, key=lambda event: -getattr(event, attribute))[:ROWS]:
        time = getattr(event, attribute)
        name = event.key if len(event.key) <= 60 else f"{event.key[:57]}..."
        lines.append(f"{name:<60} {event.count / steps:>10.1f} {time / 1000 / steps:>12.3f} {time / total:>7.1%}")
    return "\n".join(lines)
