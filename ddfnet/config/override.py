"""`key.sub=value` on a command line: what a user types, and what the program itself hands over.

The schema's type of the key decides. A text key takes the text exactly as it is typed, but for null where the key may
be null; a number, true or false may have white space around it; all else is YAML, and what YAML would cut off or turn
into something else is refused with the right spelling.
"""

import os
import re
import shlex
from typing import Any

from ..errors import UserError
from .by_schema import (
    Key,
    clear_spelling,
    kind_at,
    may_be,
    said_of,
)
from .yaml_file import (
    Ambiguous,
    Plain,
    dump_yaml,
    has_comment,
    in_quotes,
    meaning,
    parse_yaml,
)

COMMENT = "YAML would take what follows # for a comment"


def is_override(argument: str) -> bool:
    """Whether it is one and not a path, where a command takes both."""
    return bool(re.match(r"(\w+(\.\w+)+|task)=", argument)) and not os.path.exists(argument)


def read_override(schema: Any, override: str) -> tuple[Key, Any]:
    """The key, and the value: text, or YAML whose unquoted text the schema's type has still to decide.

    Raises:
        UserError: no override, no YAML, or text that YAML would not keep.
    """
    name, equals, text = override.partition("=")
    key = tuple(name.split("."))
    if not equals or not all(key):
        raise UserError(f"command line: {override!r} is no override, expected key.sub=value such as train.lr=0.2")
    kind = kind_at(schema, key)
    if kind.type is str:
        if text == "null" or not text:
            if kind.optional:
                return key, None
            if not text:
                raise UserError(f"command line: {override} says nothing: expected text")
        return key, text
    said = f"command line: {override if override.isprintable() else f'{name}={in_quotes(text)}'}"
    if kind.type in (int, float, bool):
        value: Any = Plain(text.strip())
    elif kind.type is Any:
        value = _free_value(name, text, said)
    else:
        value = parse_yaml(text, said)
        if has_comment(text):
            raise UserError(f"{said}: {COMMENT}: leave it out")
    if isinstance(value, str) and value.lower() == "none" and kind.optional and kind.type is not Any:
        raise UserError(f"{said}: expected null for none")
    return key, value


def _free_value(name: str, text: str, said: str) -> Any:
    """YAML's value where YAML keeps all of the text."""
    written = shlex.quote(f"{name}={in_quotes(text)}")
    try:
        value = parse_yaml(text, said)
    except UserError as error:
        raise UserError(f"{error}: as text it is written {written}") from None
    why = _changed(value, text)
    if why is None:
        return value
    other = clear_spelling(value) if isinstance(value, Plain) else ""
    raise UserError(f"{said}: {why}: {f'expected {other}, or as text' if other else 'as text it is written'} {written}")


def write_override(schema: Any, name: str, value: Any) -> str:
    """An override that reads back as exactly this value, whatever text it is; a path ~x, which is no home, as ./~x.

    Raises:
        TypeError: a value that is no text for a key that takes text alone.
    """
    key = tuple(name.split("."))
    kind = kind_at(schema, key)
    if isinstance(value, str) and kind.type is str:
        value = f"./{value}" if kind.is_path and value.startswith("~") else value
        if value and not (value == "null" and kind.optional):
            return f"{name}={value}"
        return f"{'.'.join(key[:-1])}={dump_yaml({key[-1]: value}, one_line=True)}"  # in quotes, which only YAML has
    if not may_be(value, kind):
        raise TypeError(f"{name} takes text, not {value!r}")
    return f"{name}={dump_yaml(value, one_line=True)}"


def _changed(value: Any, text: str) -> str | None:
    """What YAML does to the text where it does not keep all of it."""
    if isinstance(value, Plain) and value != text:
        return f"YAML would make {in_quotes(value)} of it"
    if value is None and text:
        return "YAML would keep nothing of it"
    if isinstance(value, Plain):
        try:
            meaning(value)
        except Ambiguous as error:
            return said_of(error)
    return COMMENT if has_comment(text) else None
