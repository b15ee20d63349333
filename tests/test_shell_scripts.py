"""quickstart.sh, train_dist.sh and train_slurm.sbatch beside stand-ins for Python: what they call, what they refuse."""

import getpass
import os
import shutil
import subprocess
import sys

import pytest
from small_runs import ROOT

PYTHON = r"""#!EXECUTABLE
import itertools, os, pathlib, sys
said = ["|".join([*sys.argv[1:], ""])]
if sys.argv[1] == "train.py":
    given = [argument.partition("=")[2] for argument in sys.argv if argument.startswith("run.dir=")][-1]
    folder = given = pathlib.Path(given)  # as ddfnet.train.fresh_folder
    numbers = itertools.count(2)
    while "--fresh" in sys.argv and folder.exists():
        folder = given.with_name(f"{given.name}-{next(numbers)}")
    folder.mkdir(parents=True, exist_ok=True)
    said += [f"trained|{folder}"]
with open(os.environ["CALLS"], "a") as calls:
    calls.writelines(f"{line}\n" for line in said)
"""


@pytest.fixture
def checkout(tmp_path):
    """(script, arguments, environment) -> (exit code, what it says, the calls of Python in a checkout of its own)."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("quickstart.sh", "train_dist.sh", "train_slurm.sbatch"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    for name, text in (
        ("scripts/setup_venv.sh", 'echo setup >> "$CALLS"'),
        (".venv/bin/python", PYTHON.replace("EXECUTABLE", sys.executable)),
    ):
        (tmp_path / name).write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def call(script, *arguments, **environment):
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NNODES", "NODE_", "MASTER_", "SLURM_"))}
        env |= {"CALLS": str(calls), "HOME": str(tmp_path / "home")} | environment
        command = ["bash", str(tmp_path / "scripts" / script), *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        called = calls.read_text().splitlines() if calls.exists() else []
        return result.returncode, result.stdout + result.stderr, called

    return call


def evaluated(calls):
    return [call.split("|")[2].removesuffix("/checkpoints/best.pt") for call in calls if call.startswith("eval.py")]


def trained(calls):
    return [call.removeprefix("trained|") for call in calls if call.startswith("trained|")]


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_quickstarts_help_is_its_own_and_installs_nothing(checkout, option):
    code, said, calls = checkout("quickstart.sh", option)
    assert code == 0 and "scripts/quickstart.sh [key.sub=value ...]" in said and not calls


def test_quickstart_evaluates_the_folder_that_it_trained(checkout, tmp_path):
    of_user = f"~{getpass.getuser()}"
    of_user = f"{of_user}/{os.path.relpath(tmp_path / 'theirs', os.path.expanduser(of_user))}"
    for arguments, folder in (
        ([], "runs/quickstart"),
        (["train.epochs=2", "run.dir=my run #2"], "my run #2"),
        (["run.dir=a", "run.dir=b"], "b"),
        (["run.dir=~/x"], str(tmp_path / "home/x")),
        (["run.dir=null"], "runs/quickstart"),
        (["--fresh"], "runs/quickstart-2"),
        (["--fresh"], "runs/quickstart-3"),
        (["run.dir=new", "--fresh"], "new"),
        (["run.dir=new", "--fresh"], "new-2"),
        (["run.dir=new/", "--fresh"], "new-3"),
        (["run.dir=new//.//", "--fresh"], "new-4"),
        (["run.dir=-new"], "./-new"),
        (["run.dir=/"], "/"),
        (["run.dir=~nobody-here/x"], "~nobody-here/x"),
        ([f"run.dir={of_user}"], os.path.expanduser(of_user)),
    ):
        code, said, calls = checkout("quickstart.sh", *arguments)
        assert code == 0 and evaluated(calls) == [folder], (arguments, calls)
        assert trained(calls) == [folder.removeprefix("./")] and f"{folder}/metrics.jsonl" in said
        (train,) = [call.split("|") for call in calls if call.startswith("train.py")]
        assert ("--fresh" in train) == ("--fresh" in arguments)  # by which train.py says how to go on


@pytest.mark.parametrize("option", ["--dry-run", "--print-config"])
def test_quickstart_evaluates_nothing_where_nothing_is_trained(checkout, option):
    code, said, calls = checkout("quickstart.sh", option)
    assert code == 0 and option in calls[1] and not evaluated(calls) and "Where to look next" not in said


def test_quickstart_refuses_an_option_that_there_is_not(checkout):
    code, said, calls = checkout("quickstart.sh", "--frsh")
    assert (code, calls) == (2, []) and said == "error: --frsh: no such option, see scripts/quickstart.sh --help\n"


@pytest.mark.parametrize(
    "arguments,environment,sentence",
    [
        (["2", "c"], {"NNODES": "2"}, "NNODES = 2 needs NODE_RANK: 0 on the first node"),
        (["2", "c"], {"NNODES": "2", "NODE_RANK": "0"}, "NNODES = 2 needs MASTER_ADDR: the first node's name"),
        (["2", "c"], {"NNODES": "2", "NODE_RANK": "b", "MASTER_ADDR": "a"}, "NODE_RANK = 'b', expected 0 on the"),
        (["2", "c"], {"NNODES": "two", "NODE_RANK": "0", "MASTER_ADDR": "a"}, "NNODES = 'two', expected the number"),
        (["2", "c"], {"NODE_RANK": "1"}, "NODE_RANK = '1' needs NNODES, the number of nodes"),
        (
            ["2", "c"],
            {"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"},
            "NODE_RANK = '2' of NNODES = 2, expected 0 on",
        ),
        (
            ["2", "c"],
            {"NNODES": "0", "NODE_RANK": "0", "MASTER_ADDR": "a"},
            "NNODES = '0', expected the number of nodes",
        ),
        (["2", "c"], {"NNODES": "0:2", "NODE_RANK": "0", "MASTER_ADDR": "a"}, "NNODES = '0:2', expected the number of"),
        (
            ["2", "c"],
            {"NNODES": "1:08", "NODE_RANK": "9", "MASTER_ADDR": "a"},
            "NODE_RANK = '9' of NNODES = 1:08, expected",
        ),
        (["0", "c"], {}, "GPUS = '0', expected the number of this machine's GPUs"),
        (["2", "c"], {"MAX_RESTARTS": "x"}, "MAX_RESTARTS = 'x', expected how often"),
        (["configs/a.yaml", "2"], {}, "GPUS = 'configs/a.yaml', expected the number of this machine's GPUs"),
    ],
)
def test_what_train_dist_lacks_is_one_sentence(checkout, arguments, environment, sentence):
    code, said, calls = checkout("train_dist.sh", *arguments, **environment)
    assert code == 2 and said.startswith(f"error: {sentence}") and said.count("\n") == 1 and not calls


def test_train_dist_starts_a_process_a_gpu_on_every_node(checkout):
    nodes = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first"}
    _, _, (call,) = checkout("train_dist.sh", "4", "c.yaml", "run.dir=my run #2", **nodes)
    assert "|--nnodes|2|--node-rank|1|--master-addr|first|--master-port|29500|--nproc-per-node|4|" in call
    assert call.endswith("|c.yaml|run.dir=my run #2|")


def test_the_job_script_that_is_not_submitted_is_one_sentence(checkout):
    code, said, calls = checkout("train_slurm.sbatch", "c.yaml")
    assert code == 2 and not calls
    assert said == "error: scripts/train_slurm.sbatch: submit it by sbatch instead of running it\n"
