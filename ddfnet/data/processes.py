"""A function of many numbers, by several processes, in order; one that is killed ends the work with a sentence."""

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from ..errors import UserError

CHUNK = 8  # numbers sent to a process at once
AHEAD = 4  # chunks for each process under way, or done and waiting in memory for their turn, at most

Result = TypeVar("Result")


class _Killed(Exception):
    pass


def in_order(
    function: Callable[..., Result], numbers: range, workers: int, if_killed: str, *arguments: Any
) -> Generator[Result, None, None]:
    """`function(number, *arguments)` of each number; the arguments reach a process once.

    Each process has a pipe of its own, which ends with it, and a thread here that waits at it. Of the standard pools,
    multiprocessing's waits for ever when a process is killed, concurrent.futures' when it is killed while it sends.
    Ctrl-C reaches the main process only, which ends the others.

    Raises:
        UserError: a process was killed; `if_killed` says what to do.
    """
    chunks = (numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK))
    pipes: SimpleQueue[Connection] = SimpleQueue()
    processes: list[multiprocessing.Process] = []
    threads = ThreadPoolExecutor(workers)
    try:
        for _ in range(workers):
            ours, theirs = multiprocessing.Pipe()
            what = (theirs, ours, function, arguments)
            processes.append(multiprocessing.Process(target=_work, args=what, daemon=True))
            processes[-1].start()
            theirs.close()  # before the next process inherits it: who holds it keeps the pipe open
            pipes.put(ours)
        under_way = deque(threads.submit(_ask, pipes, chunk) for chunk in islice(chunks, AHEAD * workers))
        while under_way:
            results = under_way.popleft().result()
            under_way.extend(threads.submit(_ask, pipes, chunk) for chunk in islice(chunks, 1))
            yield from results
    except _Killed:
        raise UserError(f"a worker process was killed, most likely for want of memory: {if_killed}") from None
    finally:
        for process in processes:
            process.kill()
        threads.shutdown(cancel_futures=True)
        for process in processes:
            process.join()


def _ask(pipes: SimpleQueue[Connection], chunk: range) -> list:
    pipe = pipes.get()
    try:
        pipe.send(chunk)
        results, error = pipe.recv()
    except (EOFError, OSError):
        raise _Killed from None
    finally:
        pipes.put(pipe)
    if error is not None:
        raise error
    return results


def _work(pipe: Connection, other_end: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    other_end.close()  # inherited: the pipe is to end with the main process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the main process is gone
        while True:
            chunk = pipe.recv()
            results, raised = [], None
            try:
                results = [function(number, *arguments) for number in chunk]
            except Exception as error:
                raised = error
            pipe.send((results, raised))
