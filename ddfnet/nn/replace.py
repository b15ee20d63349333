"""The paper's drop-in claim as a function: a DDF in place of every k x k convolution of an existing network."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import fx, nn

from .ddf import DDF, DDFPointwise


class Replacement(NamedTuple):
    """Names of the convolutions replaced, with what stands there now, and of those left, with the reason."""

    replaced: dict[str, str]
    left: dict[str, str]


def replace_convolutions(
    model: nn.Module, where: Callable[[str, nn.Conv2d], bool] | None = None, **options
) -> Replacement:
    """Swap, in place, the k x k convolutions (k > 1) of a network for DDF modules of the same stride and dilation.

    Where a convolution changes the number of channels, a 1x1 convolution follows the DDF and keeps its bias; elsewhere
    a DDF has no bias. The new modules take the old ones' device, dtype and training mode; their weights are new.

    Args:
        model: any network of torch.nn.Conv2d layers, timm's and torchvision's among them.
        where: (name, convolution) -> whether to replace it, whatever is frozen or hooked. Default: all but the stem,
            which sees the image (the paper's networks keep it), those that are frozen (their weights are to stay), and
            those with hooks (which would be lost).
        options: for every DDF, such as squeeze_ratio=0.3 or norm="sigmoid".

    Raises:
        ValueError: the model is itself a convolution, which cannot be replaced in place; an option that the DDF does
            not take or that a convolution decides. The model is then as it was.
    """
    if isinstance(model, nn.Conv2d):
        raise ValueError("replace_convolutions: model is a convolution, expected a network that contains some")
    for name in {"kernel_size", "stride", "dilation", "device", "dtype"} & options.keys():
        raise ValueError(f"replace_convolutions: {name} = {options[name]!r} comes from each convolution, leave it out")
    replaced: dict[str, nn.Module] = {}
    left: dict[str, str] = {}
    new_modules: dict[nn.Module, nn.Module] = {}  # a convolution used twice stays one module used twice
    convolutions = [
        (name, module) for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, nn.Conv2d)
    ]
    stem = _stem(model, [conv for _, conv in convolutions]) if where is None else None
    for name, conv in convolutions:
        reason = _reason_to_leave(conv)
        if reason is None and where is None:
            reason = _reason_to_ask(conv, stem)
        if reason is None and where is not None and not where(name, conv):
            reason = "not asked for by `where`"
        if reason is not None:
            left[name] = reason
            continue
        if conv not in new_modules:
            new_modules[conv] = _ddf_for(conv, options)
        replaced[name] = new_modules[conv]
    for name, module in replaced.items():  # only now, when all of them could be built
        model.set_submodule(name, module)
    return Replacement({name: type(module).__name__ for name, module in replaced.items()}, left)


def _reason_to_leave(conv: nn.Conv2d) -> str | None:
    """Why a DDF cannot stand for this convolution, or None."""
    if type(conv) is not nn.Conv2d:
        return f"a {type(conv).__name__}, which computes more than a convolution"
    kernel_size, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
    if kernel_size == (1, 1):
        return "1x1, without a neighbourhood to filter"
    if any(a != b for a, b in (kernel_size, stride, dilation)):
        return f"kernel {kernel_size}, stride {stride}, dilation {dilation} differ between rows and columns"
    if kernel_size[0] % 2 == 0:
        return f"an even kernel, {kernel_size[0]}x{kernel_size[1]}"
    same = dilation[0] * (kernel_size[0] // 2)
    if conv.padding not in ((same, same), "same"):
        return f"padding {conv.padding}, a DDF has {same}"
    if conv.padding_mode != "zeros":
        return f"padding with {conv.padding_mode}, a DDF pads with zeros"
    if conv.groups > 1 and conv.in_channels != conv.out_channels:
        return f"{conv.groups} groups and {conv.in_channels} to {conv.out_channels} channels"
    return None


def _reason_to_ask(conv: nn.Conv2d, stem: nn.Conv2d | None) -> str | None:
    """Why only `where` may choose this convolution, or None."""
    hooks = [kind for kind, hooks in vars(conv).items() if kind.endswith("_hooks") and hooks]
    if conv is stem:
        reason = "the stem"
    elif not conv.weight.requires_grad:
        reason = "frozen"
    elif hooks or conv.weight._backward_hooks or getattr(conv.weight, "_post_accumulate_grad_hooks", None):
        reason = f"hooked ({', '.join(hooks) or 'its weight'})"
    elif "forward" in vars(conv):
        reason = "with a forward of its own"
    else:
        return None
    return f"{reason}; name it in `where` to replace it"


def _stem(model: nn.Module, convolutions: list[nn.Conv2d]) -> nn.Conv2d | None:
    """The convolution that is called first; where torch.fx cannot follow the model, the first one of colour images."""

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, nn.Conv2d) or not any(isinstance(part, nn.Conv2d) for part in module.modules())

    try:
        graph = Tracer().trace(model)
    except Exception:  # its forward asks for values: torch.fx has many errors for that
        return next((conv for conv in convolutions if conv.in_channels == 3), next(iter(convolutions), None))
    called: list[Any] = [model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]
    return next((module for module in called if isinstance(module, nn.Conv2d)), None)


def _ddf_for(conv: nn.Conv2d, options: dict) -> nn.Module:
    options = dict(
        options,
        kernel_size=conv.kernel_size[0],
        stride=conv.stride[0],
        dilation=conv.dilation[0],
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    if conv.in_channels == conv.out_channels:
        new: nn.Module = DDF(conv.in_channels, **options)
    else:
        new = DDFPointwise(conv.in_channels, conv.out_channels, bias=conv.bias is not None, **options)
    return new.train(conv.training)
