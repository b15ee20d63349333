"""Runs that begin with weights from elsewhere: by which names, and that their checkpoint is all they need later."""

import itertools
import json
from pathlib import Path

import pytest
import timm
import torch
from eval_runs import eval_py, result_of
from ranks import on_ranks
from safetensors.torch import save_file
from small_runs import ALONE, assert_equal_weights, run, weights

from ddfnet.errors import UserError
from ddfnet.models.build import build_model
from ddfnet.tasks.classification import Classification
from ddfnet.train import train

pytestmark = pytest.mark.forks

NETWORK = dict(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16], stem_width=8, drop_path_rate=0.2)
EACH_STEP = "run.checkpoint_minutes=1e-9"  # a checkpoint after every step


@pytest.fixture
def first(tmp_path):
    """A folder with weights: as a file, and as timm's `local-dir:`."""
    torch.manual_seed(5)
    model = timm.create_model("ddf_resnet18", num_classes=10, **NETWORK)
    folder = tmp_path / "first"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "init.pth")
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "ddf_resnet18",
        "num_classes": 10,
        "model_args": NETWORK,
        "pretrained_cfg": {"num_classes": 10, "input_size": [3, 16, 16], "first_conv": "conv1", "classifier": "fc"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def options(way, first):
    return {
        "checkpoint_path": [f"model.kwargs.checkpoint_path={first / 'init.pth'}"],
        "overlay": ["model.kwargs.pretrained=true", f"model.kwargs.pretrained_cfg_overlay.file={first / 'init.pth'}"],
        "local-dir": [f"model.name=local-dir:{first}", "model.kwargs.pretrained=true"],
    }[way]


@pytest.mark.parametrize("way", ["checkpoint_path", "overlay", "local-dir"])
def test_the_home_directory_is_meant_by_a_tilde_where_first_weights_are_named(small, first, way, monkeypatch):
    monkeypatch.setenv("HOME", str(first.parent))
    config = small("a", *(option.replace(str(first), "~/first") for option in options(way, first)))
    assert loads_the_first_weights(config, first)


def stopped_after(config, steps, world=ALONE):
    task = Classification(config, world)
    batches = task.train_batches
    task.train_batches = lambda begin, end: itertools.islice(batches(begin, end), steps)
    with pytest.raises(KeyError):  # no evaluation came
        train(config, task, world)


def loads_the_first_weights(config, first):
    state = build_model(config, 10).state_dict()
    body = [(k, v) for k, v in torch.load(first / "init.pth").items() if "fc." not in k]  # an overlay's head is new
    return all(torch.equal(value, state[key]) for key, value in body)


@pytest.mark.parametrize("way", ["checkpoint_path", "overlay"])
def test_a_resumed_run_needs_no_first_weights(small, first, tmp_path, way):
    """And ends where the run that was never stopped does."""
    whole, broken = (small(name, EACH_STEP, *options(way, first)) for name in ("whole", "broken"))
    assert loads_the_first_weights(whole, first)
    run(whole)
    stopped_after(broken, 4)
    first.rename(tmp_path / "elsewhere")
    assert run(broken)["step"] == 21
    assert_equal_weights(weights(whole), weights(broken))
    with pytest.raises(UserError, match=r"^model\.kwargs\.[\w.]+ = '.*init\.pth': no such file$"):
        run(small("another", *options(way, first)))  # which has nothing to go on from
    assert eval_py("--ckpt", Path(broken.run.dir) / "checkpoints/best.pt") is None


def test_all_ranks_resume_without_the_first_weights(small, first, tmp_path):
    config = small("a", EACH_STEP, "train.epochs=2", *options("checkpoint_path", first))
    on_ranks(2, lambda world: stopped_after(config, 4, world))
    first.rename(tmp_path / "elsewhere")
    assert on_ranks(2, lambda world: train(config, Classification(config, world), world)["step"]) == [14, 14]


def test_a_run_of_pretrained_weights_resumes_where_there_is_no_network(small, monkeypatch):
    """What fetches them is never asked."""
    name = "model.name=resnet10t"
    run(small("a", name, "model.kwargs={}", "train.epochs=2", "train.lr=0.01"))

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    for fetch in ("load_state_dict_from_hf", "load_state_dict_from_url", "load_pretrained"):
        monkeypatch.setattr(f"timm.models._builder.{fetch}", refuse)
    again = ["model.kwargs={pretrained: true}", "train.lr=0.01"]
    assert run(small("a", name, *again))["step"] == 21
    with pytest.raises(UserError, match="resnet10t cannot be built so: no network"):
        run(small("b", name, *again))


def test_a_network_may_be_named_by_its_folder_as_in_timm(small, first, tmp_path, capsys):
    config = small("a", *options("local-dir", first), "model.kwargs={pretrained: true}", "train.epochs=2")
    assert loads_the_first_weights(config, first)
    digits = ["data.source=digits", "data.workers=0"]
    found = result_of(tmp_path, "--model", f"local-dir:{first}", "--pretrained", *digits)
    same = result_of(tmp_path, "--model", f"local-dir:{first}", "--weights", first / "init.pth", *digits)
    assert found["loss"] == same["loss"] and found["checkpoint"] == f"local-dir:{first}"
    run(config)
    first.rename(tmp_path / "elsewhere")
    kept = weights(config)["config"]["model"]
    assert kept["name"] == "ddf_resnet18" and kept["kwargs"]["channels"] == [8, 8, 16, 16]
    result = result_of(tmp_path, "--ckpt", Path(config.run.dir) / "checkpoints/best.pt")  # which needs no folder
    assert result["model"] == "ddf_resnet18"
    again = small("a", *options("local-dir", first), "model.kwargs={pretrained: true}", "train.epochs=3")
    assert run(again)["step"] == 21  # nor does the run that it began
    assert "cannot be read (Config file not found" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be read: Config file not found"):
        run(small("b", *options("local-dir", first)))


@pytest.mark.parametrize(
    "name,sentence",
    [
        ("local-dir:none", "model.name = 'local-dir:none' cannot be read: Config file not found: none/config.json"),
        ("hf-bub:timm/resnet18", "model.name = 'hf-bub:timm/resnet18' cannot be read: Unknown model source 'hf-bub'"),
        ("timm/resnet18", "no model that timm knows, did you mean hf-hub:timm/resnet18 or local-dir:timm/resnet18?"),
    ],
)
def test_a_source_that_is_none_has_its_sentence(small, name, sentence):
    with pytest.raises(UserError) as error:
        Classification(small("a", f"model.name={name}"), ALONE)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["hf-hub:", "hf_hub:"])
def test_a_network_of_the_hub_is_asked_for_there(small, prefix, monkeypatch):
    def download(repository, file, **kwargs):
        raise ConnectionError(f"asked for {file} of {repository}")

    monkeypatch.setattr("timm.models._hub.download_from_hf", download)
    with pytest.raises(UserError, match=r"cannot be read: asked for config\.json of timm/resnet18\.a1_in1k"):
        Classification(small("a", f"model.name={prefix}timm/resnet18.a1_in1k"), ALONE)
