"""Weights & Biases, offline: nothing leaves this machine. Without the package only its absence is tested."""

import struct
import sys
import types
from pathlib import Path

import pytest
import torch
from small_runs import run, try_run

from ddfnet.errors import UserError
from ddfnet.train.logging.wandb import WeightsAndBiases


@pytest.mark.parametrize("absent", [None, object()], ids=["not installed", "a folder of that name"])
def test_asked_for_but_not_installed_is_one_sentence_before_anything_is_written(small, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, "wandb", absent)
    config = small("a", "run.wandb=true")
    with pytest.raises(UserError, match=r"^run\.wandb = True, but .* is not installed: pip install wandb, or leave"):
        run(config)
    assert not Path(config.run.dir).exists()
    try_run(config)  # writes nothing, and has no need of it


def test_a_run_that_does_not_ask_for_it_does_not_import_it(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run(small("a", "train.epochs=2"))


def content(log: Path) -> bytes:
    """The records of an offline log without the headers that its 32 kB blocks put into them (LevelDB's format)."""
    data, position, payload = log.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, _ = struct.unpack_from("<IHB", data, position)
        payload += data[position + 7 : position + 7 + length]
        position += 7 + length
    return payload


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    module = pytest.importorskip("wandb")
    for name, value in dict(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_CONFIG_DIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    yield module
    module.teardown()  # its process, and the environment that it has read


def test_a_restarted_run_continues_the_one_there(small, wandb):
    config = small("a", "run.wandb=true", "run.wandb_project=mine", "train.epochs=2")
    folder = Path(config.run.dir)
    run(config)
    identity = (folder / "wandb_id").read_text().strip()
    run(small("a", "run.wandb=true", "run.wandb_project=mine", "train.epochs=3"))
    assert (folder / "wandb_id").read_text().strip() == identity
    wandb.teardown()  # its process may still be writing
    first, second = sorted((folder / "wandb").glob("offline-run-*"))
    assert first.name.endswith(identity) and second.name.endswith(identity)
    for part in (first, second):
        (log,) = part.glob("*.wandb")
        for word in (b"mine", b"train/loss", b"eval/top1", b"best_top1", b"histogram/spatial/layer1.0.conv1"):
            assert word in content(log), word
        pictures = {path.relative_to(part / "files/media/images").parts[0] for path in part.rglob("*.png")}
        assert {"channel", "spatial"} <= pictures and any(name.startswith("training_") for name in pictures)


def test_what_it_cannot_do_is_one_sentence(small, wandb, monkeypatch):
    def init(**options):
        raise wandb.errors.CommError("no\nnetwork.")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(UserError, match=r"cannot be reached: no network; WANDB_MODE=offline keeps its log in .*/a$"):
        run(small("a", "run.wandb=true"))


class Recorder(types.ModuleType):
    """The few names of wandb that a run uses; keeps what is logged. Also where the package is not installed."""

    __version__ = "0.0"

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.logged, self.summary, self.ends = [], {}, []
        self.Settings, self.Image, self.Histogram = dict, lambda pixels: pixels, lambda values: values
        self.log, self.define_metric = self.logged.append, lambda *_, **__: None

    def init(self, **options):
        self.options = options
        return self

    def finish(self, exit_code):
        self.ends.append(exit_code)


def test_a_picture_beyond_white_is_white(small, monkeypatch, tmp_path):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    log = WeightsAndBiases(tmp_path, "mine")
    log.open({})
    log.pictures(3, {"a": torch.tensor([-0.5, 0.5, 1.5]).view(3, 1, 1)}, {"b": torch.tensor([0.25])})
    (values,) = recorder.logged
    assert values["a"].tolist() == [[[0, 127, 255]]] and values["step"] == 3 and values["histogram/b"] == [0.25]


def test_losses_metrics_pictures_histograms_and_the_result_reach_it(small, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    result = run(small("a", "run.wandb=true", "train.epochs=2"))
    logged = {name for values in recorder.logged for name in values}
    assert {"step", "train/loss", "eval/top1", "histogram/spatial/layer1.0.conv1.ddf"} <= logged
    pictures = [value for values in recorder.logged for name, value in values.items() if name.startswith("training")]
    assert pictures and all(picture.dtype == "uint8" and picture.shape[2:] == (3,) for picture in pictures)
    assert recorder.summary["top1"] == result["top1"] and recorder.ends == [0]
