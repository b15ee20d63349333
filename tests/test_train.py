"""Training: the schedule, exactness, resuming, what a run leaves behind."""

import itertools
import json
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from commands import Started, command
from PIL import Image
from small_runs import ALONE, assert_equal_weights, logged, run, try_run, weights

from ddfnet.config import Train
from ddfnet.errors import UserError
from ddfnet.tasks.classification import Classification
from ddfnet.train import train
from ddfnet.train.optim import build_optimizer, learning_rate

# ---- the learning rate


def test_cosine_starts_at_the_peak_and_ends_at_min_lr():
    config = Train(epochs=10, batch_size=512, lr=0.1, min_lr=1e-5)
    assert learning_rate(0, 7, config) == 0.2
    assert learning_rate(69, 7, config) == pytest.approx(1e-5, abs=1e-12)
    middle = learning_rate(34, 7, config) + learning_rate(35, 7, config)
    assert middle / 2 == pytest.approx((0.2 + 1e-5) / 2)
    values = [learning_rate(step, 7, config) for step in range(70)]
    assert values == sorted(values, reverse=True)


def test_warmup_reaches_the_peak_and_cooldown_stays_at_min_lr():
    config = Train(epochs=10, warmup_epochs=2.5, cooldown_epochs=2, batch_size=256, lr=0.4, warmup_lr=1e-6)
    values = [learning_rate(step, 4, config) for step in range(48)]
    assert values[0] == 1e-6 and values[10] == 0.4 == max(values)
    assert values[5] == pytest.approx((1e-6 + 0.4) / 2)
    assert values[39:] == pytest.approx([1e-5] * 9, abs=1e-12)


def test_what_is_trained_stands_in_one_line_before_it_begins(small, capsys):
    config = small("a", "train.epochs=1", "train.warmup_epochs=0")
    parameters = sum(p.numel() for p in Classification(config, ALONE).model.parameters())
    run(config)
    said = capsys.readouterr().out
    assert said.startswith(f"ddf_resnet18: {parameters:,} parameters, 10 classes; on cpu, 1 x 200 = batch 200 -> ")
    assert "cannot be decoded" not in said


def test_one_is_singular(small, capsys):
    run(small("a", "train.epochs=1", "train.warmup_epochs=0", "train.batch_size=1200"))
    assert "; 1 epoch of 1 step\n" in capsys.readouterr().out
    try_run(small("b", "train.epochs=2", "train.batch_size=700"))
    assert "; 2 epochs of 2 steps\n" in capsys.readouterr().out


# ---- the optimizer


def test_optimizer_is_the_papers_sgd(small):
    model = Classification(small("a"), ALONE).model
    optimizer = build_optimizer(model, Train())
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.SGD
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, False, 1e-4)
    assert len(group["params"]) == len(list(model.parameters()))


def test_norms_and_biases_are_left_out_of_weight_decay_on_demand(small):
    model = Classification(small("a"), ALONE).model
    decayed, plain = build_optimizer(model, Train(decay_norm_and_bias=False)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (1e-4, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"]) and all(p.dim() <= 1 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


# ---- what is logged


def test_every_line_of_the_log_says_at_which_epoch_it_was(small):
    config = small("a", "train.epochs=2", "run.log_every=2")
    run(config)
    lines = logged(config, "train") + logged(config, "eval")
    per_epoch = max(line["step"] for line in lines) / 2
    assert len(lines) > 4 and all(line["epoch"] == round(line["step"] / per_epoch, 4) for line in lines)
    assert not (Path(config.run.dir) / "profile").exists()  # unless it is asked for


# ---- exactness


def test_same_seed_gives_the_same_weights_bit_for_bit(small):
    configs = small("a"), small("b"), small("c", "train.seed=1")
    for config in configs:
        run(config)
    a, b, c = (weights(config) for config in configs)
    assert_equal_weights(a, b)
    assert not torch.equal(a["state_dict"]["fc.weight"], c["state_dict"]["fc.weight"])


class Killed(Exception):
    pass


def timeless(values: dict) -> dict:
    return {k: v for k, v in values.items() if k not in ("images_per_second", "seconds", "data_wait")}


# the first step of an epoch, and one inside
@pytest.mark.parametrize("kill_at", [7, 16, *(pytest.param(step, marks=pytest.mark.slow) for step in (9, 14))])
def test_resume_is_exact(small, kill_at):
    """A run that dies within an epoch and starts again ends at the weights of the run that never died."""
    whole, broken = small("whole"), small("broken")
    result = run(whole)

    task = Classification(broken, ALONE)
    real_batches = task.train_batches

    def dying(first, last):
        for step, batch in enumerate(real_batches(first, last)):
            if step == kill_at:
                raise Killed
            yield batch

    task.train_batches = dying
    with pytest.raises(Killed):
        train(broken, task, ALONE)
    resumed = run(broken)
    a, b = weights(whole), weights(broken)
    assert_equal_weights(a, b)
    assert a["step"] == b["step"] == 21 and a["best"]["top1"] == b["best"]["top1"]
    assert timeless(result) == timeless(resumed)
    # the log holds every step once, and the same numbers, as if nothing had happened
    for kind in ("train", "eval"):
        assert list(map(timeless, logged(broken, kind))) == list(map(timeless, logged(whole, kind)))


def test_killed_process_resumes_by_itself_with_another_number_of_workers(small, tmp_path):
    whole, broken = small("whole"), small("broken")
    run(whole)
    arguments = ["train.py", "--config", tmp_path / "small.yaml", f"run.dir={tmp_path / 'broken'}"]
    process = Started(*arguments)
    deadline = time.monotonic() + 120
    while not (tmp_path / "broken/checkpoints/last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert weights(broken)["step"] < weights(whole)["step"]  # or nothing is left to compare
    finished = command(*arguments, "data.workers=2")
    assert finished.returncode == 0, finished.stderr
    assert "continuing from" in finished.stdout
    assert_equal_weights(weights(whole), weights(broken))


def test_changing_the_order_of_the_data_is_refused(small, tmp_path):
    run(small("a", "train.epochs=2"))
    with pytest.raises(UserError, match=r"train\.batch_size = 200, now it is 100, .*--fresh"):
        run(small("a", "train.epochs=2", "train.batch_size=100"))
    with pytest.raises(UserError, match=r"train\.seed = 0, now it is 1, "):
        run(small("a", "train.epochs=2", "train.seed=1"))
    with pytest.raises(UserError, match="holds another network"):
        run(small("a", "train.epochs=2", "model.kwargs.channels=[8, 8, 16, 32]"))
    with pytest.raises(
        UserError, match=r"train\.decay_norm_and_bias = True, now it is False, which gives the optimizer other state"
    ):
        run(small("a", "train.epochs=2", "train.decay_norm_and_bias=false"))


def test_other_pictures_are_other_data_but_another_path_is_not(small, tmp_path):
    def pictures(root, count):
        for split, name in itertools.product(("train", "val"), ("cat", "dog")):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.new("RGB", (20, 20), (i * 40, 90, 0)).save(root / split / name / f"{i}.png")

    pictures(tmp_path / "here", 4)
    options = ["data.source=imagefolder", "train.batch_size=4", "train.epochs=2"]
    run(small("a", *options, f"data.root={tmp_path / 'here'}"))
    (tmp_path / "here").rename(tmp_path / "there")
    run(small("a", *options, f"data.root={tmp_path / 'there'}", "train.epochs=3"))
    pictures(tmp_path / "there", 6)
    with pytest.raises(
        UserError, match=r"dataset = '8 pictures of 2 classes, fingerprint \w+', now it is '12 pictures of 2 classes, "
    ):
        run(small("a", *options, f"data.root={tmp_path / 'there'}"))


def test_resume_takes_the_options_of_the_config_not_of_the_checkpoint(small):
    run(small("a", "train.epochs=2"))
    run(small("a", "train.weight_decay=0.5", "train.momentum=0.1", "train.amp=fp16"))
    (group,) = weights(small("a"))["optimizer"]["param_groups"]
    assert (group["weight_decay"], group["momentum"]) == (0.5, 0.1)
    assert weights(small("a"))["step"] == 21 and weights(small("a"))["scaler"]


def test_a_damaged_log_line_does_not_stop_a_run(small):
    config = small("a", "train.epochs=2")
    run(config)
    with open(Path(config.run.dir) / "metrics.jsonl", "a") as log:
        log.write('{"kind": "tr\\0\n')
    run(small("a"))
    assert [line["step"] for line in logged(config, "eval")] == [7, 14, 21]


# ---- what a run leaves behind


def test_a_run_leaves_checkpoints_logs_and_a_summary(small):
    config = small("a")
    summary = run(config)
    folder = Path(config.run.dir)
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["images"] == 360 and summary["epochs"] == 3 and summary["step"] == 21
    evaluations = logged(config, "eval")
    assert summary["best_top1"] == max(line["top1"] for line in evaluations)
    assert [line["step"] for line in evaluations] == [7, 14, 21]
    assert all(line["loss"] > 0 and line["images_per_second"] > 0 for line in logged(config, "train"))
    assert logged(config, "train")[-1]["loss"] < logged(config, "train")[0]["loss"]
    assert yaml.safe_load((folder / "config.yaml").read_text()) == config.model_dump()
    last, best = weights(config), weights(config, "best.pt")
    assert last["config"] == config.model_dump() and last["step"] == 21
    assert best["metrics"]["top1"] == summary["best_top1"] and best["step"] == last["best"]["step"]
    assert not list(folder.rglob("*.tmp"))


def test_tensorboard_holds_scalars_and_filters(small):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small("a", "train.epochs=2")
    run(config)
    events = EventAccumulator(str(Path(config.run.dir) / "tb"), size_guidance={"images": 0})
    events.Reload()
    assert {"train/loss", "train/lr", "eval/top1"} <= set(events.Tags()["scalars"])
    images = events.Tags()["images"]
    assert (
        "input" in images
        and any(t.startswith("spatial/") for t in images)
        and any(t.startswith("channel/") for t in images)
    )


def test_timm_reads_our_checkpoints(small):
    import timm

    config = small("a", "train.epochs=2")
    run(config)
    path = Path(config.run.dir) / "checkpoints/best.pt"
    model = timm.create_model("ddf_resnet18", num_classes=10, checkpoint_path=str(path), **config.model.kwargs)
    assert torch.equal(model.fc.weight, weights(config, "best.pt")["state_dict"]["fc.weight"])


def test_eval_gives_exactly_the_number_of_training(small, tmp_path):
    config = small("a")
    run(config)
    for name in ("best.pt", "last.pt"):
        path = Path(config.run.dir) / "checkpoints" / name
        result = command("eval.py", "--ckpt", path, "--json", tmp_path / "result.json")
        assert result.returncode == 0, result.stderr
        got = json.loads((tmp_path / "result.json").read_text())
        step = weights(config, name)["step"]
        reported = next(line for line in logged(config, "eval") if line["step"] == step)
        assert got["step"] == step
        for key in ("top1", "top5", "loss", "images"):
            assert got[key] == reported[key], key
        assert f"{got['top1']:.3f}" in result.stdout and got["images_per_second"] > 0


@pytest.mark.parametrize("options", [["train.amp=bf16", "train.channels_last=true"], ["train.amp=fp16"]], ids=str)
def test_mixed_precision_and_channels_last_learn(small, options):
    summary = run(small("a", *options))
    losses = [line["loss"] for line in logged(small("a"), "train")]
    assert losses[-1] < losses[0] and summary["images"] == 360


def test_a_loss_that_is_not_finite_stops_the_run(small):
    with pytest.raises(
        UserError, match=r"the loss became (nan|inf) in steps 1 to 3: training stopped; try a lower train\.lr"
    ):
        run(small("a", "train.lr=1e30", "train.warmup_epochs=0"))
    assert "nan" not in (Path(small("a").run.dir) / "metrics.jsonl").read_text().lower()
