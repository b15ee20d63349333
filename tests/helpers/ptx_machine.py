"""The CUDA backend on the CPU: the launcher's own plans, run on the PTX that NVRTC makes of the kernels.

A second proof beside cudasim, with which it shares nothing: not the source under g++, but what the compiler of the GPU
made of it, by a machine written from PTX's description. Left to a GPU: ptxas, the driver, time.
"""

import ctypes
import hashlib
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy
import pytest
import torch
from simulator import Machine, made_once

from ddfnet.ops.gpu.launch import Ready
from ddfnet.ops.gpu.specialisations import TILED, Specialisation, compile_options, source_of

from .ptx_code import Kernel, PtxKernel
from .storages import Storage, Storages

SOURCES = Path(__file__).parent / "ptx"
SHARED_KB = {75: 64, 80: 164, 90: 228, 100: 228, 120: 100}  # of a multiprocessor; of a block 1 KB less
KERNEL_KB = 48  # what a kernel may have whose attribute is not raised


class Fault(AssertionError):
    """What a kernel may not do."""


class Buffer(ctypes.Structure):
    """Buffer in ptx/memory.h."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("is_written", ctypes.c_void_p),
        ("writer", ctypes.c_void_p),
        ("reader", ctypes.c_void_p),
        ("is_constant", ctypes.c_void_p),
    )


class Launch(ctypes.Structure):
    """Launch in ptx/machine.cpp."""

    _fields_ = (
        ("buffers", ctypes.POINTER(Buffer)),
        ("parameters", ctypes.c_char_p),
        *((name, ctypes.c_int32) for name in ("buffer_count", "parameter_bytes")),
        *((name, ctypes.c_uint32) for name in ("grid", "block", "shared", "order")),
    )


def load_machine(folder: Path) -> ctypes.CDLL:
    """Return the library of ptx/machine.cpp, compiled into the folder where it is not there yet."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(SOURCES.iterdir()))).hexdigest()[:16]
    library = folder / f"ptx-{digest}.so"
    with made_once(library) as work:
        if work:
            made = work / "machine.so"
            flags = ["-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"]
            subprocess.run(["g++", *flags, str(SOURCES / "machine.cpp"), "-o", str(made)], check=True)
            os.replace(made, library)
    machine = ctypes.CDLL(str(library))
    machine.compute.restype, machine.compute.argtypes = ctypes.c_uint64, [ctypes.c_int, *[ctypes.c_uint64] * 3]
    return machine


class PtxMachine(Machine):
    """Stands where the launcher stands, for a GPU of that architecture. `edit` changes the PTX, to plant a fault.

    PTX is made when a kernel is first launched, in `folder`, which several processes may share.
    """

    def __init__(self, folder: Path, arch: int, edit=lambda text: text):
        super().__init__()
        self.folder, self.arch, self.edit = folder, arch, edit
        self.memory = 1024 * SHARED_KB[arch]
        self.storages = Storages()
        self.found: dict[Specialisation, PtxKernel] = {}
        self.executed: list[Counter] = []  # of each launch: accesses of threads, as PtxKernel.accesses has them
        self.machine = load_machine(folder)

    def watching(self) -> Storages:
        return self.storages

    def kernel(self, wanted: Specialisation) -> PtxKernel:
        if wanted not in self.found:
            text = self.edit(self._ptx(wanted))
            number_of = lambda name: self.machine.number_of(name.encode())
            self.found[wanted] = PtxKernel(text, wanted.kernel, number_of, self.machine.shared_base())
        return self.found[wanted]

    def _ptx(self, wanted: Specialisation) -> str:
        from counting.compiled import ptx_of  # which needs NVRTC

        key = repr((self.arch, source_of(wanted), compile_options(wanted)))
        file = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.ptx"
        with made_once(file) as work:
            if work:
                (work / "kernel.ptx").write_text(ptx_of(wanted, self.arch))
                os.replace(work / "kernel.ptx", file)
        return file.read_text()

    def run(self, ready: Ready, device: torch.device, pointers: list[int]) -> None:
        launch, kernel = ready.launch, self.kernel(ready.launch.specialisation)
        most = self.memory - 1024 if launch.specialisation.file in TILED else 1024 * KERNEL_KB
        self._require(launch.shared <= most, launch, f"launch-limit: {launch.shared} bytes of shared memory")
        self._require(launch.block <= kernel.most_threads, launch, f"launch-limit: {launch.block} threads")
        self._require(0 < launch.grid < 2**31, launch, f"launch-limit: {launch.grid} blocks")
        buffers = Buffers(self.storages)
        block = kernel.pack([*launch.parameters, *map(buffers.address_of, pointers)])
        said = ctypes.create_string_buffer(400)
        constants = kernel.constant_values()
        executed = numpy.zeros(len(kernel.code), "i8")
        arrays = kernel.code.ctypes.data, constants.ctypes.data
        code = Kernel(*arrays, len(kernel.registers), len(constants), executed.ctypes.data)
        given = max(0, launch.shared - self.shorter)
        what = Launch(buffers.array(), block, len(buffers), len(block), launch.grid, launch.block, given, self.order)
        at = self.machine.run(ctypes.byref(code), ctypes.byref(what), said, len(said))
        self._require(at < 0, launch, f"{said.value.decode()}: {kernel.lines[at]}")
        for storage, (writer, *_) in zip(buffers.storages, buffers.shadows, strict=True):
            finished = storage.is_written.all() or not writer.any()  # what no thread began may be a later launch's
            self._require(bool(finished), launch, "unwritten: a tensor that the launch leaves unfinished")
        self.launches.append(launch)
        self.executed.append(kernel.accesses(executed))

    def _require(self, holds: bool, launch, fault: str) -> None:
        if not holds:
            wanted = launch.specialisation
            raise Fault(f"{fault} in {wanted.kernel} for sm_{self.arch}, {dict(wanted.macros)}")


class Buffers:
    """The tensors of one launch as the kernel sees them: far from each other, and each as aligned as it is."""

    def __init__(self, storages: Storages):
        self.known, self.storages = storages, []
        self.shadows: list[tuple[numpy.ndarray, ...]] = []  # writers, readers, constants

    def __len__(self) -> int:
        return len(self.storages)

    def address_of(self, pointer: int) -> int:
        if pointer == 0:
            return 0
        storage = self.known.find(pointer)
        if storage not in self.storages:
            self.storages.append(storage)
        return self._start(storage) + pointer - storage.address

    def _start(self, storage: Storage) -> int:
        return (self.storages.index(storage) + 1 << 40) + storage.address % 4096

    def array(self):
        sizes = [storage.is_written.size for storage in self.storages]
        self.shadows = [tuple(numpy.zeros(size, kind) for kind in ("u4", "u4", "u1")) for size in sizes]
        buffers = [
            Buffer(
                self._start(storage),
                storage.address,
                storage.bytes,
                storage.is_written.ctypes.data,
                *(shadow.ctypes.data for shadow in shadows),
            )
            for storage, shadows in zip(self.storages, self.shadows, strict=True)
        ]
        return (Buffer * len(buffers))(*buffers)


def on_every_machine(metafunc) -> None:
    """Ask for `simulator` as the kernels' source and, among the slow tests, as their PTX for each generation of GPUs.

    A test's module takes it as its pytest_generate_tests.
    """
    if "simulator" in metafunc.fixturenames:
        gpus = [pytest.param(arch, id=f"sm_{arch}", marks=pytest.mark.slow) for arch in (75, 90, 100, 120)]
        metafunc.parametrize("simulator", [pytest.param(None, id="source"), *gpus], indirect=True)
