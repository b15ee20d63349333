"""One pass over x for both branches of a DDF layer, for inference: `ddf_branches`, its launch and its registration."""

import math
import os

import numpy
import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import cuda, kernels
from .functional import _follow_autocast, _is_plain_inference
from .geometry import Launch, _by_value
from .library import HAS_KERNELS, _empty
from .reference import accumulation_dtype, branches_reference, memory_format_of, output_size
from .specialisations import DTYPE_INDEX, DTYPES, specialisation

# As in cuda/ddf_branches.cu, and how many threads the mean gets
THREADS, PIXELS, GROUP, SLOTS, CHUNK_BYTES = 128, 4, 9, 16, 128
MEAN_THREADS = 512
BUDGET = 48 * 1024  # bytes of shared memory: what every GPU gives a block, and four blocks fit
FEWEST_BLOCKS = 256  # below that tiles are made smaller: two on each multiprocessor of a nominal GPU
BRANCHES = numpy.dtype(
    [
        (name, "i4")
        for name in (
            *("channels", "outputs", "height", "width", "stride", "out_width", "out_pixels"),
            *("pixels", "tiles", "groups", "bands", "buffers", "tile_size", "copy", "across"),
        )
    ]
)


def ddf_branches(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> tuple[Tensor, Tensor]:
    """The spatial branch's 1x1 convolution and the channel branch's mean, by reading x once. For inference: it has no
    derivative.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16; sums are in float32, in float64 for float64.
        weight: (O, C), of the convolution; O = heads*k*k.
        bias: (O), or None.
        stride: of the convolution, at least 1; the output size is Ho = (H-1)//stride + 1.

    Returns:
        The spatial filter before its normalisation, (N, O, Ho, Wo), in the dtype and memory format of x, and the mean
        over all H*W pixels, (N, C), in the dtype of x; inside autocast in the autocast dtype.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
        ddfnet.errors.UserError: on a GPU, where CuPy is missing or does not fit; it names the line to run.
    """
    x, weight, bias = _follow_autocast(x, weight, bias)
    _check(x, weight, bias, stride)
    direct = HAS_KERNELS and x.is_cuda and _is_plain_inference(x, weight, bias)
    return (launch if direct else ddf_branches_op)(x, weight, bias, stride)


def _check(x, weight, bias, stride) -> None:
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and not (name == "bias" and value is None):
            expected = "a Tensor or None" if name == "bias" else "a Tensor"
            raise TypeError(f"ddf_branches: {name} is a {type(value).__name__}, expected {expected}")
    if x.dim() != 4:
        raise ValueError(f"ddf_branches: x has shape {tuple(x.shape)}, expected 4 dimensions (N, C, H, W)")
    if x.dtype not in DTYPES:
        raise TypeError(f"ddf_branches: x is {x.dtype}, expected float64, float32, float16 or bfloat16")
    if min(x.shape[1:]) < 1:
        raise ValueError(f"ddf_branches: x has shape {tuple(x.shape)}, expected a channel and a pixel at least")
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"ddf_branches: stride is {stride!r}, expected an integer of at least 1")
    if weight.dim() != 2 or weight.shape[0] < 1 or weight.shape[1] != x.shape[1]:
        shape = tuple(weight.shape)
        raise ValueError(f"ddf_branches: weight has shape {shape}, expected (O, {x.shape[1]}) = (O, C), O at least 1")
    if bias is not None and bias.shape != weight.shape[:1]:
        shape = tuple(bias.shape)
        raise ValueError(f"ddf_branches: bias has shape {shape}, expected {tuple(weight.shape[:1])} = (O)")
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        if value is None:
            continue
        if value.device != x.device:
            raise ValueError(f"ddf_branches: {name} is on {value.device}, expected {x.device}, the device of x")
        if value.dtype != x.dtype:
            raise TypeError(f"ddf_branches: {name} is {value.dtype}, expected {x.dtype}, the dtype of x")
        if value.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"ddf_branches: {name} requires grad, but this operator is for inference and has no derivative: call it"
                " in torch.no_grad(), or train by the convolution and the mean"
            )


# ---- on a GPU ----------------------------------------------------------------------------------------------------


def plan(
    dtype: int,  # index into DTYPES
    shape: tuple[int, int, int, int],  # of x
    outputs: int,
    stride: int,
    nhwc: bool,
    alignment: int,  # bytes that divide the address of x, 16 at most
) -> tuple[Launch, Launch | None] | None:
    """The launches of the two kernels, the second where there is more than one tile; None where 32 bits do not do."""
    n, channels, height, width = shape
    item, accumulated, area = DTYPES[dtype].itemsize, max(4, DTYPES[dtype].itemsize), height * width
    chunk = CHUNK_BYTES // item
    chunks, row = -(-channels // chunk), (chunk + 4) * accumulated
    # GROUP outputs a thread, up to four such groups a block: more would leave their weights no room
    all_groups = -(-outputs // GROUP)
    bands = -(-all_groups // 4)
    groups = -(-all_groups // bands)
    # elements of a pixel in the tile, and what a tile's pixels are a multiple of: in NCHW it begins where a copy may
    step, unit = chunk + 16 // item if nhwc else chunk, 1 if nhwc else 16 // item

    def bytes_with(pixels: int, buffers: int) -> int:
        walk = buffers * (pixels * step * item + groups * GROUP * row)
        return SLOTS * row + max(walk, THREADS * PIXELS * GROUP * accumulated)

    most = 256  # pixels of a tile; halved, the eight shares of a chunk's channels still go evenly to the threads
    while -(-most // PIXELS) * groups > THREADS or bytes_with(most, min(chunks, 2)) > BUDGET:
        most //= 2
    tiles = max(-(-area // most), min(-(-FEWEST_BLOCKS // n), -(-area // 32)))
    pixels = min(area, -(-area // (tiles * unit)) * unit, most // unit * unit)
    tiles = -(-area // pixels)
    buffers = max(b for b in (1, 2, 3) if b <= chunks and bytes_with(pixels, b) <= BUDGET)
    # a row of copies: the chunk's channels; in NCHW a channel's pixels, or all channels' where there is one tile
    columns = chunk if nhwc else pixels if tiles > 1 else chunk * area
    copy = math.gcd(alignment, (channels if nhwc else area if tiles > 1 else channels * area) * item, columns * item)
    copy = copy if copy >= 8 else item
    across = min(THREADS, 1 << (-(-columns * item // copy) - 1).bit_length())
    grid = n * tiles * bands
    if grid >= 2**31 or area >= 2**30:  # the kernel adds a row and a stride in 32 bits
        return None
    out_height, out_width = output_size(height, width, stride)
    values = numpy.zeros(1, BRANCHES)
    given = dict(
        **dict(channels=channels, outputs=outputs, height=height, width=width, stride=min(stride, max(height, width))),
        **dict(out_width=out_width, out_pixels=out_height * out_width, pixels=pixels, tiles=tiles, groups=groups),
        **dict(bands=bands, buffers=buffers, tile_size=pixels * step, copy=copy, across=across),
    )
    for name, value in given.items():
        values[name] = value
    wanted = specialisation("branches", dtype, nhwc)
    first = Launch(wanted, grid, THREADS, bytes_with(pixels, buffers), (_by_value(values),))
    if tiles == 1:
        return first, None
    wanted = specialisation("branches_mean", dtype)
    blocks = n * -(-channels // 32)
    return first, Launch(wanted, blocks, MEAN_THREADS, 8 * MEAN_THREADS, (channels, tiles, area))


_ready: dict[tuple, tuple[cuda.Ready, cuda.Ready | None] | None] = {}
if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's kernels
    os.register_at_fork(after_in_child=lambda: _ready.clear())


def launch(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    """The CUDA backend; shapes beyond its kernels' 32 bits take torch's operations."""
    if x.numel() == 0:
        return branches_reference(x, weight, bias, stride)
    layout = memory_format_of(x)
    x, weight = x.contiguous(memory_format=layout), weight.contiguous()
    address, outputs, nhwc = x.data_ptr(), weight.shape[0], layout == torch.channels_last
    alignment = (address | 16) & -(address | 16)
    key = (x.dtype, x.device, x.shape, outputs, stride, nhwc, alignment)
    if key not in _ready:
        if len(_ready) > 4096:  # shapes that never come again
            _ready.clear()
        _ready[key] = _make_ready(*key)
    ready = _ready[key]
    if ready is None:
        return branches_reference(x, weight, bias, stride)
    first, second = ready
    n, channels, height, width = x.shape
    spatial = _empty(x, n, outputs, *output_size(height, width, stride))
    pooled = x.new_empty(n, channels)
    bias = None if bias is None else bias.contiguous()
    pointers = [cuda._pointer(tensor) for tensor in (x, weight, bias, spatial, pooled)]
    if second is None:
        cuda._run(x, first, (*pointers, 0))
    else:
        tiles = second.launch.parameters[1]
        partial = torch.empty(n * tiles * channels, dtype=accumulation_dtype(x.dtype), device=x.device)
        cuda._run(x, first, (*pointers, partial.data_ptr()))
        cuda._run(x, second, (partial.data_ptr(), pooled.data_ptr()))
    return spatial, pooled


def _make_ready(dtype, device, shape, outputs, stride, nhwc, alignment):
    launches = plan(DTYPE_INDEX[dtype], tuple(shape), outputs, stride, nhwc, alignment)
    if launches is None:
        return None
    first, second = (one and cuda.Ready(one, kernels.load(one.specialisation, device)) for one in launches)
    return first, second


# ---- registered with torch ---------------------------------------------------------------------------------------


@torch.library.custom_op("ddfnet::ddf_branches", mutates_args=())
def ddf_branches_op(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    return branches_reference(x, weight, bias, stride)


if HAS_KERNELS:
    ddf_branches_op.register_kernel("cuda")(launch)


@ddf_branches_op.register_fake
def _(x, weight, bias, stride):
    n, channels, height, width = x.shape
    return _empty(x, n, weight.shape[0], *output_size(height, width, stride)), x.new_empty(n, channels)


@register_flop_formula(torch.ops.ddfnet.ddf_branches)
def _flops(x_shape, weight_shape, bias_shape, stride, *args, **kwargs) -> int:
    """The convolution's."""
    n, channels, height, width = x_shape
    out_height, out_width = output_size(height, width, stride)
    return 2 * n * weight_shape[0] * channels * out_height * out_width
