"""scripts/complexity.py: every row of the paper's Tables 1, 3c, 4 and 5 from the networks themselves."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from ddfnet.errors import UserError
from ddfnet.models import count_macs, count_parameters
from ddfnet.models.compared.dynamic_filter import DyFilter
from ddfnet.models.compared.dynet import Coefficients, DynamicConv

ROOT = Path(__file__).resolve().parent.parent
import complexity  # noqa: E402

ROWS = [(table, *entry) for table in ("3c", "4", "5") for entry in complexity.entries(table)]
PAPER = yaml.safe_load((ROOT / "benchmarks/paper.yaml").read_text())
# Where the network that we can build does not have the figure that the paper prints, and why: what it has.
DIFFERENT = {
    ("4.r18", "r18_adaptive_dw", "parameters"): 2_229_928,  # its layers are not published
    ("4.r18", "r18_dynet", "parameters"): 17_286_056,  # 16.6 M is near the 16.5 M of its dynamic kernels alone
    ("4.r50", "r50_dynet", "MACs"): 1_169_142_784,  # 1.14 G without the mixing of kernels
    ("5.r50", "r50_resnext", "MACs"): 4_230_479_872,  # the paper rounds 4.2505 G, with batch norms and sums
    ("5.r50", "r50_res2net", "MACs"): 4_255_166_464,  # a misprint: 4.2 G belongs to 14w-8s, 25.7 M to this, 26w-4s
    ("5.r101", "r101_aa", "MACs"): 8_165_233_968,  # 8.14 G without relative positions
}


@pytest.mark.parametrize("table,part,name,config_file,printed", ROWS, ids=[f"{r[1]}-{r[2]}" for r in ROWS])
def test_row_equals_the_papers(table, part, name, config_file, printed):
    row = complexity.paper_row(part, name, config_file, printed)
    for quantity, key in (("parameters", "params"), ("MACs", "flops")):
        figure = row.figures[quantity]
        if printed[key] is None:
            assert figure.mark == figure.paper == ""
        elif (part, name, quantity) in DIFFERENT:
            assert (figure.mark, figure.ours) == (complexity.DIFFERENT, DIFFERENT[part, name, quantity])
            assert row.note
        else:
            assert figure.mark == complexity.SAME, f"{figure.shown}, the paper prints {figure.paper}"


def test_every_row_of_the_paper_is_there_once():
    for table, places in {
        "3c": ["table3c"],
        "4": ["table4.r18", "table4.r50"],
        "5": ["table5.r50", "table5.r101"],
    }.items():
        printed = []
        for place in places:
            rows = PAPER
            for key in place.split("."):
                rows = rows[key]
            printed += rows
        assert [entry[3] for entry in complexity.entries(table)] == printed


def test_the_papers_figures_are_its_own(reference_data):
    def without_notes(value):
        if isinstance(value, dict):
            return {k: without_notes(v) for k, v in value.items() if k != "note"}
        return [without_notes(v) for v in value] if isinstance(value, list) else value

    assert without_notes(PAPER) == yaml.safe_load(reference_data("reference/paper_tables.yaml").read_text())


def test_the_misprinted_res2net_is_26w_4s():
    named, printed = (
        complexity.network(complexity.Config(model=complexity.Model(name=f"res2net50_{size}")))
        for size in ("14w_8s", "26w_4s")
    )
    assert (count_parameters(named), count_macs(named)) == (25_059_816, 4_178_898_944)
    assert (count_parameters(printed), count_macs(printed)) == (25_699_120, 4_255_166_464)


def test_dynets_notes_hold():
    def counted(part):
        model = complexity.network(complexity.Config(model=complexity.Model(name=f"dy_resnet{part[1:]}")))
        own = [
            sum(p.numel() for module in model.modules() if isinstance(module, kind) for p in module.parameters())
            for kind in (DynamicConv, Coefficients)
        ]
        (note,) = [row["note"] for row in PAPER["table4"][part] if row["conv"] == "dynet"]
        return model, *own, note

    model, kernels, coefficients, note = counted("r18")
    rest = count_parameters(model) - kernels - coefficients
    for said in (f"are {kernels / 1e6:.1f} M", f"coefficients {coefficients / 1e6:.1f} M", f"else {rest / 1e6:.1f} M"):
        assert said in note
    model, kernels, _, note = counted("r50")
    assert f"{(count_macs(model) - kernels) / 1e9:.2f} G without the mixing" in note


def test_resnext_has_the_papers_figure_in_the_papers_counting():
    model = complexity.network(complexity.Config(model=complexity.Model(name="resnext50_32x4d")))
    assert f"{count_macs(model, convention='paper') / 1e9:.1f}" == "4.3"


@pytest.mark.parametrize("options", [{}, dict(channels=20, k=5, ratio=0.3, size=(9, 7))], ids=["usual", "small"])
def test_table_1_formulas_are_the_modules(options):
    rows = list(complexity.table_1(**options))
    assert [row.name for row in rows] == ["Conv", "DwConv", "DyFilter", "DDF"]
    assert all(figure.mark == complexity.SAME for row in rows for figure in row.figures.values())


def test_dynamic_filter_is_its_definition():
    """Against loops over pixels: the filter that the 1x1 convolution predicts there, on the window there."""
    torch.manual_seed(0)
    module = DyFilter(3).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    predicted = module.predict(x).detach().view(2, 3, 3, 3, 3, 4, 5)  # N, out, in, rows, columns, H, W
    padded = F.pad(x, (1, 1, 1, 1))
    y = module(x)
    for row in range(4):
        for column in range(5):
            window = padded[:, :, row : row + 3, column : column + 3]
            want = torch.einsum("noikl,nikl->no", predicted[..., row, column], window)
            torch.testing.assert_close(y[:, :, row, column], want)
    with pytest.raises(ValueError, match="kernel_size is 4, expected an odd number"):
        DyFilter(3, 4)


def test_console_csv_and_markdown_say_the_same(tmp_path, capsys):
    complexity.main(["--tables", "1", "3c", "--csv", str(tmp_path / "t.csv"), "--markdown", str(tmp_path / "t.md")])
    console, markdown = capsys.readouterr().out, (tmp_path / "t.md").read_text()
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert {row["table"] for row in rows} == {"1", "3c"}
    (sigma,) = [row for row in rows if row["row"] == "sigma_03" and row["quantity"] == "MACs"]
    assert (sigma["ours"], sigma["paper"], sigma["same"]) == ("2298772675", "2.299 G", "yes")
    for text in (console, markdown):
        for said in ("Table 3c", "sigma_03", "18,091,484", "18.1 M ✓", "2.299 G ✓", "2.268 G", "c³k² ✓"):
            assert said in text
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {8}  # seven columns in both


def test_to_standard_output_goes_the_file_alone(capsys):
    complexity.main(["--tables", "3c", "--csv", "-"])
    out = capsys.readouterr().out
    assert out.startswith("table,row,model,quantity,ours,paper,same,note\n") and "┃" not in out
    assert len(out.splitlines()) == 1 + 3 * 3


def test_any_network_of_timm_and_any_config(capsys):
    complexity.main(["convnext_tiny", "pit_xs_224", "vit_tiny_patch16_384", str(ROOT / "configs/quickstart.yaml")])
    out = capsys.readouterr().out
    assert "28,589,128" in out and "10,618,888" in out and "384x384" in out and "quickstart, 32x32" in out


def test_unknown_network_gets_a_suggestion():
    with pytest.raises(UserError, match="'resnt50' is no model that timm knows, did you mean resnet50"):
        complexity.main(["resnt50"])
    with pytest.raises(UserError, match="no such config file"):
        complexity.main(["configs/none.yaml"])


def test_command_runs_anywhere(tmp_path):
    command = [sys.executable, ROOT / "scripts/complexity.py", "resnet18"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "11,689,512" in done.stdout
