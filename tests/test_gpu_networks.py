"""DDF-ResNets on a GPU: runs with test_gpu.py, and needs what that needs."""

import os
from pathlib import Path

import pytest
import timm
import torch
from golden import golden_cases

import ddfnet
from ddfnet.nn import DDF

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}


@pytest.fixture
def full_float32(monkeypatch):
    """No TF32, which rounds the convolutions around a DDF by more than any fault of it would show."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def test_logits_equal_the_authors_in_float32(full_float32):
    path = Path(os.environ.get("DDFNET_REFERENCE_DATA", "")) / "reference/official_logits.npz"
    if not path.exists():
        pytest.skip("needs reference/official_logits.npz in DDFNET_REFERENCE_DATA")
    for layout in LAYOUTS.values():
        for entry, model, x, logits in golden_cases(path):
            model = model.float().cuda().to(memory_format=layout)
            with torch.no_grad():
                found = model(x.float().cuda().contiguous(memory_format=layout)).cpu().double()
            assert (found - logits).abs().max() <= 1e-4 * logits.abs().max(), entry


def test_a_network_trains_a_step_in_bfloat16():
    torch.manual_seed(0)
    model = timm.create_model("ddf_resnet18", num_classes=10).cuda().to(memory_format=torch.channels_last)
    x = torch.randn(8, 3, 96, 96, device="cuda").contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(x), torch.arange(8, device="cuda"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_fused_for_inference_gives_the_same(layout, full_float32):
    """In float32, and under autocast as near as its own rounding allows; captured in a CUDA graph too."""
    torch.manual_seed(0)
    model = timm.create_model("ddf_resnet50", num_classes=10)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm's last ones of a block are zero: no DDF would be seen
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    model = model.cuda().to(memory_format=LAYOUTS[layout])
    x = torch.randn(4, 3, 128, 128, device="cuda").contiguous(memory_format=LAYOUTS[layout])
    model(x)  # so that the batch norms have statistics
    model.eval()
    with torch.no_grad():
        plain = model(x)
        blind = [module.register_forward_hook(lambda *_: torch.zeros_like(_[2])) for module in _ddfs(model)]
        assert (model(x) - plain).abs().max() > 0.1 * plain.abs().max()  # what DDFs give reaches the logits
        for hook in blind:
            hook.remove()
        assert len(ddfnet.fuse_for_inference(model)) == 16
        fused = model(x)
        assert (fused - plain).abs().max() <= 1e-4 * plain.abs().max()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = model(x)
        graph.replay()
        assert torch.equal(replayed, fused)
        with torch.autocast("cuda", torch.bfloat16):
            assert (model(x).float() - plain).abs().max() <= 0.1 * plain.abs().max()


def _ddfs(model):
    return [module for module in model.modules() if isinstance(module, DDF)]
