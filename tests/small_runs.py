"""Small training runs for the tests: a tiny network on the digits, seconds on one core."""

import json
from pathlib import Path

import torch

from ddfnet.tasks.classification import Classification
from ddfnet.train import World, dry_run, train

ROOT = Path(__file__).resolve().parent.parent
SMALL = """
model:
  name: ddf_resnet18
  kwargs: {layers: [1, 1, 1, 1], channels: [8, 8, 16, 16], stem_width: 8, drop_path_rate: 0.2}
data: {source: digits, image_size: 16, scale: [0.6, 1.0], hflip: 0.0, workers: 0, random_erase: 0.3}
train: {epochs: 3, batch_size: 200, lr: 0.2, warmup_epochs: 1, label_smoothing: 0.1}
run: {log_every: 3, device: cpu}
"""
# A network without batch norm: its gradient for a batch is the mean of those of the batch's parts.
NO_BATCH_NORM = """
model:
  name: vit_tiny_patch16_224
  kwargs: {img_size: 16, patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2}
data: {source: digits, image_size: 16, scale: [0.6, 1.0], hflip: 0.0, workers: 0}
train: {epochs: 1, batch_size: 40, lr: 0.2}
run: {log_every: 1, device: cpu}
"""
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def run(config):
    return train(config, Classification(config, ALONE), ALONE)


def try_run(config):
    return dry_run(config, Classification(config, ALONE), ALONE)


def weights(config, name="last.pt"):
    return torch.load(Path(config.run.dir) / "checkpoints" / name, weights_only=True)


def assert_equal_weights(a, b):
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(torch.equal(value, b["state_dict"][key]) for key, value in a["state_dict"].items())


def logged(config, kind):
    lines = (Path(config.run.dir) / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]
