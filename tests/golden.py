"""The authors' own outputs: networks with given weights, inputs, and the logits that the authors' code makes."""

import zlib
from collections.abc import Iterator

import numpy as np
import timm
import torch


def weight(key, shape):
    """The weights behind the golden logits: a pure function of name and shape."""
    r = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(r)
    if key.endswith("running_mean"):
        return 0.1 * r
    if ("bn" in key and key.endswith("weight")) or key.endswith("downsample.1.weight"):
        return 1 + 0.1 * r
    if key.endswith(".std"):
        return 0.4714 * r
    if key.endswith("bias"):
        return 0.05 * r
    return r * np.sqrt(1 / np.prod(shape[1:]))


def golden_cases(path) -> Iterator[tuple[str, torch.nn.Module, torch.Tensor, torch.Tensor]]:
    """(name, network in float64, input, logits) of every entry of official_logits.npz."""
    golden = np.load(path)
    assert golden.files
    for entry in golden.files:
        name, shape, seed = entry.split("|")
        model = timm.create_model(name.replace("ddf_mul_", "ddf_")).double().eval()
        state = {k: torch.from_numpy(np.asarray(weight(k, tuple(v.shape)))) for k, v in model.state_dict().items()}
        model.load_state_dict(state)
        x = np.random.RandomState(int(seed)).standard_normal([int(size) for size in shape.split("x")])
        yield entry, model, torch.from_numpy(x), torch.from_numpy(golden[entry])
