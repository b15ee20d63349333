"""The sweep file's schema: rows by name, seeds, a grid of overrides.

    table: table3a           # of benchmarks/paper.yaml, shown beside the results; a prefix or a list will do
    seeds: [0, 1, 2]         # a run for each; left out: the config's own train.seed
    runs:                    # name: a config, relative to this file; or a mapping
      base: ../compare/r50_base.yaml
      spatial: {config: ../ablations/spatial_only.yaml, paper: {table: table3a, spatial: true, channel: false}}
      wide: {config: ../ddf_r50.yaml, overrides: [model.kwargs.block_args.ddf.squeeze_ratio=0.4]}
    grid: {train.lr: [0.05, 0.1]}    # every run with every combination
    overrides: [train.epochs=90]     # for all

`paper` names the row of the paper's tables that a run reproduces, by the fields that identify it; a list names several.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ddfnet.config import ClassificationConfig
from ddfnet.config.by_schema import (
    PathText,
    decided,
    decided_as,
    kind_at,
    may_be,
)
from ddfnet.config.yaml_file import read_yaml
from ddfnet.errors import UserError, did_you_mean
from ddfnet.paths import expanded

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class Entry(Section):
    """A row of the sweep's table."""

    config: PathText
    paper: list[dict[str, Any]] = []
    overrides: list[str] = []

    @field_validator("paper", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return _as_list(value)


class SweepFile(Section):
    table: list[str] = []
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    runs: Annotated[dict[str, Entry], Field(min_length=1)]
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    overrides: list[str] = []

    @field_validator("table", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return _as_list(value)

    @field_validator("runs", mode="before")
    @classmethod
    def _a_config_alone(cls, runs: Any) -> Any:
        if not isinstance(runs, dict):
            return runs
        return {name: {"config": entry} if isinstance(entry, str) else entry for name, entry in runs.items()}

    @field_validator("runs")
    @classmethod
    def _names(cls, runs: dict[str, Entry]) -> dict[str, Entry]:
        for name in runs:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} names a folder: expected letters, digits and . _ + - only")
        folded: dict[str, str] = {}
        for name in runs:
            other = folded.setdefault(name.lower(), name)
            if other != name:
                raise ValueError(f"{other!r} and {name!r} are one name where case does not count: rename one")
        return runs

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: list[int] | None) -> list[int] | None:
        return _once(seeds)

    @field_validator("grid")
    @classmethod
    def _values_once(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in grid.items():
            _once(values)
            for value in values:
                _can_be_written(key, value)
        return grid


def _once(values: Any) -> Any:
    for i, value in enumerate(values or []):
        if value in values[:i]:
            raise ValueError(f"{value!r} stands there twice")
    return values


def _can_be_written(key: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError):  # YAML has tags for dates and sets
        kind = type(value).__name__
        raise ValueError(f"{key}: {value} is read as a {kind}, which no key takes: text stands in quotes") from None


def _read(path: Path) -> dict[str, Any]:
    """The file's values, those of the grid as the keys take them."""
    values = read_yaml(path, "sweep file")
    grid = values.get("grid")
    if isinstance(grid, dict):
        values["grid"] = {key: _grid_values(key, given, path) for key, given in grid.items()}
    return decided(values, SweepFile, lambda key: str(path))


def _grid_values(key: Any, given: Any, path: Path) -> Any:
    if not isinstance(given, list):
        return given
    kind = kind_at(ClassificationConfig, tuple(str(key).split(".")))
    read = []
    for i, value in enumerate(given):
        place = ("grid", str(key), str(i))
        value = decided_as(value, kind, place, lambda key: str(path))
        if not may_be(value, kind):
            raise UserError(f"{path}: {'.'.join(place)} = {value!r}: expected text")
        read.append(expanded(value) if kind.is_path and isinstance(value, str) else value)
    return read


def read_sweep(path: Path) -> SweepFile:
    """The sweep of a YAML file.

    Raises:
        UserError: one sentence for the first mistake; a name that stands there twice is one.
    """
    try:
        return SweepFile.model_validate(_read(path))
    except ValidationError as error:
        problem = min(error.errors(include_url=False), key=lambda p: p["type"] != "extra_forbidden")  # a misspelt key
    place = [str(part) for part in problem["loc"]]
    key = ".".join(place) or "the file"
    if problem["type"] == "extra_forbidden":
        known = list(Entry.model_fields if place[0] == "runs" else SweepFile.model_fields)
        hint = did_you_mean(place[-1], known) or f", expected one of {', '.join(known)}"
        raise UserError(f"{path}: {key}: no such key{hint}")
    if problem["type"] == "missing":
        raise UserError(f"{path}: {key} is missing")
    if problem["type"] == "value_error":
        raise UserError(f"{path}: {key}: {problem['ctx']['error']}")
    if place[0] == "runs" and len(place) == 2:
        raise UserError(f"{path}: {key} = {problem['input']!r}, expected a config file or a mapping with config:")
    raise UserError(f"{path}: {key} = {problem['input']!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
