"""Sweeps of train.py that are killed, stopped, locked out or spread over processes; minutes, so all of it is slow."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from report_page import check_in_browser, check_numbers
from rich.console import Console
from small_runs import ROOT
from small_sweeps import TWO_ROWS, paper_file, plan, write_sweep  # noqa: F401
from sweeping.attempt import job_of
from sweeping.board import Board
from sweeping.estimate import by_trying
from sweeping.local import Stop, run_local

from ddfnet.train import EXIT_CODE

pytestmark = pytest.mark.slow


def start(folder, *arguments):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "scripts/sweep.py",
        folder / "s.yaml",
        "--dir",
        folder / "runs",
        "--no-measure",
        *arguments,
    ]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trainings(folder):
    """Processes of train.py whose run lies in the folder."""
    found = []
    for path in (p for p in os.listdir("/proc") if p.isdigit()):
        try:
            said = open(f"/proc/{path}/cmdline").read().split("\0")
        except OSError:
            continue
        if any(word == f"run.dir={folder}" or word.startswith(f"run.dir={folder}/") for word in said):
            found.append(int(path))
    return found


def tables(folder):
    """The results, to the last digit: everything in every summary but times."""
    found = {}
    for file in sorted(folder.glob("*/summary.json")):
        summary = json.loads(file.read_text())
        found[file.parent.name] = {k: v for k, v in summary.items() if k not in ("images_per_second", "seconds")}
    return found


def logged(folder):
    """Lines in all logs."""
    return sum(file.read_text().count("\n") for file in folder.glob("*/metrics.jsonl"))


def test_killed_at_random_and_resumed_it_ends_with_the_same_table(tmp_path, paper_file):  # noqa: F811
    """Six runs on digits. Once the sweep is asked to stop, once it and its trainings die without a word."""
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        write_sweep(tmp_path / name, TWO_ROWS)
    options = ["--paper", str(paper_file), "--jobs", "2", "run.checkpoint_minutes=0.02"]
    whole = start(tmp_path / "whole", *options)
    said, _ = whole.communicate(timeout=1200)
    assert whole.returncode == 0, said
    want = tables(tmp_path / "whole/runs")
    assert len(want) == 6

    chance = random.Random(time.time_ns())
    for death in (signal.SIGTERM, signal.SIGKILL):
        moment = logged(tmp_path / "broken/runs") + chance.randint(1, 20)  # of 60 lines in all
        process = start(tmp_path / "broken", *options)
        deadline = time.monotonic() + 600
        while logged(tmp_path / "broken/runs") < moment and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1))
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(death)
        if death == signal.SIGKILL:
            for pid in trainings(tmp_path / "broken/runs"):
                os.kill(pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == (EXIT_CODE if death == signal.SIGTERM else -signal.SIGKILL), said
        assert not trainings(tmp_path / "broken/runs") and len(tables(tmp_path / "broken/runs")) < 6
    process = start(tmp_path / "broken", *options)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    assert tables(tmp_path / "broken/runs") == want
    reports = [(tmp_path / name / "runs/report.md").read_text() for name in ("whole", "broken")]
    table = [report[report.index("## Table 3a") :].split("\n\n")[1] for report in reports]
    assert table[0] == table[1] and "±" in table[0]
    assert check_numbers(tmp_path / "broken/runs") == 2 * 2 + 2 * 4 + 6 * 7  # paper's table, rows, runs
    check_in_browser(tmp_path / "broken/runs")  # last, since it skips the test where there is no browser


def test_two_sweeps_over_one_folder_take_turns(tmp_path):
    write_sweep(tmp_path, "runs: {ddf: small.yaml}\n")
    first = start(tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs/ddf-seed0/metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    second = start(tmp_path)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 1 and f"is held by a sweep, process {first.pid} on" in said
    assert "Traceback" not in said
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 0, said


def test_several_gpus_a_run_by_torchrun(tmp_path):
    """On the CPU: two processes of one run, stopped together, by one signal and by two at once, continued."""
    run = plan(tmp_path, "runs: {ddf: small.yaml}\noverrides: [train.epochs=12]\n").runs[0]
    log = run.folder / "log.txt"

    def go_on(signals=0):
        board, stop = Board([run], Console()), Stop()
        first = logged(tmp_path / "runs")

        def ask():
            deadline = time.monotonic() + 240
            while logged(tmp_path / "runs") < first + 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            stop.times = signals

        asking = threading.Thread(target=ask)
        asking.start()
        run_local([job_of(run, 2, on_gpu=False)], [[]], 1, 1, board, stop)
        asking.join()
        return board.lines[run.name].state

    for signals in (1, 2):
        assert go_on(signals) == "stopped"
        assert not trainings(tmp_path / "runs")
        assert log.read_text().count("stopped as asked") == 2 * signals  # both ranks say so
    assert "2 x 100 = batch 200" in log.read_text()
    assert go_on() == "done"
    assert log.read_text().count("continuing from") == 2
    assert json.loads((tmp_path / "runs/ddf-seed0/summary.json").read_text())["epochs"] == 12


def test_the_time_is_measured_by_a_few_steps_that_leave_nothing(tmp_path, monkeypatch):
    run = plan(tmp_path).runs[0]
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    estimate = by_trying(run, 1, [], 1, Stop())
    assert estimate.seconds > 0 and "measured, " in estimate.source
    assert not list((tmp_path / "scratch").iterdir()) and not run.folder.exists()
    lost = plan(tmp_path, overrides=["data.source=imagefolder"]).runs[0]
    estimate = by_trying(lost, 1, [], 1, Stop())
    assert estimate.seconds is None and "no such folder" in estimate.source
