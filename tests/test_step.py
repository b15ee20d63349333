"""One optimizer step: pieces of a batch, clipping, averaged weights, random numbers."""

import copy
import random

import numpy as np
import pytest
import torch
from commands import command
from ranks import on_ranks
from small_runs import ALONE, assert_equal_weights, logged, run, weights

from ddfnet.errors import UserError
from ddfnet.seeding import seed_step
from ddfnet.tasks.classification import Classification
from ddfnet.train.dist import parallel
from ddfnet.train.ema import Ema, ema_decay
from ddfnet.train.optim import build_optimizer
from ddfnet.train.precision import grad_scaler
from ddfnet.train.step import Step, chunk_sizes

pytestmark = pytest.mark.forks


def after_one_step(config, world=ALONE) -> dict:
    """The weights after the first step of a run."""
    task = Classification(config, world)
    model = parallel(task.model, world)
    optimizer = build_optimizer(task.model, config.train)
    scaler = grad_scaler(world.device, config.train.amp)
    step = Step(config.train, task, world, model, optimizer, scaler, ema=None)
    task.model.train()
    for batch in task.train_batches(0, 1):
        step(batch, 0, learning_rate=0.5)
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def assert_close(a: dict, b: dict, tolerance=1e-5):
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("accumulation", [2, 3])
def test_accumulation_is_exact_for_a_last_smaller_piece_too(no_batch_norm, accumulation):
    whole = after_one_step(no_batch_norm("a"))
    assert chunk_sizes(40, 3) == [14, 14, 12] and chunk_sizes(40, 2) == [20, 20]
    assert_close(whole, after_one_step(no_batch_norm("a", f"train.accumulation={accumulation}")))


def test_two_ranks_accumulate_as_one_process(no_batch_norm):
    whole = after_one_step(no_batch_norm("a"))
    pieces = no_batch_norm("a", "train.accumulation=3")
    first, second = on_ranks(2, lambda world: {k: v.numpy() for k, v in after_one_step(pieces, world).items()})
    assert all(np.array_equal(value, second[name]) for name, value in first.items())
    assert_close(whole, {name: torch.from_numpy(value) for name, value in first.items()})


def test_a_piece_of_one_picture_is_refused():
    with pytest.raises(
        UserError, match=r"train\.accumulation = 3 cuts the 7 pictures of a process into 3 pieces, the last one of 1, "
    ):
        chunk_sizes(7, 3)


def test_the_first_line_says_what_makes_the_batch(small, tmp_path):
    options = [str(tmp_path / "small.yaml"), f"run.dir={tmp_path / 'a'}", "--dry-run", "train.accumulation=3"]
    small("a")
    result = command("train.py", "--config", *options)
    assert "1 x (67 + 67 + 66) = batch 200 -> learning rate 0.15625" in result.stdout, result.stderr


def test_clipping_bounds_the_norm_of_the_whole_gradient(no_batch_norm):
    options = ["train.momentum=0", "train.weight_decay=0"]
    before = Classification(no_batch_norm("a", *options), ALONE).model.state_dict()
    free = after_one_step(no_batch_norm("a", *options))
    clipped = after_one_step(no_batch_norm("a", *options, "train.clip_grad=0.01"))

    def moved(after):
        return torch.cat([(after[name] - value).flatten() for name, value in before.items()])

    assert moved(free).norm() > 0.5 * 0.01
    assert moved(clipped).norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)
    direction = [moved(after) / moved(after).norm() for after in (clipped, free)]
    torch.testing.assert_close(*direction, rtol=1e-3, atol=1e-4)


def test_averaged_weights_are_the_documented_average():
    assert [ema_decay(step, 0.9) for step in (0, 8)] == [1 / 10, 9 / 18] and ema_decay(10**6, 0.9) == 0.9
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    expected = {name: value.double() for name, value in model.state_dict().items()}
    ema = Ema(model, 0.6)
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    for step in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model(torch.randn(5, 3))
        ema.update(step)
        decay = ema_decay(step, 0.6)
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in ema.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
        else:
            assert value == 30


def test_averaged_weights_are_evaluated_saved_and_resumed_exactly(small, monkeypatch):
    options = ["train.ema_decay=0.9", "run.checkpoint_minutes=1e-9"]
    whole, broken = small("whole", *options), small("broken", *options)
    summary = run(whole)
    best = max(line["ema_top1"] for line in logged(whole, "eval"))
    assert summary["best_top1"] == best and {"top1", "ema_top5", "ema_loss"} <= summary.keys()

    real = Step.__call__

    def dying(self, batch, step, learning_rate):
        if step == 10:
            raise SystemExit
        return real(self, batch, step, learning_rate)

    monkeypatch.setattr(Step, "__call__", dying)
    with pytest.raises(SystemExit):
        run(broken)
    monkeypatch.undo()
    run(broken)
    a, b = weights(whole), weights(broken)
    assert_equal_weights(a, b)
    assert a["state_dict_ema"].keys() == a["state_dict"].keys()
    assert all(torch.equal(value, b["state_dict_ema"][name]) for name, value in a["state_dict_ema"].items())
    assert not torch.equal(a["state_dict_ema"]["fc.weight"], a["state_dict"]["fc.weight"])


def test_random_numbers_are_those_of_the_step_and_the_rank():
    def draw(*where):
        seed_step(*where)
        return random.random(), np.random.random(), torch.rand(()).item()

    first = draw(0, 5, 1)
    draw(3, 3, 3)
    assert draw(0, 5, 1) == first
    others = [draw(1, 5, 1), draw(0, 6, 1), draw(0, 5, 0), draw(1, 0, 5)]
    assert all(len({first[i], *(other[i] for other in others)}) == 5 for i in range(3))


def test_sync_bn_on_cpus_is_refused_in_one_sentence(small):
    from ddfnet.train.dist import World, synchronised_batch_norm

    model = Classification(small("a"), ALONE).model
    assert synchronised_batch_norm(model, ALONE) is model
    with pytest.raises(UserError, match=r"train\.sync_bn = True needs GPUs"):
        synchronised_batch_norm(model, World(0, 2, torch.device("cpu")))
    on_gpus = synchronised_batch_norm(copy.deepcopy(model), World(0, 2, torch.device("cuda")))
    kinds = {type(module) for module in on_gpus.modules()}
    assert torch.nn.SyncBatchNorm in kinds and torch.nn.BatchNorm2d not in kinds


@pytest.mark.slow
def test_a_compiled_run_is_resumed_and_evaluated_like_another(small):
    summary = run(small("a", "train.compile=true", "train.epochs=2"))
    assert summary["step"] == 14
    assert not any("_orig_mod" in name for name in weights(small("a"))["state_dict"])
    losses = [line["loss"] for line in logged(small("a"), "train")]
    plain = small("b", "train.epochs=2")
    run(plain)
    assert losses[:2] == pytest.approx([line["loss"] for line in logged(plain, "train")][:2], rel=1e-2)
    assert run(small("a", "train.compile=true", "train.epochs=3"))["step"] == 21
