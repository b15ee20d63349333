"""The public operator: arguments checked, autocast followed, backend picked."""

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import dispatch
from .checks import check_ddf
from .gpu import ddf as gpu
from .library import ddf_op
from .options import DDFOptions
from .reference import ddf_reference

BACKENDS = (None, "reference", "cpu", "cuda")


def ddf(
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    heads: int = 1,
    combine: str = "mul",
    spatial_norm: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Apply decoupled dynamic filters (paper Eq. 2): one k x k filter per pixel, combined with one per channel.

    With r = (k-1)//2, d = dilation, s = stride and g(c) the head of channel c::

        y[n,c,p,q] = sum_ij F[n,c,i,j] * S[n,g(c),i,j,p,q] * x[n,c, p*s + (i-r)*d, q*s + (j-r)*d]

    Pixels outside the image count as zero; combine="add" has F + S in place of F * S.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16; the half types accumulate in float32.
        channel_filter: F, (N, C, k, k), or None for the spatial-only operator (ones for "mul", zeros for "add").
        spatial_filter: S, (N, heads*k*k, Ho, Wo), head by head and tap by tap, or None for the channel-only operator.
        kernel_size: k, odd.
        stride: at least 1; the output size is Ho = (H-1)//stride + 1.
        dilation: at least 1.
        heads: groups of C/heads neighbouring channels with a spatial filter each.
        combine: "mul" or "add".
        spatial_norm: S is given raw, and each of its filters normalised on the way (paper Eq. 3; sqrt(2)/k times what
            has mean 0 and deviation 1, as `ddfnet.nn.FilterNorm`); its gradient is that of the raw one. On a GPU a
            float32 filter of values below 1e-18 becomes 0: their squares are.
        backend: None runs the kernel registered for x's device (on an NVIDIA GPU the ones of cuda/, which need CuPy; an
            AMD GPU and others run the CPU's torch operations); "cpu" and "cuda" do the same and insist on the device,
            "cuda" on NVIDIA's; "reference" is the definition in plain torch, on any.

    Returns:
        (N, C, Ho, Wo) in the dtype and memory format of x, also where x is a part of a channels_last tensor; inside
        autocast in the autocast dtype. The same bits on every run of one kind of GPU, where x begins at the same
        multiple of bytes. It may be modified in place. torch.fx records the call as one node.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
        ddfnet.errors.UserError: on a GPU, where CuPy is missing or does not fit; it names the line to run.
    """
    if has_torch_function((x, channel_filter, spatial_filter)):  # torch.fx's proxies, subclasses of Tensor, modes
        return handle_torch_function(
            ddf,
            (x, channel_filter, spatial_filter),
            x,
            channel_filter,
            spatial_filter,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            heads=heads,
            combine=combine,
            spatial_norm=spatial_norm,
            backend=backend,
        )
    x, channel_filter, spatial_filter = dispatch.follow_autocast(x, channel_filter, spatial_filter)
    options = DDFOptions(kernel_size, stride, dilation, heads, combine, spatial_norm)
    check_ddf("ddf", x, channel_filter, spatial_filter, options)
    if backend is not None:
        _check_backend(backend, x)
        if backend == "reference":
            return ddf_reference(x, channel_filter, spatial_filter, options)
    if dispatch.served_by_kernels(x) and dispatch.goes_straight(x, channel_filter, spatial_filter):
        return gpu.forward(x, channel_filter, spatial_filter, options)
    return ddf_op(x, channel_filter, spatial_filter, *options)


def _check_backend(backend, x: Tensor) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"ddf: backend is {backend!r}, expected None, 'reference', 'cpu' or 'cuda'")
    if backend in ("cpu", "cuda") and x.device.type != backend:
        raise ValueError(f"ddf: backend is {backend!r} but x is on {x.device}, expected x there or another backend")
    if backend == "cuda" and not dispatch.HAS_KERNELS:
        raise ValueError("ddf: backend is 'cuda' but this PyTorch is for AMD's GPUs, expected None or 'reference'")
