"""scripts/draw_filters.py: the filters that a trained network generates, as one picture."""

import sys

import draw_filters
import numpy as np
import pytest
import timm
import torch
from eval_runs import with_content
from PIL import Image

from ddfnet import cli
from ddfnet.nn import DDF


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return path


def end_of(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: draw_filters.main([*map(str, arguments)]))
    return end.value.code


def other_model(checkpoint, path, name, **kwargs):
    """A checkpoint of the same run, as if it were of another network."""
    config = torch.load(checkpoint, weights_only=True)["config"]
    config["model"] = {"name": name, "kwargs": kwargs}
    weights = timm.create_model(name, num_classes=10, **kwargs).state_dict()
    return with_content(checkpoint, path, config=config, state_dict=weights)


@pytest.mark.parametrize("options", [[], ["--points", "0", "0", "1", "1", "0.5", "1"]], ids=["default", "corners"])
def test_the_filters_are_drawn(checkpoint, image, tmp_path, monkeypatch, options):
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **how: read.append(path) or load(path, **how))
    output = tmp_path / "filters.png"
    assert end_of("--ckpt", checkpoint, "--image", image, "--size", "32", "--output", output, *options) is None
    pixels = np.asarray(Image.open(output).convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) > 500 and len(read) == 1
    for colour in draw_filters.COLOURS:  # of each of the three pixels' frames
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(2) < 8).sum() > 100


def test_the_filters_are_those_of_the_layer(checkpoint, image):
    candidate = draw_filters.open_checkpoint(str(checkpoint), [])
    picture = draw_filters.open_picture(str(image), 32)
    assert picture.size == (48, 32)
    data = candidate.config.data
    x = (np.asarray(picture) / 255 - data.mean) / data.std
    layers = [name for name, layer in candidate.model.named_modules() if isinstance(layer, DDF)]
    for name in (layers[0], layers[-1]):
        layer, seen = candidate.model.get_submodule(name), []
        handle = layer.register_forward_hook(lambda layer, inputs, _, seen=seen: seen.append(layer.filters(*inputs)))
        with torch.no_grad():
            candidate.model.eval()(torch.from_numpy(x.transpose(2, 0, 1))[None].float())
        handle.remove()
        channel_filter, spatial_filter = draw_filters.open_filters(candidate, picture, name)
        torch.testing.assert_close(channel_filter, seen[0][0][0])
        torch.testing.assert_close(spatial_filter, seen[0][1][0].flatten(0, -3))
    first = draw_filters.open_filters(candidate, picture, None)
    assert torch.equal(first[0], draw_filters.open_filters(candidate, picture, layers[0])[0])


@pytest.mark.parametrize(
    "options,sentence",
    [
        (["--size", "0"], "--size 0: expected the pixels of the shorter side, 1 or more"),
        (["--points", *"000002"], "--points: 2 is outside the picture, expected x y x y x y, each from 0 to 1"),
        (["--points", *"00000", "nan"], "--points: nan is outside the picture"),
        (["--image", "none.png"], "--image none.png: cannot be read: No such file or directory, expected a picture's"),
        (["--image", "setup.cfg"], "setup.cfg: is not a picture"),
        (
            ["--layer", "layer1.0.conv2"],
            "--layer layer1.0.conv2: no DDF layer of ddf_resnet18, did you mean layer1.0.conv2.ddf?",
        ),
        (["--layer", "zzz"], "--layer zzz: no DDF layer of ddf_resnet18, expected one of layer1.0.conv1.ddf, "),
        (["--ckpt", "none.pt"], "none.pt: no such checkpoint file"),
        (["--output", "f.xyz"], "f.xyz: matplotlib draws no .xyz, expected .png or .pdf"),
        (["--output", "none/f.png"], "[Errno 2] No such file or directory: 'none/f.png'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_sentence(checkpoint, image, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.cfg").write_text("no picture")
    said = end_of(*("--ckpt", checkpoint, "--image", image, "--size", "32", "--output", "f.png", *options))
    assert said.startswith(f"error: {sentence}") and "\n" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "setup.cfg"}


def test_a_network_without_filters_is_told_so_whatever_its_classifier_is_called(checkpoint, image, tmp_path):
    path = other_model(checkpoint, tmp_path / "other.pt", "mobilenetv3_small_050")
    said = end_of("--ckpt", path, "--image", image, "--size", "32", "--output", tmp_path / "f.png")
    assert said == (
        f"error: {path}: mobilenetv3_small_050 has no DDF layer to draw, expected a network such as ddf_resnet50"
    )


def test_a_network_of_one_branch_is_told_which_is_missing(checkpoint, image, tmp_path):
    kwargs = dict(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16], stem_width=8, block_args=dict(ddf=dict(spatial=False)))
    path = other_model(checkpoint, tmp_path / "other.pt", "ddf_resnet18", **kwargs)
    said = end_of("--ckpt", path, "--image", image, "--size", "32", "--output", tmp_path / "f.png")
    assert said.endswith("layer1.0.conv1.ddf has no spatial filter, expected a network with both branches")


def test_without_matplotlib_it_says_how_to_get_it(checkpoint, image, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = end_of("--ckpt", checkpoint, "--image", image, "--output", tmp_path / "f.png")
    assert said == f"error: {tmp_path / 'f.png'}: drawing needs matplotlib: pip install matplotlib"
