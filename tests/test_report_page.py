"""The report says what the runs' own files say, in a page that a browser shows without a network."""

import json
import re
import shutil
import subprocess
import sys

import complexity
import pytest
import report as command
import sweep as sweep_command
import yaml
from report_page import Cells, check_in_browser, check_numbers
from reporting import plots
from reporting.paper import read_paper
from reporting.report import notes, write_report
from reporting.results import _size, read_experiment
from reporting.tables import paper_tables
from small_runs import ROOT, run
from small_sweeps import TWO_ROWS, paper_file, plan  # noqa: F401
from sweeping.attempt import job_of
from sweeping.attempts import record_end, record_start

from ddfnet.config import Model
from ddfnet.errors import UserError
from ddfnet.train import EXIT_CODE

PAPER = """
table3a:
  - {spatial: true, channel: false, top1: 74.4, top5: 92.0, note: A note of the row.}
  - {spatial: true, channel: true, top1: 79.1, top5: 94.5}
  - {spatial: false, channel: false, top1: 77.2, top5: 93.5}
table3c:
  - {sigma: 0.2, params: 16.8, flops: 2.298, top1: 79.1, top5: 94.5}
table4:
  r18:
    - {conv: ddf, params: 7.7, flops: 0.4, top1: 70.6}
    - {conv: dynet, params: null, flops: 0.6, top1: 69.0}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a sweep of two rows and two seeds, trained in this process; a third seed has not begun."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "paper.yaml").write_text(PAPER)
    second = "{table: table3a, spatial: true, channel: true}"
    text = TWO_ROWS.replace(second, f"[{second}, {{table: table4.r18, conv: ddf}}, {{table: table3c, sigma: 0.2}}]")
    made = plan(folder, text, ["train.epochs=2"], folder / "paper.yaml")
    made.folder.mkdir()
    for each in made.runs:
        if each.seed < 2:
            run(each.config)
    sweep_command.record(made, {each.name: job_of(each, 1, False) for each in made.runs}, ["train.epochs=2"])
    write_report(made.folder, folder / "paper.yaml")
    return made.folder


def copy_of(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "runs")


def rows_of(folder, table):
    return [[text for text, _ in row] for row in Cells((folder / "report.html").read_text()).tables[table] if row]


def test_every_number_in_the_page_is_found_in_the_summaries(finished):
    assert check_numbers(finished) > 30
    altered = finished.parent / "altered"
    shutil.copytree(finished, altered, dirs_exist_ok=True)
    summary = altered / "ddf-seed0" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"top1": 12.345}))
    with pytest.raises(AssertionError):  # the check can fail
        check_numbers(altered)
    shutil.copy(finished / "ddf-seed0" / "summary.json", summary)
    page = altered / "report.html"
    page.write_text(page.read_text().replace(' data-from="network">42.19 k<', ">42.19 k<"))
    with pytest.raises(AssertionError, match=r"42\.19 k"):  # a number of no source
        check_numbers(altered)


def test_the_papers_table_stands_beside_ours(finished):
    summaries = [json.loads((finished / f"ddf-seed{seed}/summary.json").read_text()) for seed in (0, 1)]
    mean = sum(s["top1"] for s in summaries) / 2
    deviation = abs(summaries[0]["top1"] - summaries[1]["top1"]) / 2**0.5
    rows = rows_of(finished, "table3a")
    assert rows[1] == ["yes", "yes", "ddf", "79.1", f"{mean:.2f} ± {deviation:.2f}", "2 of 3", "94.5", rows[1][7]]
    assert rows[2][:6] == ["no", "no", "not run", "77.2", "-", "-"]
    (ours, theirs) = rows_of(finished, "table4.r18")
    assert ours[0] == "ddf" and ours[5:8] == ["7.7 M", "42.19 k", "0.4 G"] and ours[8] == "0.6895 M"
    assert theirs == ["dynet", "not run", "69.0", "-", "-", "-", "-", "0.6 G", "-"]
    page = (finished / "report.html").read_text()
    assert "4 of 6 runs are finished." in page and "A note of the row." in page
    assert "compare the order of rows, not the values" in page  # digits are not ImageNet
    assert "not begun" in [row[1] for row in rows_of(finished, "runs")]


def test_markdown_has_the_same_tables(finished):
    text = (finished / "report.md").read_text()
    for table, rows in Cells((finished / "report.html").read_text()).tables.items():
        for row in rows:
            assert not row or f"| {' | '.join(cell for cell, _ in row)} |" in text, table
    assert "python train.py --config" in text and "run.dir=" in text


def test_the_page_needs_no_network(finished):
    page = (finished / "report.html").read_text()
    own = re.sub(r"<script>/\*\*\s.*?</script>", "", page, count=1, flags=re.DOTALL)  # plotly.js itself names addresses
    assert len(own) < len(page) / 2
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)|url\(|@import|https?://", own)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page


def test_the_page_of_many_rows_opens_in_a_browser(finished, tmp_path):
    """Fourteen rows of two costs, whose names would cover each other beside their points."""
    folder = copy_of(finished, tmp_path)
    content = json.loads((folder / "sweep.json").read_text())
    (model,) = [r for r in content["runs"] if r["name"] == "ddf-seed0"]
    for i in range(12):
        shutil.copytree(folder / "ddf-seed0", folder / f"a_long_name_{i}-seed0")
        content["runs"].append(model | {"name": f"a_long_name_{i}-seed0", "row": f"a_long_name_{i}"})
    (folder / "sweep.json").write_text(json.dumps(content))
    write_report(folder, finished.parent / "paper.yaml")
    check_in_browser(folder)


@pytest.mark.parametrize("metric", ["loss", "top1"])
@pytest.mark.parametrize("runs", ["ddf-seed0", "ddf-*"])
def test_a_metric_that_is_not_finite_is_said_to_be(finished, tmp_path, metric, runs):
    folder = copy_of(finished, tmp_path)
    for summary in folder.glob(f"{runs}/summary.json"):
        summary.write_text(json.dumps(json.loads(summary.read_text()) | {metric: None}))
    write_report(folder, finished.parent / "paper.yaml")
    assert check_numbers(folder) > 30
    assert "not finite" in (folder / "report.md").read_text()


def test_rows_of_a_grid_are_not_averaged(finished, tmp_path):
    """Two values of it that reproduce one row of the paper: a line each, with its own size."""
    folder = copy_of(finished, tmp_path)
    content = json.loads((folder / "sweep.json").read_text())
    for each in content["runs"]:
        each["paper"] = [{"table": "table3c", "sigma": 0.2}]
    (folder / "sweep.json").write_text(json.dumps(content | {"tables": ["table3c"]}))
    (table,) = paper_tables(read_experiment(folder), read_paper(finished.parent / "paper.yaml"))
    lines = [[cell.text for cell in row] for row in table.rows]
    alone = {row[0]: row for row in rows_of(finished, "rows")}
    for line, row, size in zip(lines, ("spatial_only", "ddf"), ("13.92 k", "42.19 k"), strict=True):
        assert line[:2] == ["0.2", row] and line[3:5] == [alone[row][1], "2 of 3"] and line[8] == size


def test_rows_of_several_protocols_are_said_to_be(finished, tmp_path):
    assert not any("protocol" in note for note in notes(read_experiment(finished)))
    folder = copy_of(finished, tmp_path)
    for file in folder.glob("ddf-seed*/config.yaml"):
        file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    said = "Rows differ in more than the network: train.epochs = 2 in spatial_only and 3 in ddf."
    assert any(said in note for note in notes(read_experiment(folder)))


def test_a_run_that_failed_is_said_to_have(finished, tmp_path):
    """Whether it wrote its config or not; one that a signal ended, or that was asked to stop, has only begun."""
    folder = copy_of(finished, tmp_path)
    for name, code in (("ddf-seed2", 1), ("ddf-seed1", 1), ("ddf-seed0", EXIT_CODE), ("spatial_only-seed2", -9)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "summary.json").unlink(missing_ok=True)
        record_start(folder / name, ["python"], [], 1)
        record_end(folder / name, code)
    results = {result.name: result for result in read_experiment(folder).results}
    assert {name: result.state for name, result in results.items()} == {
        "spatial_only-seed0": "finished",
        "spatial_only-seed1": "finished",
        "spatial_only-seed2": "begun",
        "ddf-seed0": "begun",
        "ddf-seed1": "failed",
        "ddf-seed2": "failed",
    }
    assert {"python", "torch", "torchvision", "timm", "ddfnet"} <= results["ddf-seed2"].versions["versions"].keys()


def test_a_thinned_curve_ends_at_the_result(finished, monkeypatch):
    monkeypatch.setattr(plots, "POINTS", 3)
    experiment = read_experiment(finished)
    curve = plots._curve(experiment, "train", "loss", "loss", "loss").figure
    assert len(curve.data) == 4
    for line, result in zip(curve.data, experiment.finished, strict=True):
        logged = [each["epoch"] for each in result.metrics if each["kind"] == "train"]
        assert len(line.x) < len(logged) and (line.x[0], line.x[-1]) == (logged[0], logged[-1])


def test_axes_are_in_a_unit_that_fits(finished):
    page = (finished / "report.html").read_text()
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page)[1])
    axes = {name: figures[f"against-{name}"]["layout"] for name in ("params", "flops")}
    for name, quantity, unit in (("params", "parameters", "million"), ("flops", "multiply-accumulates", "billion")):
        assert axes[name]["xaxis"]["title"]["text"] == f"{quantity}, thousand"
        assert axes[name]["xaxis2"]["title"]["text"] == f"{quantity}, {unit}"  # the paper's


def test_macs_are_counted_as_in_the_papers_tables():
    """Plain ones, but of DDF in its authors' counting, as scripts/complexity.py has them."""
    for name, printed in (("resnext50_32x4d", "4.230"), ("ddf_resnet50", "2.298")):
        size = _size(json.dumps(Model(name=name).model_dump()), 1000, 224)
        (row,) = complexity.any_rows([name])
        assert size.macs == row.figures["MACs"].ours and f"{size.macs / 1e9:.3f}" == printed


def test_what_a_config_says_cannot_break_the_page(finished, tmp_path):
    folder = copy_of(finished, tmp_path)
    for file in folder.glob("*/config.yaml"):
        config = yaml.safe_load(file.read_text())
        config["data"]["root"] = "</script><script>alert(1)</script>"
        file.write_text(yaml.safe_dump(config))
    page = write_report(folder, finished.parent / "paper.yaml").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_a_folder_of_runs_without_a_sweep_is_reported_too(finished, tmp_path, capsys):
    folder = tmp_path / "runs"
    for seed in (0, 1):
        shutil.copytree(finished / f"ddf-seed{seed}", folder / f"ddf-seed{seed}")
    command.main([str(folder)])
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert [row[0] for row in rows_of(folder, "rows")] == ["ddf"] and check_numbers(folder) > 10


def test_results_of_two_protocols_are_not_mixed(finished, tmp_path):
    folder = copy_of(finished, tmp_path)
    file = folder / "ddf-seed1" / "config.yaml"
    file.write_text(file.read_text().replace("epochs: 2", "epochs: 3"))
    sentence = r"two protocols do not mix: ddf-seed0 has train.epochs = 2, ddf-seed1 has 3: move one of them away"
    with pytest.raises(UserError, match=sentence):
        write_report(folder, finished.parent / "paper.yaml")
    (folder / "sweep.json").unlink()
    with pytest.raises(UserError, match="two protocols do not mix"):
        read_experiment(folder)


def test_mistakes_end_in_one_sentence(finished, tmp_path):
    def said(*arguments):
        result = subprocess.run(
            [sys.executable, "scripts/report.py", *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    assert "nothing.yaml: runs/nothing is no folder of runs: run python scripts/sweep.py" in said("nothing.yaml")
    with pytest.raises(UserError, match="holds no runs, expected a sweep's folder"):
        write_report(tmp_path, finished.parent / "paper.yaml")
    (tmp_path / "a").mkdir()
    shutil.copy(finished / "ddf-seed0/config.yaml", tmp_path / "a")
    with pytest.raises(UserError, match="none of 1 run is finished"):
        write_report(tmp_path, finished.parent / "paper.yaml")
    (tmp_path / "a/summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"summary.json: is no summary of train.py: it has no top1"):
        write_report(tmp_path, finished.parent / "paper.yaml")
    (tmp_path / "a/summary.json").write_text('{"top1": "high"}')
    with pytest.raises(UserError, match=r"summary.json: is no summary of train.py: it has no top1"):
        write_report(tmp_path, finished.parent / "paper.yaml")
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UserError, match=r"sweep.json: cannot be read"):
        write_report(tmp_path, finished.parent / "paper.yaml")
