"""Which dataset a script is about: a folder or archive named on the command line, or a config's data section."""

import argparse

from ..errors import UserError
from ..paths import expanded
from .classification import Data
from .load import as_override, load_config, parse_config
from .override import is_override


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `data_section` reads."""
    parser.add_argument("--config", type=expanded, metavar="FILE", help="a YAML file, for its data section")
    parser.add_argument(
        "what", nargs="*", metavar="ROOT | key.sub=value", help="the dataset's folder; data.source=tar and the like"
    )


def data_section(args: argparse.Namespace) -> Data:
    """Read the `data` section that the arguments describe.

    Raises:
        UserError: no folder and no config, or several folders.
    """
    roots = [argument for argument in args.what if not is_override(argument)]
    overrides = [argument for argument in args.what if is_override(argument)]
    if len(roots) > 1:
        raise UserError(f"command line: {' '.join(roots)}: expected one folder")
    if not args.config and not roots and not any(one.startswith(("data.root=", "data.source=")) for one in overrides):
        raise UserError("command line: expected a dataset's folder, or --config FILE")
    overrides = [as_override("data.root", expanded(root)) for root in roots] + overrides
    config = load_config(args.config, overrides) if args.config else parse_config({}, overrides)
    return config.data
