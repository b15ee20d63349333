"""Measure the operator and the networks beside what could stand in their place.

    python scripts/benchmark.py ops       every pass, its floor, convolutions, unfold, torch.compile
    python scripts/benchmark.py table2    the paper's Table 2: latency and memory of four filters
    python scripts/benchmark.py models    images per second of the networks and of the ResNets they replace
    python scripts/benchmark.py launch    what a call costs in Python

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
from measure import launch, models, ops_cpu, ops_gpu, table2, timing


def run(args: argparse.Namespace, device: torch.device):
    deadline = time.time() + 60 * args.minutes
    if args.command == "ops":
        return ops_gpu.measure(deadline) if device.type == "cuda" else ops_cpu.measure(args.threads, args.rounds)
    if args.command == "table2":
        torch.set_num_threads(args.threads)
        return table2.measure(device, args.repeats or (1000 if device.type == "cuda" else 3))
    if args.command == "models":
        torch.set_num_threads(args.threads)
        batch = args.batch or (256 if device.type == "cuda" else 8)
        return models.measure(device, batch, 20 if device.type == "cuda" else 3, deadline)
    return launch.measure(device)


def save(path: Path, command: str, device: torch.device, figures) -> None:
    """Adds to the file's other figures; each part has its own command, date, commit, machine and versions."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content[command] = {"command": " ".join(["python", *sys.argv]), **timing.environment(device), "figures": figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("ops", "table2", "models", "launch"):
        sub = commands.add_parser(name, help=f"see above: {name}")
        sub.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
        sub.add_argument("--output", type=Path, metavar="FILE.json", help="add the figures to this file")
        sub.add_argument("--minutes", type=float, default=60, help="start nothing new after that long (ops, models)")
        sub.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
        sub.add_argument("--rounds", type=int, default=15, help="ops on a CPU")
        sub.add_argument("--repeats", type=int, help="table2: calls of each filter")
        sub.add_argument("--batch", type=int, help="models: images of a step")
    memory = commands.add_parser("memory", help="peak bytes of one method on a CPU, for ops")
    memory.add_argument("method", choices=ops_cpu.METHODS)
    memory.add_argument("shape", type=int, nargs=4)
    args = parser.parse_args()
    if args.command == "memory":
        ops_cpu.print_peak_memory(args.method, tuple(args.shape))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but PyTorch sees no GPU here: leave it out, or say --device cpu")
    device = torch.device(args.device)
    figures = run(args, device)
    if args.output:
        save(args.output, args.command, device, figures)


if __name__ == "__main__":
    main()
