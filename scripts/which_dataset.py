"""Which dataset a script is about: a folder or archive named on the command line, or a config's data section."""

import argparse
from pathlib import Path

from ddfnet.config import Data, load_config, parse_config
from ddfnet.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a YAML file, for its data section")
    parser.add_argument(
        "what", nargs="*", metavar="ROOT | key.sub=value", help="the dataset's folder; data.source=tar and the like"
    )


def data_section(args: argparse.Namespace) -> Data:
    roots = [argument for argument in args.what if "=" not in argument]
    overrides = [argument for argument in args.what if "=" in argument]
    if len(roots) > 1:
        raise UserError(f"command line: {' '.join(roots)}: expected one folder")
    if not args.config and not roots and not any(one.startswith(("data.root=", "data.source=")) for one in overrides):
        raise UserError("command line: expected a dataset's folder, or --config FILE")
    overrides = [f"data.root={Path(root).expanduser()}" for root in roots] + overrides
    config = load_config(args.config, overrides) if args.config else parse_config({}, overrides)
    return config.data
