"""Evaluate checkpoints of train.py, which know their networks and data, and models of timm: all into one table.

    python eval.py --ckpt runs/quickstart/checkpoints/best.pt
    python eval.py --ckpt runs/*/checkpoints/best.pt data.root=/data/imagenet --csv all.csv --per-class classes.csv
    python eval.py --model resnet50 --weights resnet50.pth data.root=/data/imagenet --image-size 288

Under `torchrun --nproc-per-node 8 eval.py ...` eight GPUs share the pictures; the result is the same.
"""

import argparse
from typing import Any

from ddfnet import cli, train
from ddfnet.config.override import is_override
from ddfnet.paths import expanded, path_of
from ddfnet.tasks.classification import open_array_files, open_candidates, open_evaluation
from ddfnet.tasks.result_files import Results


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    several: Any = dict(nargs="+", action="extend", default=[])
    add("--ckpt", **several, type=expanded, metavar="FILE", help="last.pt or best.pt of one run or several")
    add("--model", **several, metavar="NAME", help="timm's names; their size, crop and mean unless you give others")
    add("--weights", **several, type=expanded, metavar="FILE", help="one for each --model, in their order")
    add("--pretrained", action="store_true", help="timm's own weights for each --model, downloaded if need be")
    add("--config", type=expanded, metavar="FILE", help="a YAML file that says which data each --model is for")
    add("--ema", action="store_true", help="the averaged weights of the files that hold them (EMA)")
    add("overrides", nargs="*", metavar="key.sub=value", help="such as data.root=/data/imagenet")
    add("--image-size", metavar="PIXELS", help="short for data.eval_image_size=PIXELS")
    add("--crop-pct", metavar="PART", help="short for data.crop_pct=PART")
    add("--flip", action="store_true", help="mean of the probabilities of each picture and its mirror image")
    add("--real", type=expanded, metavar="FILE", help="ImageNet ReaL: JSON, labels for each picture in order of names")
    add(
        "--class-map",
        type=expanded,
        metavar="FILE",
        help="the network's classes (names or indices) that the dataset has, in its order (of folders: 0, 1, 10, 2)",
    )
    add("--json", type=path_of, metavar="FILE", help="the results as JSON: an object, or a list of several")
    add("--csv", type=path_of, metavar="FILE", help="the results as CSV, a line each")
    add("--per-class", type=path_of, metavar="FILE.csv", help="class, images, top1, top5; FILE-1.csv ... of several")
    add("--confusion", type=path_of, metavar="FILE.png", help="the confusion matrix as a picture and as FILE.npy")
    args = parser.parse_intermixed_args()
    for names in (args.ckpt, args.model, args.weights):  # they take all that follows
        args.overrides += [name for name in names if is_override(name)]
        names[:] = [name for name in names if not is_override(name)]
    for key, value in (("eval_image_size", args.image_size), ("crop_pct", args.crop_pct)):
        args.overrides += [f"data.{key}={value}"] if value is not None else []
    return args


def main() -> None:
    args = parse()
    candidates = open_candidates(
        args.ckpt, args.model, args.weights, args.pretrained, args.config, args.overrides, args.ema
    )
    world = train.start(candidates[0].config.run.device)
    files = open_array_files(args.per_class, args.confusion)
    judged_by = dict(flip=args.flip, real=args.real, class_map=args.class_map)
    judged_by |= dict(per_class=bool(args.per_class), confusion=bool(args.confusion))
    try:
        with Results(len(candidates), args.json, args.csv, files, enabled=world.is_main) as results:
            opened = [open_evaluation(c, world, **judged_by) for c in candidates]  # a mistake in the last shows now
            while opened:  # one at a time, and its worker processes end with it
                e = opened.pop(0)
                results.add(e, train.evaluate(e.model, e.task, world, e.amp, e.evaluators, e.batches()))
    finally:
        train.stop()


if __name__ == "__main__":
    cli.run(main)
