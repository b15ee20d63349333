"""A sweep on a real SLURM of one node, which the test starts: Debian's slurm-wlm and munge, as root."""

import json
import os
import signal
import subprocess
import sys
import time

import slurm_node
from small_runs import ROOT
from small_sweeps import write_sweep

from ddfnet.train import EXIT_CODE

pytestmark = slurm_node.NEEDS
slurm = slurm_node.slurm


def start(folder, *arguments):
    command = [sys.executable, "scripts/sweep.py", folder / "s.yaml", "--dir", folder / "runs", "--launcher", "slurm"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.2)


def lines(file):
    return file.read_text().count("\n") if file.exists() else 0


def in_queue():
    return subprocess.run(["squeue", "-h", "-r"], capture_output=True, text=True).stdout.splitlines()


def test_a_job_array_is_stopped_left_alone_and_continued_with_the_results_of_a_local_sweep(tmp_path, slurm):
    text = "seeds: [0, 1]\nruns: {ddf: small.yaml}\noverrides: [train.epochs=20]\n"
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write_sweep(tmp_path / name, text)
    folder = tmp_path / "there/runs"

    # asked to stop: the jobs save and leave the queue
    process = start(tmp_path / "there")
    wait_for(lambda: lines(folder / "ddf-seed0/metrics.jsonl") > 1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == EXIT_CODE, said
    assert not in_queue() and (folder / "ddf-seed0/checkpoints/last.pt").exists()
    assert "stopped as asked" in (folder / "ddf-seed0/log.txt").read_text()

    # the watching process dies: the jobs go on, and the same command finds them again
    process = start(tmp_path / "there")
    wait_for(lambda: len(in_queue()) == 2)
    wait_for(lambda: (folder / "slurm.json").exists() and lines(folder / "ddf-seed0/attempts.jsonl") >= 3)
    process.kill()
    process.communicate()
    assert len(in_queue()) == 2
    ids = json.loads((folder / "slurm.json").read_text())
    process = start(tmp_path / "there")
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "0 runs submitted, 2 there already" in said and json.loads((folder / "slurm.json").read_text()) == ids

    here = [
        sys.executable,
        "scripts/sweep.py",
        tmp_path / "here/s.yaml",
        "--dir",
        tmp_path / "here/runs",
        "--no-measure",
    ]
    result = subprocess.run(here, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in ("ddf-seed0", "ddf-seed1"):
        local, cluster = (
            json.loads((tmp_path / w / "runs" / name / "summary.json").read_text()) for w in ("here", "there")
        )
        same = {"images_per_second": 0, "seconds": 0}
        assert local | same == cluster | same


def test_a_job_that_nears_its_time_limit_goes_back_into_the_queue_and_continues(tmp_path, slurm):
    write_sweep(tmp_path, "runs: {ddf: small.yaml}\noverrides: [train.epochs=60]\n")
    process = start(tmp_path)
    folder = tmp_path / "runs/ddf-seed0"
    wait_for(lambda: lines(folder / "metrics.jsonl") > 1)
    number = json.loads((tmp_path / "runs/slurm.json").read_text())["ddf-seed0"]
    subprocess.run(["scancel", "--signal=USR2", number], check=True)  # as SLURM does ahead of the end
    wait_for(lambda: "stopped as asked" in (folder / "log.txt").read_text())
    subprocess.run(["scontrol", "release", number], capture_output=True)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "continuing from" in (folder / "log.txt").read_text()
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 60


def test_what_fails_on_the_cluster_is_told(tmp_path, slurm):
    write_sweep(tmp_path, "runs: {ddf: small.yaml}\noverrides: [data.source=imagefolder]\n")
    process = start(tmp_path)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "data/imagenet/val: no such folder" in said and "Traceback" not in said
    events = [json.loads(line) for line in (tmp_path / "runs/ddf-seed0/attempts.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "end"] * 2  # tried once more
    for options, sentence in (
        (["--slurm", "partiton=x"], "--slurm: Unavailable"),
        (["--slurm", "partition=nowhere"], "SLURM does not take"),
    ):
        process = start(tmp_path, *options)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 1 and sentence in said and "Traceback" not in said, said
