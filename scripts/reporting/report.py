"""One page that needs no network, and the same as Markdown."""

import json
from pathlib import Path

from ddfnet import __version__
from ddfnet.counted import counted
from ddfnet.errors import UserError
from ddfnet.files import write_whole
from ddfnet.printable import printable

from .paper import read_paper
from .results import Experiment, read_experiment
from .tables import Table, paper_tables, protocol_tables, rows_table, runs_table, several_protocols, versions_table

TEMPLATE = Path(__file__).parent / "page.html"


def write_report(folder: Path, paper_file: Path) -> Path:
    """report.html and report.md in the folder.

    Returns:
        The page.

    Raises:
        UserError: nothing to report, runs that do not belong together, or plotly is missing.
    """
    experiment = read_experiment(folder)
    paper = read_paper(paper_file) if experiment.tables else {}
    try:
        import jinja2
        from plotly.offline import get_plotlyjs

        from .plots import all_plots
    except ImportError as error:
        raise UserError(f"the report needs {error.name}: pip install '.[report]'") from None
    shown = [*paper_tables(experiment, paper), rows_table(experiment)]
    details = [runs_table(experiment), *protocol_tables(experiment), versions_table(experiment)]
    plots = all_plots(experiment, paper)
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text()
    )
    page = template.render(
        experiment=experiment,
        notes=notes(experiment),
        shown=shown,
        details=details,
        plots=plots,
        figures=_for_script(json.dumps({p.id: json.loads(p.figure.to_json()) for p in plots})),
        plotly=get_plotlyjs(),
        version=__version__,
    )
    write_whole(folder / "report.md", printable(markdown(experiment, shown, details)))
    write_whole(folder / "report.html", printable(page))
    return folder / "report.html"


def notes(experiment: Experiment) -> list[str]:
    """What a reader must know before the numbers."""
    done, all_runs = len(experiment.finished), len(experiment.results)
    runs = counted(all_runs, "run is", "runs are")
    found = [f"{done} of {runs} finished." if done < all_runs or done == 1 else f"All {runs} finished."]
    found.append("Accuracies are those of the last evaluation, mean ± sample standard deviation over seeds.")
    if differing := several_protocols(experiment):
        found.append(f"Rows differ in more than the network: {differing}. Theirs are not results of one protocol.")
    if experiment.tables and not experiment.like_the_paper:
        begun = [(r.config.data, r.classes) for r in experiment.results if r.config]
        data = {d.source if d.source != "imagefolder" else Path(d.root).name for d, _ in begun}
        sizes = {f"{d.image_size}x{d.image_size} pixels" for d, _ in begun}
        classes = {counted(number, "class") for _, number in begun if number}
        found.append(
            f"Ours are from {', '.join(sorted(data))} ({', '.join(sorted(classes) + sorted(sizes))}), the paper's"
            " on ImageNet at 224x224: compare the order of rows, not the values."
        )
    return found


def markdown(experiment: Experiment, shown: list[Table], details: list[Table]) -> str:
    parts = [f"# {experiment.name}", *notes(experiment)]
    for table in (*shown, *details):
        parts += [f"## {table.title}", *([table.note] if table.note else []), _pipes(table)]
        parts += ["\n".join(f"- {footnote}" for footnote in table.footnotes)] if table.footnotes else []
    parts += ["## Commands", "```bash\n" + "\n".join(commands(experiment)) + "\n```", f"ddfnet {__version__}"]
    return "\n\n".join(parts) + "\n"


def commands(experiment: Experiment) -> list[str]:
    return [c for c in (experiment.command, *(r.command for r in experiment.results)) if c]


def _pipes(table: Table) -> str:
    rule = ["--:" if column in table.numbers else "---" for column in range(len(table.header))]
    lines = [table.header, rule, *([cell.text.replace("|", "\\|") for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _for_script(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c")
