"""The public operator: arguments checked, autocast followed, backend picked."""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import cuda
from .library import HAS_KERNELS, ddf_op
from .reference import ddf_reference, output_size

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
            has mean 0 and deviation 1, as `ddfnet.nn.FilterNorm`); its gradient is that of the raw one.
        backend: None runs the kernel registered for x's device (on an NVIDIA GPU the ones of cuda/, which need CuPy; an
            AMD GPU and others run the CPU's torch operations); "cpu" and "cuda" do the same and insist on the device,
            "cuda" on NVIDIA's; "reference" is the definition in plain torch, on any.

    Returns:
        (N, C, Ho, Wo) in the dtype and memory format of x; inside autocast in the autocast dtype. It may be modified in
        place. torch.fx records the call as one node.

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
    x, channel_filter, spatial_filter = _follow_autocast(x, channel_filter, spatial_filter)
    _check(x, channel_filter, spatial_filter, kernel_size, stride, dilation, heads, combine, spatial_norm, backend)
    run = ddf_reference if backend == "reference" else ddf_op
    if HAS_KERNELS and x.is_cuda and run is ddf_op and _is_plain_inference(x, channel_filter, spatial_filter):
        run = cuda.forward
    return run(x, channel_filter, spatial_filter, kernel_size, stride, dilation, heads, combine, spatial_norm)


def _is_plain_inference(*tensors) -> bool:
    """Whether nothing watches the call: no autograd, compiler, tracer, profiler, mode or transform. Then the kernel is
    called without the dispatcher, which would cost as much again as all the rest of a launch."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(type(tensor) in _PLAIN for tensor in tensors)
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        and not torch.autograd._profiler_enabled()
        and torch._C._functorch.peek_interpreter_stack() is None
    )


_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def _follow_autocast(x, channel_filter, spatial_filter):
    # torch.library's register_autocast takes one fixed dtype, so it could not tell bf16 from fp16 regions
    device = x.device.type if isinstance(x, Tensor) else "cpu"
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return x, channel_filter, spatial_filter
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor):
        eligible = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(dtype) if eligible else tensor

    return cast(x), cast(channel_filter), cast(spatial_filter)


def _check(
    x, channel_filter, spatial_filter, kernel_size, stride, dilation, heads, combine, spatial_norm, backend
) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"ddf: x is a {type(x).__name__}, expected a Tensor")
    if x.dim() != 4:
        raise ValueError(f"ddf: x has shape {tuple(x.shape)}, expected 4 dimensions (N, C, H, W)")
    if x.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"ddf: x is {x.dtype}, expected float64, float32, float16 or bfloat16")
    for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation), ("heads", heads)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"ddf: {name} is {value!r}, expected an integer of at least 1")
    if kernel_size % 2 == 0:
        raise ValueError(f"ddf: kernel_size is {kernel_size}, expected an odd number")
    n, channels, height, width = x.shape
    if channels % heads:
        raise ValueError(f"ddf: heads is {heads}, expected a divisor of x's {channels} channels")
    if height < 1 or width < 1:
        raise ValueError(f"ddf: x has shape {tuple(x.shape)}, expected a map of at least 1x1 pixels")
    if combine not in ("mul", "add"):
        raise ValueError(f"ddf: combine is {combine!r}, expected 'mul' or 'add'")
    if backend not in BACKENDS:
        raise ValueError(f"ddf: backend is {backend!r}, expected None, 'reference', 'cpu' or 'cuda'")
    if backend in ("cpu", "cuda") and x.device.type != backend:
        raise ValueError(f"ddf: backend is {backend!r} but x is on {x.device}, expected x there or another backend")
    if backend == "cuda" and not HAS_KERNELS:
        raise ValueError("ddf: backend is 'cuda' but this PyTorch is for AMD's GPUs, expected None or 'reference'")
    if channel_filter is None and spatial_filter is None:
        raise ValueError("ddf: channel_filter and spatial_filter are both None, expected at least one of them")
    if spatial_norm and spatial_filter is None:
        raise ValueError("ddf: spatial_norm is True but spatial_filter is None, expected a filter to normalise")
    if spatial_norm and kernel_size == 1:
        raise ValueError("ddf: spatial_norm is True but kernel_size is 1, expected more than one tap to normalise")
    out_size = output_size(height, width, stride)
    for name, value, shape, meaning in (
        ("channel_filter", channel_filter, (n, channels, kernel_size, kernel_size), "(N, C, k, k)"),
        (
            "spatial_filter",
            spatial_filter,
            (n, heads * kernel_size**2, *out_size),
            "(N, heads*k*k, Ho, Wo)",
        ),
    ):
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"ddf: {name} is a {type(value).__name__}, expected a Tensor or None")
        if value.device != x.device:
            raise ValueError(f"ddf: {name} is on {value.device}, expected {x.device}, the device of x")
        if value.dtype != x.dtype:
            raise TypeError(f"ddf: {name} is {value.dtype}, expected {x.dtype}, the dtype of x")
        if value.shape != shape:
            raise ValueError(f"ddf: {name} has shape {tuple(value.shape)}, expected {tuple(shape)} = {meaning}")
