"""Runs are started, watched, stopped, tried again; two sweeps keep out of each other's way; killed ones continue."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console
from small_runs import ROOT
from small_sweeps import TWO_ROWS, WITHOUT_PAPER, paper_file, plan, sweep, write_sweep  # noqa: F401
from sweeping import attempts, estimate
from sweeping.attempt import Attempt, Job
from sweeping.board import Board
from sweeping.folders import Busy, Lock
from sweeping.local import Stop, run_local

from ddfnet.errors import UserError
from ddfnet.train import EXIT_CODE

# What stands for train.py in tests of the runner alone: a few lines of Python that behave as a run can.
FINISHES = "import pathlib, sys; pathlib.Path(sys.argv[1], 'summary.json').write_text('{\"top1\": 50.0}')"
FAILS = "print('about to'); raise SystemExit('error: the disk is full')"
FAILS_ONCE = f"""
import pathlib, sys
mark = pathlib.Path(sys.argv[1], 'tried')
if not mark.exists():
    mark.touch()
    raise SystemExit('error: bad luck')
{FINISHES}
"""
STOPPED_ONCE = FAILS_ONCE.replace("SystemExit('error: bad luck')", f"SystemExit({EXIT_CODE})")
WAITS = """
import pathlib, signal, sys, time
def stop(*_):
    print('saved')
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], 'ready').touch()
time.sleep(100)
"""
ASKED = """
import pathlib, signal, sys, time
asked = []
def stop(*_):
    print('asked')
    asked.append(time.monotonic())
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], 'ready').touch()
end = time.monotonic() + 100
while time.monotonic() < min([end, *(at + 1.5 for at in asked)]):
    time.sleep(0.1)
sys.exit(75 if asked else 0)
"""
STUBBORN = WAITS.replace("sys.exit(75)", "time.sleep(100)")


class Runner:
    """run_local over jobs of these programs, one for each run of the small sweep."""

    def __init__(self, folder, programs, capsys, at_once=1, sets=None):
        runs = plan(folder).runs[: len(programs)]
        self.jobs = [
            Job(run.name, run.folder, (sys.executable, "-c", program, str(run.folder)))
            for run, program in zip(runs, programs, strict=True)
        ]
        self.board, self.stop = Board(runs, Console(width=200)), Stop()
        self.capsys, self.at_once, self.sets = capsys, at_once, sets or [[]]

    def run(self):
        run_local(self.jobs, self.sets, self.at_once, 1, self.board, self.stop)
        self.said = self.capsys.readouterr().out
        return [line.state for line in self.board.lines.values()]

    def wait_for(self, *names):
        deadline = time.monotonic() + 60
        while not all((job.folder / name).exists() for job in self.jobs for name in names):
            assert time.monotonic() < deadline, "never came"
            time.sleep(0.01)


def test_a_failing_run_is_tried_once_more_and_stops_no_other(tmp_path, capsys):
    runner = Runner(tmp_path, [FAILS, FINISHES, FAILS_ONCE], capsys)
    assert runner.run()[:3] == ["failed", "done", "done"]
    assert runner.said.count("error: the disk is full") >= 2 and "will be tried once more" in runner.said
    assert "about to" in runner.said and str(runner.jobs[0].folder / "log.txt") in runner.said
    starts = [len([e for e in attempts.read_events(job.folder) if e["event"] == "start"]) for job in runner.jobs]
    assert starts == [2, 1, 2]
    exits = [e["exit"] for e in attempts.read_events(runner.jobs[2].folder) if e["event"] == "end"]
    assert exits == [1, 0]


def test_a_folder_that_cannot_be_used_fails_its_run_alone(tmp_path, capsys):
    runner = Runner(tmp_path, [FINISHES, FINISHES], capsys)
    runner.jobs[0].folder.parent.mkdir()
    runner.jobs[0].folder.write_text("a file")
    assert runner.run()[:2] == ["failed", "done"] and "the folder cannot be locked: " in runner.said


def test_a_start_that_fails_leaves_the_folder_free(tmp_path, capsys, monkeypatch):
    """Else the next attempt would find it locked, by this very process, and wait for that to end."""
    runner = Runner(tmp_path, [FINISHES], capsys)
    log = runner.jobs[0].folder / "log.txt"
    log.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        Attempt(runner.jobs[0], [], 1)
    Lock(log.parent).take("me").release()
    assert runner.run()[0] == "failed" and "failed again" in runner.said
    log.rmdir()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="the folder cannot be locked: No space left on device"):
            Attempt(runner.jobs[0], [], 1)
    Lock(log.parent).take("me").release()
    assert runner.run()[0] == "done"


def test_a_run_that_another_stopped_continues(tmp_path, capsys):
    runner = Runner(tmp_path, [STOPPED_ONCE], capsys)
    assert runner.run()[0] == "done" and "another than the sweep stopped it" in runner.said


def test_a_run_that_ends_well_without_a_result_has_failed(tmp_path, capsys):
    assert Runner(tmp_path, ["pass"], capsys).run()[0] == "failed"


@pytest.mark.parametrize("program,times,code", [(WAITS, 1, EXIT_CODE), (STUBBORN, 2, -signal.SIGKILL)])
def test_a_stop_reaches_every_run_and_a_second_one_ends_them(tmp_path, capsys, program, times, code):
    runner = Runner(tmp_path, [program] * 3, capsys, at_once=2)
    first_two = Runner.__new__(Runner)
    first_two.jobs = runner.jobs[:2]

    def ask():
        first_two.wait_for("ready")
        for _ in range(times):
            runner.stop.times += 1
            time.sleep(1)

    asking = threading.Thread(target=ask)
    asking.start()
    assert runner.run()[:3] == ["stopped"] * 3
    asking.join()
    ends = [e for job in runner.jobs[:2] for e in attempts.read_events(job.folder) if e["event"] == "end"]
    assert [end["exit"] for end in ends] == [code] * 2
    assert not runner.jobs[2].folder.exists()  # never begun


@pytest.mark.parametrize("times", [[2], [1, 2]])
def test_torchrun_is_asked_to_end_once(tmp_path, capsys, times):
    """Two signals may come as one, and then it must be asked all the same; a second would interrupt how it ends."""
    runner = Runner(tmp_path, [ASKED], capsys)
    job = runner.jobs[0]
    runner.jobs = [Job(job.name, job.folder, (*job.command, "torch.distributed.run"))]

    def ask():
        runner.wait_for("ready")
        for count in times:
            runner.stop.times = count
            time.sleep(0.7)  # run_local looks every 0.3 s

    asking = threading.Thread(target=ask)
    asking.start()
    assert runner.run()[0] == "stopped"
    asking.join()
    assert (job.folder / "log.txt").read_text().splitlines() == ["asked"]
    assert attempts.read_events(job.folder)[-1]["exit"] == EXIT_CODE


def test_a_killed_sweep_takes_along_what_it_measures(tmp_path, monkeypatch):
    """Else the trial would train to its last epoch, in a folder that nobody knows."""
    run = plan(tmp_path).runs[0]
    run.folder.mkdir(parents=True)
    job = Job(run.name, run.folder, (sys.executable, "-c", WAITS, str(run.folder)))
    monkeypatch.setattr(estimate, "job_of", lambda *_: job)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fork, arguments = multiprocessing.get_context("fork"), (run, 1, [], 1, Stop())
    trying = fork.Process(target=estimate.by_trying, args=arguments, daemon=True)
    trying.start()
    deadline = time.monotonic() + 60
    while not (run.folder / "ready").exists():
        assert time.monotonic() < deadline and trying.is_alive(), "never came"
        time.sleep(0.01)
    trying.kill()
    trying.join()
    (log,) = tmp_path.glob("ddfnet-sweep-*/log.txt")
    while "saved" not in log.read_text():
        assert time.monotonic() < deadline, "goes on"
        time.sleep(0.01)


def test_every_run_has_gpus_of_its_own(tmp_path, capsys):
    program = (
        "import os, pathlib, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']);" + FINISHES
    )
    runner = Runner(tmp_path, [program] * 4, capsys, at_once=2, sets=[["0", "1"], ["2", "GPU-ab"]])
    assert runner.run()[:4] == ["done"] * 4
    used = [(job.folder / "log.txt").read_text().split()[0] for job in runner.jobs]
    assert set(used[:2]) == {"0,1", "2,GPU-ab"} and set(used) == {"0,1", "2,GPU-ab"}
    assert attempts.cost(runner.jobs[0].folder).gpu_hours > 0 and attempts.cost(runner.jobs[0].folder).core_hours == 0


def test_the_lock_says_who_holds_it(tmp_path):
    write_sweep(tmp_path)
    held = Lock(tmp_path / "runs").take("a sweep, process 12 on thishost")
    with pytest.raises(UserError, match=r"runs: is held by a sweep, process 12 on thishost: wait for it, stop it"):
        sweep(tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".lock"]
    held.release()
    Lock(tmp_path / "runs").take("me").release()


def test_a_run_whose_sweep_died_is_left_alone_until_it_ends(tmp_path, capsys):
    """The lock goes with the training process, not with the sweep that started it."""
    runner = Runner(tmp_path, [FINISHES], capsys)
    folder = runner.jobs[0].folder
    go = tmp_path / "go"
    slow = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\n" + FINISHES
    starter = (
        f"import os, sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'scripts')!r}]\n"
        "from pathlib import Path; from sweeping.attempt import Attempt, Job\n"
        f"command = (sys.executable, '-c', {slow!r}, {str(folder)!r})\n"
        f"Attempt(Job('a', Path({str(folder)!r}), command), [], 1)\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", starter]).returncode == 9
    with pytest.raises(Busy, match="training, process"):
        Attempt(runner.jobs[0], [], 1)
    release = threading.Timer(1.5, go.touch)
    release.start()
    assert runner.run()[0] == "done"
    assert "elsewhere (training, process" in runner.said
    events = attempts.read_events(folder)
    assert [event["event"] for event in events] == ["start"]  # not started a second time
    attempts.settle(folder)
    assert attempts.read_events(folder)[-1]["exit"] is None


def test_the_table_lives_on_a_terminal(tmp_path):
    runs = plan(tmp_path).runs
    console = Console(force_terminal=True, width=120, height=40, record=True, file=open(os.devnull, "w"))
    with Board(runs, console) as board:
        board.set(runs[0].name, "running", "GPU 0")
        board.set(runs[1].name, "failed", "error: the disk is full")
        board.refresh()
    said = console.export_text()
    assert all(run.name in said for run in runs) and "GPU 0" in said and "the disk is full" in said
    assert "of 6 runs 1 running, 1 failed, 4 waiting" in said


# ---- with train.py


def test_a_sweep_trains_its_rows_and_reports_what_failed(tmp_path, paper_file, capfd):  # noqa: F811
    """Two runs, one of which finds no data; then the same command, which skips what is finished."""
    text = "seeds: [0]\nruns:\n  good: small.yaml\n  bad: {config: small.yaml, overrides: [data.source=imagefolder]}\n"
    write_sweep(tmp_path, text + "overrides: [train.epochs=2]\n")
    assert sweep(tmp_path) == 1
    said, errors = capfd.readouterr()
    assert "data/imagenet/val: no such folder" in said and "good-seed0: done, top-1" in said
    assert "1 of 2 runs failed: bad-seed0" in errors
    summary = tmp_path / "runs/good-seed0/summary.json"
    before = summary.read_bytes()
    top1 = f"{json.loads(before)['top1']:.2f}"
    assert top1 in (tmp_path / "runs/report.html").read_text() and top1 in (tmp_path / "runs/report.md").read_text()
    assert sweep(tmp_path, "--only", "good") == 0
    assert "good-seed0: done" in capfd.readouterr().out and summary.read_bytes() == before
