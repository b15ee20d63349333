"""Counts what every CUDA kernel takes, as NVRTC makes it; no GPU needed.

    python scripts/kernel_table.py [--output FILE.json] [--plot FILE.png]

Registers and spills of every kernel and, for the DDF layers of DDF-ResNet-50 at batch 256, every pass, dtype and
layout: the instructions that warps issue, per output and thread, what they ask of shared memory, and the sectors that
copies and stores move. Every thread of one image is run through the kernel's own machine code (sm_90), so nothing is
estimated but the time: of an H100 that issues an instruction in every cycle, or serves shared memory in every cycle, or
moves every tensor once, as fast as it copies.
Needs cuda-bindings, which PyTorch for CUDA installs, and nvdisasm (CUDA's or Triton's); --plot needs matplotlib.
The committed tables are benchmarks/kernels-sm_90-nvrtc-VERSION.json, one for each NVRTC that made one;
tests/test_kernel_sources.py and tests/test_kernel_counts.py compare that of the NVRTC at hand with the kernels.
"""

import argparse
import functools
import itertools
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

try:
    from counting.compiled import compile_module, instructions, modules, nvdisasm, version
except ImportError:
    sys.exit("error: no cuda-bindings here: pip install cuda-bindings, or a PyTorch for CUDA")
from counting.layers import LAYERS, PASSES, Layer, cost_of, job_of
from counting.program import Program

from ddfnet import cli
from ddfnet.files import write_whole
from ddfnet.ops.gpu.specialisations import DTYPES, Specialisation
from ddfnet.paths import path_of

ARCH = 90


def resources_of(module: list[Specialisation]) -> list[dict]:
    compiled = compile_module(module[0], ARCH)
    assert compiled.cubin, compiled.log
    rows = []
    for wanted in module:
        registers, spilled = compiled.resources(wanted.kernel)
        rows.append({"kernel": wanted.kernel, **dict(wanted.macros), "registers": registers, "spilled_bytes": spilled})
    return rows


@functools.cache
def program_of(wanted: Specialisation) -> Program:
    return Program(instructions(wanted, compile_module(wanted, ARCH).cubin))


def layers_of(case: tuple) -> list[dict]:
    """Return the rows of a pass: of every layer, in a dtype and a layout."""
    kind, dtype, nhwc = case
    return [row_of(kind, dtype, nhwc, layer) for layer in LAYERS]


def row_of(kind: str, dtype, nhwc: bool, layer: Layer) -> dict:
    where = {"pass": kind, "dtype": str(dtype).removeprefix("torch."), "nhwc": nhwc}
    return {**where, **layer._asdict(), **cost_of(job_of(kind, dtype, nhwc, layer), program_of)}


def draw(rows: list[dict], file: Path) -> None:
    """Plot what the network's layers take together: of each pass, dtype and layout the three times side by side."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PASSES), figsize=(13, 4.2), sharey=True, layout="constrained")
    groups = list(itertools.product((str(dtype).removeprefix("torch.") for dtype in DTYPES), (True, False)))
    for axis, kind in zip(axes, PASSES, strict=True):
        for number, (name, label) in enumerate(
            (("issue_us", "instructions"), ("shared_us", "shared memory"), ("memory_us", "memory, at least"))
        ):
            chosen = [[row for row in rows if (row["pass"], row["dtype"], row["nhwc"]) == (kind, *g)] for g in groups]
            sums = [sum(row[name] * row["times"] for row in group) for group in chosen]
            axis.bar([at + 0.27 * number for at in range(len(groups))], sums, 0.25, label=label)
        names = [f"{dtype}\n{'NHWC' if nhwc else 'NCHW'}" for dtype, nhwc in groups]
        axis.set_xticks([at + 0.27 for at in range(len(groups))], names, fontsize=6.5)
        axis.set_title(kind, fontsize=10)
    axes[0].set_ylabel("microseconds of an H100, 16 layers, batch 256")
    axes[-1].legend(fontsize=8)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=path_of, metavar="FILE.json")
    parser.add_argument("--plot", type=path_of, metavar="FILE.png")
    args = parser.parse_args()
    if not nvdisasm():
        parser.error("no nvdisasm here to count instructions: install CUDA's, or triton, which has one")
    cases = list(itertools.product(PASSES, DTYPES, (True, False)))
    with ProcessPoolExecutor() as pool:
        kernels = [row for rows in pool.map(resources_of, modules()) for row in rows]
        layers = [row for rows in pool.map(layers_of, cases) for row in rows]
    parts = [f'"{name}": [\n  {_lines(rows)}\n]' for name, rows in (("kernels", kernels), ("layers", layers))]
    text = f'{{"arch": "sm_{ARCH}", "nvrtc": "{version()}", {", ".join(parts)}}}\n'
    if args.plot:
        draw(layers, args.plot)
    if args.output:
        write_whole(args.output, text)
    else:
        print(text, end="")


def _lines(rows: list[dict]) -> str:
    return ",\n  ".join(map(json.dumps, rows))


if __name__ == "__main__":
    cli.run(main)
