"""The contract of a task: what the engine asks of it, and what it need not know."""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from eval_runs import assert_says
from hypothesis import given
from hypothesis import strategies as st
from small_runs import ALONE, SMALL, run, weights
from sweeping.folders import read_summary

from ddfnet.config import Run, dump_config, load_config, parse_config
from ddfnet.errors import UserError
from ddfnet.task import Batch, Evaluator, Metric, Task
from ddfnet.tasks import TASKS, open_task, task_class
from ddfnet.tasks.classification.batch import ImageBatch
from ddfnet.train.interrupt import Requests
from ddfnet.train.loop import due_after
from ddfnet.train.state import State

GO_ON = Requests(stop=False, save=False)


CONFIGS = {"classification": SMALL}  # a small one of each task


def test_every_task_is_tried():
    assert CONFIGS.keys() == TASKS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_task_keeps_the_contract(name, tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIGS[name])
    task = open_task(load_config(tmp_path / "small.yaml", [f"task={name}", f"run.dir={tmp_path / 'a'}"]), ALONE)
    assert isinstance(task, Task) and type(task) is task_class(name)
    assert type(task).headline in type(task).metrics  # known without opening a task
    assert json.loads(json.dumps(task.data_identity)) == task.data_identity
    batch = next(task.train_batches(0, 1))
    assert isinstance(batch, Batch)
    before = copy.deepcopy(batch)
    prepared = task.prepare(batch, 0)
    assert equal(task.prepare(batch, 0), prepared) and equal(batch, before)  # twice in the first step
    first, second = prepared.split([3, len(prepared) - 3])
    assert (len(first), len(second)) == (3, len(batch) - 3)
    assert task.loss(task.model, first).isfinite()
    evaluators = task.evaluators()
    assert evaluators and all(isinstance(evaluator, Evaluator) for evaluator in evaluators)
    assert tuple(metric for evaluator in evaluators for metric in evaluator.metrics) == task.metrics
    judged = 0
    with torch.no_grad():
        for batch in task.eval_batches():
            judged += len(batch)
            for evaluator in evaluators:
                evaluator.update(task.outputs(task.model, batch), batch)
    results: dict = {}
    for evaluator in evaluators:
        evaluator.reduce()
        results |= evaluator.result()
    assert results["images"] == judged == task.eval_images
    assert all(metric.shown(results[metric.name]) for metric in task.metrics)
    assert all(picture.shape[0] == 3 for picture in (*task.pictures(task.model).values(),))
    assert all(picture.shape[0] == 3 for picture in task.training_pictures(prepared).values())
    assert all(values.device.type == "cpu" for values in task.histograms(task.model).values())


def equal(one, other) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize(("lower", "best"), [(False, [0, 2]), (True, [0, 1, 3])])
def test_the_best_evaluation_is_that_of_the_metrics_direction(lower, best):
    metric = Metric("m", "m", lower_is_better=lower)
    state = SimpleNamespace(ema=None, best={}, step=0, metrics={})
    state.judged_by = lambda metric: State.judged_by(state, metric)
    found = []
    for step, value in enumerate([5.0, 4.0, 6.0, 3.0, float("nan"), 4.5]):
        state.step, state.metrics = step, {"m": value}
        if State.update_best(state, metric):
            found.append(step)
            assert state.best == {"m": value, "step": step}
    assert found == best


@pytest.mark.parametrize("lower", [False, True])
def test_an_evaluation_that_is_as_good_is_not_better(lower):
    assert not Metric("m", "m", lower_is_better=lower).is_better(1.0, 1.0)


@pytest.mark.parametrize("lower", [False, True])
def test_nan_is_never_the_best(lower):
    metric = Metric("m", "m", lower_is_better=lower)
    nan, inf = float("nan"), float("inf")
    assert not any(metric.is_better(nan, than) for than in (nan, inf, -inf, 0.0))
    assert all(metric.is_better(value, nan) for value in (inf, -inf, 0.0))


def test_a_run_whose_evaluations_are_never_finite_ends_with_a_summary_and_is_reported(small, monkeypatch):
    nan = float("nan")
    found = {"top1": nan, "top5": nan, "loss": nan, "images": 360, "images_per_second": 1.0}
    monkeypatch.setattr("ddfnet.train.run.evaluate", lambda *_: found)
    config = small("a", "train.epochs=2")
    for _ in range(2):  # the second finds it finished
        assert math.isnan(run(config)["best_top1"])
        assert weights(config, "best.pt")["best"]["step"] == 7
    assert read_summary(Path(config.run.dir))["top1"] is None
    monkeypatch.undo()
    assert run(small("a", "train.epochs=3"))["best_top1"] > 0  # any number is better


def test_a_checkpoint_of_another_task_is_refused_by_its_name(small, tmp_path):
    config = small("a", "train.epochs=1", "train.warmup_epochs=0")
    run(config)
    for name in ("last.pt", "best.pt"):
        content = weights(config, name)
        content["config"]["task"] = "depth"
        torch.save(content, Path(config.run.dir) / "checkpoints" / name)
    with pytest.raises(UserError, match=r"last.pt: was trained for task = 'depth', now it is 'classification': set it"):
        run(small("a", "train.epochs=2", "train.warmup_epochs=0"))
    path = Path(config.run.dir) / "checkpoints" / "best.pt"
    assert_says("best.pt: is of task = 'depth', this evaluates networks that classify", tmp_path, "--ckpt", path)


def test_a_summary_names_its_headline_metric(small):
    config = small("a")
    summary = run(config)
    assert summary["headline"] == "top1" and summary["best_top1"] == weights(config, "best.pt")["metrics"]["top1"]
    written = json.loads((Path(config.run.dir) / "summary.json").read_text())
    assert written["headline"] == "top1" and written["best_top1"] == summary["best_top1"]


def test_an_unknown_task_is_named_with_the_known_ones(tmp_path):
    (tmp_path / "c.yaml").write_text("task: clasification\n")
    with pytest.raises(UserError, match=r"c.yaml: task = 'clasification': no such task, did you mean classification\?"):
        load_config(tmp_path / "c.yaml")
    for override, said in (("task=x", "task = 'x'"), ("task=", "task = ''")):
        with pytest.raises(UserError, match=f"command line: {said}: no such task, expected one of classification"):
            parse_config({}, [override])
    with pytest.raises(UserError, match=r"config: task = 3: no such task"):
        parse_config({"task": 3})


def test_a_config_without_a_task_is_of_classification_and_says_so_from_then_on(tmp_path):
    config = parse_config({"model": {"name": "resnet18"}})
    assert config.task == "classification"
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert (tmp_path / "c.yaml").read_text().startswith("task: classification\n")
    assert (
        load_config(tmp_path / "c.yaml", [f"run.dir={config.run.dir}"] if config.run.dir else []).model == config.model
    )


def test_a_run_whose_checkpoint_knows_no_task_goes_on(small):
    """As those of 0.1."""
    config = small("a", "train.epochs=1", "train.warmup_epochs=0")
    run(config)
    for name in ("last.pt", "best.pt"):
        content = weights(config, name)
        del content["config"]["task"]
        torch.save(content, Path(config.run.dir) / "checkpoints" / name)
    assert run(small("a", "train.epochs=2", "train.warmup_epochs=0"))["step"] == 14


@given(
    steps_per_epoch=st.integers(1, 20),
    epochs=st.integers(1, 5),
    log_every=st.integers(1, 30),
    eval_every=st.integers(1, 6),
    save=st.booleans(),
    stop=st.booleans(),
)
def test_what_is_due_after_a_step(steps_per_epoch, epochs, log_every, eval_every, save, stop):
    total = steps_per_epoch * epochs
    config = Run(log_every=log_every, eval_every=eval_every)
    for step in range(1, total + 1):
        due = due_after(step, total, steps_per_epoch, config, Requests(stop, save or stop))
        at_epochs_end = step % steps_per_epoch == 0 and step // steps_per_epoch % eval_every == 0
        assert due.evaluate == (at_epochs_end or step == total)
        assert due.log == (due.evaluate or step % log_every == 0)
        assert due.save == (due.evaluate or save or stop)  # what was evaluated is never lost
        assert due.stop == (stop and step < total)  # a run that is done is no run that was stopped
        assert not due.stop or due.save


def test_nothing_is_due_in_the_middle_of_an_epoch():
    assert not any(due_after(5, 100, 10, Run(log_every=50), GO_ON))


def test_a_batch_is_cut_with_its_keys():
    batch = ImageBatch(torch.arange(5).view(5, 1, 1, 1), torch.arange(5), [(0, n) for n in range(5)])
    first, second = batch.split([2, 3])
    assert first.keys == [(0, 0), (0, 1)] and second.keys == [(0, 2), (0, 3), (0, 4)]
    assert second.targets.tolist() == [2, 3, 4] and second.images.flatten().tolist() == [2, 3, 4]
