"""A function of many numbers, by several processes, in order; one that is killed ends the work with a sentence."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from ..errors import UserError

CHUNK = 8  # numbers sent to a process at once
AHEAD = 4  # chunks for each process whose results wait in memory for their turn, at most

Result = TypeVar("Result")


def in_order(
    function: Callable[..., Result], numbers: range, workers: int, if_killed: str, *arguments: Any
) -> Generator[Result, None, None]:
    """`function(number, *arguments)` of each number; the arguments reach a process once.

    Ctrl-C is the main process's affair: the others finish their chunk, and end.

    Raises:
        UserError: a process was killed; `if_killed` says what to do.
    """
    chunks = (numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK))
    executor = ProcessPoolExecutor(workers, initializer=_start, initargs=(function, arguments))
    try:
        under_way = deque(executor.submit(_results, chunk) for chunk in islice(chunks, AHEAD * workers))
        while under_way:
            results = under_way.popleft().result()
            under_way.extend(executor.submit(_results, chunk) for chunk in islice(chunks, 1))
            yield from results
    except BrokenProcessPool:  # multiprocessing.Pool would wait for the lost result for ever
        raise UserError(f"a worker process was killed, most likely for want of memory: {if_killed}") from None
    finally:
        executor.shutdown(cancel_futures=True)


_function: Callable[..., Any]  # of a worker process
_arguments: tuple


def _start(function: Callable[..., Any], arguments: tuple) -> None:
    global _function, _arguments
    _function, _arguments = function, arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """Killed, it tells nobody; what is left would wait for work for ever, and hold its open files and their locks."""
    main_process = multiprocessing.parent_process()
    assert main_process is not None
    main_process.join()
    os._exit(1)


def _results(chunk: range) -> list:
    return [_function(number, *_arguments) for number in chunk]
