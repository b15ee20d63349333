"""For inference: a DDF, the batch norm after it and the ReLU after that in one launch, its branches' reading in one."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ops import ddf_branches, ddf_inference
from .ddf import DDF

# one node of a graph each
torch.fx.wrap("ddf_branches")
torch.fx.wrap("ddf_inference")


class FusedDDF(nn.Module):
    """relu(norm(ddf(x))) of a batch norm in eval mode, whose scale and bias the operator applies (float32). What both
    branches need of x comes from one pass over it.

    Args:
        ddf: a DDF.
        norm: the batch norm after it; its statistics and parameters are copied.
        relu: whether a ReLU follows.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, ddf: DDF, norm: nn.BatchNorm2d | nn.SyncBatchNorm, relu: bool):
        super().__init__()
        self.ddf, self.relu = ddf, relu
        assert norm.running_var is not None and norm.running_mean is not None
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        bias = -norm.running_mean.double() * scale
        if norm.affine:
            scale, bias = scale * norm.weight.double(), bias * norm.weight.double() + norm.bias.double()
        dtype = torch.promote_types(norm.running_var.dtype, torch.float32)
        self.register_buffer("scale", scale.detach().to(dtype))
        self.register_buffer("bias", bias.detach().to(dtype))

    def _apply(self, fn, recurse=True):
        """Moves with the module, but keeps float32 when that becomes half or bfloat16: the kernels take it so."""
        before = {"scale": self.scale, "bias": self.bias}
        super()._apply(fn, recurse)
        for name, value in before.items():
            after = getattr(self, name)
            if after.dtype != torch.promote_types(after.dtype, value.dtype) and not value.is_meta:
                setattr(self, name, value.to(after.device))
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("FusedDDF: the network is in training mode, expected eval(): it was fused for inference")
        channel_filter, spatial_filter = self._operands(x)
        return ddf_inference(
            x,
            channel_filter,
            spatial_filter,
            self.scale,
            self.bias,
            relu=self.relu,
            kernel_size=self.ddf.kernel_size,
            stride=self.ddf.stride,
            dilation=self.ddf.dilation,
            heads=self.ddf.heads,
            combine=self.ddf.combine,
            spatial_norm=self.ddf.spatial_norm,
        )

    def _operands(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """As DDF.operands, with one pass over x for both branches."""
        spatial_branch, channel_branch = self.ddf.spatial_branch, self.ddf.channel_branch
        if spatial_branch is None or channel_branch is None:
            return self.ddf.operands(x)
        project: Any = spatial_branch[0]
        spatial_filter, pooled = ddf_branches(x, project.weight.flatten(1), project.bias, self.ddf.stride)
        channel_filter = pooled[:, :, None, None]
        for layer in list(channel_branch)[1:]:  # after the pooling
            channel_filter = layer(channel_filter)
        channel_filter = channel_filter.view(-1, self.ddf.channels, self.ddf.kernel_size, self.ddf.kernel_size)
        return channel_filter, spatial_filter if self.ddf.spatial_norm else spatial_branch[1](spatial_filter)

    def extra_repr(self) -> str:
        return f"relu={self.relu}"


def fuse_for_inference(model: nn.Module) -> list[str]:
    """Fuses each DDF of `model` that a batch norm follows, with the ReLU after it where there is one; in place.

    The outputs are equal up to rounding. The batch norm and the ReLU leave an nn.Identity behind, so the names of a
    checkpoint no longer fit: load it before. Parameters no longer require gradients. What follows what is read off
    torch.fx's trace of the model, or of those of its parts that torch.fx can follow. A ReLU that the model uses in
    other places too, as torchvision's do, stays as it is. For TorchScript a fused network is traced (torch.jit.trace):
    its compiler does not take one.

    Args:
        model: any network, in eval mode.

    Returns:
        The names of the DDFs that were fused.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("fuse_for_inference: the model is in training mode, expected model.eval()")
    fused = []
    for name, norm_name, relu_name in list(_chains(model, "")):
        ddf: Any = model.get_submodule(name)
        norm: Any = model.get_submodule(norm_name)
        model.set_submodule(name, FusedDDF(ddf, norm, relu_name is not None))
        for emptied in (norm_name, relu_name):
            if emptied is not None:
                model.set_submodule(emptied, nn.Identity())
        fused.append(name)
    model.eval().requires_grad_(False)
    return fused


class _Tracer(fx.Tracer):
    """Looks into modules that hold a DDF, and into no other."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (DDF, FusedDDF)) or not _holds_ddf(module)


def _holds_ddf(module: nn.Module) -> bool:
    return any(isinstance(part, DDF) for part in module.modules())


def _chains(module: nn.Module, prefix: str) -> Iterator[tuple[str, str, str | None]]:
    """(DDF, batch norm, ReLU or None) by name, of which each is called once and is all that sees the one before."""
    try:
        graph = _Tracer().trace(module)
    except Exception:  # its forward asks for values: torch.fx has many errors for that
        for name, child in module.named_children():
            if _holds_ddf(child) and not isinstance(child, (DDF, FusedDDF)):
                yield from _chains(child, f"{prefix}{name}.")
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")

    def only_user(node: fx.Node) -> tuple[fx.Node, nn.Module] | None:
        users = [user for user in node.users if user.op == "call_module" and len(node.users) == 1]
        if not users or calls[users[0].target] > 1:
            return None
        return users[0], module.get_submodule(str(users[0].target))

    for node in graph.nodes:
        if node.op != "call_module" or calls[node.target] > 1:
            continue
        if not isinstance(module.get_submodule(str(node.target)), DDF):
            continue
        found = only_user(node)
        if found is None or type(found[1]) not in (nn.BatchNorm2d, nn.SyncBatchNorm) or found[1].running_var is None:
            continue
        norm, after = found[0], only_user(found[0])
        while after is not None and isinstance(after[1], nn.Identity):
            after = only_user(after[0])
        relu = f"{prefix}{after[0].target}" if after is not None and type(after[1]) is nn.ReLU else None
        yield f"{prefix}{node.target}", f"{prefix}{norm.target}", relu
