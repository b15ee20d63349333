"""The DDF module (paper Fig. 2b): two small branches generate the filters, `ddfnet.ops.ddf` applies them."""

import torch
from torch import Tensor, nn

from ..ops import ddf, normalize
from .filter_norm import FilterNorm, filter_norm


@torch.fx.wrap
def apply_filters(
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    kernel_size: int,
    stride: int,
    dilation: int,
    heads: int,
    combine: str,
    spatial_norm: bool,
) -> Tensor:
    """Call `ddf` as it is fastest on x's device: one node for torch.fx, and what TorchScript can compile.

    `spatial_norm`: the spatial filter is raw. The kernels of a GPU normalise it in passing, which saves FilterNorm's
    passes over it; elsewhere it is normalised by operations of their own, whose gradient autograd takes.
    """
    if torch.jit.is_scripting():
        # goes past what follows autocast: the filters did, coming from convolutions, x did not
        generated = channel_filter if spatial_filter is None else spatial_filter
        x = x if generated is None else x.to(generated.dtype)
        return torch.ops.ddfnet.ddf(
            x, channel_filter, spatial_filter, kernel_size, stride, dilation, heads, combine, spatial_norm
        )
    else:
        if spatial_norm and spatial_filter is not None and not x.is_cuda:
            spatial_filter, spatial_norm = normalize(spatial_filter, kernel_size**2), False
        return ddf(
            x,
            channel_filter,
            spatial_filter,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            heads=heads,
            combine=combine,
            spatial_norm=spatial_norm,
        )


class SpatialBranch(nn.Sequential):
    """One k x k filter per pixel and head: (N, C, H, W) -> (N, heads*k*k, (H-1)//stride+1, (W-1)//stride+1)."""

    def __init__(self, channels, kernel_size=3, stride=1, heads=1, norm="filter", device=None, dtype=None):
        super().__init__(
            nn.Conv2d(channels, heads * kernel_size**2, 1, stride=stride, device=device, dtype=dtype),
            filter_norm(norm, kernel_size, heads, learnable=False, device=device, dtype=dtype),
        )


class ChannelBranch(nn.Sequential):
    """One k x k filter per channel, by squeeze and excitation: (N, C, H, W) -> (N, C*k*k, 1, 1), index c*k*k + tap.

    The squeezed width is int(squeeze_ratio * C), as the authors truncate it, and at least 1.
    """

    def __init__(self, channels, kernel_size=3, squeeze_ratio=0.2, norm="filter", device=None, dtype=None):
        squeezed = max(1, int(channels * squeeze_ratio))
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1, device=device, dtype=dtype),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels * kernel_size**2, 1, device=device, dtype=dtype),
            filter_norm(norm, kernel_size, channels, learnable=True, device=device, dtype=dtype),
        )


class DDF(nn.Module):
    """Decoupled dynamic filter: stands where a k x k convolution of `channels` to `channels` stood (paper Sec. 4).

    (N, C, H, W) -> (N, C, (H-1)//stride+1, (W-1)//stride+1), as a convolution with padding dilation * (kernel_size//2).
    It has no bias of its own: a norm layer is expected to follow, as in a ResNet.

    Args:
        channels: C.
        kernel_size: odd.
        stride, dilation: as a convolution's.
        heads: groups of neighbouring channels with a spatial filter each; divides `channels`.
        squeeze_ratio: sigma of the channel branch.
        norm: "filter", or the ablations "batch", "sigmoid", "none" (Table 3b).
        spatial, channel: False leaves that branch out (Table 3a).
        combine: "mul", or "add" for filters that are added.

    The names of the parameters are those of the authors' checkpoints.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        heads: int = 1,
        squeeze_ratio: float = 0.2,
        norm: str = "filter",
        spatial: bool = True,
        channel: bool = True,
        combine: str = "mul",
        device=None,
        dtype=None,
    ):
        super().__init__()
        sizes = dict(channels=channels, kernel_size=kernel_size, stride=stride, dilation=dilation, heads=heads)
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"DDF: {name} is {value!r}, expected an integer of at least 1")
        if kernel_size % 2 == 0:
            raise ValueError(f"DDF: kernel_size is {kernel_size}, expected an odd number")
        if channels % heads:
            raise ValueError(f"DDF: heads is {heads}, expected a divisor of channels = {channels}")
        if not squeeze_ratio > 0:
            raise ValueError(f"DDF: squeeze_ratio is {squeeze_ratio!r}, expected a number above 0")
        if combine not in ("mul", "add"):
            raise ValueError(f"DDF: combine is {combine!r}, expected 'mul' or 'add'")
        if not (spatial or channel):
            raise ValueError("DDF: spatial and channel are both False, expected at least one branch")
        self.channels, self.kernel_size, self.stride = channels, kernel_size, stride
        self.dilation, self.heads, self.combine = dilation, heads, combine
        dd = dict(device=device, dtype=dtype)
        self.spatial_branch = SpatialBranch(channels, kernel_size, stride, heads, norm, **dd) if spatial else None
        self.channel_branch = ChannelBranch(channels, kernel_size, squeeze_ratio, norm, **dd) if channel else None
        # leaves the normalisation of the spatial filter to the operator
        self.spatial_norm = self.spatial_branch is not None and isinstance(self.spatial_branch[1], FilterNorm)

    def filters(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The filters for x, per channel (N, C, k, k) and per pixel (N, heads*k*k, Ho, Wo); None where left out."""
        return self._channel_filter(x), None if self.spatial_branch is None else self.spatial_branch(x)

    def operands(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The filters as the operator takes them: as `filters`, the second raw under `spatial_norm`."""
        if self.spatial_branch is None or not self.spatial_norm:
            return self.filters(x)
        return self._channel_filter(x), self.spatial_branch[0](x)

    def _channel_filter(self, x: Tensor) -> Tensor | None:
        if self.channel_branch is None:
            return None
        return self.channel_branch(x).view(-1, self.channels, self.kernel_size, self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        channel_filter, spatial_filter = self.operands(x)
        return apply_filters(
            x,
            channel_filter,
            spatial_filter,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.heads,
            self.combine,
            self.spatial_norm,
        )

    def extra_repr(self) -> str:
        parts = f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"
        return f"{parts}, heads={self.heads}, combine={self.combine!r}"


class DDFPointwise(nn.Sequential):
    """A DDF, then a 1x1 convolution: for places where the number of channels changes."""

    def __init__(self, in_channels, out_channels, bias=False, device=None, dtype=None, **options):
        super().__init__()
        self.ddf = DDF(in_channels, device=device, dtype=dtype, **options)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype)
