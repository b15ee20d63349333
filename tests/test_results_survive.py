"""What long work has found is written: names that are no UTF-8, and an output that fails beside others that do not."""

import csv
import io
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import command
from eval_runs import eval_py, result_of, write_digits
from PIL import Image
from rich.console import Console
from small_runs import ALONE, ROOT, logged, run, weights

import ddfnet.train
from ddfnet.errors import UserError
from ddfnet.tasks import result_files
from ddfnet.tasks.classification import Classification, array_files
from ddfnet.tasks.classification.confusion_picture import draw_confusion
from ddfnet.tasks.classification.metrics import METRICS
from ddfnet.tasks.result_files import Results
from ddfnet.train import train
from ddfnet.train.logging.console import RunConsole

NINE = os.fsdecode(b"n\xe9uf \xff")  # in Latin-1
ABOUT = dict(
    checkpoint=NINE, model="m", step=1, ema=False, top1=1.0, top5=1.0, loss=1.0, images=1, images_per_second=1.0
)


@pytest.fixture
def named(tmp_path):
    """Digits whose last class is no UTF-8, and the options of a run on them."""
    for split in ("train", "val"):
        (write_digits(tmp_path / "data" / split, 40) / "9").rename(tmp_path / "data" / split / NINE)
    options = [f"data.root={tmp_path / 'data'}", "data.source=imagefolder", "train.batch_size=20"]
    return [*options, "train.epochs=2", "train.warmup_epochs=0", "model.kwargs.drop_path_rate=0"]


def test_classes_that_are_no_utf8_are_trained_on_and_evaluated(named, small, tmp_path, capsys):
    config = small("run", *named)
    run(config)
    assert weights(config)["data"]["classes"][-1] == NINE and len(logged(config, "eval")) == 2
    run(small("run", *named, "train.epochs=3"))  # goes on
    files = [tmp_path / name for name in ("classes.csv", "confusion.png", "all.csv")]
    options = ["--per-class", files[0], "--confusion", files[1], "--csv", files[2]]
    checkpoint = tmp_path / "run/checkpoints/last.pt"
    result = result_of(tmp_path, "--ckpt", checkpoint, *options)
    rows = list(csv.reader(io.StringIO(files[0].read_bytes().decode("utf-8", "surrogateescape"))))
    assert [row[0] for row in rows[1:]] == [*"012345678", NINE] and b"n\xe9uf \xff,4," in files[0].read_bytes()
    assert (
        Image.open(files[1]).size > (900, 900) and np.load(tmp_path / "confusion.npy").sum() == result["images"] == 40
    )


def test_paths_that_are_no_utf8_are_shown_and_kept(checkpoint, tmp_path):
    path = tmp_path / NINE
    path.write_bytes(checkpoint.read_bytes())
    done = command("eval.py", "--ckpt", path, "--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json")
    assert done.returncode == 0 and "uf" in done.stdout, done.stderr
    assert b"n\xe9uf \xff," in (tmp_path / "a.csv").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text())["checkpoint"] == str(path)


def test_a_runs_console_takes_names_that_are_no_utf8():
    console = RunConsole(quiet=False)
    console.console = Console(file=io.TextIOWrapper(io.BytesIO(), "utf-8"))
    console.say(f"done; all in runs/{NINE}")
    console.console.file.flush()
    assert b"done; all in runs/n\\xe9uf \\xff" in console.console.file.buffer.getvalue()


@pytest.mark.parametrize("number", [3, 40])  # with names at the axes, with a list
def test_a_confusion_is_drawn_whatever_the_classes_are_called(number, tmp_path):
    counts = np.ones((number, number), int)
    for odd in (NINE, r"$\frac$", "a$b", "a$b$c$", "\\"):
        (tmp_path / "c.png").write_bytes(draw_confusion(counts, [odd] * number, "png"))
        assert min(Image.open(tmp_path / "c.png").size) > 300


class Judged:
    about, classes, metrics = ABOUT, ["a", NINE], METRICS


ARRAYS = {"per_class": np.array([[2, 1, 2], [1, 0, 1]]), "confusion": np.array([[1, 1], [1, 0]])}


def all_results(folder):
    files = array_files.open_array_files(folder / "classes.csv", folder / "c.png")
    return Results(1, folder / "a.json", folder / "a.csv", files, enabled=True)


def fails(*_, **__):
    raise MemoryError("no room for the picture")


@pytest.mark.parametrize("broken", ["_table", "_json", "csv_file", "_per_class", "_npy", "draw_confusion"])
def test_every_result_is_written_where_one_output_fails(tmp_path, monkeypatch, broken):
    for module in (result_files, array_files):
        if hasattr(module, broken):
            monkeypatch.setattr(module, broken, fails)
    with pytest.raises(UserError) as error, all_results(tmp_path) as results:
        results.add(Judged, ARRAYS)
    assert "the result cannot be written: no room for the picture" in str(error.value) and "\n" not in str(error.value)
    names = {"_table": "", "_json": "a.json", "csv_file": "a.csv classes.csv", "_per_class": "classes.csv"}
    lost = (names | {"_npy": "c.npy", "draw_confusion": "c.png"})[broken].split()
    assert all(f"{tmp_path / name}: the result" in str(error.value) for name in lost)
    every = {"a.json", "a.csv", "classes.csv", "c.npy", "c.png"}
    assert {path.name for path in tmp_path.iterdir()} == every - set(lost)


def test_an_error_that_ends_the_evaluation_is_still_the_one_that_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(array_files, "draw_confusion", fails)
    with pytest.raises(UserError, match=r"^the second network is none$"), all_results(tmp_path) as results:
        results.add(Judged, ARRAYS)
        raise UserError("the second network is none")
    assert f"error: {tmp_path / 'c.png'}: the result cannot be written" in capsys.readouterr().err
    assert (tmp_path / "a.json").exists() and (tmp_path / "c.npy").exists()


def without_a_reader(*arguments) -> int:
    """The exit code of a command whose output goes into a pipe that nobody reads."""
    process = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.close()
    return process.wait()


def test_results_are_written_where_nobody_reads_the_table(checkpoint, tmp_path):
    files = "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"
    assert without_a_reader("eval.py", "--ckpt", checkpoint, *files, "run.device=cpu") == 0
    assert (tmp_path / "a.json").exists() and (tmp_path / "a.csv").exists()


def test_a_training_goes_on_where_nobody_reads_its_log(small, tmp_path):
    config = small("a")  # writes small.yaml
    options = f"run.dir={config.run.dir}", "train.epochs=2", "run.log_every=1"
    assert without_a_reader("train.py", "--config", tmp_path / "small.yaml", *options) == 0
    assert weights(config)["step"] == 14 and (Path(config.run.dir) / "summary.json").exists()


def test_an_evaluations_checkpoint_is_written_where_its_pictures_cannot_be_drawn(small, monkeypatch):
    config = small("a", "train.epochs=1", "train.warmup_epochs=0")
    task = Classification(config, ALONE)
    monkeypatch.setattr(task, "pictures", fails)
    with pytest.raises(MemoryError):
        train(config, task, ALONE)
    assert weights(config)["step"] == weights(config, "best.pt")["step"] == task.steps_per_epoch
    assert run(config)["best_top1"] == weights(config)["best"]["top1"]


# ---- scripts


def test_verify_and_pack_tell_of_images_that_are_no_utf8(tmp_path):
    (write_digits(tmp_path / "data/train", 20) / "9").rename(tmp_path / "data/train" / NINE)
    (tmp_path / "data/val").symlink_to("train")
    (tmp_path / "data/train" / NINE / "bad.png").write_bytes(b"")
    done = command("scripts/verify_data.py", tmp_path / "data", "--workers", "1", "--list", tmp_path / "bad.txt")
    assert done.returncode == 1 and r"/train/n\xe9uf \xff/bad.png: the file is empty" in done.stdout, done.stderr
    assert b"/train/n\xe9uf \xff/bad.png: the file is empty\n" in (tmp_path / "bad.txt").read_bytes()
    options = ["--workers", "1", "--size", "8", "data.on_corrupt=replace", "--output", tmp_path / "out"]
    done = command("scripts/pack.py", tmp_path / "data", *options)
    assert done.returncode == 0 and r"left out: " in done.stdout and r"n\xe9uf" in done.stdout, done.stderr
    assert (tmp_path / "out/val.pack").exists()


def test_verify_shows_what_it_found_where_the_list_cannot_be_written(tmp_path, monkeypatch, capsys):
    import verify_data

    for split in ("train", "val"):
        write_digits(tmp_path / "data" / split, 20)
    (tmp_path / "data/val/3/bad.png").write_bytes(b"")
    (tmp_path / "full").symlink_to("/dev/full")  # not itself, which a fault would replace for the whole machine
    arguments = ["verify_data.py", str(tmp_path / "data"), "--workers", "1", "--list", str(tmp_path / "full")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(OSError, match="No space left"):
        verify_data.main()
    said = capsys.readouterr().out
    assert "3/bad.png: the file is empty" in said and "1 thing is wrong" in said
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], str(tmp_path / "none/bad.txt")])
    monkeypatch.setattr(verify_data, "bad_pictures", fails)  # hours later
    with pytest.raises(FileNotFoundError, match=r"none/bad\.txt"):
        verify_data.main()


def test_an_evaluated_network_and_the_processes_that_read_its_images_end_before_the_next(
    checkpoint, tmp_path, monkeypatch
):
    write_digits(tmp_path / "digits", 20)
    running, evaluate = [], ddfnet.train.evaluate

    def counted(model, *arguments):
        result = evaluate(model, *arguments)
        running.append(len(multiprocessing.active_children()))
        return result

    monkeypatch.setattr("ddfnet.train.evaluate", counted)
    data = ["data.source=imagefolder", "data.val_split=.", f"data.root={tmp_path / 'digits'}", "data.workers=1"]
    before = len(multiprocessing.active_children())
    assert eval_py("--ckpt", checkpoint, checkpoint, checkpoint, *data, "run.device=cpu") is None
    assert running == [before + 1] * 3
