"""load_checkpoint: every format it takes, and what it says of those it cannot."""

import argparse
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from ddfnet.checkpoint_file import read_checkpoint, write_checkpoint
from ddfnet.errors import UserError
from ddfnet.models import load_checkpoint


def network(seed=0):
    torch.manual_seed(seed)
    return timm.create_model("ddf_resnet18", num_classes=4)


STATE = network(1).state_dict()
WRAPPINGS = {
    "plain.pth": STATE,
    "module.pth": {f"module.{k}": v for k, v in STATE.items()},
    "compiled.pt": {"state_dict": {f"_orig_mod.module.{k}": v for k, v in STATE.items()}},
    "authors.pth.tar": {
        "state_dict": STATE,
        "arch": "ddf_mul_resnet18",
        "epoch": 119,
        "args": argparse.Namespace(lr=0.4, amp=True),
    },
    "model.pth": {"model": STATE},
    "ours.pt": {"format": 1, "config": {"train": {"lr": 0.1}}, "step": 3, "state_dict": STATE},
    "weights.safetensors": STATE,
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_wrapping_loads(name, tmp_path):
    save = save_file if name.endswith("safetensors") else torch.save
    save(WRAPPINGS[name], tmp_path / name)
    model = load_checkpoint(network(), tmp_path / name)
    assert all(torch.equal(value, STATE[key]) for key, value in model.state_dict().items())


def test_wrapped_models_load_too(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    model = network()
    load_checkpoint(torch.nn.DataParallel(model), tmp_path / "a.pth")
    assert torch.equal(model.fc.weight, STATE["fc.weight"])
    load_checkpoint(torch.compile(network(), backend="eager"), tmp_path / "a.pth")


def test_averaged_weights_load_on_demand(tmp_path):
    torch.save({"state_dict": network(2).state_dict(), "state_dict_ema": STATE}, tmp_path / "a.pt")
    assert torch.equal(load_checkpoint(network(), tmp_path / "a.pt", ema=True).fc.weight, STATE["fc.weight"])
    torch.save({"state_dict": STATE}, tmp_path / "b.pt")
    with pytest.raises(UserError, match="holds no averaged weights"):
        load_checkpoint(network(), tmp_path / "b.pt", ema=True)


def test_missing_unexpected_and_misshaped_keys_are_all_named_and_nothing_is_loaded(tmp_path):
    state = dict(STATE, extra=torch.zeros(1), **{"fc.weight": torch.zeros(10, 512)})
    del state["conv1.weight"], state["bn1.bias"]
    torch.save(state, tmp_path / "bad.pth")
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_checkpoint(model, tmp_path / "bad.pth")
    text = str(error.value)
    assert "2 missing (bn1.bias, conv1.weight)" in text and "1 unexpected (extra)" in text
    assert "1 misshaped (fc.weight (10, 512) instead of (4, 512))" in text
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Attack:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def bad_file(kind, path):
    if kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": Attack()}))
    elif kind == "zip code":
        torch.save({"state_dict": Attack()}, path)
    elif kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "no weights":
        torch.save({"state_dict": {"a": "b"}}, path)
    elif kind == "truncated":
        torch.save(STATE, path)
        path.write_bytes(path.read_bytes()[:100_000])


@pytest.mark.parametrize("kind", ["code", "zip code", "text", "empty", "tensor", "no weights", "truncated", "absent"])
def test_what_is_no_checkpoint_gives_one_sentence_and_executes_nothing(kind, tmp_path):
    path = tmp_path / "file.pth"
    bad_file(kind, path)
    with pytest.raises(UserError) as error:
        load_checkpoint(network(), path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_interrupted_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"step": 1})

    def full_disk(content, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match="could not be written, the previous one is kept: No space left"):
        write_checkpoint(path, {"step": 2})
    assert read_checkpoint(path) == {"step": 1} and list(tmp_path.iterdir()) == [path]
