"""Check a dataset before a week of training does: decode every picture, compare the splits, count.

    python scripts/verify_data.py /data/imagenet
    python scripts/verify_data.py --config configs/ddf_r50.yaml data.source=packed data.root=/fast/imagenet-packed

Lists pictures that cannot be read or decoded (of packed ones: whose checksum is wrong), classes without a picture in a
split or that only one split has, and, where the classes are ImageNet's, how the counts differ from its 1,281,167
pictures to train and 50,000 to validate. The exit code is 0 for a dataset that is in order, 1 otherwise.
"""

import argparse
import contextlib
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ddfnet import cli
from ddfnet.config.data_arguments import add_arguments, data_section
from ddfnet.counted import counted
from ddfnet.data import Packed, Source, number_alike, open_source
from ddfnet.data.processes import in_order
from ddfnet.errors import UserError
from ddfnet.files import require_writable, write_whole
from ddfnet.paths import path_of
from ddfnet.printable import printable

IMAGENET = {"train": 1_281_167, "val": 50_000}
IMAGENET_CLASSES = 1000
SHOWN = 50  # lines of a list; the file of --list has them all


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    parser.add_argument("--imagenet", action="store_true", help="expect ImageNet's counts whatever the classes' names")
    parser.add_argument("--list", type=path_of, metavar="FILE", help="write what is wrong there, a sentence a line")
    args = parser.parse_intermixed_args()
    data = data_section(args)
    if args.list:
        require_writable(args.list)  # found out now, not after hours
    sources = {
        "train": open_source(data.source, data.root, data.train_split, True, 0, data.synthetic_pictures),
        "val": open_source(data.source, data.root, data.val_split, False, 0, data.synthetic_pictures),
    }
    number_alike(sources["train"].classes, sources["val"])
    wrong = [sentence for split, source in sources.items() for sentence in empty_classes(split, source)]
    wrong += differing_classes(sources["train"].classes, sources["val"].classes)
    for split, source in sources.items():
        wrong += bad_pictures(split, source, args.workers)
    is_imagenet = args.imagenet or looks_like_imagenet(sources["train"].classes)
    if is_imagenet:
        wrong += differences_from_imagenet(sources)
    try:
        if args.list:
            write_whole(args.list, "".join(f"{sentence}\n" for sentence in wrong))
    finally:  # a disk that is full keeps nobody from reading what was found
        show(data.root, sources, wrong, is_imagenet)
    return 1 if wrong else 0


def show(root: str, sources: dict[str, Source], wrong: list[str], is_imagenet: bool) -> None:
    for sentence in wrong[:SHOWN]:
        print(printable(sentence))
    if len(wrong) > SHOWN:
        print(f"... and {len(wrong) - SHOWN:,} more")
    found = ", ".join(f"{size_of(source)} in {split}" for split, source in sources.items())
    verdict = (
        f"{counted(len(wrong), 'thing is', 'things are')} wrong"
        if wrong
        else "in order" + (", all of ImageNet-1k" * is_imagenet)
    )
    print(f"{printable(root)}: {found}: {verdict}")


def size_of(source: Source) -> str:
    return f"{counted(len(source.labels), 'picture')} of {counted(len(source.classes), 'class')}"


def empty_classes(split: str, source: Source) -> list[str]:
    counts = np.bincount(source.labels, minlength=len(source.classes))
    return [f"{split}: class {source.classes[number]} has no picture" for number in np.flatnonzero(counts == 0)]


def differing_classes(train: list[str], val: list[str]) -> list[str]:
    both = set(train) & set(val)
    found = [f"class {name} is in train only" for name in train if name not in both]
    found += [f"class {name} is in val only" for name in val if name not in both]
    if not found and train != val:
        found.append("the classes of train and val are in another order")
    return found


def looks_like_imagenet(classes: list[str]) -> bool:
    return len(classes) >= IMAGENET_CLASSES - 10 and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def differences_from_imagenet(sources: dict[str, Source]) -> list[str]:
    found = []
    for split, source in sources.items():
        if len(source.classes) != IMAGENET_CLASSES:
            found.append(f"{split}: {counted(len(source.classes), 'class')}, ImageNet-1k has {IMAGENET_CLASSES:,}")
        if len(source.labels) != IMAGENET[split]:
            found.append(f"{split}: {counted(len(source.labels), 'picture')}, ImageNet-1k has {IMAGENET[split]:,}")
    per_class = np.bincount(sources["val"].labels, minlength=len(sources["val"].classes))
    expected = IMAGENET["val"] // IMAGENET_CLASSES
    return found + [
        f"val: class {sources['val'].classes[number]} has {counted(per_class[number], 'picture')}, expected {expected}"
        for number in np.flatnonzero((per_class != expected) & (per_class > 0))
    ]


def bad_pictures(split: str, source: Source, workers: int) -> list[str]:
    found = []
    columns = (TextColumn(split), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[bad]} bad"))
    problems = in_order(_problem, range(len(source.labels)), max(1, workers), "use fewer --workers", source)
    with Progress(*columns, TimeRemainingColumn()) as bar, contextlib.closing(problems):
        task = bar.add_task("", total=len(source.labels), bad=0)
        for sentence in problems:
            if sentence is not None:
                found.append(sentence)
            bar.update(task, advance=1, bad=len(found))
    return found


def _problem(index: int, source: Source) -> str | None:
    if isinstance(source, Packed):
        return None if source.intact(index) else f"{source.path}: {source.name(index)} has a wrong checksum"
    try:
        source.picture(index)
    except UserError as error:
        return str(error)
    return None


if __name__ == "__main__":
    cli.run(main)
