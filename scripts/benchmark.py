"""Measure the operator and the networks beside what could stand in their place.

    python scripts/benchmark.py ops       every pass, its floor, convolutions, unfold, torch.compile
    python scripts/benchmark.py table2    the paper's Table 2: latency and memory of four filters
    python scripts/benchmark.py models    images per second of the networks and of the ResNets they replace
    python scripts/benchmark.py launch    what a call costs in Python
    python scripts/benchmark.py data --root FOLDER | FILE.tar    pictures per second of each way to a training crop

On the GPU where there is one (--device cpu: not there). Prints tables; --output adds the figures, with the machine, the
versions, the commit, the date and the command, to a JSON file, which is how benchmarks/results/ is made.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

import torch
from measure import launch, models, ops_cpu, ops_gpu, record, table2, timing

from ddfnet import cli
from ddfnet.errors import UserError
from ddfnet.files import require_writable, write_whole
from ddfnet.paths import path_of


def run(figures: dict, args: argparse.Namespace, device: torch.device) -> None:
    """Fills the figures as they come, so that those of a run that is stopped are not lost."""
    on_gpu = device.type == "cuda"
    deadline = time.time() + 60 * getattr(args, "minutes", 0)
    torch.set_num_threads(args.threads)
    if args.command == "ops":
        ops_gpu.measure(figures, deadline) if on_gpu else ops_cpu.measure(figures, args.threads, args.rounds)
    elif args.command == "table2":
        table2.measure(figures, device, args.repeats or (1000 if on_gpu else 3))
    elif args.command == "models":
        batch = args.batch or (256 if on_gpu else 8)
        models.measure(figures, device, batch, 20 if on_gpu else 3, deadline)
    elif args.command == "data":
        from measure import data  # needs pydantic, which a GPU machine may lack for the others

        data.measure(figures, args.root, device, args.size, args.rounds, tuple(args.workers))
    else:
        launch.measure(figures, device)


def other_figures(path: Path) -> dict:
    """What the file holds already. Raises UserError where it cannot be written, before an hour is measured for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_writable(path)
        return json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: figures cannot be added to it: {error}") from None


def save(path: Path, command: str, device: torch.device, figures, ran: str = "") -> None:
    """Adds to the file's other figures; each part has its own command, date, commit, machine and versions."""
    content = other_figures(path)
    ran = ran or " ".join(["python", *sys.argv])
    content[command] = {"command": ran, **timing.environment(device), "figures": figures}
    write_whole(path, json.dumps(content, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    parts = {
        "ops": "every pass of the operator beside its floor and its rivals",
        "table2": "the paper's Table 2",
        "models": "images per second of networks",
        "launch": "the cost of a call in Python",
        "data": "images per second of each way from a JPEG to a training crop",
    }
    options = {name: commands.add_parser(name, help=about, description=about) for name, about in parts.items()}
    for name, sub in options.items():
        sub.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
        sub.add_argument("--output", type=path_of, metavar="FILE.json", help="add the figures to this file")
        sub.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
        if name in ("ops", "models"):
            sub.add_argument("--minutes", type=float, default=60, help="start nothing new after that long (on a GPU)")
    options["ops"].add_argument("--rounds", type=int, default=15, help="on a CPU: of all methods in turns")
    options["table2"].add_argument("--repeats", type=int, help="calls of each filter")
    options["models"].add_argument("--batch", type=int, help="images of a step")
    options["data"].add_argument("--root", type=path_of, required=True, help="a folder or tar of JPEGs, one a class")
    options["data"].add_argument("--size", type=int, default=224, help="pixels of the crops")
    options["data"].add_argument("--rounds", type=int, default=7, help="of all ways in turns")
    options["data"].add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes of the loader")
    commands.add_parser("once", help="every pass once on a GPU, in bfloat16 and channels_last, for a profiler")
    memory = commands.add_parser("memory", help="peak bytes of one method on a CPU, for ops")
    memory.add_argument("method", choices=ops_cpu.METHODS)
    memory.add_argument("shape", type=int, nargs=4)
    memory.add_argument("--stride", type=int, default=1)
    found = commands.add_parser("record", help="add what pytest reported, for gpu_check.sh")
    found.add_argument("--junit", type=path_of, required=True, metavar="REPORT.xml")
    found.add_argument("--ran", required=True, help="the command")
    found.add_argument("--outcome", nargs="+", default=[], metavar="NAME=OUTCOME", help="of the tools around it")
    found.add_argument("--part", default="tests", choices=("tests", "train"), help="of gpu_check.sh")
    found.add_argument(
        "--run", type=path_of, metavar="FOLDER", help="of a run of train.py, whose last figures are kept"
    )
    found.add_argument("--output", type=path_of, required=True, metavar="FILE.json")
    args = parser.parse_args()
    if getattr(args, "device", "cpu") == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but PyTorch sees no GPU here: leave it out, or say --device cpu")
    return args


def main() -> int:
    args = parse()
    if args.command == "record":
        figures = record.outcomes(args.junit, args.outcome)
        if args.run:
            figures["run"] = record.run_figures(args.run)
        save(args.output, args.part, torch.device("cuda" if torch.cuda.is_available() else "cpu"), figures, args.ran)
        return 0
    if args.command == "once":
        if not torch.cuda.is_available():
            raise UserError("once: PyTorch sees no GPU here, which this needs")
        ops_gpu.run_once()
        return 0
    if args.command == "memory":
        ops_cpu.print_peak_memory(args.method, tuple(args.shape), args.stride)
        return 0
    device = torch.device(args.device)
    figures = {}
    try:
        if args.output:
            other_figures(args.output)
        run(figures, args, device)
    except KeyboardInterrupt:
        print("stopped: what was measured so far is kept" if args.output else "stopped", file=sys.stderr)
        return 130
    finally:
        if args.output and figures:
            save(args.output, args.command, device, figures)
    return 0


if __name__ == "__main__":
    cli.run(main)
