"""Several processes give what one gives."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import Started
from eval_runs import write_digits
from ranks import on_ranks
from small_runs import ALONE, ROOT, SMALL, assert_equal_weights, logged, weights

from ddfnet.tasks.classification import Classification
from ddfnet.train import dist, train

pytestmark = pytest.mark.forks


def train_and_look(config, world) -> list:
    """The run's folder holds its log; returned are the pictures of this rank, step by step."""
    task = Classification(config, world)
    seen = {}
    prepare = task.prepare

    def looking(batch, step):
        seen[step] = batch.images.numpy()
        return prepare(batch, step)

    task.prepare = looking
    train(config, task, world)
    return [seen[step] for step in sorted(seen)]


def test_one_rank_and_two_see_the_same_samples_and_learn_alike(no_batch_norm):
    """1 x 64 against 2 x 32: the same pictures in the same order, losses and accuracy equal to rounding."""
    options = ["train.batch_size=64", "run.log_every=1", "train.clip_grad=1.0"]
    one, two = no_batch_norm("one", *options), no_batch_norm("two", *options)
    whole = train_and_look(one, ALONE)
    parts = on_ranks(2, lambda world: train_and_look(two, world))
    assert len(whole) == len(parts[0]) == len(parts[1]) == 22
    for step, pictures in enumerate(whole):
        assert (pictures[:32] == parts[0][step]).all() and (pictures[32:] == parts[1][step]).all()
    for kind in ("train", "eval"):
        losses = [[line["loss"] for line in logged(config, kind)] for config in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    a, b = weights(one), weights(two)
    for name, value in a["state_dict"].items():
        torch.testing.assert_close(value, b["state_dict"][name], rtol=1e-3, atol=1e-4)


def children(pid: int) -> list[int]:
    """Processes that the process started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks in /proc")
def test_torchrun_restarts_continue_after_a_rank_was_killed(small, tmp_path):
    """SIGKILL to one of two ranks inside an epoch; the launcher starts both again; it ends as if nothing was."""
    small("whole")  # writes small.yaml
    options = ["train.epochs=4", "run.checkpoint_minutes=1e-9", "run.log_every=1"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MAX_RESTARTS": "1", "PYTHON": sys.executable}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"

    def start(name):
        arguments = ["scripts/train_dist.sh", "2", tmp_path / "small.yaml", f"run.dir={tmp_path / name}", *options]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen(arguments, cwd=ROOT, env=env, **pipes)

    whole, broken = start("whole"), start("broken")
    log = tmp_path / "broken/metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (log.exists() and len(log.read_text().splitlines()) > 9) and time.monotonic() < deadline:
        time.sleep(0.02)
    (launcher,) = children(broken.pid)
    victim = max(children(launcher))
    os.kill(victim, signal.SIGKILL)
    said = broken.communicate(timeout=240)[0]
    assert broken.returncode == 0, said
    assert "continuing from" in said and "at step" in said
    assert whole.communicate(timeout=240)[0] and whole.returncode == 0
    assert_equal_weights(weights(small("whole")), weights(small("broken")))
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "broken")]
    assert summaries[0]["step"] == summaries[1]["step"] == 28 and summaries[0]["loss"] == summaries[1]["loss"]


def test_a_stopped_launcher_says_try_again(small, tmp_path):
    """SIGTERM to scripts/train_dist.sh: both ranks save, and its code is that of a run that can go on."""
    (tmp_path / "small.yaml").write_text(SMALL)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    options = [f"run.dir={tmp_path / 'a'}", "train.epochs=50", "run.log_every=1"]
    arguments = ["scripts/train_dist.sh", "2", tmp_path / "small.yaml", *options]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process = subprocess.Popen(arguments, cwd=ROOT, env=env, **pipes)
    log = tmp_path / "a/metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (log.exists() and len(log.read_text().splitlines()) > 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 75 and "stopped as asked, after step" in said, said
    assert weights(small("a"))["step"] >= 3


def test_a_rank_that_has_not_the_data_ends_the_others_in_one_sentence_too(tmp_path):
    write_digits(tmp_path / "data/train", 40)
    (tmp_path / "data/val").symlink_to("train")
    (tmp_path / "small.yaml").write_text(SMALL)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    own = dict(WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    started = []
    for rank, root in enumerate(("data", "nothing")):
        options = ["data.source=imagefolder", f"data.root={tmp_path / root}", "train.batch_size=10"]
        options += ["run.device=cpu", f"run.dir={tmp_path / 'run'}", "train.epochs=2"]
        started.append(Started("train.py", "--config", tmp_path / "small.yaml", *options, **own, RANK=str(rank)))
    said = [process.wait(240).stderr for process in started]
    assert "another process of this run was lost" in said[0] and "nothing/val: no such folder" in said[1]
    assert not any("Traceback" in text for text in said)


def test_the_group_is_left_at_the_end():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    dist.stop()
    assert not torch.distributed.is_initialized()
    dist.stop()  # of one that was never joined
