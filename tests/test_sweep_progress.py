"""What a sweep knows of its runs: how far they are, how long they will take."""

import json

import pytest
from small_sweeps import plan
from sweeping import attempts
from sweeping.estimate import from_finished
from sweeping.folders import read_progress

from ddfnet.errors import UserError


def test_progress_is_read_from_what_a_run_wrote(tmp_path):
    assert read_progress(tmp_path).state == "new"
    (tmp_path / "config.yaml").touch()
    train = {"kind": "train", "step": 10, "epoch": 1.0, "loss": 2.0, "images_per_second": 5.0}
    lines = [train | {"step": step} for step in range(1, 400)] + [
        {"kind": "eval", "step": 400, "epoch": 2.0, "top1": 7.0}
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "tra')
    now = read_progress(tmp_path)
    assert (now.state, now.step, now.epoch, now.loss, now.evaluation["top1"]) == ("begun", 400, 2.0, 2.0, 7.0)
    (tmp_path / "summary.json").write_text('{"top1": 8.0, "step": 500}')
    now = read_progress(tmp_path)
    assert (now.state, now.step, now.evaluation["top1"]) == ("finished", 500, 8.0)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary.json: cannot be read"):
        read_progress(tmp_path)


def test_the_estimate_says_where_it_comes_from(tmp_path):
    runs = plan(tmp_path).runs[:3]
    assert from_finished(runs).seconds is None
    for run, seconds in zip(runs[:2], (100, 300), strict=True):
        run.folder.mkdir(parents=True)
        (run.folder / "summary.json").write_text('{"top1": 1.0}')
        events = [{"event": "start", "time": 0, "gpus": [], "threads": 1}, {"event": "end", "time": seconds, "exit": 0}]
        (run.folder / attempts.FILE).write_text("\n".join(map(json.dumps, events)))
    assert from_finished(runs).seconds == 200 and from_finished(runs).source == "mean of 2 finished"
    runs[2].folder.mkdir()
    line = {"kind": "train", "step": 14, "epoch": 2.0, "loss": 1.0, "images_per_second": 140.0}
    (runs[2].folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    begun = from_finished(runs[2:])
    assert begun.seconds == 3 * 7 * 200 / 140 and runs[2].name in begun.source  # epochs x pictures / speed
