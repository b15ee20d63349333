"""Paths as users type them: shells put the home directory for ~ after a space, not after key= or --option=."""

import os
from pathlib import Path


def expanded(text: str) -> str:
    return os.path.expanduser(text)  # pathlib's raises RuntimeError for a user that is not there


def path_of(text: str) -> Path:
    """For argparse."""
    return Path(expanded(text))
