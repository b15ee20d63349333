"""Registers, spills and instructions of every CUDA kernel, as NVRTC makes it; no GPU needed.

    python scripts/kernel_table.py [--arch 90] [--output FILE.json]

Needs cuda-bindings, which PyTorch for CUDA installs. Instructions per output are those of the loops that do the
arithmetic (a row of taps of a strip), times the rows, over the outputs of the strip: what a thread issues for one
result, without its copies. They are counted by nvdisasm, where there is one (CUDA's or Triton's).
The committed tables are benchmarks/kernels-sm_90-nvrtc-VERSION.json, one for each NVRTC that made one;
tests/test_kernel_sources.py compares that of the NVRTC at hand with the kernels.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

try:
    from cuda.bindings import nvrtc
except ImportError:
    sys.exit("error: no cuda-bindings here: pip install cuda-bindings, or a PyTorch for CUDA")

from ddfnet import cli
from ddfnet.files import write_whole
from ddfnet.ops.gpu.specialisations import (
    STRIP,
    TILED,
    Specialisation,
    all_specialisations,
    compile_options,
    source_of,
    vector_of,
)
from ddfnet.paths import path_of


class Resources(NamedTuple):
    registers: int
    spilled: int  # bytes stored and loaded


class Compiled(NamedTuple):
    cubin: bytes  # empty where the source did not compile; then the log says why
    log: str

    def resources(self, kernel: str) -> Resources:
        about = self.log.split(f"Function properties for {kernel}\n")[1]
        spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", about)
        registers = re.search(r"Used (\d+) registers", about)
        assert spilled and registers, self.log
        return Resources(int(registers[1]), int(spilled[1]) + int(spilled[2]))


def modules() -> list[list[Specialisation]]:
    """All specialisations, those together that one compilation makes."""
    found: dict[tuple, list[Specialisation]] = {}
    for wanted in all_specialisations():
        found.setdefault((wanted.file, wanted.macros), []).append(wanted)
    return list(found.values())


def compile_module(wanted: Specialisation, arch: int) -> Compiled:
    """As CuPy compiles it: the launcher's options, and those that CuPy adds, by a test of its source."""
    result, program = nvrtc.nvrtcCreateProgram(source_of(wanted).encode(), b"ddf.cu", 0, [], [])
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, result
    added = ("-ftz=true", f"-arch=sm_{arch}", "--device-as-default-execution-space")
    options = (*compile_options(wanted), *added, "--ptxas-options=-v")  # -v changes no code
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytes(size + 1)  # written to in place: never of length 1, which Python shares with every other b"\0"
    nvrtc.nvrtcGetProgramLog(program, log)
    cubin = b""
    if result == nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        buffer = bytes(size + 1)
        nvrtc.nvrtcGetCUBIN(program, buffer)
        cubin = buffer[:-1]
    nvrtc.nvrtcDestroyProgram(program)
    return Compiled(cubin, log.decode(errors="replace"))


def nvdisasm() -> str | None:
    if found := shutil.which("nvdisasm"):
        return found
    try:
        import triton
    except ImportError:
        return None
    bundled = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    return str(bundled) if bundled.exists() else None


def instructions(wanted: Specialisation, cubin: bytes) -> list[str]:
    """The kernel's machine instructions in their order, labels among them as 'label:'."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([nvdisasm(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    body = text.split(f".text.{wanted.kernel}:")[1].split(".section")[0]
    found = []
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            found.append(label[1] + ":")
        elif code := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            found.append(code[1])
    return found


def per_output(wanted: Specialisation, cubin: bytes) -> float | None:
    """Instructions of a thread per result, in the loops that do the arithmetic; the tiled kernels only.

    Such a loop makes one row of taps of a strip (or its share of both filter gradients, which are two loops).
    """
    if wanted.file not in TILED:
        return None
    macros = dict(wanted.macros)
    code = instructions(wanted, cubin)
    place = {line[:-1]: i for i, line in enumerate(code) if line.endswith(":")}
    loops = [
        (place[target[1]], i)
        for i, line in enumerate(code)
        if (target := re.search(r"\bBRA.*?`\((\.L_x_\d+)\)", line)) and place[target[1]] < i
    ]
    innermost = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    arithmetic = re.compile(r"\b[FD](FMA|MUL|ADD)\b")
    innermost.sort(key=lambda loop: sum(bool(arithmetic.search(line)) for line in code[loop[0] : loop[1]]))
    count = sum(
        not line.endswith(":") and "NOP" not in line
        for first, last in innermost[-2 if wanted.file == "ddf_filter_grad.cu" else -1 :]
        for line in code[first : last + 1]
    )
    outputs = (
        STRIP * vector_of(macros["DTYPE"]) * (macros["STRIDE"] ** 2 if macros["GRAD_X"] else 1)
    )  # of a strip, in all its phases
    return round(count * macros["KERNEL_SIZE"] / outputs, 1)


def rows_of(module: list[Specialisation], arch: int) -> list[dict]:
    compiled = compile_module(module[0], arch)
    assert compiled.cubin, compiled.log
    rows = []
    for wanted in module:
        registers, spilled = compiled.resources(wanted.kernel)
        counted = per_output(wanted, compiled.cubin)
        macros = dict(wanted.macros)
        figures = dict(registers=registers, spilled_bytes=spilled)
        rows.append({"kernel": wanted.kernel, **macros, **figures, "instructions_per_output": counted})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90, metavar="XY", help="compute capability without the dot")
    parser.add_argument("--output", type=path_of, metavar="FILE.json")
    args = parser.parse_args()
    known = nvrtc.nvrtcGetSupportedArchs()[-1]  # some versions say before it how many
    if args.arch not in known:
        parser.error(f"--arch is {args.arch}, expected one that this NVRTC knows: {', '.join(map(str, known))}")
    if not nvdisasm():
        parser.error("no nvdisasm here to count instructions: install CUDA's, or triton, which has one")
    with ThreadPoolExecutor() as pool:
        rows = [row for rows in pool.map(lambda module: rows_of(module, args.arch), modules()) for row in rows]
    _, major, minor = nvrtc.nvrtcVersion()
    content = {"arch": f"sm_{args.arch}", "nvrtc": f"{major}.{minor}", "kernels": rows}
    lines = ",\n  ".join(json.dumps(one) for one in rows)
    text = json.dumps({**content, "kernels": []}).replace('"kernels": []', f'"kernels": [\n  {lines}\n]') + "\n"
    if args.output:
        write_whole(args.output, text)
    else:
        print(text, end="")


if __name__ == "__main__":
    cli.run(main)
