"""Draw the learning curves of runs into one picture, from the metrics.jsonl in their folders.

    python scripts/plot.py runs/ddf_r50 runs/resnet50
    python scripts/plot.py runs/* --metric eval/top1 --metric train/loss --smooth 20 --output curves.png

A metric is the kind of a log line, train or eval, and a name in it; one that nobody has lists those that there are.
Needs matplotlib (the dev extra).
"""

import argparse
import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

import numpy as np

from ddfnet import cli
from ddfnet.errors import UserError
from ddfnet.files import write_whole

DEFAULT_METRICS = ["eval/top1", "train/loss"]
LABELS = {
    "top1": "top-1, %",
    "top5": "top-5, %",
    "lr": "learning rate",
    "images_per_second": "images per second",
    "data_wait": "share of the time waiting for data",
    "memory": "peak memory, bytes",
    "mfu": "model FLOP utilisation",
}
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]  # Okabe and Ito's
STYLES = ["-", "--", ":", "-."]  # after seven runs the colours come again

Curve = tuple[np.ndarray, np.ndarray]  # epochs, values


def read(run: str) -> dict[str, Curve]:
    """kind/name -> the curve, of a run's folder or its metrics.jsonl."""
    path = Path(run)
    if not path.exists():
        raise UserError(f"{run}: no such run, expected the folder of one, such as runs/quickstart")
    file = path / "metrics.jsonl" if path.is_dir() else path
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        raise UserError(f"{run}: is no run's folder: it holds no metrics.jsonl") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a log: {error}") from None
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # what a killed run left of a line
            entry = json.loads(line)
            kind, epoch = entry["kind"], float(entry["epoch"])
            for name, value in entry.items():
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
                if name not in ("kind", "step", "epoch") and is_number:
                    points.setdefault(f"{kind}/{name}", []).append((epoch, value))
    if not points:
        raise UserError(f"{file}: holds no log step yet")
    return {metric: (np.array(p)[:, 0], np.array(p)[:, 1]) for metric, p in points.items()}


def names(runs: Sequence[str]) -> list[str]:
    """The last parts of the paths, as many as tell all runs apart."""
    paths = [Path(run).resolve() for run in runs]
    parts = [(path.parent if path.name == "metrics.jsonl" else path).parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        short = ["/".join(p[-count:]) for p in parts]
        if len(set(short)) == len(short):
            return short
    raise UserError(f"{next(run for i, run in enumerate(runs) if parts[i] in parts[:i])}: is named twice")


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over `window` points around each, over fewer at the ends."""
    ones = np.ones(min(window, len(values)))
    same = dict(mode="same")
    return np.convolve(values, ones, **same) / np.convolve(np.ones_like(values), ones, **same)


def draw(runs: dict[str, dict[str, Curve]], metrics: list[str], smooth: int, output: str) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    style = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e5e5e5",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "font.size": 10,
    }
    with plt.rc_context(style):
        columns = 2 if len(metrics) == 4 else min(len(metrics), 3)
        rows = math.ceil(len(metrics) / columns)
        size = (max(5.6 * columns, 6.4), 4.2 * rows)
        figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        figure.get_layout_engine().set(h_pad=0.12, w_pad=0.12)
        for axes, metric in zip(panels.flat, metrics, strict=False):
            for i, (name, curves) in enumerate(runs.items()):
                if metric not in curves:
                    continue
                epochs, values = curves[metric]
                look = dict(color=COLOURS[i % len(COLOURS)], linestyle=STYLES[i // len(COLOURS) % len(STYLES)])
                few = dict(marker="o", markersize=3) if len(values) <= 40 else {}
                if smooth > 1 and metric.startswith("train/"):
                    axes.plot(epochs, values, color=look["color"], alpha=0.25, linewidth=0.8)
                    values, few = smoothed(values, smooth), {}
                axes.plot(epochs, values, label=name, linewidth=1.6, **look, **few)
            kind, name = metric.split("/", 1)
            axes.set(xlabel="epoch", title=f"{LABELS.get(name, name.replace('_', ' '))} ({kind})")
            axes.margins(x=0.02)
        for axes in panels.flat[len(metrics) :]:
            axes.set_axis_off()
        handles = {label: h for a in panels.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
        columns_of_legend = max(1, min(len(handles), int(size[0] * 10 / (8 + max(map(len, handles))))))
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns_of_legend)
        path = Path(output) if Path(output).suffix else Path(f"{output}.png")  # as matplotlib takes a name
        picture = io.BytesIO()
        try:
            figure.savefig(picture, format=path.suffix[1:], dpi=150)
            write_whole(path, picture.getvalue())
        except ValueError as error:  # a format that matplotlib does not write
            raise UserError(f"{output}: {error}") from None
        except OSError as error:
            raise UserError(f"{output}: the picture cannot be written: {error.strerror}") from None
        finally:
            plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, such as runs/quickstart")
    parser.add_argument("--metric", action="append", metavar="KIND/NAME", help=f"default: {', '.join(DEFAULT_METRICS)}")
    parser.add_argument(
        "--smooth", type=int, default=1, metavar="N", help="train: mean over N log steps; they stay faint"
    )
    parser.add_argument("--output", type=os.path.expanduser, default="curves.png", help="default: curves.png")
    args = parser.parse_args(arguments)
    if args.smooth < 1:
        raise UserError(f"--smooth = {args.smooth}, expected a number of log steps, 1 or more")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install matplotlib") from None

    runs = dict(zip(names(args.runs), map(read, args.runs), strict=True))
    available = sorted({metric for curves in runs.values() for metric in curves})
    metrics = list(dict.fromkeys(args.metric or [m for m in DEFAULT_METRICS if m in available] or available[:1]))
    for metric in metrics:
        if metric not in available:
            raise UserError(f"--metric {metric}: not in the log, expected one of {', '.join(available)}")
        for name in (name for name, curves in runs.items() if metric not in curves):
            print(f"{name}: has no {metric}", file=sys.stderr)
    draw(runs, metrics, args.smooth, args.output)
    print(f"{args.output}: {', '.join(metrics)} of {', '.join(runs)}")


if __name__ == "__main__":
    cli.run(main)
