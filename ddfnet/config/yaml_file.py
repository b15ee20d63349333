"""YAML whose unquoted text is not decided yet: what reads it knows whether a key takes text, a number or anything.

YAML 1.1 makes 8 of 010, 90 of 1:30, False of no and a date of 2026-11-25. Here only null, true, false and decimal
numbers are more than text, and whatever YAML would make something else of is refused where no type decides.
"""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, one_line

NULL = ("", "~", "null", "Null", "NULL")
BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")  # YAML 1.1 has 1e-4 as text
MOST_DIGITS = 1000  # Python reads and writes none of more than 4300
NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Plain(str):
    """Text that stands in a file without quotes and without a tag."""


class Ambiguous(ValueError):
    """Text that YAML would make something else of; `made` is that, inf for a number that is too large to be one."""

    def __init__(self, text: str, made: Any):
        super().__init__(text)
        self.made = made


def meaning(text: str) -> Any:
    """What unquoted text means where no type decides: null, true, false, a decimal number, or itself.

    Raises:
        Ambiguous: YAML 1.1 makes something else of it, or it is a number that is too large.
    """
    if text in NULL:
        return None
    if text in BOOL:
        return BOOL[text]
    if INTEGER.fullmatch(text) and len(text) <= MOST_DIGITS:
        return int(text)
    if FLOAT.fullmatch(text):
        if math.isinf(float(text)):
            raise Ambiguous(text, math.inf)
        return float(text)
    if NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))
    if tag in NUMBERS and len(text) > MOST_DIGITS:
        raise Ambiguous(text, math.inf)
    if tag not in TEXT:
        raise Ambiguous(text, by_yaml(text))
    return str(text)


NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TEXT = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # <<, = are of keys only


def by_yaml(text: str) -> Any:
    """What YAML 1.1 makes of unquoted text; None for what it cannot read, such as the date 2020-13-01."""
    try:
        return yaml.safe_load(text)
    except OverflowError:  # 1:30:30:30 and so on
        return math.inf
    except (yaml.YAMLError, ValueError):
        return None


class _Loader(yaml.SafeLoader):
    """Unquoted scalars are `Plain`, keys are text; a key given twice and a value that holds itself are errors."""

    def resolve(self, kind, value, implicit):
        tag = super().resolve(kind, value, implicit)
        undecided = kind is yaml.ScalarNode and implicit[0] and tag != "tag:yaml.org,2002:merge"
        return "!plain" if undecided else tag

    def construct_object(self, node, deep=False):
        if node in self.recursive_objects:
            raise yaml.constructor.ConstructorError(None, None, "an alias stands in its own value", node.start_mark)
        return super().construct_object(node, deep=True)  # at once, so that the line above sees it

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue  # <<: merges a mapping; a list as a key is refused below
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {str(key)!r} stands there twice", key_node.start_mark
                )
            seen.add(key)
        made = super().construct_mapping(node, deep)
        return {str(key) if isinstance(key, Plain) else key: value for key, value in made.items()}


_Loader.add_constructor("!plain", lambda loader, node: Plain(node.value))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def _quoted_where_needed(dumper, text):
    try:
        plain = meaning(text) == text and text.isprintable()
    except Ambiguous:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _quoted_where_needed)


def parse_yaml(text: str, origin: str) -> Any:
    """Mappings, lists and scalars, the unquoted ones as `Plain`.

    Raises:
        UserError: beginning with `origin`: what is no YAML, a key that stands there twice, a value that holds itself.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except RecursionError:
        raise UserError(f"{origin}: is nested too deeply, or holds itself") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of tags: !!timestamp 2020-13-01
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or one_line(error)
        raise UserError(f"{origin}: is not YAML{line}: {reason}") from None


def has_comment(text: str) -> bool:
    """Whether YAML takes a part of it for a comment."""
    tokens = pairwise(yaml.scan(text))
    return any("#" in text[token.end_mark.index : following.start_mark.index] for token, following in tokens)


def dump_yaml(values: Any, one_line: bool = False) -> str:
    """YAML that reads back as the same, here and by YAML 1.1."""
    style: dict[str, Any] = dict(default_flow_style=True, width=float("inf")) if one_line else {}
    dumped = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)
    return dumped.removesuffix("\n").removesuffix("\n...") if one_line else dumped


def in_quotes(text: str) -> str:
    return yaml.safe_dump(str(text), default_style='"', width=float("inf"), allow_unicode=True).removesuffix("\n")


def read_yaml(path: Path, kind: str, named_by: str = "") -> dict:
    """The mapping that a YAML file holds. `kind` and `named_by` tell of the file in errors.

    Raises:
        UserError: no such file, no YAML, no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such {kind}{named_by}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a {kind}: {error}") from None
    own = parse_yaml(text, str(path))
    if own is None or (isinstance(own, Plain) and own in NULL):
        return {}
    if not isinstance(own, dict):
        kind = "text" if isinstance(own, str) else f"a {type(own).__name__}"
        raise UserError(f"{path}: holds {kind}, expected a mapping of keys")
    return own
