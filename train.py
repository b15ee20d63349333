"""Train a network on a dataset, as a YAML file says.

    python train.py --config configs/ddf_r50.yaml train.lr=0.2 run.dir=runs/mine

A run continues by itself where its folder holds a checkpoint.
"""

import argparse
import sys
from pathlib import Path

from ddfnet import cli, train
from ddfnet.config import dump_config, load_config
from ddfnet.paths import expanded
from ddfnet.tasks import open_task


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", required=True, type=expanded, metavar="FILE", help="a YAML file, such as configs/quickstart.yaml"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="on top of the file, such as train.epochs=1"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    parser.add_argument("--dry-run", action="store_true", help="one step and one evaluation; nothing is written")
    parser.add_argument("--fresh", action="store_true", help="start over in a new folder; nothing is deleted")
    parser.add_argument("--profile", action="store_true", help="trace steps 10 to 20 into the run's folder, profile/")
    return parser.parse_intermixed_args()


def main() -> int:
    args = parse()
    config = load_config(args.config, args.overrides)
    if args.print_config:
        print(dump_config(config), end="")
        return 0
    world = train.start(config.run.device)
    try:
        with train.in_one_sentence():
            if args.fresh:
                folder = train.fresh_folder(Path(str(config.run.dir)), world)
                config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(folder)})})
            task = open_task(config, world)
            if args.dry_run:
                train.dry_run(config, task, world)
            else:
                train.train(config, task, world, args.profile)
    except train.Interrupted as stopped:
        train.stop()
        continues = "run.dir=… in place of --fresh" if args.fresh else "the same command"
        print(f"{stopped}; {continues} continues from there", file=sys.stderr)
        return train.EXIT_CODE
    train.stop()  # not after an error: the other processes may be lost
    return 0


if __name__ == "__main__":
    cli.run(main, interrupted="interrupted before the training began; nothing is lost")
