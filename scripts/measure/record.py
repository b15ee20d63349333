"""What pytest and the tools around it found on a GPU, for gpu_check.sh to add to the figures; and how a run went."""

import json
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


def run_figures(folder: Path) -> dict:
    """The last three log lines of a run of train.py, what they say of speed, and its evaluations, as far as it came."""
    file = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    logged = [line for line in lines if line["kind"] == "train"][-3:]
    keys = ("step", "epoch", "loss", "images_per_second", "data_wait", "memory", "mfu")
    return {
        "last_log_lines": [{key: line[key] for key in keys if key in line} for line in logged],
        "top1": {str(line["epoch"]): line["top1"] for line in lines if line["kind"] == "eval"},
    }
