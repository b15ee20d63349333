"""The authors' released models: evaluated as they did, their recipe, and what is said where the weights are missing."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from eval_runs import FOLDER, eval_py, result_of, with_content, write_digits
from PIL import Image
from small_runs import ALONE
from timm.data import create_transform, resolve_data_config

from ddfnet.config import ClassificationConfig, load_config, parse_config
from ddfnet.errors import UserError
from ddfnet.models import load_checkpoint
from ddfnet.models.build import build_model
from ddfnet.tasks.classification import Classification
from ddfnet.tasks.classification.augment import eval_transform
from ddfnet.tasks.classification.candidates import open_checkpoint, open_timm
from ddfnet.train.state import differences

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "https://github.com/theFoxofSky/ddfnet#model-zoo"


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))


@pytest.fixture
def released(tmp_path):
    """A file as the authors' are, by its wrapping."""
    torch.manual_seed(0)
    torch.save({"state_dict": timm.create_model("ddf_resnet50").state_dict()}, tmp_path / "ddf_mul_resnet50.pth.tar")
    return tmp_path / "ddf_mul_resnet50.pth.tar"


def assert_bicubic(data, image):
    large = image.resize((341, 256), Image.Resampling.BICUBIC)
    want = np.asarray(large.crop((58, 16, 282, 240))).transpose(2, 0, 1)
    assert np.array_equal(eval_transform(data)(image), want)


def test_the_authors_files_are_evaluated_by_the_bicubic_filter_as_they_did(image, released):
    """224 of 256 pixels, by timm 0.4.5 with interpolation = "bicubic"; and as timm evaluates the network of itself."""
    candidate = open_timm("ddf_resnet50", str(released), None, ["data.root=x"], False)
    assert_bicubic(candidate.config.data, image)
    transform = create_transform(**resolve_data_config({}, model=candidate.model), use_prefetcher=True)
    assert np.array_equal(transform(image), eval_transform(candidate.config.data)(image))


def test_who_asks_for_another_interpolation_gets_it(image, released, tmp_path):
    (tmp_path / "data.yaml").write_text("data: {interpolation: bilinear}")
    for file, overrides in (
        (None, ["data.interpolation=bilinear"]),
        (None, ["data.eval_interpolation=bilinear"]),
        (str(tmp_path / "data.yaml"), []),
    ):
        data = open_timm("ddf_resnet50", str(released), file, overrides, False).config.data
        want = create_transform(224, use_prefetcher=True, crop_pct=0.875, interpolation="bilinear")
        assert np.array_equal(eval_transform(data)(image), want(image))


def test_checkpoints_of_before_are_evaluated_as_they_were(checkpoint, tmp_path, image):
    """Without the key; the bilinear filter for those whose training drew one of two."""
    config = torch.load(checkpoint, weights_only=True)["config"]
    config["data"] = {k: v for k, v in config["data"].items() if k not in ("eval_interpolation", "random_erase_count")}
    config["data"]["interpolation"] = "random"
    old = with_content(checkpoint, tmp_path / "old.pt", config=config)
    transform = create_transform(16, use_prefetcher=True, crop_pct=0.875, interpolation="bilinear")
    assert np.array_equal(eval_transform(open_checkpoint(str(old), []).config.data)(image), transform(image))
    root = write_digits(tmp_path / "digits", 20)
    results = [
        result_of(tmp_path, "--ckpt", old, *FOLDER, f"data.root={root}", f"data.eval_interpolation={name}")
        for name in ("bilinear", "bicubic", "null")
    ]
    assert results[0]["loss"] == results[2]["loss"] != results[1]["loss"]
    assert [result["interpolation"] for result in results] == ["bilinear", "bicubic", "bilinear"]


def test_a_run_of_before_goes_on_without_a_word_of_new_keys(checkpoint, tmp_path, small, capsys):
    config = torch.load(checkpoint, weights_only=True)["config"]
    new = ("eval_interpolation", "random_erase_count")
    config["data"] = {key: value for key, value in config["data"].items() if key not in new}
    old = with_content(checkpoint, tmp_path / "old.pt", config=config)
    now = open_checkpoint(str(old), []).config.model_dump()
    default = ClassificationConfig().model_dump()
    assert differences(config, now, default) == []
    changed = now | {"data": now["data"] | {"random_erase_count": 3}}
    assert differences(config, changed, default) == ["data.random_erase_count: 1 -> 3"]


def test_the_released_recipe_evaluates_erases_and_warms_up_as_the_authors_did(image):
    config = load_config(ROOT / "configs/ddf_r50_released.yaml")
    assert_bicubic(config.data, image)
    assert (config.data.random_erase, config.data.random_erase_count, config.train.warmup_lr) == (0.4, 3, 1e-4)
    for name in ("ddf_r18", "ddf_r50", "ddf_r101"):  # the paper's protocol names none of it
        other = load_config(ROOT / f"configs/{name}.yaml")
        assert (
            not other.data.random_erase and not other.data.eval_interpolation and other.data.interpolation == "bilinear"
        )


# ---- pretrained=True


@pytest.mark.parametrize("name", ["ddf_resnet18", "ddf_resnet50", "ddf_add_resnet101"])
def test_pretrained_says_where_the_weights_are_and_how_they_are_loaded(name):
    with pytest.raises(RuntimeError) as error:
        timm.create_model(name, pretrained=True)
    said = str(error.value)
    assert said.startswith(f"No pretrained weights exist for {name} that timm could download. ") and "\n" not in said
    assert ADDRESS in said and "pretrained_cfg_overlay=dict(file=FILE)" in said
    assert "ddfnet.models.load_checkpoint(model, FILE)" in said


def test_pretrained_in_a_config_says_so_too(small, tmp_path):
    with pytest.raises(UserError) as error:
        Classification(small("a", "model.kwargs.pretrained=true"), ALONE)
    assert ADDRESS in str(error.value) and "\n" not in str(error.value)
    said = eval_py("--model", "ddf_resnet50", "--pretrained", "data.source=digits", "run.device=cpu")
    assert said.startswith("error: ") and ADDRESS in said and "\n" not in said


def test_the_authors_files_are_loaded_in_both_ways_that_are_named(released):
    want = torch.load(released, weights_only=True)["state_dict"]["layer1.0.conv1.weight"]
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(released)}}
    config = parse_config({"model": {"name": "ddf_resnet50", "kwargs": overlay}})
    loaded = build_model(config, 10), load_checkpoint(timm.create_model("ddf_resnet50"), released)
    assert all(torch.equal(model.layer1[0].conv1.weight, want) for model in loaded)


def test_the_readme_gives_the_address_of_the_authors_weights():
    assert ADDRESS in (ROOT / "README.md").read_text()
