"""The filters that a network generates for one picture, as pictures."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modes import evaluating
from ..nn import DDF


@torch.no_grad()
def filter_pictures(model: nn.Module, x: Tensor, count: int = 4) -> dict[str, Tensor]:
    """name -> (3, H, W) in 0..1, for up to `count` DDF modules spread over the depth of the network.

    Args:
        x: one normalised picture, (1, 3, H, W), on the model's device.

    The spatial filter is shown as k x k maps, one a tap, the channel filters as a mosaic of k x k patches; white is
    the largest value, black its negative.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, DDF)]
    step = max(1, (len(layers) - 1) // max(1, count - 1)) if layers else 1
    pictures: dict[str, Tensor] = {}

    def draw(name: str, layer: DDF, inputs: tuple[Tensor, ...]) -> None:
        channel_filter, spatial_filter = layer.filters(inputs[0])
        if spatial_filter is not None:
            pictures[f"spatial/{name}"] = _gray(_tiles(spatial_filter[0, : layer.kernel_size**2], gap=1))
        if channel_filter is not None:
            pictures[f"channel/{name}"] = _gray(_tiles(channel_filter[0], gap=1))

    def hook(name: str):
        return lambda layer, inputs: draw(name, layer, inputs)

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers[::step][:count]]
    try:
        with evaluating(model):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return pictures


def _tiles(maps: Tensor, gap: int) -> Tensor:
    """(n, H, W) as one (rows*(H+gap), columns*(W+gap)) mosaic, about as wide as high."""
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
