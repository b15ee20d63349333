"""A sweep's folder may be called anything and SLURM's values are text; a result of other settings is nobody's row."""

import json
import re
import shlex
import sys
from pathlib import Path

import commands
import pytest
import sweep as command
from hypothesis import HealthCheck, given, settings
from rich.console import Console
from small_runs import SMALL
from small_sweeps import plan, sweep, write_sweep
from sweeping import plan as planning
from sweeping import slurm_options
from sweeping.attempt import job_of
from sweeping.board import Board
from sweeping.folders import Lock
from sweeping.local import Stop, run_local
from sweeping.slurm import _settle
from test_any_value import TEXT

from ddfnet.config import dump_config, load_config
from ddfnet.errors import UserError

ONE = "runs: {ddf: small.yaml}\n"
TWO = "runs: {a: small.yaml, b: {config: small.yaml, overrides: [train.lr=0.1]}}\noverrides: [train.epochs=2]\n"
NAMES = TEXT.filter(lambda text: text.strip("./") and "/" not in text and "\0" not in text)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES)
def test_a_sweeps_folder_may_be_called_anything(tmp_path, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(planning, "_build_models", lambda runs, file: None)  # which takes long and knows no folders
        made = planning.plan_sweep(write_sweep(tmp_path, TWO), Path(name), [], Path("nowhere.yaml"))
    for run in made.runs:
        assert run.folder == Path(name) / run.name
        _, script, _, file, *overrides = shlex.split(job_of(run, 1, on_gpu=False).shown)
        config = load_config(file, overrides)  # as the process of train.py will
        assert script.endswith("train.py") and file == str(run.config_file)
        assert Path(config.run.dir) == run.folder and config == run.config


def test_each_row_of_a_sweep_trains_in_its_own_folder_whatever_that_is_called(tmp_path, capfd):
    write_sweep(tmp_path, TWO)
    folder = tmp_path / "my sweep #2 caf\udce9"
    assert sweep(tmp_path, "--dir", str(folder)) == 0
    assert rf"report: {tmp_path}/my sweep #2 caf\xe9/report.html" in capfd.readouterr().out
    assert (folder / "report.md").read_text().startswith("# my sweep #2 caf\\xe9\n")
    summaries = [json.loads((folder / name / "summary.json").read_text()) for name in ("a-seed0", "b-seed0")]
    assert summaries[0]["loss"] != summaries[1]["loss"] and all(summary["step"] == 14 for summary in summaries)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my sweep #2 caf\udce9", "s.yaml", "small.yaml"]
    assert [load_config(folder / f"{row}-seed0/config.yaml").train.lr for row in "ab"] == [0.2, 0.1]


def test_values_of_a_grid_are_text_where_the_key_takes_text(tmp_path):
    made = plan(
        tmp_path, ONE + "grid: {data.val_split: [2012, 'no', 'my #2', '007', 1.10, 1.1, 1e4, true, off, 010]}\n"
    )
    typed = ["2012", "no", "my #2", "007", "1.10", "1.1", "1e4", "true", "off", "010"]
    assert [run.config.data.val_split for run in made.runs] == typed
    for grid, sentence in (
        ("{train.seed: [010]}", "grid.train.seed.0 = 010: expected a decimal number: 10"),
        ("{train.amp: [no]}", "runs.ddf: train.amp = 'no': input should be"),
        ("{model.kwargs.x: [1:30]}", "grid.model.kwargs.x.0 = 1:30: YAML would make 90 of it"),
        ("{data.val_split: [a, null]}", "grid.data.val_split.1 = None: expected text"),
        ("{data.val_split: [[a]]}", "grid.data.val_split.0 = ['a']: expected text"),
        ("{data.val_split: [!!float 1]}", "grid.data.val_split.0 = 1.0: expected text"),
    ):
        with pytest.raises(UserError, match=re.escape(f"s.yaml: {sentence}")):
            plan(tmp_path, ONE + f"grid: {grid}\n")
    with pytest.raises(UserError, match=r"s.yaml: seeds.1 = 010: expected a decimal number: 10"):
        plan(tmp_path, ONE + "seeds: [0, 010]\n")


def test_a_config_may_be_called_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_sweep(tmp_path, "runs: {a: -small.yaml, b: ./~/small.yaml, c: './my #2.yaml'}\n")
    (tmp_path / "~").mkdir()
    for lr, name in enumerate(("-small.yaml", "~/small.yaml", "my #2.yaml"), start=1):
        (tmp_path / name).write_text(SMALL.replace("lr: 0.2", f"lr: {lr}"))
    for run in planning.plan_sweep(Path("s.yaml"), Path("runs"), [], Path("nowhere.yaml")).runs:
        python, *arguments = [*job_of(run, 1, on_gpu=False).command, "--print-config"]
        result = commands.command(*arguments, cwd=tmp_path)
        assert python == sys.executable
        assert result.stdout == dump_config(run.config), result.stderr


def test_a_home_directory_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/c.yaml").write_text(SMALL)
    for runs in ("{a: ~/c.yaml}", "{a: {config: ~/c.yaml}}"):
        made = plan(tmp_path, f"runs: {runs}\ngrid: {{data.root: [~/sets/a, './~/b', '~']}}\n")
        assert [run.config.data.root for run in made.runs] == [f"{tmp_path}/home/sets/a", "./~/b", f"{tmp_path}/home"]
    write_sweep(tmp_path, ONE)
    sweep(tmp_path, "--dir=~/x", "--dry-run")
    (tmp_path / "home/x/ddf-seed0").mkdir(parents=True)
    (tmp_path / "home/x/ddf-seed0/summary.json").write_text('{"top1": 1.0}')
    with pytest.raises(UserError, match=f"{tmp_path}/home/x/ddf-seed0: holds a summary.json without"):
        sweep(tmp_path, "--dir=~/x", "--dry-run")


# ---- a result of other settings


def with_result_of_other_settings(run):
    run.folder.mkdir(parents=True, exist_ok=True)
    other = run.config.model_copy(update={"train": run.config.train.model_copy(update={"lr": 9.0})})
    (run.folder / "config.yaml").write_text(dump_config(other))
    (run.folder / "summary.json").write_text('{"top1": 99.0}')


def test_what_another_trained_meanwhile_in_a_runs_folder_is_not_its_result(tmp_path, capsys):
    run = plan(tmp_path, ONE).runs[0]
    held = Lock(run.folder).take("another sweep")

    class Waiting(Board):
        def set(self, name, state, note=""):
            super().set(name, state, note)
            if state == "elsewhere":
                with_result_of_other_settings(run)
                held.release()

    board = Waiting([run], Console(width=300))
    run_local([job_of(run, 1, on_gpu=False)], [[]], 1, 1, board, Stop())
    assert board.lines[run.name].state == "failed"
    assert f"{run.folder}: was trained with train.lr = 9.0, now it is 0.2" in capsys.readouterr().out


def test_a_job_that_left_the_queue_is_done_only_with_a_result_of_its_own_settings(tmp_path, capsys):
    run = plan(tmp_path, ONE).runs[0]
    board, job = Board([run], Console(width=300)), job_of(run, 1, on_gpu=False)
    with_result_of_other_settings(run)
    _settle(job, False, tmp_path, "1", board)
    assert board.lines[run.name].state == "failed" and "train.lr = 9.0, now it is 0.2" in capsys.readouterr().out
    (run.folder / "config.yaml").write_text(dump_config(run.config))
    _settle(job, False, tmp_path, "1", board)
    assert board.lines[run.name].state == "done"


# ---- SLURM's values


def options(*pairs):
    return slurm_options.slurm_options(list(pairs), 3, 1)


@settings(deadline=None)
@given(TEXT)
def test_a_value_for_slurm_is_the_text_that_was_typed(text):
    for key in ("account", "partition", "qos", "constraint", "comment", "mem", "gpus_per_node"):
        try:
            typed = options(f"{key}={text}")
        except UserError as error:
            assert not text.isprintable() and "expected text of one line" in str(error) and str(error).isprintable()
            continue
        assert at_sbatch(typed)[key] == typed[key] == text


def at_sbatch(typed):
    """{option: what sbatch reads of it} of the job's script, by its own rules, which are a shell's."""
    slurm = pytest.importorskip("submitit.slurm.slurm")
    script = slurm._make_sbatch_string("true", "logs", **typed).split("\n")
    read = [shlex.split(line.removeprefix("#SBATCH --")) for line in script if line.startswith("#SBATCH --")]
    assert all(len(words) == 1 for words in read)
    pairs = [word.partition("=") for (word,) in read]
    return {key.replace("-", "_"): value if equals else True for key, equals, value in pairs}


@pytest.mark.parametrize("name", ["my sweep #2", "a\necho x", "caf\udce9", "'"])
def test_a_jobs_name_is_its_folders_on_one_line(tmp_path, name):
    named = slurm_options.job_name(tmp_path / name)
    assert named == "".join(letter if letter.isprintable() else "_" for letter in name)
    assert at_sbatch({"job_name": named})["job_name"] == named
    assert slurm_options.job_name(Path(".")) == Path.cwd().name


def test_more_parameters_for_sbatch_are_text_or_flags():
    typed = options("additional_parameters={x: 1.10, y: 010, z: true, f: false, 'n': 'false', t: null}")
    assert at_sbatch(typed).items() >= {"x": "1.10", "y": "010", "z": True, "n": "false", "t": "null"}.items()
    assert "f" not in at_sbatch(typed)
    assert at_sbatch(options("exclusive=true"))["exclusive"] is True
    assert at_sbatch(options("exclusive=user"))["exclusive"] == "user"
    assert "exclusive" not in at_sbatch(options("exclusive=false"))
    assert options("setup=[module load cuda, null, 1.10]")["setup"] == ["module load cuda", "null", "1.10"]


@pytest.mark.parametrize(
    "text,minutes",
    [
        ("90", 90),
        ("1:00:00", 60),
        ("24:00:00", 1440),
        ("1:30", 2),
        ("2-12", 3600),
        ("1-0:30", 1470),
        ("1-00:00:01", 1441),
    ],
)
def test_slurms_notation_of_a_time_is_slurms(text, minutes):
    assert options(f"time={text}")["time"] == minutes and options()["time"] == 1440


def test_what_submitit_computes_with_is_a_number_a_flag_or_a_list():
    read = options("nodes=2", "exclusive=true", "use_srun=false", "setup=[module load cuda]", "account=0123")
    assert (read["nodes"], read["exclusive"], read["use_srun"]) == (2, True, False)
    assert (read["setup"], read["account"], read["cpus_per_task"]) == (["module load cuda"], "0123", 4)
    for pair, expected in (
        ("time=1h", "minutes, or M:S, H:M:S, D-H"),
        ("nodes=010", "a whole number"),
        ("use_srun=no", "true or false"),
        ("setup=module load", "a list such as"),
        ("partition", "KEY=VALUE"),
        ("exclusive=", "true, false, or user"),
        ("setup=[a", "a list such as [module load cuda]: is not YAML"),
        ("setup=[a] #b", "a list such as [module load cuda]"),
        ("setup=[[a]]", "a list such as [module load cuda]"),
        ("additional_parameters={x: [a]}", "text, true or false in place of ['a']"),
        ('additional_parameters={x: "a\\nb"}', "text of one line"),
        ("additional_parameters={x: a", "a mapping such as {mail-user: me}: is not YAML"),
    ):
        with pytest.raises(UserError, match=re.escape(f"--slurm {pair}: expected {expected}")):
            options(pair)


def test_options_for_slurm_that_stand_in_two_places_all_count():
    args = command.parse(["s.yaml", "--launcher", "slurm", "--slurm", "partition=gpu", "--slurm", "time=5"])
    assert args.slurm == ["partition=gpu", "time=5"]
