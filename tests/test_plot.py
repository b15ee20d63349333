"""scripts/plot.py: learning curves of runs in one picture."""

import json
from pathlib import Path

import numpy as np
import plot
import pytest
from PIL import Image

from ddfnet import cli


def log(folder: Path, epochs=4, shift=0.0, extra="") -> str:
    """A run's folder with 10 log steps an epoch."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, epochs * 10 + 1):
        values = {"loss": 3 / step + shift, "lr": 0.1, "grad_norm": None}
        lines.append(dict(kind="train", step=step, epoch=step / 10) | values)
        if step % 10 == 0:
            lines.append(dict(kind="eval", step=step, epoch=step / 10, top1=step + shift, replaced=["a.jpg"]))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + extra)
    return str(folder)


def colours(picture: Path) -> set[str]:
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    return {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0)}


def test_curves_are_read_from_the_log(tmp_path):
    curves = plot.read(log(tmp_path / "a", extra='not JSON\n[1, 2]\n{"kind": "train", "st'))
    assert sorted(curves) == ["eval/top1", "train/loss", "train/lr"]
    epochs, values = curves["eval/top1"]
    assert epochs.tolist() == [1, 2, 3, 4] and values.tolist() == [10, 20, 30, 40]
    assert plot.read(str(tmp_path / "a/metrics.jsonl"))["train/loss"][1][:2].tolist() == [3, 1.5]


def test_every_run_has_its_curve_in_every_panel(tmp_path, capsys):
    runs = [log(tmp_path / name, shift=i) for i, name in enumerate("abc")]
    for metrics, name in (
        (["eval/top1"], "one.png"),
        (["eval/top1", "train/loss", "train/lr", "eval/top1"], "three.png"),
    ):
        options = [part for metric in metrics for part in ("--metric", metric)]
        plot.main([*runs, *options, "--smooth", "3", "--output", str(tmp_path / name)])
        assert set(plot.COLOURS[:3]) <= colours(tmp_path / name)
        assert not set(plot.COLOURS[3:6]) & colours(tmp_path / name)
    one, three = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "three.png")
    assert one.format == "PNG" and three.width > 2 * one.width > 1000
    assert capsys.readouterr().out.splitlines()[1].endswith("three.png: eval/top1, train/loss, train/lr of a, b, c")


def test_curves_are_labelled_by_run_and_axes_by_metric(tmp_path):
    runs = [log(tmp_path / name / "ddf_r50") for name in ("first", "second")]
    plot.main([*runs, "--output", str(tmp_path / "curves.svg")])
    text = (tmp_path / "curves.svg").read_text()
    for words in ("first/ddf_r50", "second/ddf_r50", "top-1, % (eval)", "loss (train)", "epoch"):
        assert f"<!-- {words} -->" in text  # matplotlib draws letters as paths and notes the words


def test_names_are_as_short_as_tells_runs_apart(tmp_path):
    assert plot.names(["runs/a", "runs/b"]) == ["a", "b"]
    assert plot.names(["x/a/metrics.jsonl", "y/a"]) == ["x/a", "y/a"]
    with pytest.raises(SystemExit, match=r"error: runs/\.\./runs/a: is named twice"):
        cli.run(lambda: plot.names(["runs/a", "runs/b", "runs/../runs/a"]))


def test_smoothing_is_the_mean_of_the_neighbours():
    values = np.array([1.0, 2, 6, 3, 8])
    assert plot.smoothed(values, 3) == pytest.approx([1.5, 3, 11 / 3, 17 / 3, 5.5])
    assert plot.smoothed(values, 1).tolist() == values.tolist()
    assert len(plot.smoothed(values, 100)) == 5


def test_a_run_without_a_metric_that_others_have_is_named(tmp_path, capsys):
    runs = [log(tmp_path / "a"), log(tmp_path / "b", epochs=0, extra='{"kind": "train", "epoch": 1, "loss": 2}\n')]
    plot.main([*runs, "--output", str(tmp_path / "curves.png")])
    assert capsys.readouterr().err == "b: has no eval/top1\n"


@pytest.mark.parametrize(
    "arguments,sentence",
    [
        (["nowhere"], "error: nowhere: no such run, expected the folder of one, such as runs/quickstart"),
        (["nothing"], "error: nothing: is no run's folder: it holds no metrics.jsonl"),
        (["empty"], "error: empty/metrics.jsonl: holds no log step yet"),
        (["binary"], "error: binary/metrics.jsonl: cannot be read as a log: "),
        (
            ["a", "--metric", "eval/top2"],
            "error: --metric eval/top2: not in the log, expected one of eval/top1, train/",
        ),
        (["a", "--smooth", "0"], "error: --smooth = 0, expected a number of log steps, 1 or more"),
        (["a", "--output", "curves.xyz"], "error: curves.xyz: Format 'xyz' is not supported"),
        (["a", "--output", "no/curves.png"], "error: no/curves.png: the picture cannot be written: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    log(Path("a"))
    log(Path("empty"), epochs=0)
    log(Path("binary"), epochs=0)
    Path("binary/metrics.jsonl").write_bytes(b"\xff\xfe\n")
    Path("nothing").mkdir()
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: plot.main(arguments))
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("curves*"))
