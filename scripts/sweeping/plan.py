"""From a sweep file to runs: every row, grid value and seed resolved and checked before anything starts."""

import itertools
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reporting.paper import find_row, find_tables, read_paper

from ddfnet.config import Config, as_override, load_config
from ddfnet.errors import UserError
from ddfnet.models.build import build_model

from .spec import Entry, SweepFile, read_sweep

# What may differ between runs of one protocol: where they lie, how they report, how their pictures are read.
FREE = ("run.", "data.workers")


@dataclass(frozen=True)
class Run:
    """One training: a row of the table with one seed."""

    row: str
    seed: int
    config_file: Path
    overrides: tuple[str, ...]  # with train.seed and run.dir
    config: Config
    paper: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return f"{self.row}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return Path(str(self.config.run.dir))


@dataclass(frozen=True)
class Sweep:
    file: Path
    folder: Path
    tables: list[str]
    runs: list[Run]

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(run.row for run in self.runs))


def plan_sweep(file: Path, folder: Path, overrides: list[str], paper_file: Path) -> Sweep:
    """All runs of a sweep, with `overrides` on top of its own.

    Raises:
        UserError: a mistake in the file, a config, an override or a grid, an unknown row of the paper, or a run's
            folder that holds results of another protocol.
    """
    spec = read_sweep(file)
    tables: list[str] = []
    if spec.table or any(entry.paper for entry in spec.runs.values()):
        paper = read_paper(paper_file)
        tables = find_tables(paper, spec.table, f"{file}: table")
        for name, entry in spec.runs.items():
            for wanted in entry.paper:
                table, _ = find_row(paper, wanted, f"{file}: runs.{name}")
                tables += [table] if table not in tables else []
    for override in (*spec.overrides, *overrides, *spec.grid, *(o for e in spec.runs.values() for o in e.overrides)):
        _refuse_own_keys(override, str(file), grid=override in spec.grid)
    _refuse_what_rows_differ_in(overrides, spec, file)
    if spec.seeds is not None and "train.seed" in spec.grid:
        raise UserError(f"{file}: train.seed stands under seeds and in the grid: leave one out")
    runs = [
        run for name, entry in spec.runs.items() for run in _runs_of(name, entry, spec, file, folder, tuple(overrides))
    ]
    _refuse_one_folder_for_two(runs, file)
    _refuse_one_training_for_two(runs, file, overrides)
    _build_models(runs, file)
    for run in runs:
        refuse_other_protocol(run)
    return Sweep(file, folder, tables, runs)


def refuse_other_protocol(run: Run) -> None:
    """A folder that was begun with other settings would put two experiments into one table."""
    if (run.folder / "summary.json").exists() and not (run.folder / "config.yaml").exists():
        raise UserError(f"{run.folder}: holds a summary.json without the config.yaml that says what was trained")
    refuse_other_settings(run)


def refuse_other_settings(run: Run) -> None:
    file = run.folder / "config.yaml"
    if not file.exists():
        return
    for key, then, now in differences(load_config(file), run.config):
        raise UserError(
            f"{run.folder}: was trained with {key} = {then!r}, now it is {now!r}: results of two protocols do not mix;"
            " set it back, move that folder away, or give this sweep another by --dir"
        )


def differences(a: Config, b: Config, free: tuple[str, ...] = FREE) -> list[tuple[str, Any, Any]]:
    """(dotted key, value in a, value in b) of every setting that changes what is trained."""
    of_a, of_b = settings(a, free), settings(b, free)
    pairs = [(key, of_a.get(key), of_b.get(key)) for key in {**of_a, **of_b}]
    return [pair for pair in pairs if pair[1] != pair[2]]


def settings(config: Config, free: tuple[str, ...] = FREE) -> dict[str, Any]:
    """{dotted key: value} of what changes what is trained."""
    return {key: value for key, value in _flat(config.model_dump()) if not key.startswith(free)}


def _flat(values: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _runs_of(
    name: str, entry: Entry, spec: SweepFile, file: Path, folder: Path, last: tuple[str, ...]
) -> Iterable[Run]:
    grid = dict(spec.grid)
    seeds = grid.pop("train.seed", spec.seeds)
    short = {key: key.rpartition(".")[2] for key in grid}
    config_file = Path(os.path.normpath(file.parent / entry.config))
    for values in itertools.product(*grid.values()):
        chosen = [as_override(key, value) for key, value in zip(grid, values, strict=True)]
        row = "-".join([name, *(f"{short[key]}{_label(value)}" for key, value in zip(grid, values, strict=True))])
        overrides = (*spec.overrides, *entry.overrides, *chosen, *last)
        config = _load(config_file, overrides, f"{file}: runs.{name}", last)
        for seed in seeds if seeds is not None else [config.train.seed]:
            own_folder = as_override("run.dir", str(folder / f"{row}-seed{seed}"))
            own = (*overrides, as_override("train.seed", seed), own_folder)
            config = _load(config_file, own, f"{file}: runs.{name}", last)
            yield Run(row, seed, config_file, own, config, tuple(entry.paper))


def _load(config_file: Path, overrides: tuple[str, ...], origin: str, last: tuple[str, ...]) -> Config:
    """An error is laid to the command line where the key is one of `last`, else to the sweep file."""
    try:
        return load_config(config_file, overrides)
    except UserError as error:
        said = str(error).removeprefix("command line: ").lstrip("'")
        if any(said.startswith(override.partition("=")[0]) for override in last):
            raise
        raise UserError(f"{origin}: {str(error).removeprefix('command line: ')}") from None


def _refuse_own_keys(override: str, origin: str, grid: bool) -> None:
    key = override.partition("=")[0]
    if key == "run.dir":
        raise UserError(f"{origin}: run.dir is chosen by the sweep for each run: leave it out, --dir moves them all")
    if key == "train.seed" and not grid:
        raise UserError(f"{origin}: train.seed is chosen by the sweep for each run: give it as seeds: [0, 1, 2]")


def _refuse_what_rows_differ_in(overrides: list[str], spec: SweepFile, file: Path) -> None:
    """The command line has the last word, after which no row would be what its name says."""
    own = dict.fromkeys(spec.grid, "the grid")
    for name, entry in spec.runs.items():
        own |= {override.partition("=")[0]: f"runs.{name}.overrides" for override in entry.overrides}
    for key in (override.partition("=")[0] for override in overrides):
        for other, place in own.items():
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise UserError(
                    f"command line: {key} would overrule {other}, by which the rows of {file} differ:"
                    f" leave it out, or change {place} there"
                )


def _refuse_one_folder_for_two(runs: list[Run], file: Path) -> None:
    folders: dict[str, Run] = {}
    for run in runs:
        other = folders.setdefault(run.name.lower(), run)
        if other is not run:
            raise UserError(f"{file}: two runs would be called {run.name}: rename a run, or a value of the grid")


def _refuse_one_training_for_two(runs: list[Run], file: Path, overrides: list[str]) -> None:
    trainings: dict[str, Run] = {}
    for run in runs:
        values = {key: value for key, value in settings(run.config).items() if value is not None}
        other = trainings.setdefault(json.dumps(values, sort_keys=True, default=str), run)
        if other is not run:
            so = f" with {' '.join(overrides)}" if overrides else ""
            raise UserError(f"{file}: {other.row} and {run.row} would train the same{so}: leave one of them out")


def _build_models(runs: list[Run], file: Path) -> None:
    """Options of the network are free text in a config; only building it shows one that matches nothing."""
    seen = set()
    for run in runs:
        model = json.dumps(run.config.model.model_dump(), sort_keys=True, default=str)
        if model in seen:
            continue
        seen.add(model)
        try:
            with torch.device("meta"):  # no memory, no random numbers
                build_model(run.config, 10, pretrained=False)
        except UserError as error:
            raise UserError(f"{file}: {run.row}: {error}") from None


def _label(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_")
