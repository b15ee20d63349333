"""Draw the filters that a trained network generates for a picture: the paper's Figure 1 from real values.

    python scripts/draw_filters.py --ckpt runs/quickstart/checkpoints/best.pt --image photo.jpg --output filters.png

Needs matplotlib (the dev extra).
"""

import argparse
import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddfnet import cli
from ddfnet.data.picture import decode, without_far_ends
from ddfnet.errors import UserError, did_you_mean
from ddfnet.files import write_whole
from ddfnet.paths import expanded, path_of
from ddfnet.tasks.classification.candidates import Candidate, open_checkpoint
from ddfnet.tasks.classification.confusion_picture import require_drawable
from ddfnet.tasks.filter_pictures import generated_filters

COLOURS = ["#e69f00", "#009e73", "#cc79a7"]  # of the three pixels


class Drawn(NamedTuple):
    """What is drawn, of one layer and one picture."""

    picture: Image.Image
    channel_filter: Tensor  # (C, k, k)
    spatial_filter: Tensor  # (k*k, H, W)
    pixels: list[tuple[int, int]]  # (y, x) of the three in the spatial filter
    channels: list[int]  # the three whose filters differ most within themselves

    def spatial(self, y: int, x: int) -> Tensor:
        return self.spatial_filter[:, y, x].view(self.channel_filter.shape[1:])


def open_picture(path: str, size: int) -> Image.Image:
    """Return the picture in RGB with a shorter side of `size` pixels."""
    try:
        blob = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--image {path}: cannot be read: {error.strerror}, expected a picture's file") from None
    picture = without_far_ends(decode(blob, path))
    factor = size / min(picture.size)
    return picture.resize([round(side * factor) for side in picture.size], Image.Resampling.LANCZOS)


def open_filters(candidate: Candidate, picture: Image.Image, layer: str | None) -> tuple[Tensor, Tensor]:
    """Return a layer's filters for the picture, (C, k, k) and (k*k, H, W) of the first head; by default the first's."""
    mean, std = torch.tensor(candidate.config.data.mean), torch.tensor(candidate.config.data.std)
    pixels = torch.from_numpy(np.array(picture))  # H, W, 3
    filters = generated_filters(candidate.model, ((pixels / 255 - mean) / std).permute(2, 0, 1)[None])
    if not filters:
        name = candidate.config.model.name
        raise UserError(f"{candidate.origin}: {name} has no DDF layer to draw, expected a network such as ddf_resnet50")
    name = layer or next(iter(filters))
    if name not in filters:
        hint = did_you_mean(name, filters) or f", expected one of {', '.join(filters)}"
        raise UserError(f"--layer {name}: no DDF layer of {candidate.config.model.name}{hint}")
    channel_filter, spatial_filter = filters[name]
    if channel_filter is None or spatial_filter is None:
        missing = "channel" if channel_filter is None else "spatial"
        raise UserError(f"{candidate.origin}: {name} has no {missing} filter, expected a network with both branches")
    return channel_filter[0], spatial_filter[0, 0]


def draw_patch(axes: Any, values: Tensor, limit: float, title: str = "") -> None:
    axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=12)


def draw(drawn: Drawn, kind: str) -> bytes:
    """Return a picture's file of three pixels' spatial filters, three channels' filters, and their nine products."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.6), dpi=110)
    grid = figure.add_gridspec(4, 9, width_ratios=[4.6, 0.9, 1, 0.35, 1, 1, 1, 0.35, 1.9], hspace=0.35, wspace=0.12)
    photo = figure.add_subplot(grid[:, 0])
    photo.imshow(drawn.picture)
    photo.set(xticks=[], yticks=[])
    photo.set_title("a picture", fontsize=12)
    limit = max(drawn.channel_filter[c].abs().max().item() for c in drawn.channels)
    for column, channel in enumerate(drawn.channels):
        title = "channel filters,\none a channel" if column == 1 else ""
        draw_patch(figure.add_subplot(grid[0, 4 + column]), drawn.channel_filter[channel], limit, title)
    for row in range(len(drawn.pixels)):
        draw_pixel(figure, grid, photo, drawn, row)
    taps = len(drawn.spatial_filter)
    for row, tap in enumerate((taps // 2, taps // 2 + 1, 0, taps - 1)):
        values = drawn.spatial_filter[tap]
        title = "one tap of the spatial\nfilter, at every pixel" if row == 0 else ""
        draw_patch(figure.add_subplot(grid[row, 8]), values, values.abs().max().item(), title)
    figure.text(0.635, 0.03, "their products: the filter of each pixel and channel", ha="center", fontsize=12)
    file = io.BytesIO()
    figure.savefig(file, format=kind, bbox_inches="tight")
    return file.getvalue()


def draw_pixel(figure: Any, grid: Any, photo: Any, drawn: Drawn, row: int) -> None:
    """Draw a row: one pixel's spatial filter, where in the photo it is, and its products with the channels' filters."""
    from matplotlib.patches import ConnectionPatch, Rectangle

    (y, x), colour = drawn.pixels[row], COLOURS[row]
    values = drawn.spatial(y, x)
    limit = max(drawn.spatial(*pixel).abs().max().item() for pixel in drawn.pixels)
    axes = figure.add_subplot(grid[1 + row, 2])
    draw_patch(axes, values, limit, "spatial filters,\none a pixel" if row == 0 else "")
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=3)
    height, width = drawn.spatial_filter.shape[1:]
    wide, high = drawn.picture.width / width, drawn.picture.height / height  # of one of its pixels, in the photo's
    centre = ((x + 0.5) * wide, (y + 0.5) * high)
    corner = (centre[0] - 1.5 * wide, centre[1] - 1.5 * high)
    photo.add_patch(Rectangle(corner, 3 * wide, 3 * high, fill=False, edgecolor=colour, linewidth=2.5))
    ends = dict(xyA=centre, coordsA=photo.transData, xyB=(0, 0.5), coordsB=axes.transAxes)
    figure.add_artist(ConnectionPatch(**ends, color=colour, linewidth=1.2))
    for column, channel in enumerate(drawn.channels):
        product = values * drawn.channel_filter[channel]
        draw_patch(figure.add_subplot(grid[1 + row, 4 + column]), product, product.abs().max().item())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=expanded, required=True, help="last.pt or best.pt of a run")
    parser.add_argument("--image", type=expanded, required=True, help="any picture")
    parser.add_argument("--size", type=int, default=448, help="pixels of the shorter side")
    parser.add_argument("--layer", default=None, help="name of a DDF module (default: the first)")
    parser.add_argument(
        "--points", type=float, nargs=6, default=[0.25, 0.25, 0.5, 0.55, 0.75, 0.8], help="x y x y x y in 0..1"
    )
    parser.add_argument("--output", type=path_of, required=True)
    args = parser.parse_args(arguments)
    if args.size < 1:
        raise UserError(f"--size {args.size}: expected the pixels of the shorter side, 1 or more")
    if wrong := [point for point in args.points if not 0 <= point <= 1]:
        raise UserError(f"--points: {wrong[0]:g} is outside the picture, expected x y x y x y, each from 0 to 1")
    output = args.output if args.output.suffix else Path(f"{args.output}.png")
    require_drawable(output)
    picture = open_picture(args.image, args.size)
    channel_filter, spatial_filter = open_filters(open_checkpoint(args.ckpt, []), picture, args.layer)
    height, width = spatial_filter.shape[1:]
    places = zip(args.points[::2], args.points[1::2], strict=True)
    pixels = [(min(int(y * height), height - 1), min(int(x * width), width - 1)) for x, y in places]
    channels = channel_filter.flatten(1).std(1).argsort(descending=True)[:3].tolist()
    write_whole(output, draw(Drawn(picture, channel_filter, spatial_filter, pixels, channels), output.suffix[1:]))


if __name__ == "__main__":
    cli.run(main)
