"""Train every row of a table, each with every seed, and set the results beside the paper's.

    python scripts/sweep.py configs/sweeps/digits.yaml                                   here, one after the other
    python scripts/sweep.py configs/sweeps/table3.yaml data.root=/data/imagenet --gpus 0,1,2,3 --gpus-per-run 2
    python scripts/sweep.py configs/sweeps/table3.yaml --launcher slurm --slurm partition=gpu time=2880

Everything is checked before the first run starts. Each run is a process of train.py with its own folder,
runs/SWEEP/NAME-seedN. The same command again skips what is finished, continues what was interrupted and tries anew what
failed. Ctrl-C or SIGTERM lets every run finish its step and save (exit code 75). It ends with runs/SWEEP/report.html.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from reporting import paper
from reporting.report import write_report
from rich.console import Console
from sweeping.attempt import Job, job_of
from sweeping.board import Board
from sweeping.folders import Busy, Lock, read_progress, this_process
from sweeping.local import Stop, gpu_sets, run_local, visible_gpus
from sweeping.overview import estimate_rows, show_plan
from sweeping.plan import Run, Sweep, plan_sweep
from sweeping.slurm import run_slurm
from sweeping.slurm_options import slurm_options

from ddfnet import cli
from ddfnet.counted import counted
from ddfnet.errors import UserError
from ddfnet.files import write_whole
from ddfnet.paths import path_of
from ddfnet.printable import printable
from ddfnet.train import EXIT_CODE


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=path_of, metavar="SWEEP.yaml", help="such as configs/sweeps/digits.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="for every run, on top of the file")
    parser.add_argument("--only", metavar="NAME,NAME", help="these rows (or runs) of it")
    parser.add_argument("--dir", type=path_of, metavar="FOLDER", help="default: runs/<the sweep file's name>")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: one a GPU set; one on a CPU)")
    parser.add_argument("--gpus", metavar="0,1,2,3", help="to be used (default: all that are visible)")
    parser.add_argument("--gpus-per-run", type=int, metavar="N", help="more than one by torchrun (default: 1)")
    parser.add_argument("--launcher", choices=["local", "slurm"], default="local")
    parser.add_argument(
        "--slurm",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="for sbatch: partition=gpu, time=2-12:00:00 ...",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan; nothing is written")
    parser.add_argument("--no-measure", action="store_true", help="estimate no time by trying a few steps of each row")
    parser.add_argument("--paper", type=Path, default=paper.FILE, help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(argv)
    for name in ("jobs", "gpus_per_run"):
        value = getattr(args, name)
        if value is not None and value < (0 if name == "gpus_per_run" and args.launcher == "slurm" else 1):
            parser.error(f"--{name.replace('_', '-')} {value}: expected 1 or more")
    if args.slurm and args.launcher != "slurm":
        parser.error(f"--slurm {' '.join(args.slurm)}: is for --launcher slurm, which is not given")
    if args.gpus and args.launcher == "slurm":
        parser.error(f"--gpus {args.gpus}: SLURM chooses them; --gpus-per-run says how many a run has")
    return args


def default_folder(file: Path) -> Path:
    return Path("runs") / file.stem


def chosen(sweep: Sweep, only: str | None) -> list[Run]:
    if only is None:
        return sweep.runs
    names = only.split(",")
    for name in names:
        if name not in {known for run in sweep.runs for known in (run.row, run.name)}:
            raise UserError(f"--only {name}: no such row in {sweep.file}, expected one of {', '.join(sweep.rows)}")
    return [run for run in sweep.runs if run.row in names or run.name in names]


def record(sweep: Sweep, jobs: dict[str, Job], arguments: list[str]) -> None:
    """sweep.json, from which the report is made: all runs of the sweep, those that --only leaves out too.

    `arguments` are those of the command line, as they were typed.
    """
    runs = [
        {"name": r.name, "row": r.row, "seed": r.seed, "paper": list(r.paper), "command": jobs[r.name].shown}
        for r in sweep.runs
    ]
    content = {"command": shlex.join(["python", "scripts/sweep.py", *arguments]), "tables": sweep.tables, "runs": runs}
    write_whole(sweep.folder / "sweep.json", json.dumps(content, indent=1) + "\n")


def closed(board: Board, runs: list[Run], folder: Path, paper_file: Path, console: Console) -> int:
    """Write the report of what is done, say what is not, and return the exit code."""
    failed, done = board.named("failed"), board.named("done")
    if done:
        try:
            said = f"report: {write_report(folder, paper_file)}"
        except UserError as error:
            said = f"no report: {error}"
        console.print(printable(said), markup=False)
    if failed:
        print(f"error: {len(failed)} of {counted(len(runs), 'run')} failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    if len(done) < len(runs):
        print("stopped; the same command continues from there", file=sys.stderr)
        return EXIT_CODE
    return 0


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    folder = args.dir or default_folder(args.sweep)
    sweep = plan_sweep(args.sweep, folder, args.overrides, args.paper)
    runs = chosen(sweep, args.only)
    on_cpu = all(run.config.run.device == "cpu" for run in sweep.runs)
    without = next((run.name for run in runs if run.config.run.device == "cpu"), None)
    if without and (args.gpus or args.gpus_per_run):
        option = f"--gpus {args.gpus}" if args.gpus else f"--gpus-per-run {args.gpus_per_run}"
        raise UserError(f"{option}: {without} has run.device = cpu, so uses none: leave it out, or set another")
    slurm = args.launcher == "slurm"
    if slurm:
        gpus_per_run = args.gpus_per_run if args.gpus_per_run is not None else int(not on_cpu)
        sets: list[list[str]] = [[]]
        at_once, threads = args.jobs or 256, 1
        options = slurm_options(args.slurm, max(run.config.data.workers for run in runs), gpus_per_run)
    else:
        gpus = args.gpus.split(",") if args.gpus else [] if on_cpu else visible_gpus()
        gpus_per_run = args.gpus_per_run or 1
        if gpus_per_run > 1 and not gpus:
            raise UserError(f"--gpus-per-run {gpus_per_run}: no GPU is to be seen here; name them by --gpus")
        sets = gpu_sets(gpus, gpus_per_run)
        at_once = args.jobs or len(sets)
        threads = max(1, (os.cpu_count() or 1) // (at_once * gpus_per_run))
    on_gpu = gpus_per_run > 0 if slurm else bool(sets[0])
    jobs = {run.name: job_of(run, gpus_per_run, on_gpu) for run in sweep.runs}

    lock = Lock(folder)
    with Stop() as stop:
        if not args.dry_run:
            try:
                lock.take(this_process("a sweep"))
            except Busy as busy:
                raise UserError(f"{folder}: is held by {busy}: wait for it, stop it, or use another --dir") from None
        todo = [run for run in runs if read_progress(run.folder).state != "finished"]
        measure = None if slurm or args.no_measure else (gpus_per_run, sets[0], threads)
        show_plan(sweep, runs, estimate_rows(runs, measure, stop, console), at_once, console)
        if args.dry_run:
            return 0
        record(sweep, jobs, argv)
        with Board(runs, console) as board:
            for run in runs:
                if run not in todo:
                    board.set(run.name, "done", "before")
            if stop.times or not todo:
                pass
            elif slurm:
                run_slurm([jobs[run.name] for run in todo], folder, at_once, options, board, stop)
            else:
                run_local([jobs[run.name] for run in todo], sets, at_once, threads, board, stop)
        lock.release()
    return closed(board, runs, folder, args.paper, console)


if __name__ == "__main__":
    cli.run(main, interrupted="error: interrupted before a run started", code=1)
