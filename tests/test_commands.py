"""train.py, eval.py and train_dist.sh as a user runs them, and what they say to mistakes."""

import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from commands import command, start_ranks
from PIL import Image
from small_runs import ROOT, SMALL, assert_equal_weights, logged, run, try_run, weights

# ---- several processes


def test_two_processes_train_and_count_every_image_once(small, tmp_path):
    config = small("two")

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": path}
    script = ["scripts/train_dist.sh", "2", tmp_path / "small.yaml", "train.epochs=2", f"run.dir={config.run.dir}"]
    result = subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True)
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
    overrides = ["train.batch_size=201", f"run.dir={tmp_path / 'refused'}"]
    for rank in start_ranks(2, "train.py", "--config", tmp_path / "small.yaml", *overrides):
        refused = rank.wait(120)
        assert refused.returncode == 1
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
    assert try_run(config)["images"] == 360
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


def test_a_finished_run_says_so_and_stays(small, tmp_path):
    config = small("a", "train.epochs=2")
    first = run(config)
    files = {path: path.read_bytes() for path in Path(config.run.dir).rglob("*") if path.is_file()}
    options = ["--config", tmp_path / "small.yaml", f"run.dir={config.run.dir}", "train.epochs=2"]
    result = command("train.py", *options, "data.workers=1", "run.log_every=7", "train.channels_last=true")
    assert result.returncode == 0 and "nothing left to do" in result.stdout, result.stderr
    assert {path: path.read_bytes() for path in Path(config.run.dir).rglob("*") if path.is_file()} == files
    assert run(config)["top1"] == first["top1"]


def test_eval_needs_the_validation_pictures_only(small, tmp_path):
    root = tmp_path / "data"
    for split, name in itertools.product(("train", "val"), ("cat", "dog")):
        (root / split / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20, 20), (i * 60, 90, 0)).save(root / split / name / f"{i}.png")
    config = small("a", "data.source=imagefolder", f"data.root={root}", "train.batch_size=4", "train.epochs=2")
    run(config)
    (root / "train").rename(root / "elsewhere")
    checkpoint = Path(config.run.dir) / "checkpoints/last.pt"
    assert command("eval.py", "--ckpt", checkpoint).returncode == 0
    (root / "val/cat").rename(root / "val/cow")
    result = command("eval.py", "--ckpt", checkpoint)
    assert result.returncode == 1
    assert "val has 2 classes, expected the 2 of training; only in one of them: cat, cow" in result.stderr


@pytest.mark.parametrize(
    "arguments,sentence",
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["--config", "SMALL", "train.lrr=1"], "train.lrr = 1: no such key, did you mean train.lr?"),
        (["--config", "SMALL", "model.name=ddf_resnet51"], "is no model that timm knows, did you mean ddf_resnet"),
        (["--config", "SMALL", "model.kwargs.blocks=3"], "ddf_resnet18 cannot be built so"),
        (["--config", "SMALL", "model.kwargs.output_stride=5"], "ddf_resnet18 cannot be built so"),
        (["--config", "SMALL", "model.kwargs.pretrained=true"], "ddf_resnet18 cannot be built so"),
        (["--config", "SMALL", "data.auto_augment=randaugment"], "data.auto_augment = 'randaugment' is nothing that"),
        (["--config", "SMALL", "train.batch_size=1"], "train.batch_size = 1 leaves a process one picture"),
        (["--config", "SMALL", "model.kwargs.in_chans=1"], "model.kwargs.in_chans = 1, expected 3"),
        (["--config", "SMALL", "train.batch_size=2000"], "is more than the 1,437 training pictures"),
        (["--config", "SMALL", "data.source=imagefolder"], "data/imagenet/val: no such folder"),
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
