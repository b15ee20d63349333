"""scripts/train_slurm.sbatch on a real SLURM of one node, which the test starts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import slurm_node
from ranks import on_ranks
from small_runs import ROOT, assert_equal_weights, weights

from ddfnet.tasks.classification import Classification
from ddfnet.train import train

pytestmark = slurm_node.NEEDS
slurm = slurm_node.slurm


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.2)


def said(*command) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_job_saves_queues_itself_again_and_ends_at_the_same_weights(slurm, small, tmp_path, monkeypatch):
    """Two tasks get SIGTERM, as before the end of their time; beside it a run that was never stopped.

    A job that a user cancels is not queued again.
    """
    options = ["train.epochs=20", "run.log_every=1"]
    small("a")  # writes small.yaml
    log, metrics = tmp_path / "log.txt", tmp_path / "a/metrics.jsonl"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name, value in dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), GLOO_SOCKET_IFNAME="lo").items():
        monkeypatch.setenv(name, value)

    def submit(name):
        resources = ["--ntasks", "2", "--cpus-per-task", "1", "--time", "20", "--output", str(log)]
        arguments = [str(tmp_path / "small.yaml"), f"run.dir={tmp_path / name}", *options]
        return said("sbatch", "--parsable", "--chdir", str(ROOT), *resources, "scripts/train_slurm.sbatch", *arguments)

    def steps():
        return metrics.read_text().count('"kind": "train"') if metrics.exists() else 0

    def state(job):
        return said("scontrol", "show", "job", job)

    monkeypatch.chdir(ROOT)
    job = submit("a").strip()
    wait_for(lambda: steps() > 3)
    said("scancel", "--signal", "TERM", job)
    wait_for(lambda: f"queued again as job {job}" in log.read_text())
    stopped = weights(small("a"))["step"]
    assert 3 < stopped < 140 and f"stopped as asked, after step {stopped} of 140" in log.read_text()
    wait_for(lambda: "JobState=PENDING" in state(job))
    said("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for(lambda: "JobState=COMPLETED" in state(job))
    assert f"at step {stopped} of 140" in log.read_text()

    whole = small("whole", *options)
    on_ranks(2, lambda world: train(whole, Classification(whole, world), world)["step"])
    assert_equal_weights(weights(small("a")), weights(whole))

    log.unlink()
    metrics.unlink()
    cancelled = submit("b").strip()
    metrics = tmp_path / "b/metrics.jsonl"
    wait_for(lambda: steps() > 1)
    said("scancel", cancelled)
    wait_for(lambda: "JobState=CANCELLED" in state(cancelled))
    assert "queued again" not in log.read_text() and weights(small("b"))["step"] > 1
