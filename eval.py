"""Evaluate a checkpoint of train.py; it knows its own model and data.

python eval.py --ckpt runs/quickstart/checkpoints/best.pt
python eval.py --ckpt runs/ddf_r50/checkpoints/best.pt data.root=/data/imagenet --json result.json
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ddfnet import data, tasks, train
from ddfnet.config import parse_config
from ddfnet.errors import UserError
from ddfnet.models import load_checkpoint


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True, metavar="FILE", help="last.pt or best.pt of a run")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="such as data.root=/data/imagenet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON too")
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse()
    content = train.read_run_checkpoint(args.ckpt)
    config = parse_config(content["config"], args.overrides, origin=args.ckpt)
    world = train.start(config.run.device)
    try:
        task = tasks.Classification(config, world, training=False)
        data.require_same_classes(
            content["data"]["classes"], task.classes, f"{config.data.root}: {config.data.val_split}"
        )
        load_checkpoint(task.model, args.ckpt)
        result = train.evaluate(task.model, task, world, config.train.amp)
    finally:
        train.stop()
    if not world.is_main:
        return
    result = {"checkpoint": args.ckpt, "model": config.model.name, "step": content["step"]} | result
    table = Table("model", "step", "top-1", "top-5", "loss", "images", "img/s")
    table.add_row(
        *(config.model.name, f"{content['step']:,}", f"{result['top1']:.3f}", f"{result['top5']:.3f}"),
        *(f"{result['loss']:.4f}", f"{result['images']:,}", f"{result['images_per_second']:,.0f}"),
    )
    Console().print(table)
    if args.json:
        try:
            args.json.write_text(json.dumps(result, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{args.json}: the result cannot be written: {error}") from None


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
