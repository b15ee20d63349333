"""Pack a dataset's pictures, made smaller, into one file for each split, for machines whose CPUs are short.

    python scripts/pack.py /data/imagenet --output /fast/imagenet-packed
    python scripts/pack.py --config configs/ddf_r50.yaml --output /fast/imagenet-packed --size 320
    python train.py --config configs/ddf_r50.yaml data.source=packed data.root=/fast/imagenet-packed

A training step then costs a crop and a resize, no decoding. The shorter side becomes --size pixels, and the whole
picture is kept, but for the ends of one over 64 times as long as wide: at 256 about 250 KB each, 315 GB for ImageNet.
With --size = image_size / crop_pct, and as data.eval_interpolation says, evaluation gives the very same figures as from
the files. A packing that was stopped goes on when the same command is given again.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ddfnet import cli
from ddfnet.config.data_arguments import add_arguments, data_section
from ddfnet.data import number_alike, open_source, pack
from ddfnet.errors import UserError
from ddfnet.paths import path_of
from ddfnet.printable import printable
from ddfnet.tasks.classification.augment import eval_interpolation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--output", type=path_of, required=True, metavar="FOLDER", help="for train.pack and val.pack")
    parser.add_argument("--size", type=int, default=256, help="pixels of the shorter side (default: 256)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    args = parser.parse_intermixed_args()
    data = data_section(args)
    if data.source == "packed":
        raise UserError("data.source = 'packed': the pictures are packed already")
    if args.size < 1 or args.workers < 1:
        raise UserError(f"--size {args.size} --workers {args.workers}: expected numbers above 0")
    splits = {"train": data.train_split, "val": data.val_split}
    sources = {
        name: open_source(data.source, data.root, split, name == "train", 0, data.synthetic_pictures)
        for name, split in splits.items()
    }
    number_alike(sources["train"].classes, sources["val"])
    for name, source in sources.items():
        path = args.output / f"{splits[name] if splits[name].isidentifier() else name}.pack"
        columns = (TextColumn(printable(str(path))), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task("", total=len(source.labels))
            bad = pack(
                *(source, path, args.size, eval_interpolation(data) == "bicubic", args.workers),
                leave_out_corrupt=data.on_corrupt == "replace",
                progress=lambda done, bar=bar, task=task: bar.update(task, completed=done),
            )
        for sentence in bad:
            print(f"left out: {printable(sentence)}")


if __name__ == "__main__":
    cli.run(main, interrupted="stopped; the same command goes on from here", code=1)
