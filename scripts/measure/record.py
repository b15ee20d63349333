"""What pytest and the tools around it found on a GPU, for gpu_check.sh tests to add to the figures."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree


def outcomes(junit: Path, told: Sequence[str]) -> dict:
    """pytest's counts, and who failed, from its report; the outcome of each tool, told as NAME=OUTCOME.

    A pytest that died has written no report: then `tests` is None.
    """
    found: dict = {"outcomes": dict(one.split("=", 1) for one in told), "tests": None}
    try:
        suite = ElementTree.parse(junit).getroot().find("testsuite")
    except (ElementTree.ParseError, FileNotFoundError):
        suite = None
    if suite is not None:
        found |= {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
        for kind, tag in (("failed", "failure"), ("not_run", "skipped")):
            found[kind] = [case.attrib["name"] for case in suite if case.find(tag) is not None]
    return found
