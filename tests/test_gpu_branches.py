"""The kernels of ddf_branches on a GPU. Needs torch, timm, cupy and pytest alone:

python -m pytest --noconftest tests/test_gpu_branches.py
"""

import pytest
import torch
from branches_case import BranchesCase, branches_cases
from operator_case import DTYPES, LAYOUTS

from ddfnet.ops import ddf_branches
from ddfnet.ops.gpu import branches, launch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("outputs", [9, 18, 25, 49])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_branches_are_the_convolution_and_the_mean(dtype, layout, stride, outputs):
    """Against float64, by the kernels and not by torch's operations; the same bits again from run to run."""
    shared = dict(outputs=outputs, stride=stride, dtype=dtype, layout=LAYOUTS[layout], device="cuda")
    large = [BranchesCase(shape, **shared) for shape in ((256, 64, 30, 28), (300, 40, 7, 7), (1, 256, 200, 300))]
    for case in (*branches_cases(dtype, LAYOUTS[layout], stride, outputs, device="cuda"), *large):
        found = case.run()
        case.check(found)
        again = case.run()
        assert all(torch.equal(again[name], result) for name, result in found.items()), case
    planned = [launches for (plan, *_), launches in launch.launcher.plans.items() if plan is branches.plan]
    assert planned and all(planned)


def test_branches_beyond_32_bits():
    """More than 2^31 elements in one image: the last pixels, and the means of the last channels."""
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GB for more than 2^31 elements")
    x = torch.empty(1, 600, 1900, 1900, device="cuda", dtype=torch.bfloat16)
    assert x.numel() > 2**31
    x.normal_()
    weight = torch.randn(9, 600, device="cuda", dtype=torch.bfloat16)
    for layout in LAYOUTS.values():
        x = x.contiguous(memory_format=layout)
        with torch.no_grad():
            spatial, pooled = ddf_branches(x, weight)
        want = weight.double() @ x[0, :, -1, -64:].double()
        assert (spatial[0, :, -1, -64:].double() - want).abs().max() <= 8e-3 * want.abs().max()
        want = x[:, -2:].double().mean((2, 3))
        assert (pooled[:, -2:].double() - want).abs().max() <= 1e-5 + 8e-3 * want.abs().max()


def test_branches_follow_autocast_streams_and_graphs():
    case = BranchesCase((8, 64, 28, 28), dtype=torch.float32, device="cuda")
    with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
        spatial, pooled = ddf_branches(*case.arguments)
    assert spatial.dtype == pooled.dtype == torch.bfloat16
    stream, graph, expected = torch.cuda.Stream(), torch.cuda.CUDAGraph(), case.run()
    x = torch.zeros_like(case.x)
    torch.cuda.synchronize()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        results = ddf_branches(x, *case.arguments[1:])
    x.copy_(case.x)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(results, expected.values(), strict=True))
