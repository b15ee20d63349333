"""Files that say which labels are right: ReaL labels, and which of a network's classes a dataset has."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...counted import counted
from ...errors import UserError


def read_real(file: str, names: list[str], classes: int) -> np.ndarray:
    """(pictures, L) int64: the ReaL labels (arXiv 2006.07159) of each picture, filled up with -1.

    Args:
        file: JSON, a list of lists of labels, one for each picture in the order of file names, folders aside. A picture
            with an empty list is not counted.
        names: the pictures' paths, in the dataset's order.
        classes: their number; labels are from 0 to one less.

    Raises:
        UserError: no such file, or not one for these pictures.
    """
    labels = _read_json(file, "--real")
    if not isinstance(labels, list) or not all(isinstance(each, list) for each in labels):
        raise UserError(f"{file}: is no list of lists of labels, one for each picture, as --real expects")
    if len(labels) != len(names):
        raise UserError(f"{file}: holds labels of {counted(len(labels), 'picture')}, the dataset has {len(names)}")
    for picture, each in enumerate(labels):
        wrong = [label for label in each if type(label) is not int or not 0 <= label < classes]
        if wrong:
            raise UserError(f"{file}: picture {picture} has the label {wrong[0]!r}, expected 0 to {classes - 1}")
    if not any(labels):
        raise UserError(f"{file}: no picture has a label")
    plain = [Path(name).name for name in names]
    name, times = Counter(plain).most_common(1)[0]
    if times > 1:
        raise UserError(f"{file}: goes by file names, but {times} pictures are named {name}")
    table = np.full((len(names), max(map(len, labels))), -1, dtype=np.int64)
    for each, index in zip(labels, sorted(range(len(names)), key=plain.__getitem__), strict=True):
        table[index, : len(each)] = each
    return table


def read_class_map(file: str, outputs: list[str], classes: list[str]) -> list[int]:
    """For each class of the dataset, in its order, the network's output that stands for it.

    Args:
        file: the outputs' names or indices in the order of the dataset's classes, as a JSON list or as text, one a line
            (as timm's lists of ImageNet-A and -R are; there a name goes before an index); or a JSON object, from the
            dataset's classes to names or indices.
        outputs: the names of the network's outputs.
        classes: the names of the dataset's classes.

    Raises:
        UserError: no such file, another number of classes, one that the network or the dataset has not, or one twice.
    """
    number: dict[Any, int] = {name: index for index, name in enumerate(outputs)}
    indices = {index: index for index in range(len(outputs))}
    if file.endswith(".json"):
        entries = _read_json(file, "--class-map")
    else:
        text = _read_text(file, "--class-map", "surrogateescape")  # names of folders need not be UTF-8
        entries = [line.strip() for line in text.splitlines() if line.strip()]
        number = {str(index): index for index in indices} | number
    if isinstance(entries, dict):
        differing = sorted(set(classes) ^ set(entries))
        if differing:
            side = "has no entry for the class" if differing[0] in classes else "has an entry for what is no class"
            raise UserError(f"{file}: {side} of the dataset: {differing[0]!r}")
        entries = [entries[name] for name in classes]
    if not isinstance(entries, list):
        raise UserError(f"{file}: holds a {type(entries).__name__}, expected a list of classes")
    if len(entries) != len(classes):
        raise UserError(f"{file}: names {counted(len(entries), 'class')}, the dataset has {len(classes)}")
    known = number | indices
    for entry in entries:
        if type(entry) not in (str, int) or entry not in known:
            has = f"{len(outputs)}, {outputs[0]!r} to {outputs[-1]!r}"
            raise UserError(f"{file}: {entry!r} is no class of the network, which has {has}")
    mapped = [known[entry] for entry in entries]
    index, times = Counter(mapped).most_common(1)[0]
    if times > 1:
        raise UserError(f"{file}: gives {outputs[index]!r} to {times} classes of the dataset, expected one each")
    return mapped


def _read_json(file: str, option: str) -> Any:
    try:
        return json.loads(_read_text(file, option))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is no JSON, as {option} expects: {error}") from None


def _read_text(file: str, option: str, errors: str = "strict") -> str:
    try:
        return Path(file).read_text("utf-8", errors)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file for {option}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read for {option}: {error}") from None
