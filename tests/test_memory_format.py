"""Which layout a result has: that of x, of which x may be a part."""

import numpy as np
import pytest
import torch

from ddfnet.ops import ddf

PARTS = {
    "channels": np.s_[:, 4:8],
    "rows": np.s_[:, :4, 2:7],
    "columns": np.s_[:, :4, :, 1:6],
    "all": np.s_[1:, 4:8, 1:, 3:],
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_channels_last_tensor_stays_channels_last(part):
    """As the halves that chunk and split make of one."""
    whole = torch.randn(3, 12, 8, 9).contiguous(memory_format=torch.channels_last)
    x = whole[PARTS[part]].detach().requires_grad_()
    assert not x.is_contiguous(memory_format=torch.channels_last) and x.stride(1) == 1
    n, channels, height, width = x.shape
    c, s = torch.randn(n, channels, 3, 3), torch.randn(n, 9, height, width)
    for function in (ddf, torch.compile(ddf, backend="aot_eager", fullgraph=True, dynamic=True)):
        y = function(x, c, s)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert y.is_contiguous(memory_format=torch.channels_last) and y.stride(1) == 1
        assert dx.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, ddf(x.contiguous(), c, s))
    torch.library.opcheck(torch.ops.ddfnet.ddf.default, (x, c, s, 3, 1, 1, 1, "mul"), test_utils="test_faketensor")


def test_what_only_looks_like_channels_last_is_not():
    one_channel = torch.randn(2, 1, 4, 5)[:, :, 1:]
    transposed = torch.randn(2, 5, 4, 3).transpose(1, 3)  # channels side by side, but rows within columns
    for x in (one_channel, transposed, torch.ones(()).expand(2, 3, 4, 5)):
        assert ddf(x, torch.randn(2, x.shape[1], 3, 3), None).is_contiguous()
