"""Several processes joined by Gloo, forked from the test's: importing torch once is slow enough."""

import multiprocessing
import os
import traceback
from collections.abc import Callable

import torch
import torch.distributed as dist

from ddfnet.errors import UserError
from ddfnet.train import World, start, stop


def on_ranks(size: int, function: Callable[[World], object]) -> list:
    """What the function returns on each rank. Raises AssertionError with the traceback of a rank that failed."""
    fork = multiprocessing.get_context("fork")
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    answers = [fork.SimpleQueue() for _ in range(size)]
    processes = [
        fork.Process(target=_rank, args=(rank, size, store.port, function, answers[rank])) for rank in range(size)
    ]
    for process in processes:
        process.start()
    results = [answer.get() for answer in answers]
    for process in processes:
        process.join()
    failed = [text for kind, text in results if kind == "failed"]
    assert not failed, "\n".join(failed)
    return [value for _, value in results]


def _rank(rank: int, size: int, port: int, function, answer) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    try:
        result = function(start("cpu"))
        stop()
        answer.put(("returned", result))
    except BaseException:
        answer.put(("failed", traceback.format_exc()))


def in_a_process(function) -> str:
    """What the UserError says that the function raises in a forked process, whose limits are its own."""
    queue = multiprocessing.get_context("fork").SimpleQueue()

    def call():
        torch.set_num_threads(1)
        try:
            function()
            queue.put("nothing was raised")
        except UserError as error:
            queue.put(str(error))
        except BaseException as error:
            queue.put(repr(error))

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    said = queue.get()
    process.join()
    return said
