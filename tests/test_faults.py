"""Disks, data, numbers and machines that fail while a run trains: it says what is left, and that is whole."""

import itertools
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from ranks import in_a_process, on_ranks
from small_runs import ALONE, assert_equal_weights, logged, run, weights

from ddfnet.errors import UserError
from ddfnet.tasks.classification import Classification
from ddfnet.tasks.classification.evaluators import Accuracy
from ddfnet.train import train
from ddfnet.train.state import State
from ddfnet.train.step import Step

pytestmark = pytest.mark.forks

EACH_STEP = "run.checkpoint_minutes=1e-9"  # a checkpoint after every step


def fail_at(monkeypatch, step, failure):
    """Steps go as ever until the one at which `failure(task, loss)` has its way with the loss, or raises."""
    real = Step.__call__

    def failing(self, batch, number, learning_rate):
        loss = real(self, batch, number, learning_rate)
        return failure(self.task, loss) if number == step else loss

    monkeypatch.setattr(Step, "__call__", failing)


def assert_kept(config, step, error):
    last = Path(config.run.dir) / "checkpoints/last.pt"
    assert str(error.value).endswith(
        f"; the last good checkpoint is {last}, from which train.py with run.dir={config.run.dir} continues"
    )
    content = weights(config)
    assert content["step"] == step and all(value.isfinite().all() for value in content["state_dict"].values())
    assert not list(last.parent.glob("*.tmp"))


def test_a_loss_that_is_not_finite_never_reaches_a_checkpoint(small, monkeypatch):
    config = small("a", EACH_STEP, "run.log_every=1000")
    fail_at(monkeypatch, 9, lambda task, loss: loss * float("nan"))
    with pytest.raises(UserError, match="the loss became nan in steps 8 to 10: training stopped") as error:
        run(config)
    assert_kept(config, 9, error)


def test_an_evaluation_that_is_not_finite_does_not_stop_the_run(small, monkeypatch, capsys):
    """Where the statistics of a batch norm do not fit: those of the filters in Table 3b's "batch" may do so."""
    meaning = Accuracy.meaning
    monkeypatch.setattr(Accuracy, "meaning", lambda self, total: meaning(self, total) | {"loss": float("nan")})
    assert run(small("a"))["step"] == 21
    assert [line["loss"] for line in logged(small("a"), "eval")] == [None] * 3
    summary = (Path(small("a").run.dir) / "summary.json").read_text()
    assert '"loss": null' in summary and "NaN" not in summary
    assert capsys.readouterr().out.count("the evaluation's loss is not finite") == 3


def test_weights_that_are_not_finite_never_reach_a_checkpoint(small, monkeypatch):
    """Where the loss does not show it yet."""
    config = small("a", EACH_STEP)

    def spoil(task, loss):
        with torch.no_grad():
            next(task.model.parameters()).view(-1)[0] = float("inf")
        return loss

    fail_at(monkeypatch, 9, spoil)
    with pytest.raises(UserError, match="weights became nan or inf by step 10: training stopped") as error:
        run(config)
    assert_kept(config, 9, error)


def test_both_ranks_stop_when_one_has_weights_that_are_not_finite(small, monkeypatch):
    config = small("a", EACH_STEP)

    def learn(world):
        if world.rank == 1:
            fail_at(monkeypatch, 3, lambda task, loss: (task.model.bn1.running_mean.fill_(float("nan")), loss)[1])
        with pytest.raises(UserError) as error:
            train(config, Classification(config, world), world)
        return str(error.value)

    said = on_ranks(2, learn)
    assert all("became nan" in text and "last good checkpoint" in text for text in said), said


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_one(small):
    """A file may not grow beyond what the last checkpoint needs less one byte, as on a full disk."""
    first, more = small("a", "train.epochs=2"), small("a")
    run(first)
    last = Path(first.run.dir) / "checkpoints/last.pt"
    before, size = last.read_bytes(), last.stat().st_size

    def learn():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))
        run(more)

    said = in_a_process(learn)
    assert "the checkpoint could not be written, the previous one is kept: File too large" in said, said
    assert f"; the last good checkpoint is {last}, from which " in said
    assert last.read_bytes() == before and not list(last.parent.glob("*.tmp"))
    run(more)
    assert weights(more)["step"] == 21


def test_a_dataset_that_vanishes_ends_in_one_sentence(small, tmp_path):
    for split, name in itertools.product(("train", "val"), ("cat", "dog")):
        (tmp_path / "pictures" / split / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (20, 20), (i * 30, 90, 0)).save(tmp_path / "pictures" / split / name / f"{i}.png")
    options = ["data.source=imagefolder", f"data.root={tmp_path / 'pictures'}", "train.batch_size=4"]
    config = small("a", *options, EACH_STEP)
    task = Classification(config, ALONE)
    prepare = task.prepare

    def vanishing(batch, step):
        if step == 5:
            (tmp_path / "pictures").rename(tmp_path / "elsewhere")
        return prepare(batch, step)

    task.prepare = vanishing
    with pytest.raises(UserError, match=f"^{tmp_path}/pictures/.*: the dataset has vanished") as error:
        train(config, task, ALONE)
    assert "\n" not in str(error.value)
    assert_kept(config, 6, error)


def test_replaced_pictures_are_counted_once_over_stops_and_ranks(small, tmp_path, monkeypatch):
    for split, name in itertools.product(("train", "val"), ("cat", "dog")):
        (tmp_path / "pictures" / split / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (20, 20), (i * 30, 90, 0)).save(tmp_path / "pictures" / split / name / f"{i}.png")
    for bad in ("cat/3.png", "dog/5.png"):
        (tmp_path / "pictures/train" / bad).write_bytes(b"no picture")
    data = ["data.source=imagefolder", f"data.root={tmp_path / 'pictures'}", "train.batch_size=4", EACH_STEP]
    whole, broken, two = (small(name, *data, "data.on_corrupt=replace") for name in ("whole", "broken", "two"))
    summary = run(whole)
    assert {"cat/3.png", "dog/5.png"} == summary["corrupt_pictures"].keys()
    assert sum(summary["corrupt_pictures"].values()) >= 2 * 3  # each once an epoch, and again where it was drawn

    def stop(task, loss):
        raise SystemExit

    fail_at(monkeypatch, 6, stop)
    with pytest.raises(SystemExit):
        run(broken)
    monkeypatch.undo()
    assert run(broken)["corrupt_pictures"] == summary["corrupt_pictures"]
    both = on_ranks(2, lambda world: train(two, Classification(two, world), world)["corrupt_pictures"])
    assert both == [summary["corrupt_pictures"]] * 2


def test_a_run_killed_before_its_summary_writes_it_when_started_again(small):
    config = small("a", "train.epochs=2")
    summary = run(config)
    (Path(config.run.dir) / "summary.json").unlink()
    again = run(config)
    assert (Path(config.run.dir) / "summary.json").exists() and again["best_top1"] == summary["best_top1"]


def test_what_is_changed_on_resuming_is_listed(small, capsys):
    run(small("a", "train.epochs=2"))
    capsys.readouterr()
    run(small("a", "train.lr=0.1", "data.workers=1"))
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("changed since then: ")]
    changes = set(line.removeprefix("changed since then: ").split("; "))
    assert changes == {"train.epochs: 2 -> 3", "train.lr: 0.2 -> 0.1", "data.workers: 0 -> 1"}


def fork_run(config) -> int:
    """A process of its own that trains, in a session of its own."""
    child = os.fork()
    if child == 0:
        os.setsid()
        torch.set_num_threads(1)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            run(config)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_fifty_times_it_ends_at_the_weights_of_the_undisturbed_run(small):
    """SIGKILL at random moments, some in the middle of a checkpoint; no life loses more than the step under way."""
    options = ["train.epochs=40", "run.log_every=1", EACH_STEP]
    whole, broken = small("whole", *options), small("broken", *options)
    started = time.monotonic()
    child = fork_run(whole)
    log = Path(whole.run.dir) / "metrics.jsonl"
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before its first step"
    startup = time.monotonic() - started
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    work = time.monotonic() - started - startup

    luck, folder = random.Random(0), Path(broken.run.dir)
    last, temporary = folder / "checkpoints/last.pt", folder / "checkpoints/last.pt.tmp"
    inside_a_checkpoint, reached = 0, 0
    for life in range(50):
        workers = small("broken", *options, f"data.workers={life % 3 // 2}")  # every third life has a worker process
        child = fork_run(workers)
        time.sleep(startup + luck.random() * work / 60)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before it was killed fifty times"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        inside_a_checkpoint += temporary.exists()
        if last.exists():
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            logged = [line for line in lines if '"kind": "train"' in line]
            step = weights(broken)["step"]
            assert max(reached, len(logged) - 1) <= step <= len(logged) + 1
            reached = step
    assert inside_a_checkpoint and reached > 10
    run(broken)
    assert_equal_weights(weights(whole), weights(broken))
    assert weights(broken)["step"] == 280


def test_state_is_all_that_a_checkpoint_needs(small):
    """A checkpoint holds what State does, so a new field cannot be forgotten in the file."""
    config = small("a", "train.epochs=2", "train.ema_decay=0.9")
    run(config)
    content = weights(config)
    given = {"config", "world", "model", "optimizer", "scaler", "ema", "data"}
    assert State.__dataclass_fields__.keys() - given <= content.keys()
    assert {"state_dict", "state_dict_ema", "optimizer", "scaler", "batch_norm", "config", "data"} <= content.keys()
