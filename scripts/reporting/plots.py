"""The report's plots, as Plotly figures. Colours hold on light and dark ground; the page sets text and grid."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .paper import Row, identity, title
from .results import Experiment, Result, Size, reproduced

COLOURS = ["#0a84d0", "#e0662c", "#16a37b", "#c65fa5", "#d69a00", "#7b6fd6", "#5aa9d6", "#b5493f"]
DASHES, SYMBOLS = ["solid", "dash", "dot"], ["circle", "square", "diamond"]  # after eight rows the colours begin anew
GREY, GREY_SYMBOLS = "#8a8f98", ["circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon"]
POINTS = 400  # of a curve; more cannot be told apart
PRINTED_IN = {"params": 1e6, "flops": 1e9}  # the paper's tables
UNITS = [(1e9, "billion"), (1e6, "million"), (1e3, "thousand")]
LEGEND = dict(orientation="h", x=0, y=0, yref="container", yanchor="bottom", maxheight=1)  # the page gives it room


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
            _against(experiment, paper, "params", "parameters", lambda size: size.params),
            _against(experiment, paper, "flops", "multiply-accumulates", lambda size: size.macs),
        ]
    label = experiment.headline.label
    plots += [_curve(experiment, "eval", experiment.headline.name, f"{label} at every evaluation", _axis(experiment))]
    plots += [_curve(experiment, "train", "loss", "loss in training", "loss")]
    return plots


def _style(experiment: Experiment, row: str) -> tuple[str, str, str]:
    """Colour, dash of a line, symbol of a point."""
    place = list(experiment.rows).index(row)
    again = place // len(COLOURS) % len(DASHES)
    return COLOURS[place % len(COLOURS)], DASHES[again], SYMBOLS[again]


def _drawn(experiment: Experiment, results: list[Result]) -> list[Result]:
    """The finished runs whose headline metric is a number; tables say of the others that it is not finite."""
    name = experiment.headline.name
    return [result for result in results if result.summary is not None and result.summary[name] is not None]


def _values(experiment: Experiment, results: list[Result]) -> list[float]:
    """The headline metric of finished runs."""
    return [result.summary[experiment.headline.name] for result in results if result.summary]


def _axis(experiment: Experiment) -> str:
    metric = experiment.headline
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def _size(results: list[Result]) -> Size | None:
    return next((result.size for result in results if result.size), None)


def _by_row(experiment: Experiment) -> Plot:
    """A dot a seed, a bar for their mean: what a table of means hides."""
    figure = go.Figure()
    rows = [row for row, results in experiment.rows.items() if _drawn(experiment, results)]
    for row in rows:
        done = _drawn(experiment, experiment.rows[row])
        colour, _, _ = _style(experiment, row)
        values = _values(experiment, done)
        hover = [f"{result.name}<br>%{{x:.2f}} %<extra></extra>" for result in done]
        dots = dict(color=colour, size=11, opacity=0.75)
        figure.add_scatter(x=values, y=[row] * len(done), mode="markers", marker=dots, hovertemplate=hover, name=row)
        mean = dict(symbol="line-ns-open", size=26, color=colour, line=dict(width=3))
        tip = "mean of " + row + "<br>%{x:.2f} %<extra></extra>"
        figure.add_scatter(x=[statistics.mean(values)], y=[row], mode="markers", marker=mean, hovertemplate=tip)
    figure.update_layout(showlegend=False, height=110 + 44 * len(rows))
    figure.update_xaxes(title=_axis(experiment))
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return Plot(
        "by-row",
        f"{experiment.headline.label.capitalize()} of every run",
        "A dot is a seed, the bar their mean.",
        figure,
    )


def _against(
    experiment: Experiment, paper: dict[str, list[Row]], key: str, quantity: str, ours: Callable[[Size], int]
) -> Plot:
    """Accuracy against what a network costs. Other data than the paper's have a panel of their own: its numbers and
    ours share no axis. Names stand in the legend: networks that cost the same would write theirs over each other."""
    done = {row: _drawn(experiment, results) for row, results in experiment.rows.items()}
    costs = {row: ours(size) for row, results in done.items() if (size := _size(results))}
    whose = {place: next(iter(rows)) for place, rows in reproduced(experiment, paper).items()}
    theirs = [(table, i, r) for table in experiment.tables for i, r in enumerate(paper[table]) if r.get(key)]
    printed = [r[key] * PRINTED_IN[key] for _, _, r in theirs]
    apart = bool(theirs) and not experiment.like_the_paper
    figure = make_subplots(rows=2 if apart else 1, cols=1, vertical_spacing=0.2)
    panels = [[*costs.values()], printed] if apart else [[*costs.values(), *printed]]
    units = [_scale(figure, panel, quantity, values) for panel, values in enumerate(panels, 1)]
    for row, cost in costs.items():
        values = _values(experiment, done[row])
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        colour, _, symbol = _style(experiment, row)
        figure.add_scatter(
            x=[cost / units[0]],
            y=[statistics.mean(values)],
            error_y=dict(array=[spread], color=colour, thickness=1.5),
            mode="markers",
            marker=dict(size=12, color=colour, symbol=symbol),
            name=row,
            legendgroup=row,
            hovertemplate=f"{row}<br>%{{x:.4g}}, %{{y:.2f}} ± {spread:.2f} %<extra>ours</extra>",
            row=1,
            col=1,
        )
    all_places = [(table, i) for table in experiment.tables for i in range(len(paper[table]))]
    grey = [place for place in all_places if whose.get(place) not in costs]
    for (table, place, r), cost in zip(theirs, printed, strict=True):
        row = whose.get((table, place), "")
        name = f"{', '.join(map(str, identity(r).values()))} ({title(table).replace('ResNet-', 'R')})"
        if row in costs:
            colour, _, symbol = _style(experiment, row)
        else:
            colour, symbol = GREY, GREY_SYMBOLS[grey.index((table, place)) % len(GREY_SYMBOLS)]
        figure.add_scatter(
            x=[cost / units[-1]],
            y=[r.get("retrained", r["top1"])],
            mode="markers",
            marker=dict(size=11, symbol=f"{symbol}-open", line=dict(width=2), color=colour),
            name=name,
            legendgroup=row if row in costs else name,
            showlegend=row not in costs,
            hovertemplate=f"{name}<br>%{{x:.4g}}, %{{y:.1f}} %<extra></extra>",
            row=len(panels),
            col=1,
        )
    figure.update_layout(height=640 if apart else 420, legend=LEGEND)
    figure.update_yaxes(title=f"{_axis(experiment)} (ours)" if apart else _axis(experiment), row=1, col=1)
    if apart:
        figure.update_yaxes(title=f"{_axis(experiment)} (paper)", row=2, col=1)
    text = "Filled: ours, with the deviation over seeds; a tap on a name hides its row."
    text += " Hollow: the paper's, in the colour of our row; grey where none of ours is finished." if theirs else ""
    if apart:
        text += " The paper's stand below, on an axis of their own: other data, other accuracies."
    return Plot(f"against-{key}", f"{experiment.headline.label.capitalize()} against {quantity}", text, figure)


def _scale(figure: go.Figure, panel: int, quantity: str, values: Sequence[float]) -> float:
    """The unit of a panel's axis, in which its largest value is 1 or more, named, with some room on both sides."""
    unit, name = next((u for u in UNITS if max(values) >= u[0]), UNITS[-1])
    room = 0.08 * (max(values) - min(values)) or 0.2 * max(values)
    limits = [(min(values) - room) / unit, (max(values) + room) / unit]
    figure.update_xaxes(title=f"{quantity}, {name}", range=limits, row=panel, col=1)
    return unit


def _curve(experiment: Experiment, kind: str, key: str, title: str, axis: str) -> Plot:
    figure = go.Figure()
    for row, results in experiment.rows.items():
        colour, dash, _ = _style(experiment, row)
        first = True
        for result in results:
            lines = [line for line in result.metrics if line["kind"] == kind and key in line]
            if not lines:
                continue
            lines = [*lines[: -1 : -(-len(lines) // POINTS)], lines[-1]]  # the last is the result
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
    figure.update_layout(height=440, legend=LEGEND)
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=axis)
    text = "A line is a seed; a tap on a name hides its row."
    return Plot(f"curve-{key}", title[0].upper() + title[1:], text, figure)
