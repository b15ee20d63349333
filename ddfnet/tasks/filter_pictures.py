"""The filters that a network generates, as pictures of one picture's and as values for histograms."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..eval_mode import evaluating
from ..nn import DDF

Filters = dict[str, tuple[Tensor | None, Tensor | None]]


@torch.no_grad()
def generated_filters(model: nn.Module, x: Tensor) -> Filters:
    """name of each DDF module -> its filters for x: (N, C, k, k) per channel, (N, heads, k*k, Ho, Wo) per pixel.

    Args:
        x: normalised pictures, (N, 3, H, W), on the model's device.
    """
    filters: Filters = {}

    def keep(name: str):
        def hook(layer: DDF, inputs: tuple[Tensor, ...]) -> None:
            channel_filter, spatial_filter = layer.filters(inputs[0])
            if spatial_filter is not None:
                spatial_filter = spatial_filter.unflatten(1, (layer.heads, -1))
            filters[name] = channel_filter, spatial_filter

        return hook

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, DDF)]
    handles = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers]
    try:
        with evaluating(model):
            model.forward(x)  # by model(x) a compiled one would pass the hooks by
    finally:
        for handle in handles:
            handle.remove()
    return filters


def filter_pictures(filters: Filters, count: int = 4) -> dict[str, Tensor]:
    """name -> (3, H, W) in 0..1, for up to `count` layers spread over the depth of the network.

    What is shown is of the first picture and the first head. The spatial filter is shown as k x k maps, one a tap,
    the channel filters as a mosaic of k x k patches; white is the largest value, black its negative.
    """
    step = max(1, (len(filters) - 1) // max(1, count - 1))
    pictures: dict[str, Tensor] = {}
    for name, (channel_filter, spatial_filter) in list(filters.items())[::step][:count]:
        if spatial_filter is not None:
            pictures[f"spatial/{name}"] = _gray(mosaic(spatial_filter[0, 0], gap=1))
        if channel_filter is not None:
            pictures[f"channel/{name}"] = _gray(mosaic(channel_filter[0], gap=1))
    return pictures


def filter_histograms(filters: Filters) -> dict[str, Tensor]:
    """name -> all values of a layer's spatial or channel filters, (n,) on the CPU."""
    return {
        f"{kind}/{name}": values.float().flatten().cpu()
        for name, both in filters.items()
        for kind, values in zip(("channel", "spatial"), both, strict=True)
        if values is not None
    }


def mosaic(maps: Tensor, gap: int) -> Tensor:
    """(n, H, W) as one (rows*(H+gap), columns*(W+gap)), about as wide as high."""
    n, height, _ = maps.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    maps = F.pad(maps.float(), (0, gap, 0, gap, 0, rows * columns - n))
    return maps.unflatten(0, (rows, columns)).transpose(1, 2).reshape(rows * (height + gap), -1)


def _gray(values: Tensor) -> Tensor:
    """(H, W) of any sign as (3, H, W) in 0..1, zero in the middle; small ones enlarged."""
    scaled = values / values.abs().max().clamp(min=1e-12) / 2 + 0.5
    factor = max(1, 256 // max(scaled.shape))
    return F.interpolate(scaled[None, None], scale_factor=factor, mode="nearest")[0].expand(3, -1, -1).cpu()
