"""The report says what the runs' own files say, in a page that a browser shows without a network."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import report as command
import sweep as sweep_command
import yaml
from report_page import Cells, check_in_browser, check_numbers
from reporting.report import write_report
from reporting.results import read_experiment
from small_runs import ROOT, run
from small_sweeps import TWO_ROWS, paper_file, plan  # noqa: F401
from sweeping.attempt import job_of

from ddfnet.errors import UserError

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


def test_the_papers_table_stands_beside_ours(finished):
    summaries = [json.loads((finished / f"ddf-seed{seed}/summary.json").read_text()) for seed in (0, 1)]
    mean = sum(s["top1"] for s in summaries) / 2
    deviation = abs(summaries[0]["top1"] - summaries[1]["top1"]) / 2**0.5
    rows = rows_of(finished, "table3a")
    assert rows[1] == ["yes", "yes", "ddf", "79.1", f"{mean:.2f} ± {deviation:.2f}", "2 of 3", "94.5", rows[1][7]]
    assert rows[2][:6] == ["no", "no", "not run", "77.2", "-", "-"]
    (ours, theirs) = rows_of(finished, "table4.r18")
    assert ours[0] == "ddf" and ours[5:8] == ["7.7 M", "52.77 k", "0.4 G"] and ours[8] == "0.7121 M"
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


def test_the_page_opens_in_a_browser(finished):
    check_in_browser(finished)


def test_what_a_config_says_cannot_break_the_page(finished, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(finished, folder)
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
    folder = tmp_path / "runs"
    shutil.copytree(finished, folder)
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
    with pytest.raises(UserError, match="none of 1 runs is finished"):
        write_report(tmp_path, finished.parent / "paper.yaml")
    (tmp_path / "a/summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"summary.json: is no summary of train.py: it has no top1"):
        write_report(tmp_path, finished.parent / "paper.yaml")
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UserError, match=r"sweep.json: cannot be read"):
        write_report(tmp_path, finished.parent / "paper.yaml")
