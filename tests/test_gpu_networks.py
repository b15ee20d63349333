"""DDF-ResNets on a GPU: runs with test_gpu.py, and needs what that needs."""

import os
from pathlib import Path

import pytest
import timm
import torch
from golden import golden_cases

import ddfnet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}


def test_logits_equal_the_authors_in_float32():
    path = Path(os.environ.get("DDFNET_REFERENCE_DATA", "")) / "reference/official_logits.npz"
    if not path.exists():
        pytest.skip("needs reference/official_logits.npz in DDFNET_REFERENCE_DATA")
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        for layout in LAYOUTS.values():
            for entry, model, x, logits in golden_cases(path):
                model = model.float().cuda().to(memory_format=layout)
                with torch.no_grad():
                    found = model(x.float().cuda().contiguous(memory_format=layout)).cpu().double()
                assert (found - logits).abs().max() <= 1e-4 * logits.abs().max(), entry
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


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
def test_a_network_fused_for_inference_gives_the_same(layout):
    """In float32, and under autocast as near as its own rounding allows; captured in a CUDA graph too."""
    torch.manual_seed(0)
    model = timm.create_model("ddf_resnet50", num_classes=10).cuda().to(memory_format=LAYOUTS[layout])
    x = torch.randn(4, 3, 128, 128, device="cuda").contiguous(memory_format=LAYOUTS[layout])
    model(x)  # so that the batch norms have statistics
    model.eval()
    with torch.no_grad():
        plain = model(x)
        assert len(ddfnet.fuse_for_inference(model)) == 16
        fused = model(x)
        assert (fused - plain).abs().max() <= 1e-3 * plain.abs().max()  # TF32 rounds the convolutions before it
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = model(x)
        graph.replay()
        assert torch.equal(replayed, fused)
        with torch.autocast("cuda", torch.bfloat16):
            assert (model(x).float() - plain).abs().max() <= 0.1 * plain.abs().max()
