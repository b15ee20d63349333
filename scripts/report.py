"""Set a sweep's results beside the paper's: one HTML page that needs no network, and the same as Markdown.

    python scripts/report.py configs/sweeps/digits.yaml     of the sweep's folder, runs/digits
    python scripts/report.py runs/digits                    the same; or any folder of runs of one protocol

Writes report.html and report.md there. Runs that are not finished yet are named so.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from reporting import paper
from reporting.report import write_report

from ddfnet import cli
from ddfnet.errors import UserError
from ddfnet.paths import path_of
from ddfnet.printable import printable


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=path_of, metavar="SWEEP.yaml | FOLDER")
    parser.add_argument("--paper", type=Path, default=paper.FILE, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    folder = args.sweep if args.sweep.is_dir() else Path("runs") / args.sweep.stem
    if not folder.is_dir():
        raise UserError(f"{args.sweep}: {folder} is no folder of runs: run python scripts/sweep.py {args.sweep} first")
    print(printable(str(write_report(folder, args.paper))))


if __name__ == "__main__":
    cli.run(main)
