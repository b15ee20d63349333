"""What unquoted text of a YAML file or a command line is: the type that a pydantic schema has for its key decides.

A text key takes it as it stands, a number is decimal or refused. Where any type would do it is YAML's null, true or
false, a decimal number or text, and refused where YAML 1.1 would make something else of it.
"""

import math
import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel

from ..errors import UserError
from ..paths import expanded
from .yaml_file import (
    MOST_DIGITS,
    NULL,
    Ambiguous,
    Plain,
    in_quotes,
    meaning,
)

Key = tuple[str, ...]


class Kind(NamedTuple):
    type: Any  # bool, int, float, str, list, dict, a schema, or Any; a Literal of texts is a str
    parts: tuple  # of a list or dict: the types of what it holds
    optional: bool = False  # may be null
    is_path: bool = False  # ~ is the home directory


A_PATH = AfterValidator(expanded)
PathText = Annotated[str, A_PATH]


def kind_of(annotation: Any) -> Kind:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind = kind_of(arguments[0])
        return kind._replace(is_path=True) if A_PATH in arguments[1:] else kind
    if origin in (Union, UnionType):
        others = [argument for argument in arguments if argument is not NoneType]
        kind = kind_of(others[0]) if len(others) == 1 else Kind(Any, ())
        return kind._replace(optional=NoneType in arguments)
    if origin is Literal:
        return Kind(str if all(isinstance(value, str) for value in arguments) else Any, ())
    return Kind(origin or annotation, arguments, annotation is Any)


def part_of(kind: Kind, name: str) -> Kind:
    """The kind of what a mapping of this kind has under a name."""
    if isinstance(kind.type, type) and issubclass(kind.type, BaseModel):
        field = kind.type.model_fields.get(name)
        return kind_of(Annotated[(field.annotation, "", *field.metadata)] if field else Any)  # "": one is demanded
    return kind_of(kind.parts[1] if kind.type is dict and kind.parts else Any)


def kind_at(schema: Any, key: Key) -> Kind:
    kind = kind_of(schema)
    for name in key:
        kind = part_of(kind, name)
    return kind


def decided(values: Any, schema: Any, source_of: Callable[[Key], str]) -> Any:
    """`values` with all `Plain` text in it decided. `source_of(key)` says for errors where a value comes from.

    Raises:
        UserError: a number that is not decimal; where any type would do text that YAML would make something else of.
    """
    return decided_as(values, kind_of(schema), (), source_of)


def decided_as(value: Any, kind: Kind, key: Key, source_of: Callable[[Key], str]) -> Any:
    """As `decided`, of a value that stands under `key` and is to be of a kind."""
    if isinstance(value, dict):
        return {k: decided_as(v, part_of(kind, str(k)), (*key, str(k)), source_of) for k, v in value.items()}
    if isinstance(value, list):
        part = kind_of(kind.parts[0] if kind.type is list and kind.parts else Any)
        return [decided_as(v, part, (*key, str(i)), source_of) for i, v in enumerate(value)]
    if not isinstance(value, Plain):
        return value
    try:
        return text_as(value, kind)
    except Ambiguous as error:
        said = f"{source_of(key)}: {'.'.join(key)} = {value if value.isprintable() else in_quotes(value)}"
        if kind.type in (int, float):
            number = decimal_spelling(value)
            like = f": {number}" if number else " such as 90, 0.1 or 1e-4"
            raise UserError(f"{said}: expected a decimal number{like}") from None
        if kind.type is bool:
            raise UserError(f"{said}: expected true or false") from None
        other = clear_spelling(value)
        so = f"expected {other}, or as text" if other else "text stands in quotes,"
        raise UserError(f"{said}: {said_of(error)}: {so} {in_quotes(value)}") from None


def text_as(text: str, kind: Kind) -> Any:
    """What unquoted text is for a key of this kind.

    Raises:
        Ambiguous: as `meaning`, and for text where a number, true or false is needed.
    """
    if kind.type is str:
        return None if text in NULL else str(text)
    if kind.type is bool and text.lower() in yaml.SafeLoader.bool_values:
        return yaml.SafeLoader.bool_values[text.lower()]  # yes, no, on and off too, which cannot be misread here
    value = meaning(text)
    if kind.type in (int, float, bool) and isinstance(value, str):
        raise Ambiguous(text, value)
    return value


def may_be(value: Any, kind: Kind) -> bool:
    """Whether a key that takes text alone is given text, or null where it may be null; other kinds are pydantic's."""
    return kind.type is not str or isinstance(value, str) or (value is None and kind.optional)


def said_of(error: Ambiguous) -> str:
    """A user's mistake in words."""
    if error.made == math.inf:
        return "it is too large for a number"
    if isinstance(error.made, (bool, int, float)):
        return f"YAML would make {error.made} of it"
    return "YAML would make a date of it"


def decimal_spelling(text: str) -> str:
    """The number that somebody meant who wrote 010, 0x10 or 1_000; of 1:30 nobody knows."""
    bare = text.replace("_", "")
    if len(bare) > MOST_DIGITS:
        return ""
    if re.fullmatch(r"[-+]?0[xXbB][0-9a-fA-F]+", bare):
        return str(int(bare, 0))
    return str(int(bare)) if re.fullmatch(r"[-+]?[0-9]+", bare) else ""


def clear_spelling(text: str) -> str:
    """What to write for a null, bool or number that unquoted text may be meant to be; nothing where it is but text."""
    try:
        return "" if isinstance(meaning(text), str) else text
    except Ambiguous as error:
        if isinstance(error.made, bool):
            return "true" if error.made else "false"
        if isinstance(error.made, (int, float)) and error.made != math.inf:
            return decimal_spelling(text) or "a decimal number"
        return ""
