"""Which way a call takes: autocast's dtype, and past the dispatcher where nothing watches."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

HAS_KERNELS = torch.version.hip is None  # AMD's GPUs call themselves "cuda" too; they run the CPU's torch operations


def served_by_kernels(x: Tensor) -> bool:
    """Return whether the kernels of cuda/ serve x: it lies on an NVIDIA GPU."""
    return HAS_KERNELS and x.is_cuda


def goes_straight(*tensors: Tensor | None) -> bool:
    """Return whether nothing watches a call: no autograd, compiler, tracer, profiler, mode or transform.

    Then the kernels are called without the dispatcher, which would cost as much again as all the rest of a launch.
    """
    for tensor in tensors:  # a third of the time of all()
        if type(tensor) not in _PLAIN:
            return False
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        and not torch.autograd._profiler_enabled()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0  # tangents travel without gradients too
    )


_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def follow_autocast(x, *others):
    """Return x and the others, those of floating point but float64 in the dtype of the autocast region around."""
    # torch.library's register_autocast takes one fixed dtype, so it could not tell bf16 from fp16 regions
    device = x.device.type if isinstance(x, Tensor) else "cpu"
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return x, *others
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor):
        eligible = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(dtype) if eligible else tensor

    return tuple(map(cast, (x, *others)))
