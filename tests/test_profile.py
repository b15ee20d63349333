"""The profile of steps 10 to 20."""

import gzip
import json

import pytest
import torch
from small_runs import ALONE, run

from ddfnet.tasks.classification import Classification
from ddfnet.train import train
from ddfnet.train.profile import Profile

CPU = torch.device("cpu")


def profiled(folder, steps, said, enabled=True, first=0):
    with Profile(folder, first, CPU, enabled, said.append) as profile:
        for _ in range(steps):
            torch.ones(64, 64) @ torch.ones(64, 64)
            profile.step()


def events(folder, name):
    return json.loads(gzip.decompress((folder / name).read_bytes()))["traceEvents"]


def products(folder, name):
    return sum(event.get("name") == "aten::mm" for event in events(folder, name))


def test_steps_10_to_20_are_recorded_once(tmp_path):
    said = []
    profiled(tmp_path / "profile", 45, said, first=100)
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == [
        "steps-110-120.json.gz",
        "steps-110-120.txt",
    ]
    assert products(tmp_path / "profile", "steps-110-120.json.gz") == 11
    (text,) = said
    table = (tmp_path / "profile/steps-110-120.txt").read_text()
    assert text.startswith("profile of steps 110 to 120: ") and text.endswith(table.rstrip("\n"))
    (row,) = [line.split() for line in table.splitlines() if line.startswith("aten::mm ")]
    assert row[1] == "1.0"  # call a step


@pytest.mark.parametrize("steps,recorded", [(12, 3), (20, 11)])
def test_a_shorter_run_writes_what_it_has_and_says_so(tmp_path, steps, recorded):
    said = []
    profiled(tmp_path, steps, said)
    assert products(tmp_path, f"steps-10-{steps}.json.gz") == recorded
    assert ("(3 of 11: the run ended)" in said[0]) == (recorded == 3)


@pytest.mark.parametrize("steps", [0, 8, 9])
def test_a_run_without_a_tenth_step_has_no_profile_and_says_so(tmp_path, steps, recwarn):
    said = []
    profiled(tmp_path / "profile", steps, said)
    assert said == [f"no profile: the run ended after {steps} steps here, it begins at step 10"]
    assert not (tmp_path / "profile").exists() and not recwarn.list


def test_the_other_ranks_profile_nothing(tmp_path):
    said = []
    profiled(tmp_path / "profile", 30, said, enabled=False)
    assert not said and not (tmp_path / "profile").exists()


def test_a_run_that_fails_keeps_its_own_error(tmp_path):
    said = []
    with pytest.raises(ZeroDivisionError), Profile(tmp_path / "profile", 0, CPU, True, said.append) as profile:
        for _ in range(15):
            profile.step()
        1 / 0  # noqa: B018
    assert not said and not (tmp_path / "profile").exists()


def test_a_trace_that_cannot_be_written_names_its_file(tmp_path):
    (tmp_path / "steps-10-20.json.gz.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        profiled(tmp_path, 25, [])
    assert caught.value.filename == str(tmp_path / "steps-10-20.json.gz")
    assert not list(tmp_path.iterdir())


def test_a_profiled_run_is_the_same_run(small, tmp_path, capsys):
    plain, traced = small("plain", "train.epochs=2"), small("traced", "train.epochs=2")
    a = run(plain)
    b = train(traced, Classification(traced, ALONE), ALONE, profile=True)
    assert a["loss"] == b["loss"]
    names = {event.get("name") for event in events(tmp_path / "traced/profile", "steps-10-14.json.gz")}
    assert {"ddfnet::ddf", "aten::convolution_backward", "Optimizer.step#SGD.step"} <= names
    assert "profile of steps 10 to 14 (5 of 11: the run ended)" in capsys.readouterr().out
    assert not (tmp_path / "plain/profile").exists()
