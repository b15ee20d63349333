"""What is learned, a folder each; `open_task` opens the one that a config names."""

from importlib import import_module
from typing import Any

from ..config import Config
from ..task import Task
from ..train.dist import World

TASKS = {"classification": "ddfnet.tasks.classification.task:Classification"}  # imported when asked for


def open_task(config: Config, world: World) -> Task:
    """Open the task of the config's root key `task` for training.

    Raises:
        UserError: as the task's class.
    """
    return task_class(config.task)(config, world)


def task_class(name: str) -> Any:
    """Import the class of a task, which knows its metrics without being opened."""
    module, class_name = TASKS[name].split(":")
    return getattr(import_module(module), class_name)
