"""The training engine. It is handed a task and knows no task's particulars."""

from .dist import World, start, stop
from .dry_run import dry_run
from .evaluate import evaluate
from .failure import in_one_sentence
from .folder import fresh_folder
from .interrupt import EXIT_CODE, Interrupted
from .loop import train

__all__ = [
    "EXIT_CODE",
    "Interrupted",
    "World",
    "dry_run",
    "evaluate",
    "fresh_folder",
    "in_one_sentence",
    "start",
    "stop",
    "train",
]
