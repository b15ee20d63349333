"""Experiments as YAML files with a strict schema: schema.py holds the keys of all tasks,
classification.py those of its `data:`, load.py reads and writes the files."""

from .classification import ClassificationConfig, Data
from .load import as_override, dump_config, load_config, parse_config
from .schema import Config, Model, Run, Section, Train

__all__ = [
    "ClassificationConfig",
    "Config",
    "Data",
    "Model",
    "Run",
    "Section",
    "Train",
    "as_override",
    "dump_config",
    "load_config",
    "parse_config",
]
