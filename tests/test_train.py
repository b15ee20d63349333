"""Training: the schedule, exactness, resuming, several processes, the commands and what they say to mistakes."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
import yaml

from ddfnet.config import Train, load_config
from ddfnet.errors import UserError
from ddfnet.tasks import Classification
from ddfnet.train import World, train
from ddfnet.train.optim import build_optimizer, learning_rate

ROOT = Path(__file__).resolve().parent.parent
SMALL = """
model: {name: ddf_resnet18, kwargs: {channels: [8, 8, 16, 16], stem_width: 8, drop_path_rate: 0.2}}
data: {source: digits, image_size: 16, scale: [0.6, 1.0], hflip: 0.0, workers: 0, random_erase: 0.3}
train: {epochs: 3, batch_size: 200, lr: 0.2, warmup_epochs: 1, label_smoothing: 0.1}
run: {log_every: 3, device: cpu}
"""
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)

    def config(name, *overrides):
        return load_config(tmp_path / "small.yaml", [f"run.dir={tmp_path / name}", *overrides])

    return config


def run(config, dry_run=False):
    return train(config, Classification(config, ALONE), ALONE, dry_run)


def weights(config, name="last.pt"):
    return torch.load(Path(config.run.dir) / "checkpoints" / name, weights_only=True)


def assert_equal_weights(a, b):
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())


def command(*arguments, threads=1, **kwargs):
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, **kwargs)


def logged(config, kind):
    lines = (Path(config.run.dir) / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


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


@pytest.mark.parametrize("kill_at", [7, 9, 14, 16])
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
    assert {k: v for k, v in result.items() if k != "images_per_second"} == {
        k: v for k, v in resumed.items() if k != "images_per_second"
    }
    # the log holds every step once, as if nothing had happened
    for kind in ("train", "eval"):
        assert [line["step"] for line in logged(broken, kind)] == [line["step"] for line in logged(whole, kind)]


def test_killed_process_resumes_by_itself_with_another_number_of_workers(small, tmp_path):
    whole, broken = small("whole"), small("broken")
    run(whole)
    arguments = [ROOT / "train.py", "--config", tmp_path / "small.yaml", f"run.dir={tmp_path / 'broken'}"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "broken/checkpoints/last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = command(*arguments, "data.workers=2")
    assert finished.returncode == 0, finished.stderr
    assert "continuing from" in finished.stdout
    assert_equal_weights(weights(whole), weights(broken))


def test_changing_the_order_of_the_data_is_refused(small):
    run(small("a", "train.epochs=2"))
    with pytest.raises(UserError, match=r"train\.batch_size = 200, now it is 100, .*--fresh"):
        run(small("a", "train.epochs=2", "train.batch_size=100"))
    with pytest.raises(UserError, match="holds another network"):
        run(small("a", "train.epochs=2", "model.kwargs.channels=[8, 8, 16, 32]"))


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
    with pytest.raises(UserError, match=r"loss became (nan|inf) in steps .* last good checkpoint"):
        run(small("a", "train.lr=1e30", "train.warmup_epochs=0"))
    assert "nan" not in (Path(small("a").run.dir) / "metrics.jsonl").read_text().lower()


# ---- several processes


def test_two_processes_train_and_count_every_image_once(small, tmp_path):
    config = small("two")

    def train_dist(*overrides):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": path}
        script = ["scripts/train_dist.sh", "2", tmp_path / "small.yaml", "train.epochs=2", *overrides]
        return subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True)

    result = train_dist(f"run.dir={config.run.dir}")
    assert result.returncode == 0, result.stderr
    assert "2 x 100 = batch 200 -> learning rate 0.15625" in result.stdout
    summary = json.loads((Path(config.run.dir) / "summary.json").read_text())
    assert summary["images"] == 360 and summary["step"] == 14
    assert len(logged(config, "eval")) == 2  # one process reports
    checkpoint = Path(config.run.dir) / "checkpoints/last.pt"
    evaluated = command("eval.py", "--ckpt", checkpoint, "--json", tmp_path / "r.json")
    assert evaluated.returncode == 0, evaluated.stderr
    got = json.loads((tmp_path / "r.json").read_text())
    assert got["top1"] == summary["top1"] and got["loss"] == pytest.approx(summary["loss"], rel=1e-5)
    refused = train_dist("train.batch_size=201", f"run.dir={tmp_path / 'refused'}")
    assert refused.returncode != 0
    assert "train.batch_size = 201 does not divide among 2 processes" in refused.stderr


# ---- the commands


def test_print_config_is_the_resolved_config(tmp_path):
    result = command("train.py", "--config", "configs/ddf_r18.yaml", "--print-config", "train.lr=2e-1")
    assert result.returncode == 0, result.stderr
    resolved = yaml.safe_load(result.stdout)
    assert resolved["train"]["lr"] == 0.2 and resolved["model"]["name"] == "ddf_resnet18"
    assert resolved["run"]["dir"] == "runs/ddf_r18"


def test_dry_run_writes_nothing(small, tmp_path):
    config = small("dry")
    assert run(config, dry_run=True)["images"] == 360
    assert not Path(config.run.dir).exists()


def test_fresh_starts_beside_and_deletes_nothing(small, tmp_path):
    config = small("a", "train.epochs=2")
    run(config)
    before = weights(config)
    options = ["--config", tmp_path / "small.yaml", "train.epochs=2", f"run.dir={config.run.dir}", "--fresh"]
    result = command("train.py", *options)
    assert result.returncode == 0, result.stderr
    assert_equal_weights(before, weights(config))
    assert_equal_weights(before, torch.load(tmp_path / "a-2/checkpoints/last.pt", weights_only=True))


def test_a_finished_run_says_so_and_stays(small):
    config = small("a", "train.epochs=2")
    first = run(config)
    again = run(config)
    assert again["top1"] == first["top1"] and again["step"] == first["step"]


@pytest.mark.parametrize(
    "arguments,sentence",
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["--config", "SMALL", "train.lrr=1"], "train.lrr = 1: no such key, did you mean train.lr?"),
        (["--config", "SMALL", "model.name=ddf_resnet51"], "is no model that timm knows, did you mean ddf_resnet"),
        (["--config", "SMALL", "model.kwargs.blocks=3"], "ddf_resnet18 cannot be built so"),
        (["--config", "SMALL", "model.kwargs.in_chans=1"], "model.kwargs.in_chans = 1, expected 3"),
        (["--config", "SMALL", "train.batch_size=2000"], "is more than the 1437 training pictures"),
        (["--config", "SMALL", "data.source=imagefolder"], "data/imagenet/train: no such folder"),
        (["--config", "SMALL", "run.dir=/proc/nothing"], "/proc/nothing: the run's folder cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_end_in_one_sentence_without_a_traceback(tmp_path, arguments, sentence):
    (tmp_path / "small.yaml").write_text(SMALL)
    arguments = [str(tmp_path / "small.yaml") if a == "SMALL" else a for a in arguments]
    if not any(a.startswith("run.dir") for a in arguments):
        arguments.append(f"run.dir={tmp_path / 'run'}")
    result = command("train.py", *arguments)
    assert result.returncode == 1 and sentence in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_says_what_and_how(script):
    result = command(script, "--help")
    assert result.returncode == 0 and f"python {script} " in result.stdout


def test_eval_of_what_is_no_run_checkpoint(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    for path, sentence in (
        (tmp_path / "foreign.pth", "is no checkpoint of train.py"),
        (tmp_path / "none", "no such checkpoint"),
    ):
        result = command("eval.py", "--ckpt", path)
        assert result.returncode == 1 and sentence in result.stderr and result.stderr.count("\n") == 1


# ---- the long ones


@pytest.mark.slow
def test_quickstart_reaches_98_percent_and_repeats_bit_for_bit(tmp_path):
    for name in ("a", "b"):
        result = command("train.py", "--config", "configs/quickstart.yaml", f"run.dir={tmp_path / name}", threads=2)
        assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "a/summary.json").read_text())["best_top1"] >= 98.0
    a, b = (torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True) for name in ("a", "b"))
    assert_equal_weights(a, b)


@pytest.mark.slow
def test_an_epoch_on_photographs(tmp_path, reference_data):
    with tarfile.open(reference_data("data/tiny-imagenet-40.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    root = next(path.parent for path in tmp_path.rglob("train") if path.is_dir())
    overrides = [f"data.root={root}", "data.image_size=64", "data.workers=2", "train.epochs=1", "data.crop_pct=1.0"]
    result = command(
        *(
            "train.py",
            "--config",
            "configs/ddf_r18.yaml",
            f"run.dir={tmp_path / 'run'}",
            "train.batch_size=128",
            *overrides,
        ),
        threads=2,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["images"] == 2000 and summary["top1"] > 5  # chance is 2.5
