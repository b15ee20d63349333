"""Runs that are asked to stop, or killed, at any moment, and their checkpoints inside an epoch."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import Started, command, start_ranks
from small_runs import SMALL, assert_equal_weights, run, weights

from ddfnet.train import EXIT_CODE, World
from ddfnet.train.interrupt import Interrupt
from ddfnet.train.state import State


def arguments_of(tmp_path, name, *overrides):
    (tmp_path / "small.yaml").write_text(SMALL)
    return ["train.py", "--config", tmp_path / "small.yaml", f"run.dir={tmp_path / name}", *overrides]


def wait_for(file: Path, seconds=120) -> None:
    deadline = time.monotonic() + seconds
    while not (file.exists() and len(file.read_text().splitlines()) > 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert file.exists() and len(file.read_text().splitlines()) > 1, f"{file} never came"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signal_finishes_the_step_saves_and_the_same_command_continues_exactly(small, tmp_path, number):
    long = ["train.epochs=5", "data.workers=2"]
    whole = small("whole", *long)
    run(whole)
    process = Started(*arguments_of(tmp_path, "broken", *long))
    wait_for(tmp_path / "broken/metrics.jsonl")
    process.send_signal(number)
    stopped = process.wait(120)
    said = stopped.stderr
    assert stopped.returncode == EXIT_CODE == 75, said
    (line,) = [line for line in said.splitlines() if "stopped as asked, after step" in line]
    assert line.endswith("last.pt; the same command continues from there") and "Traceback" not in said
    step = torch.load(tmp_path / "broken/checkpoints/last.pt", weights_only=True)["step"]
    assert f"after step {step:,} of" in line
    finished = command(*process.arguments)
    assert finished.returncode == 0 and f"at step {step:,} of" in finished.stdout
    assert_equal_weights(weights(whole), weights(small("broken", *long)))


def test_killed_at_any_step_it_loses_no_more_than_the_interval(small, tmp_path, monkeypatch):
    """With a checkpoint after every step (an interval of no time) a run that dies after step n continues at n."""
    whole = small("whole")
    run(whole)
    saved = []
    save = State.save

    def dying_save(self, path, *arguments):
        save(self, path, *arguments)
        saved.append(self.step)
        if path.name == "last.pt" and self.step in (3, 4, 11):
            raise SystemExit  # as if killed right after

    monkeypatch.setattr(State, "save", dying_save)
    config = small("broken", "run.checkpoint_minutes=1e-9")
    for step in (3, 4, 11):
        with pytest.raises(SystemExit):
            run(config)
        assert weights(config)["step"] == step
    run(config)
    assert set(saved) == set(range(1, weights(whole)["step"] + 1))
    assert_equal_weights(weights(whole), weights(config))


def test_checkpoints_inside_an_epoch_can_be_switched_off(small, monkeypatch):
    saved = []
    save = State.save
    monkeypatch.setattr(State, "save", lambda self, *arguments: saved.append(self.step) or save(self, *arguments))
    config = small("a", "run.checkpoint_minutes=0", "train.epochs=2")
    run(config)
    assert len(set(saved)) == 2


def require_end(processes, code) -> list[str]:
    """What each said; all of them end with that code."""
    ended = [process.wait(240) for process in processes]
    assert [each.returncode for each in ended] == [code] * len(processes), ended
    return [each.stderr for each in ended]


def test_two_ranks_stop_together_and_continue_exactly(small, tmp_path):
    """The signal reaches one of them; both stop after the same step; the batch norm of each is its own again."""
    options = ["train.epochs=6"]
    require_end(start_ranks(2, *arguments_of(tmp_path, "whole", *options)), 0)
    broken = start_ranks(2, *arguments_of(tmp_path, "broken", *options))
    wait_for(tmp_path / "broken/metrics.jsonl")
    broken[1].send_signal(signal.SIGTERM)
    said = require_end(broken, EXIT_CODE)
    (first,), (second,) = ([line for line in text.splitlines() if "after step" in line] for text in said)
    assert first == second
    stopped = weights(small("broken"))
    assert stopped["batch_norm"].shape[0] == 2
    require_end(start_ranks(2, *arguments_of(tmp_path, "broken", *options, "data.workers=1")), 0)
    assert_equal_weights(weights(small("whole")), weights(small("broken")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_second_signal_ends_at_once():
    child = os.fork()
    if child == 0:
        with Interrupt(World(0, 1, torch.device("cpu")), 0) as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            stop, save = interrupt.after_step()
            if not (stop and save):
                os._exit(1)
            os.kill(os.getpid(), signal.SIGTERM)  # the same again, by another way
            time.sleep(1.1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_second_signal_ends_a_process_that_waits_outside_of_python():
    """As one does whose partner hangs: no handler of Python's would run."""
    ready, child_ready = os.pipe()
    child = os.fork()
    if child == 0:
        store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        with Interrupt(World(0, 1, torch.device("cpu")), 0):
            os.write(child_ready, b"!")
            store.get("what nobody puts there")
        os._exit(1)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    time.sleep(1.2)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Interrupt(World(0, 1, torch.device("cpu")), 0) as interrupt:
        assert signal.getsignal(signal.SIGTERM) == interrupt._receive and interrupt.after_step() == (False, False)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
