"""Reads configs: YAML files with `base:` inheritance, `key.sub=value` overrides, errors that say where.

What a value is decides the type that its key has in the schema: see by_schema.py for files and override.py for
command lines. A file holds only what differs from its base and from the schema's defaults. Mappings merge key by key,
everything else (lists too) is replaced; an unknown key is an error.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import UserError, did_you_mean
from ..paths import expanded
from .by_schema import Key, decided
from .classification import ClassificationConfig
from .override import read_override, write_override
from .schema import Config
from .yaml_file import NULL, dump_yaml, read_yaml

SCHEMAS: dict[str, type[Config]] = {"classification": ClassificationConfig}  # by the root key `task`
Where = dict[Key, str]  # dotted key as a tuple -> the file, or "command line", that set it


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The config of a YAML file and the files it names as `base:`, with `key.sub=value` overrides on top.

    Raises:
        UserError: naming file, dotted key, value and, for an unknown key, the nearest right one.
    """
    path = Path(path)
    values, where = _read(path, ())
    config = parse_config(values, overrides, where, str(path))
    if config.run.dir:
        return config
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": f"runs/{path.stem}"})})


def parse_config(
    values: dict, overrides: list[str] | tuple[str, ...] = (), where: Where | None = None, origin: str = "config"
) -> Config:
    """As `load_config`, from a mapping, such as the one in a checkpoint. `origin` names it in errors."""
    where = dict(where or {})
    schema = _schema(values, overrides, where, origin)
    for override in overrides:
        key, nested = read_override(schema, override)
        for part in reversed(key):
            nested = {part: nested}
        values = _merge(values, nested, where, "command line")
    values = decided(values, schema, lambda key: _source(key, where, origin))
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(error, schema, where, origin)) from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML, which `load_config` reads back to an equal one."""
    return dump_yaml(config.model_dump())


def as_override(key: str, value: Any) -> str:
    """What the program hands over on a command line: an override that reads back as exactly this value."""
    return write_override(ClassificationConfig, key, value)


def _schema(values: dict, overrides: Sequence[str], where: Where, origin: str) -> type[Config]:
    """The schema of the task that the values or, after them, the overrides name."""
    task, source = values.get("task", "classification"), _source(("task",), where, origin)
    for override in overrides:
        if override.startswith("task="):
            task, source = override.removeprefix("task="), "command line"
    if not isinstance(task, str) or task not in SCHEMAS:
        hint = did_you_mean(str(task), SCHEMAS) or f", expected one of {', '.join(SCHEMAS)}"
        raise UserError(f"{source}: task = {task!r}: no such task{hint}")
    return SCHEMAS[task]


def _read(path: Path, above: tuple[Path, ...]) -> tuple[dict, Where]:
    if path.resolve() in above:
        raise UserError(f"{path}: is its own base, by way of {' -> '.join(p.name for p in above)}")
    own = read_yaml(path, "config file", f", the base of {above[-1].name}" if above else "")
    base = own.pop("base", "")
    values: dict = {}
    where: Where = {}
    if not isinstance(base, str):
        raise UserError(f"{path}: base = {base!r}, expected the name of one file, relative to this one")
    if base not in NULL:
        values, where = _read(path.parent / expanded(base), (*above, path.resolve()))
    return _merge(values, own, where, str(path)), where


def _merge(base: dict, own: dict, where: Where, origin: str, prefix: Key = ()) -> dict:
    """`base` with `own` on top; notes in `where` who set each key."""
    merged = dict(base)
    for key, value in own.items():
        place = (*prefix, str(key))
        where[place] = origin
        if isinstance(value, dict) and isinstance(merged.get(key, {}), dict):
            merged[key] = _merge(merged.get(key, {}), value, where, origin, place)
        else:
            merged[key] = value
    return merged


def _sentence(error: ValidationError, schema: type[Config], where: Where, origin: str) -> str:
    """The first problem as one sentence, with a count of the others."""
    problem, *others = error.errors(include_url=False)
    place = tuple(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # from the validators above, whose texts begin with the key
        place = tuple(str(problem["ctx"]["error"]).split(" ")[0].split("."))
    source = _source(place, where, origin)
    more = f" (and {len(others)} more)" if others else ""
    key = ".".join(place)
    if problem["type"] == "extra_forbidden":
        return f"{source}: {key} = {problem['input']!r}: no such key{_nearest(schema, place)}{more}"
    if problem["type"] == "value_error":
        return f"{source}: {problem['ctx']['error']}{more}"
    expected = "expected a mapping of keys" if problem["type"] == "model_type" else _lower_first(problem["msg"])
    return f"{source}: {key} = {problem['input']!r}: {expected}{more}"


def _source(key: Key, where: Where, origin: str) -> str:
    """Who set the key, or what it stands in."""
    return next((where[key[:n]] for n in range(len(key), 0, -1) if key[:n] in where), origin)


def _nearest(schema: type[Config], place: Key) -> str:
    """`, did you mean ...?` for an unknown key, by its own name first, then by the whole dotted one."""
    keys = [f"{section}.{key}" for section, field in schema.model_fields.items() for key in _fields(field.annotation)]
    in_section = {key.split(".")[1]: key for key in keys if key.split(".")[0] == place[0]}
    anywhere = {key.split(".")[1]: key for key in keys} | {section: section for section in schema.model_fields}
    for names in (in_section, anywhere):
        if hint := did_you_mean(place[-1], names, shown=names):
            return hint
    right = in_section.values() or schema.model_fields
    return f", expected one of {', '.join(right)}"


def _fields(section: Any) -> list[str]:
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
