"""Experiments as YAML files with a strict schema: schema.py holds the keys, load.py reads and writes the files."""

from .load import as_override, dump_config, load_config, parse_config
from .schema import Config, Data, Model, Run, Train

__all__ = [
    "Config",
    "Data",
    "Model",
    "Run",
    "Train",
    "as_override",
    "dump_config",
    "load_config",
    "parse_config",
]
