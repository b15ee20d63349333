"""The CUDA backend on the CPU: the launcher's own plans, run by tests/cudasim on the kernels' own source."""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ddfnet.ops.gpu import launch
from ddfnet.ops.gpu.launch import Launcher, Ready
from ddfnet.ops.gpu.records import Launch
from ddfnet.ops.gpu.specialisations import Specialisation, compile_options, source_of

HERE = Path(__file__).parent / "cudasim"
SANITIZERS = {
    "": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DCUDASIM_ASAN"],
    "thread": ["-fsanitize=thread", "-DCUDASIM_TSAN"],
}


class Deterministic:
    """torch's switch as an attribute, which monkeypatch can restore."""

    @property
    def algorithms(self) -> bool:
        return torch.are_deterministic_algorithms_enabled()

    @algorithms.setter
    def algorithms(self, value: bool) -> None:
        torch.use_deterministic_algorithms(value)


class Machine(Launcher):
    """Stands where the launcher stands: what executes kernels without a GPU, one way or another."""

    def __init__(self):
        super().__init__()
        self.order = 0  # of threads and blocks: 0 ascending, 1 descending, 2 shuffled
        self.shorter = 0  # bytes by which every launch gets less shared memory than planned
        self.memory = 228 * 1024  # bytes of a multiprocessor: sm_90
        self.launches: list[Launch] = []

    def install(self, monkeypatch) -> None:
        """The launcher's own plans, for tensors on the CPU, to this simulator. Plans made before do not count.

        torch.empty gives NaN, so that what is not written shows. All until `monkeypatch` undoes it.
        """
        monkeypatch.setattr(Deterministic(), "algorithms", True)
        self.forget()
        monkeypatch.setattr(launch, "launcher", self)

    def shared_memory(self, device: torch.device) -> int:
        return self.memory

    def load(self, wanted: Specialisation, device: torch.device):
        return None

    def watching(self) -> contextlib.AbstractContextManager:
        """What must be entered before the tensors are made."""
        return contextlib.nullcontext()


class Simulator(Machine):
    """Runs the kernels' own source, by cudasim. `edit` changes it first, to plant a fault.

    A kernel is compiled when it is first launched, into `folder`, which several processes may share.
    """

    def __init__(self, folder: Path, sanitizer: str = "", edit=lambda text: text):
        super().__init__()
        self.folder, self.sanitizer, self.edit = folder, sanitizer, edit
        self.libraries: dict[Specialisation, ctypes.CDLL] = {}

    def run(self, ready: Ready, device: torch.device, pointers) -> None:
        launch = ready.launch
        library = self.library(launch.specialisation)
        numbers = [value for value in (*launch.parameters, *pointers) if isinstance(value, int)]
        held = (ctypes.c_longlong * len(numbers))(*numbers)
        blocks = [value.ctypes.data for value in launch.parameters if not isinstance(value, int)]
        addresses = [*blocks, *(ctypes.addressof(held) + 8 * i for i in range(len(numbers)))]
        library.set_order(self.order)
        shared = ctypes.c_size_t(max(0, launch.shared - self.shorter))
        library.simulate(launch.grid, launch.block, shared, (ctypes.c_void_p * len(addresses))(*addresses))
        self.launches.append(launch)

    def library(self, wanted: Specialisation) -> ctypes.CDLL:
        if wanted not in self.libraries:
            self.libraries[wanted] = ctypes.CDLL(str(self.build(wanted)))
        return self.libraries[wanted]

    def build(self, wanted: Specialisation) -> Path:
        source = f'#include "cudasim.h"\n{self.edit(source_of(wanted))}\nCUDASIM_EXPORT({wanted.kernel})\n'
        options = [o for o in compile_options(wanted) if o.startswith("-D")]
        name = hashlib.sha256(repr((source, options, self.sanitizer)).encode()).hexdigest()[:16]
        library = self.folder / f"{name}.so"
        with made_once(library) as work:
            if work:
                text, made = work / "kernel.cpp", work / "kernel.so"
                text.write_text(source)
                scheduler, header = self.prepare()
                flags = [*self._flags(), *options, f"-I{header.parent}", "-shared"]
                subprocess.run(["g++", *flags, str(text), str(scheduler), "-o", str(made)], check=True)
                os.replace(made, library)
        return library

    def _flags(self) -> list[str]:
        return ["-std=c++17", "-O1", "-g1", "-w", "-fPIC", "-fno-strict-aliasing", *SANITIZERS[self.sanitizer]]

    def prepare(self) -> tuple[Path, Path]:
        """Compile what every kernel needs, the scheduler and the header, where they are not there yet."""
        scheduler = self.folder / f"cudasim-{self.sanitizer or 'plain'}.o"
        header = self.folder / (self.sanitizer or "plain") / "cudasim.h"
        with made_once(scheduler) as work:
            if work:
                header.parent.mkdir()
                shutil.copy(HERE / "cudasim.h", header)
                subprocess.run(["g++", *self._flags(), "-x", "c++-header", str(header)], check=True)
                flags = [flag for flag in self._flags() if flag != "-fsanitize=thread"]
                made = work / "cudasim.o"
                subprocess.run(["g++", *flags, "-O2", "-c", str(HERE / "cudasim.cpp"), "-o", str(made)], check=True)
                os.replace(made, scheduler)
        return scheduler, header


@contextlib.contextmanager
def made_once(file: Path):
    """Give a folder to make the file in, or None where it is made; another process that makes it is waited for."""
    if file.exists():
        yield None
        return
    with open(f"{file}.lock", "w") as lock, tempfile.TemporaryDirectory(dir=file.parent) as work:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield None if file.exists() else Path(work)


def build_all(simulator: Simulator, wanted: list[Specialisation]) -> None:
    simulator.prepare()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # of compilers: the threads only wait
        for one in zip(wanted, pool.map(simulator.build, wanted), strict=True):
            assert one


def need_compiler() -> None:
    if not shutil.which("g++"):
        pytest.skip("needs g++")
