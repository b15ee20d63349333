"""The report's plots, as Plotly figures. Colours hold on light and dark ground; the page sets text and grid."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .paper import Row, describe
from .results import Experiment, Result, Size

COLOURS = ["#0a84d0", "#e0662c", "#16a37b", "#c65fa5", "#d69a00", "#7b6fd6", "#5aa9d6", "#b5493f"]
DASHES = ["solid", "dash", "dot"]  # after eight rows the colours begin anew
POINTS = 400  # of a curve; more cannot be told apart


@dataclass(frozen=True)
class Plot:
    id: str
    title: str
    text: str
    figure: go.Figure


def all_plots(experiment: Experiment, paper: dict[str, list[Row]]) -> list[Plot]:
    plots = [_by_row(experiment)]
    if any(result.size for result in experiment.finished):
        plots += [
            _against(experiment, paper, "params", "parameters, million", lambda size: size.params / 1e6),
            _against(experiment, paper, "flops", "multiply-accumulates, billion", lambda size: size.macs / 1e9),
        ]
    plots += [_curve(experiment, "eval", "top1", "top-1 at every evaluation", "top-1, %")]
    plots += [_curve(experiment, "train", "loss", "loss in training", "loss")]
    return plots


def _style(experiment: Experiment, row: str) -> tuple[str, str]:
    place = list(experiment.rows).index(row)
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def _finished(results: list[Result]) -> list[Result]:
    return [result for result in results if result.summary is not None]


def _top1(results: list[Result]) -> list[float]:
    return [result.summary["top1"] for result in results if result.summary]


def _size(results: list[Result]) -> Size | None:
    return next((result.size for result in results if result.size), None)


def _by_row(experiment: Experiment) -> Plot:
    """A dot a seed, a bar for their mean: what a table of means hides."""
    figure = go.Figure()
    rows = [row for row, results in experiment.rows.items() if _finished(results)]
    for row in rows:
        done = _finished(experiment.rows[row])
        colour, _ = _style(experiment, row)
        values = _top1(done)
        hover = [f"{result.name}<br>%{{x:.2f}} %<extra></extra>" for result in done]
        dots = dict(color=colour, size=11, opacity=0.75)
        figure.add_scatter(x=values, y=[row] * len(done), mode="markers", marker=dots, hovertemplate=hover, name=row)
        mean = dict(symbol="line-ns-open", size=26, color=colour, line=dict(width=3))
        tip = "mean of " + row + "<br>%{x:.2f} %<extra></extra>"
        figure.add_scatter(x=[statistics.mean(values)], y=[row], mode="markers", marker=mean, hovertemplate=tip)
    figure.update_layout(showlegend=False, height=110 + 44 * len(rows))
    figure.update_xaxes(title="top-1, %")
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return Plot("by-row", "Top-1 of every run", "A dot is a seed, the bar their mean.", figure)


def _against(
    experiment: Experiment, paper: dict[str, list[Row]], key: str, title: str, ours: Callable[[Size], float]
) -> Plot:
    """Accuracy against what a network costs. Other data than the paper's have a panel of their own: its numbers and
    ours share no axis."""
    rows = [(row, _finished(results)) for row, results in experiment.rows.items()]
    theirs = [(table, r) for table in experiment.tables for r in paper[table] if r.get(key) is not None]
    apart = bool(theirs) and not experiment.like_the_paper
    figure = make_subplots(rows=2 if apart else 1, cols=1, vertical_spacing=0.2)
    for place, (row, done) in enumerate(rows):
        size = _size(done)
        if size is None:
            continue
        values = _top1(done)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        colour, _ = _style(experiment, row)
        figure.add_scatter(
            x=[ours(size)],
            y=[statistics.mean(values)],
            error_y=dict(array=[spread], color=colour, thickness=1.5),
            mode="markers+text",
            cliponaxis=False,
            text=[row],
            textposition=["top center", "bottom center"][place % 2],  # neighbours in the table often are in the plot
            marker=dict(size=12, color=colour),
            hovertemplate=f"{row}<br>%{{x:.4g}}, %{{y:.2f}} ± {spread:.2f} %<extra>ours</extra>",
            row=1,
            col=1,
        )
    if theirs:
        names = [", ".join(str(v) for v in describe(r).split(": ")[1:]) or table for table, r in theirs]
        figure.add_scatter(
            x=[r[key] for _, r in theirs],
            y=[r.get("retrained", r["top1"]) for _, r in theirs],
            mode="markers+text",
            cliponaxis=False,
            text=names,
            textposition="bottom center",
            marker=dict(size=11, symbol="circle-open", line=dict(width=2), color="#8a8f98"),
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.1f} %<extra>paper</extra>",
            row=2 if apart else 1,
            col=1,
        )
    figure.update_layout(showlegend=False, height=640 if apart else 420)
    figure.update_xaxes(title=title)
    drawn = [([ours(s) for _, done in rows if (s := _size(done))], 1), ([r[key] for _, r in theirs], 2 if apart else 1)]
    for panel in {panel for _, panel in drawn}:
        values = [value for xs, p in drawn if p == panel for value in xs]
        room = 0.15 * (max(values) - min(values)) or 0.2 * max(values)  # for the names
        figure.update_xaxes(range=[min(values) - room, max(values) + room], row=panel, col=1)
    figure.update_yaxes(title="top-1, % (ours)" if apart else "top-1, %", row=1, col=1)
    if apart:
        figure.update_yaxes(title="top-1, % (paper)", row=2, col=1)
    name = "parameters" if key == "params" else "multiply-accumulates"
    text = "Filled: ours, with the deviation over seeds." + (" Hollow: the paper's." if theirs else "")
    if apart:
        text += " The paper's stand below, on an axis of their own: other data, other accuracies."
    return Plot(f"against-{key}", f"Top-1 against {name}", text, figure)


def _curve(experiment: Experiment, kind: str, key: str, title: str, axis: str) -> Plot:
    figure = go.Figure()
    for row, results in experiment.rows.items():
        colour, dash = _style(experiment, row)
        first = True
        for result in results:
            lines = [line for line in result.metrics if line["kind"] == kind and key in line]
            lines = lines[:: -(-len(lines) // POINTS) or 1]
            if not lines:
                continue
            figure.add_scatter(
                x=[line["epoch"] for line in lines],
                y=[line[key] for line in lines],
                mode="lines+markers" if len(lines) < 20 else "lines",
                marker=dict(size=5),
                line=dict(color=colour, width=1.6, dash=dash),
                name=row,
                legendgroup=row,
                showlegend=first,
                hovertemplate=f"{result.name}<br>epoch %{{x:.4g}}: %{{y:.4g}}<extra></extra>",
            )
            first = False
    figure.update_layout(height=440, legend=dict(orientation="h", y=-0.22, x=0))
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=axis)
    text = "A line is a seed; a tap on a name hides its row."
    return Plot(f"curve-{key}", title[0].upper() + title[1:], text, figure)
