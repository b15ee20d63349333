"""A kernel as NVRTC makes it: PTX, machine code, registers. Needs cuda-bindings, and nvdisasm to read the code."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from cuda.bindings import nvrtc

from ddfnet.ops.gpu.specialisations import Specialisation, all_specialisations, compile_options, source_of


class Resources(NamedTuple):
    registers: int
    spilled: int  # bytes stored and loaded


class Compiled(NamedTuple):
    """A module: its machine code, nothing where the source did not compile, and what NVRTC said."""

    cubin: bytes
    log: str

    def resources(self, kernel: str) -> Resources:
        about = self.log.split(f"Function properties for {kernel}\n")[1]
        spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", about)
        registers = re.search(r"Used (\d+) registers", about)
        assert spilled and registers, self.log
        return Resources(int(registers[1]), int(spilled[1]) + int(spilled[2]))


def version() -> str:
    """Return that of NVRTC."""
    return "{1}.{2}".format(*nvrtc.nvrtcVersion())


def modules() -> list[list[Specialisation]]:
    """Return all specialisations, those together that one compilation makes."""
    found: dict[tuple, list[Specialisation]] = {}
    for wanted in all_specialisations():
        found.setdefault((wanted.file, wanted.macros), []).append(wanted)
    return list(found.values())


def compile_module(wanted: Specialisation, arch: int) -> Compiled:
    """Compile as CuPy does: with the launcher's options, and those that CuPy adds, by a test of its source."""
    program, compiled = _compile(wanted, f"-arch=sm_{arch}", "--ptxas-options=-v")  # -v changes no code
    log = _text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode(errors="replace")
    cubin = _text(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)[:-1] if compiled else b""
    nvrtc.nvrtcDestroyProgram(program)
    return Compiled(cubin, log)


def ptx_of(wanted: Specialisation, arch: int) -> str:
    """Return the PTX of the module that the kernel is in, which takes a third of the time."""
    program, compiled = _compile(wanted, f"-arch=compute_{arch}")
    assert compiled, wanted
    text = _text(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    nvrtc.nvrtcDestroyProgram(program)
    return text.split(b"\0")[0].decode()


def _compile(wanted: Specialisation, *more: str) -> tuple[object, bool]:
    """Return NVRTC's program and whether it compiled."""
    result, program = nvrtc.nvrtcCreateProgram(source_of(wanted).encode(), b"ddf.cu", 0, [], [])
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, result
    options = (*compile_options(wanted), "-ftz=true", "--device-as-default-execution-space", *more)
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    return program, result == nvrtc.nvrtcResult.NVRTC_SUCCESS


def _text(program, size_of, get) -> bytes:
    _, size = size_of(program)
    buffer = bytes(size + 1)  # written to in place: never of length 1, which Python shares with every other b"\0"
    get(program, buffer)
    return buffer


def nvdisasm() -> str | None:
    """Return the path of CUDA's, or Triton's."""
    if found := shutil.which("nvdisasm"):
        return found
    try:
        import triton
    except ImportError:
        return None
    bundled = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    return str(bundled) if bundled.exists() else None


def instructions(wanted: Specialisation, cubin: bytes) -> list[str]:
    """Return the kernel's machine instructions in their order, labels among them as 'label:'."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([nvdisasm(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    body = text.split(f".text.{wanted.kernel}:")[1].split(".section")[0]
    found = []
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            found.append(label[1] + ":")
        elif code := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            found.append(code[1])
    return found
