"""What train.py says to a mistake: one sentence that names the thing, before any folder is made."""

import runpy
import sys

import pytest
import torch
from conftest import configs_of
from small_runs import ALONE, ROOT, run

from ddfnet.tasks.classification import Classification


def train_py(*arguments) -> str | int | None:
    """What the command ends with: None when all went well, else its exit code or its last words."""
    before = sys.argv
    sys.argv = ["train.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return None


TINY = """
model: {name: test_resnet}
data: {source: digits, image_size: 16, hflip: 0.0, workers: 0}
train: {epochs: 2, batch_size: 200, lr: 0.2}
run: {device: cpu}
"""
VIT, FIXED = "model.name=test_vit", "model.name=vit_tiny_patch16_224"


@pytest.mark.parametrize("mode", [[], ["--dry-run"]], ids=["train", "dry run"])
@pytest.mark.parametrize(
    "options,sentence",
    [
        (
            [FIXED, "data.image_size=32"],
            "vit_tiny_patch16_224 fails on images of data.image_size = 32: Input height (32) doesn't match model (224)."
            " (give it the size that it takes, or that of the images as model.kwargs.img_size)",
        ),
        (
            [FIXED, "data.image_size=224", "data.eval_image_size=192"],
            "vit_tiny_patch16_224 fails on images of data.eval_image_size = 192: Input height",
        ),
        (
            [FIXED, "data.image_size=224", "data.start_image_size=128", "data.grow_until_epoch=1"],
            "vit_tiny_patch16_224 fails on images of data.start_image_size, growing, = 128: Input height (128)"
            " doesn't match model (224). (give it the size that it takes, or that of the images as",
        ),
        (
            [VIT, "data.image_size=32", "model.kwargs={img_size: 32, global_pool: ''}"],
            "test_vit with model.kwargs = {'img_size': 32, 'global_pool': ''} gives a tensor (2, 5, 10) for 2 images in"
            " training, expected a tensor (2, 10), a number for each class",
        ),
        (
            ["model.name=inception_v3", "model.kwargs.aux_logits=true", "data.image_size=299"],
            "inception_v3 with model.kwargs = {'aux_logits': True} gives a tuple for 2 images in training, expected a",
        ),
        (
            ["model.kwargs.global_pool=''"],
            "test_resnet with model.kwargs = {'global_pool': ''} fails on images",
        ),
        (["model.kwargs.drop_rate=1.5"], "dropout probability has to be between 0 and 1, but got 1.5"),
        (
            ["model.kwargs.channels=[8]", "model.name=ddf_resnet18"],
            "fails on images of data.image_size = 16: 'ResNet' object has no attribute",
        ),
        (["model.kwargs.device=meta"], "model.kwargs.device = 'meta' has no weights: leave it out"),
        (["model.kwargs.checkpoint_path=3"], "model.kwargs.checkpoint_path = 3: no such file"),
        (
            ["model.kwargs.checkpoint_path=/"],
            "model.kwargs.checkpoint_path = '/': is a folder, expected a file",
        ),
        (["data.image_size=1000000"], "fails on images of data.image_size = 1000000: "),
        (["data.gaussian_blur=1", "data.image_size=8"], "data.gaussian_blur = 1.0 needs images of 12 pixels at least"),
        (["data.crop_pct=1e-9"], "data.crop_pct = 1e-09 would resize each image to 16,000,000,000 pixels, of which 16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_network_and_images_that_do_not_fit_get_a_sentence_and_no_folder(tmp_path, options, sentence, mode):
    (tmp_path / "small.yaml").write_text(TINY)
    said = train_py("--config", tmp_path / "small.yaml", f"run.dir={tmp_path / 'run'}", *options, *mode)
    assert isinstance(said, str) and said.startswith("error: ") and "\n" not in said, said
    assert sentence in said
    assert ("give it the size" in said) == ("give it the size" in sentence)  # that it is trained at
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "optimizer,options",
    [
        ("adamw", "{differentiable: true}"),
        ("adamw", "{capturable: true}"),
        ("lamb", "{max_grad_norm: much}"),
        ("adafactor", "{min_dim_size_to_factor: few}"),
    ],
)
def test_options_of_an_optimizer_that_fail_in_its_first_step_get_a_sentence(tmp_path, optimizer, options):
    (tmp_path / "small.yaml").write_text(TINY)
    arguments = [f"train.optimizer={optimizer}", f"train.optimizer_kwargs={options}", "--dry-run"]
    said = train_py("--config", tmp_path / "small.yaml", f"run.dir={tmp_path / 'run'}", *arguments)
    assert isinstance(said, str) and said.startswith(f"error: train.optimizer = '{optimizer}' cannot be built"), said


def test_the_trial_of_a_network_leaves_it_as_it_was(small, monkeypatch):
    """Weights, statistics and modes."""
    config = small("a", "train.epochs=2")
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "require_fit", lambda task, *size, **mode: None)
        untried = Classification(config, ALONE).model.state_dict()
    task = Classification(config, ALONE)
    assert all(torch.equal(value, untried[key]) for key, value in task.model.state_dict().items())
    assert all(module.training for module in task.model.modules())


def test_a_network_of_a_fixed_size_trains_at_the_size_that_it_is_given(tmp_path):
    configs = configs_of(tmp_path / "tiny.yaml", TINY)
    options = [FIXED, "model.kwargs={img_size: 32, depth: 1, embed_dim: 24}", "data.image_size=32", "train.epochs=1"]
    assert run(configs("a", *options))["step"] == 7
    assert (tmp_path / "a/checkpoints/last.pt").exists()
