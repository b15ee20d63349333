"""Draw the filters that a trained network generates for a picture: the paper's Figure 1 from real values.

    python scripts/draw_filters.py --ckpt runs/quickstart/checkpoints/best.pt --image photo.jpg --output filters.png

Needs matplotlib (the dev extra).
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import ConnectionPatch, Rectangle
from PIL import Image

from ddfnet.checkpoint_file import read_run_checkpoint
from ddfnet.config import parse_config
from ddfnet.data.picture import without_far_ends
from ddfnet.errors import UserError
from ddfnet.models import load_checkpoint
from ddfnet.models.build import build_model
from ddfnet.paths import expanded, path_of
from ddfnet.tasks.filter_pictures import generated_filters


def patch(axes, values, limit, title="", size=10):
    axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=size)


def draw(picture, channel_filter, spatial_filter, points, output: Path) -> None:
    """Three pixels' spatial filters, three channels' filters, and their nine products."""
    k = channel_filter.shape[-1]
    height, width = spatial_filter.shape[1:]
    scale = picture.size[0] / width, picture.size[1] / height
    pixels = [(int(y * height), int(x * width)) for x, y in points]
    spread = channel_filter.flatten(1).std(1).argsort(descending=True)
    channels = [int(c) for c in spread[:3]]
    colours = ["#e69f00", "#009e73", "#cc79a7"]

    figure = plt.figure(figsize=(13, 5.6), dpi=110)
    grid = figure.add_gridspec(4, 9, width_ratios=[4.6, 0.9, 1, 0.35, 1, 1, 1, 0.35, 1.9], hspace=0.35, wspace=0.12)
    photo = figure.add_subplot(grid[:, 0])
    photo.imshow(picture)
    photo.set(xticks=[], yticks=[])
    photo.set_title("a picture", fontsize=12)
    spatial = [spatial_filter[:, y, x].view(k, k) for y, x in pixels]
    spatial_limit = max(values.abs().max().item() for values in spatial)
    channel_limit = max(channel_filter[c].abs().max().item() for c in channels)
    for column, channel in enumerate(channels):
        title = "channel filters,\none a channel" if column == 1 else ""
        patch(figure.add_subplot(grid[0, 4 + column]), channel_filter[channel], channel_limit, title, 12)
    for row, ((y, x), values, colour) in enumerate(zip(pixels, spatial, colours, strict=True)):
        axes = figure.add_subplot(grid[1 + row, 2])
        patch(axes, values, spatial_limit, "spatial filters,\none a pixel" if row == 0 else "", 12)
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=3)
        centre = ((x + 0.5) * scale[0], (y + 0.5) * scale[1])
        corner = (centre[0] - 1.5 * scale[0], centre[1] - 1.5 * scale[1])
        photo.add_patch(Rectangle(corner, 3 * scale[0], 3 * scale[1], fill=False, edgecolor=colour, linewidth=2.5))
        ends = dict(xyA=centre, coordsA=photo.transData, xyB=(0, 0.5), coordsB=axes.transAxes)
        line = ConnectionPatch(**ends, color=colour, linewidth=1.2)
        figure.add_artist(line)
        for column, channel in enumerate(channels):
            product = values * channel_filter[channel]
            patch(figure.add_subplot(grid[1 + row, 4 + column]), product, product.abs().max().item())
    for row, tap in enumerate((k * k // 2, k * k // 2 + 1, 0, k * k - 1)):
        values = spatial_filter[tap]
        title = "one tap of the spatial\nfilter, at every pixel" if row == 0 else ""
        patch(figure.add_subplot(grid[row, 8]), values, values.abs().max().item(), title, 12)
    figure.text(0.635, 0.03, "their products: the filter of each pixel and channel", ha="center", fontsize=12)
    figure.savefig(output, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=expanded, required=True, help="last.pt or best.pt of a run")
    parser.add_argument("--image", type=expanded, required=True, help="any picture")
    parser.add_argument("--size", type=int, default=448, help="pixels of the shorter side")
    parser.add_argument("--layer", default=None, help="name of a DDF module (default: the first)")
    parser.add_argument(
        "--points", type=float, nargs=6, default=[0.25, 0.25, 0.5, 0.55, 0.75, 0.8], help="x y x y x y in 0..1"
    )
    parser.add_argument("--output", type=path_of, required=True)
    args = parser.parse_args()

    config = parse_config(read_run_checkpoint(args.ckpt)["config"])
    classes = read_run_checkpoint(args.ckpt)["state_dict"]["fc.bias"].numel()
    model = load_checkpoint(build_model(config, classes, pretrained=False), args.ckpt)
    picture = without_far_ends(Image.open(args.image).convert("RGB"))
    factor = args.size / min(picture.size)
    picture = picture.resize([round(side * factor) for side in picture.size], Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*reversed(picture.size), 3)
    mean, std = torch.tensor(config.data.mean), torch.tensor(config.data.std)
    x = ((pixels / 255 - mean) / std).permute(2, 0, 1)[None]
    points = list(zip(args.points[::2], args.points[1::2], strict=True))
    filters = generated_filters(model, x)
    channel_filter, spatial_filter = filters[args.layer or next(iter(filters))]
    draw(picture, channel_filter[0], spatial_filter[0, 0], points, args.output)


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
