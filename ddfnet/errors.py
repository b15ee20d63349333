"""The one exception whose message is meant for the user of a command, and what such sentences are made of."""

import difflib
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """One sentence that names the thing, where it stands and what would be right; shown without a traceback."""


def did_you_mean(name: str, known: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """Return `, did you mean X?` for the known name that is most like it, nothing where none is.

    Args:
        shown: what to call each known name, where that is another.
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {shown[close[0]] if shown else close[0]}?" if close else ""


def one_line(error: BaseException) -> str:
    """Return all that an exception says, on one line; the name of its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, where the rest is a page of detail; else as `one_line`."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
