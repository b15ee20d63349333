"""All that a sweep's folder, or a folder of runs, tells: what was run, what came out, what it took, with what."""

import functools
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sweeping.attempts import Cost, cost, read_events
from sweeping.folders import read_metrics, read_summary
from sweeping.plan import differences

from ddfnet.checkpoint_file import name_for_readers
from ddfnet.config import Config, load_config
from ddfnet.counted import counted
from ddfnet.errors import UserError, first_line
from ddfnet.models import count_parameters
from ddfnet.models.build import build_model
from ddfnet.task import Metric
from ddfnet.tasks import task_class
from ddfnet.train import EXIT_CODE

from .paper import Row, find_row, macs_as_printed


@dataclass(frozen=True)
class Size:
    """Of a network as it was trained: with its classes, at its resolution."""

    params: int
    macs: int  # multiply-accumulates as the paper's tables hold them


@dataclass(frozen=True)
class Result:
    """One run, finished or not."""

    name: str
    row: str
    seed: int | None
    paper: tuple[dict[str, Any], ...]
    command: str | None
    state: str  # not begun, begun, failed, finished
    config: Config | None  # None: never got as far as writing it
    classes: int | None  # by its checkpoint
    versions: dict[str, Any]  # commit, versions, machine of its last start, by the sweep; else torch, by the checkpoint
    summary: dict[str, Any] | None  # None: not finished
    metrics: list[dict[str, Any]]
    cost: Cost | None

    @property
    def size(self) -> Size | None:
        if self.config is None or self.classes is None:
            return None
        return _size(json.dumps(self.config.model.model_dump()), self.classes, self.config.data.image_size)


@dataclass(frozen=True)
class Experiment:
    name: str
    command: str | None
    tables: list[str]
    results: list[Result]

    @property
    def rows(self) -> dict[str, list[Result]]:
        rows: dict[str, list[Result]] = {}
        for result in self.results:
            rows.setdefault(result.row, []).append(result)
        return rows

    @property
    def finished(self) -> list[Result]:
        return [result for result in self.results if result.summary is not None]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self._task.metrics

    @property
    def headline(self) -> Metric:
        """The metric that decides which checkpoint is the best."""
        return self._task.headline

    @property
    def _task(self) -> Any:
        return task_class(next((r.config.task for r in self.results if r.config is not None), "classification"))

    @property
    def like_the_paper(self) -> bool:
        """Whether accuracies may stand on one axis with the paper's: ImageNet's classes at its resolution."""
        begun = [r for r in self.results if r.config is not None]
        return bool(begun) and all(r.classes == 1000 and r.config and r.config.data.image_size == 224 for r in begun)


def read_experiment(folder: Path) -> Experiment:
    """
    Raises:
        UserError: nothing there, a file that cannot be read, or runs of two protocols where one was to be expected.
    """
    file = folder / "sweep.json"
    if file.exists():
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file}: cannot be read: {error}; the sweep's command writes it anew") from None
        results = [
            _result(folder / r["name"], r["row"], r["seed"], tuple(r["paper"]), r["command"]) for r in content["runs"]
        ]
        experiment = Experiment(folder.name, content["command"], content["tables"], results)
    else:
        folders = sorted(path.parent for path in folder.glob("*/config.yaml"))
        if not folders:
            raise UserError(f"{folder}: holds no runs, expected a sweep's folder, a folder of runs, or a sweep file")
        found = [_result(path, re.sub(r"-seed\d+$", "", path.name), None, (), None) for path in folders]
        experiment = Experiment(folder.resolve().name, None, [], found)
        _refuse_mixed(found, ("run.", "data.workers", "model.", "train.seed"), folder)
    for members in experiment.rows.values():
        _refuse_mixed(members, ("run.", "data.workers", "train.seed"), folder)
    if not experiment.finished:
        raise UserError(f"{folder}: none of {counted(len(experiment.results), 'run')} is finished")
    return experiment


def reproduced(experiment: Experiment, paper: dict[str, list[Row]]) -> dict[tuple[str, int], dict[str, list[Result]]]:
    """{(table of the paper, place in it): {our row: its runs}}."""
    found: dict[tuple[str, int], dict[str, list[Result]]] = {}
    for result in experiment.results:
        for wanted in result.paper:
            found.setdefault(find_row(paper, wanted, result.name), {}).setdefault(result.row, []).append(result)
    return found


def _refuse_mixed(results: list[Result], free: tuple[str, ...], folder: Path) -> None:
    begun = [result for result in results if result.config is not None]
    for result in begun[1:]:
        assert begun[0].config and result.config
        for key, one, other in differences(begun[0].config, result.config, free):
            raise UserError(
                f"{folder}: results of two protocols do not mix: {begun[0].name} has {key} = {one!r}, {result.name}"
                f" has {other!r}: move one of them away"
            )


def _result(folder: Path, row: str, seed: int | None, paper: tuple, command: str | None) -> Result:
    file = folder / "config.yaml"
    config = load_config(file) if file.exists() else None
    checkpoint = _head(folder / "checkpoints" / "last.pt")
    events, summary = read_events(folder), read_summary(folder)
    starts = [event for event in events if event["event"] == "start"]
    versions = starts[-1]["environment"] if starts else {"versions": {"torch": checkpoint.get("torch", "unknown")}}
    return Result(
        name=folder.name,
        row=row,
        seed=config.train.seed if config else seed,
        paper=paper,
        command=command,
        state="finished" if summary is not None else _unfinished(events, config),
        config=config,
        classes=len(checkpoint.get("data", {}).get("classes", ())) or None,
        versions=versions,
        summary=summary,
        metrics=read_metrics(folder),
        cost=cost(folder),
    )


def _unfinished(events: list[dict[str, Any]], config: Config | None) -> str:
    """A run that was killed or told to stop has begun; one that ended itself with an error has failed."""
    code = events[-1].get("exit") if events else None
    if code is not None and code > 0 and code != EXIT_CODE:
        return "failed"
    return "begun" if events or config else "not begun"


def _head(file: Path) -> dict[str, Any]:
    """A checkpoint without its tensors' values; empty where there is none."""
    if not file.exists():
        return {}
    try:
        with name_for_readers(file) as name:
            return torch.load(name, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged file provokes
        raise UserError(f"{file}: cannot be read as a checkpoint: {first_line(error)}") from None


@functools.cache
def _size(model: str, classes: int, image_size: int) -> Size | None:
    config = Config.model_validate({"model": json.loads(model)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            network = build_model(config, classes, pretrained=False)
        return Size(count_parameters(network), macs_as_printed(network, (3, image_size, image_size)))
