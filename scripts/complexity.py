"""Parameters and multiply-accumulates: the paper's Tables 1, 3c, 4 and 5 from the networks themselves, or any network.

    python scripts/complexity.py                                  the four tables, beside the paper's figures
    python scripts/complexity.py --tables 5 --markdown table5.md
    python scripts/complexity.py resnet50 convnext_tiny configs/ablations/k5.yaml    any of timm's models, any config

Nothing is computed: the networks stand on the "meta" device. MACs are the multiply-accumulates of convolutions and
matrix products; for networks with DDF they are in its authors' own counting, which the paper's tables hold
(ddfnet.models.count_macs), and "plain MACs" those of the layers and of applying the filters. ✓: rounded as the paper
rounds, they are equal. The rows are those of configs/sweeps, the paper's figures those of benchmarks/paper.yaml.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

import torch
import yaml
from reporting.paper import macs_as_printed
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from ddfnet import cli
from ddfnet.config import Config, Model, load_config
from ddfnet.files import write_whole
from ddfnet.models import count_macs, count_parameters
from ddfnet.models.build import build_model
from ddfnet.models.compared.dynamic_filter import DyFilter
from ddfnet.nn import DDF
from ddfnet.paths import expanded

ROOT = Path(__file__).resolve().parent.parent
TABLES = ("1", "3c", "4", "5")
SAME, DIFFERENT = "✓", "≠"


@dataclass(frozen=True)
class Figure:
    """A count of ours beside what the paper prints, if it does."""

    ours: int
    shown: str
    paper: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Row:
    table: str
    name: str
    model: str
    figures: dict[str, Figure]  # by quantity
    note: str = ""


def rounded(ours: int, unit: str, digits: int, paper: float | None, shown: str = "") -> Figure:
    """`paper` is in millions (M) or 10^9 (G) and printed with so many digits: equal if ours, rounded so, is."""
    scaled = ours / {"M": 1e6, "G": 1e9}[unit]
    shown = shown or f"{scaled:.3f} {unit}"
    if paper is None:
        return Figure(ours, shown)
    printed = f"{paper:.{digits}f}"
    return Figure(ours, shown, f"{printed} {unit}", SAME if f"{scaled:.{digits}f}" == printed else DIFFERENT)


def count_row(
    table: str, name: str, config: Config, model: nn.Module, paper: dict, digits: int = 1, input_size=(3, 224, 224)
) -> Row:
    """A network's counts, beside the `params` and `flops` of a row of the paper's tables, {} for none."""
    has_ddf = any(isinstance(module, DDF) for module in model.modules())
    params, macs = count_parameters(model), macs_as_printed(model, input_size)
    figures = {
        "parameters": rounded(params, "M", 1, paper.get("params"), f"{params:,}"),
        "MACs": rounded(macs, "G", digits, paper.get("flops")),
    }
    if has_ddf:
        figures["plain MACs"] = rounded(count_macs(model, input_size), "G", digits, None)
    return Row(table, name, config.model.name, figures, paper.get("note", ""))


def network(config: Config) -> nn.Module:
    """The network of a config for ImageNet's classes, on "meta"."""
    with torch.device("meta"):
        return build_model(config, 1000, pretrained=False)


def table_1(channels: int = 256, k: int = 3, ratio: float = 0.2, size: tuple[int, int] = (200, 300)) -> Iterator[Row]:
    """Four filters at the paper's usual width and Table 2's size, counted, beside the paper's formulas worked out.

    Weights and multiply-accumulates of the layers, values of the generated filters. Biases and norms are left out, as
    in the paper; its formulas for the time are orders of growth, these have their factors.
    """
    c, n, s = channels, size[0] * size[1], int(ratio * channels)
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            "Conv": nn.Conv2d(c, c, k, padding=k // 2, bias=False),
            "DwConv": nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False),
            "DyFilter": DyFilter(c, k),
            "DDF": DDF(c, k, squeeze_ratio=ratio),
        }
        x = torch.empty(1, c, *size)
    dense, branch = c * c * k * k, s * c * (1 + k * k)
    formulas = {
        "Conv": [("c²k²", dense), ("nc²k²", n * dense), ("", 0)],
        "DwConv": [("ck²", c * k * k), ("nck²", n * c * k * k), ("", 0)],
        "DyFilter": [("c³k²", c * dense), ("nc²k²(c+1)", n * dense * (c + 1)), ("nc²k²", n * dense)],
        "DDF": [
            ("ck²+sc(1+k²)", c * k * k + branch),
            ("2nck²+sc(1+k²)", 2 * n * c * k * k + branch),
            ("(n+c)k²", (n + c) * k * k),
        ],
    }
    for name, module in modules.items():
        generated = module.filters(x) if isinstance(module, (DyFilter, DDF)) else ()
        counted = (
            sum(p.numel() for p in module.parameters() if p.dim() > 1),
            count_macs(module, (c, *size)),
            sum(f.numel() for f in (generated if isinstance(generated, tuple) else (generated,))),
        )
        shown = (f"{counted[0]:,}", f"{counted[1] / 1e9:,.3f} G", f"{counted[2] / 1e6:,.3f} M" if counted[2] else "")
        figures = {
            quantity: Figure(ours, text, formula, SAME if ours == value else DIFFERENT)
            for quantity, ours, text, (formula, value) in zip(
                ("weights", "MACs", "filter values"), counted, shown, formulas[name], strict=True
            )
        }
        note = f"c = {c} channels, n = {size[0]}x{size[1]} pixels, k = {k}, s = int({ratio}c) = {s}"
        yield Row("1", name, "", figures, note if name == "DDF" else "")


def entries(table: str) -> Iterator[tuple[str, str, Path, dict]]:
    """(part of the table, name, config file, row of benchmarks/paper.yaml) of each run of the table's sweep."""
    paper = yaml.safe_load((ROOT / "benchmarks/paper.yaml").read_text())
    file = ROOT / "configs/sweeps" / f"table{table[0]}.yaml"
    for name, run in yaml.safe_load(file.read_text())["runs"].items():
        for wanted in run["paper"] if isinstance(run["paper"], list) else [run["paper"]]:
            part = wanted["table"].removeprefix("table")
            if part.split(".")[0] != table:
                continue
            printed = paper
            for key in wanted["table"].split("."):
                printed = printed[key]
            (row,) = [row for row in printed if all(row.get(k) == v for k, v in wanted.items() if k != "table")]
            yield part, name, file.parent / run["config"], row


def paper_row(part: str, name: str, config_file: Path, printed: dict) -> Row:
    """One of these, counted."""
    config = load_config(config_file)
    return count_row(part, name, config, network(config), printed, digits=3 if part == "3c" else 1)


def any_rows(names: list[str]) -> Iterator[Row]:
    """Models by timm's names at their own picture size, and config files at theirs."""
    for name in names:
        if name.endswith((".yaml", ".yml")):
            config = load_config(name)
            model, size = network(config), (3, config.data.image_size, config.data.image_size)
            name = f"{Path(name).stem}, "
        else:
            config = Config(model=Model(name=name))
            model = network(config)
            size, name = model.pretrained_cfg["input_size"], ""
        yield count_row("networks", f"{name}{size[1]}x{size[2]}", config, model, {}, input_size=size)


@dataclass
class Text:
    """A table as text: headings, rows of cells, notes below it."""

    title: str
    head: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def as_texts(rows: list[Row]) -> list[Text]:
    texts = []
    for table in dict.fromkeys(row.table for row in rows):
        own = [row for row in rows if row.table == table]
        quantities = list(dict.fromkeys(q for row in own for q in row.figures))
        compared = [q for q in quantities if any(row.figures[q].paper for row in own if q in row.figures)]
        text = Text(
            table if table == "networks" else f"Table {table.replace('.r', ', ResNet')}",
            ["", "model"] if table != "1" else [""],
        )
        for quantity in quantities:
            text.head += [quantity, "formula" if table == "1" else "paper"] if quantity in compared else [quantity]
        for row in own:
            cells = [row.name, row.model][: len(text.head) - len(quantities) - len(compared)]
            for quantity in quantities:
                figure = row.figures.get(quantity, Figure(0, ""))
                cells += [figure.shown]
                cells += [f"{figure.paper} {figure.mark}" if figure.paper else "-  "] if quantity in compared else []
            text.rows.append(cells)
            text.notes += [f"{row.name}: {row.note}"] if row.note else []
        texts.append(text)
    return texts


def to_console(texts: list[Text], console: Console) -> None:
    for text in texts:
        table = Table(title=text.title, title_justify="left", box=box.SIMPLE)
        for head in text.head:
            table.add_column(head, justify="left" if head in ("", "model") else "right", no_wrap=True)
        for cells in text.rows:
            table.add_row(*cells)
        console.print(table, *text.notes, "", sep="\n", highlight=False)


def to_markdown(texts: list[Text]) -> str:
    parts = []
    for text in texts:
        lines = [text.head, ["---"] * len(text.head), *text.rows]
        parts.append(f"### {text.title}\n")
        parts.append("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
        parts.append("".join(f"- {note}\n" for note in text.notes))
    return "\n".join(part for part in parts if part)


def to_csv(rows: list[Row]) -> str:
    """One line per row and quantity, in full digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("table", "row", "model", "quantity", "ours", "paper", "same", "note"))
    for row in rows:
        for quantity, figure in row.figures.items():
            same = {SAME: "yes", DIFFERENT: "no", "": ""}[figure.mark]
            writer.writerow(
                (row.table, row.name, row.model, quantity, figure.ours, figure.paper.replace(",", ""), same, row.note)
            )
    return out.getvalue()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="timm's name, or a config file")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="of the paper (default: all)")
    parser.add_argument(
        "--csv", type=expanded, metavar="FILE", help="write CSV too; -: print it in place of the tables"
    )
    parser.add_argument(
        "--markdown", type=expanded, metavar="FILE", help="write Markdown too; -: print it in place of the tables"
    )
    args = parser.parse_args(arguments)
    console = Console()
    console.width = max(console.width, 110)  # of the widest table
    with console.status("counting"):
        if args.models:
            rows = list(any_rows(args.models))
        else:
            rows = []
            for table in args.tables:
                rows += table_1() if table == "1" else [paper_row(*entry) for entry in entries(table)]
    texts = as_texts(rows)
    if "-" not in (args.csv, args.markdown):
        to_console(texts, console)
    for file, content in ((args.csv, lambda: to_csv(rows)), (args.markdown, lambda: to_markdown(texts))):
        if file == "-":
            print(content(), end="")
        elif file:
            write_whole(Path(file), content())


if __name__ == "__main__":
    cli.run(main)
