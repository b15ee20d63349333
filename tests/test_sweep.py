"""What a sweep file says is what will be run, and every mistake in it is found before anything runs."""

import io
import json
import re
import shlex

import pytest
import sweep as command
from rich.console import Console
from small_runs import ROOT, SMALL
from small_sweeps import TWO_ROWS, paper_file, plan, sweep, write_sweep  # noqa: F401
from sweeping.attempt import job_of
from sweeping.estimate import Estimate
from sweeping.local import gpu_sets
from sweeping.overview import show_plan
from sweeping.plan import plan_sweep

from ddfnet.config import as_override, dump_config, load_config
from ddfnet.errors import UserError
from ddfnet.train import EXIT_CODE

ONE = "runs: {ddf: small.yaml}\n"


def test_rows_seeds_and_grid_are_multiplied(tmp_path):
    grid = "grid: {train.lr: [0.1, 0.2], model.kwargs.block_args.ddf.squeeze_ratio: [0.3]}\n"
    rows = "runs: {a: small.yaml, b: {config: small.yaml, overrides: [train.epochs=5]}}\n"
    made = plan(tmp_path, "seeds: [3, 4]\n" + rows + grid)
    assert [run.name for run in made.runs] == [
        f"{row}-lr{lr}-squeeze_ratio0.3-seed{seed}" for row in "ab" for lr in (0.1, 0.2) for seed in (3, 4)
    ]
    run = made.runs[-1]
    assert run.config.train.lr == 0.2 and run.config.train.seed == 4 and run.seed == 4
    assert run.config.model.kwargs["block_args"] == {"ddf": {"squeeze_ratio": 0.3}}
    assert run.folder == tmp_path / "runs" / run.name
    assert load_config(run.config_file, run.overrides) == run.config  # which is how train.py will read it


def test_what_is_more_specific_wins(tmp_path):
    """Overrides for all, then of the row, then the grid; the command line changes what is alike in all rows."""
    row = "runs: {a: {config: small.yaml, overrides: [train.epochs=5, train.lr=0.5]}, b: small.yaml}\n"
    text = row + "overrides: [train.epochs=4, train.lr=0.4, train.batch_size=40]\ngrid: {train.lr: [0.3]}\n"
    a, b = plan(tmp_path, text, ["train.batch_size=30"]).runs
    assert (a.config.train.epochs, a.config.train.lr, a.config.train.batch_size) == (5, 0.3, 30)
    assert (b.config.train.epochs, b.config.train.lr, b.config.train.batch_size) == (4, 0.3, 30)


@pytest.mark.parametrize(
    "override", ["train.lr=0.5", "train={lr: 0.5}", "train.epochs=3", "model.kwargs.stem_width.x=1"]
)
def test_the_command_line_cannot_make_a_name_untrue(tmp_path, override):
    rows = "runs: {a: {config: small.yaml, overrides: [train.epochs=5, model.kwargs.stem_width=4]}, b: small.yaml}\n"
    with pytest.raises(UserError, match=r"^command line: .* would overrule .*, by which the rows of .* differ: leave"):
        plan(tmp_path, rows + "grid: {train.lr: [0.1, 0.2]}\n", [override])


def test_one_training_under_two_names_is_refused(tmp_path, paper_file):  # noqa: F811
    with pytest.raises(UserError, match=r"s.yaml: a and b would train the same: leave one of them out"):
        plan(tmp_path, "runs: {a: small.yaml, b: {config: small.yaml, overrides: [run.log_every=1]}}\n")
    with pytest.raises(UserError, match=r"base and .* would train the same with model.name=resnet18: leave one"):
        plan_sweep(ROOT / "configs/sweeps/table5.yaml", tmp_path, ["model.name=resnet18"], paper_file)


def test_seeds_of_a_grid_are_seeds(tmp_path):
    made = plan(tmp_path, ONE + "grid: {train.seed: [7, 8]}\n")
    assert [(run.row, run.seed) for run in made.runs] == [("ddf", 7), ("ddf", 8)]


def test_values_of_a_grid_come_back_as_they_were(tmp_path):
    values = [None, True, "none", "12", 1e-5, [0.5, 1.0], "@x", "[x", "2020-01-01", "2020-13-01"]
    made = plan(tmp_path, ONE + f"grid: {{data.auto_augment: {json.dumps(['rand-m7', None])}}}\n")
    assert [run.config.data.auto_augment for run in made.runs] == ["rand-m7", None]
    for value in values:
        (tmp_path / "value.yaml").write_text(SMALL)
        config = load_config(tmp_path / "value.yaml", [as_override("model.kwargs.x", value)])
        assert config.model.kwargs["x"] == value and type(config.model.kwargs["x"]) is type(value)


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("runs: {a: small.yaml, a: small.yaml}", "key 'a' stands there twice"),
        ("runs: {a: small.yaml, A: small.yaml}", "runs: 'a' and 'A' are one name where case does not count"),
        ("runs: {a/b: small.yaml}", "runs: 'a/b' names a folder: expected letters"),
        ("runs: {}", "runs = {}: dictionary should have at least 1 item"),
        ("seeds: [0]", "runs is missing"),
        ("runs: {a: 3}", "runs.a = 3, expected a config file or a mapping with config:"),
        ("runs: {a: {confg: small.yaml}}", "runs.a.confg: no such key, did you mean config?"),
        ("runs: {a: {overrides: []}}", "runs.a.config is missing"),
        ("runs: {a: {config: small.yaml, override: []}}", "runs.a.override: no such key, did you mean overrides?"),
        ("runs: {a: nowhere.yaml}", "runs.a: "),
        ("run: {a: small.yaml}", "no such key, did you mean runs?"),
        (ONE + "seeds: [1, 1]", "seeds: 1 stands there twice"),
        (ONE + "seeds: [-1]", "seeds.0 = -1: input should be greater than or equal to 0"),
        (ONE + "overrides: [train.lrr=1]", "runs.ddf: train.lrr = 1: no such key, did you mean train.lr?"),
        (ONE + "overrides: [train.lr]", "'train.lr' is no override, expected key.sub=value"),
        (ONE + "overrides: [run.dir=x]", "run.dir is chosen by the sweep"),
        (ONE + "overrides: [train.seed=1]", "train.seed is chosen by the sweep for each run: give it as seeds"),
        (ONE + "seeds: [0]\ngrid: {train.seed: [1]}", "train.seed stands under seeds and in the grid"),
        (ONE + "grid: {train.lrr: [1]}", "runs.ddf: train.lrr = 1: no such key, did you mean train.lr?"),
        (ONE + "grid: {train.lr: []}", "grid.train.lr = []: list should have at least 1 item"),
        (ONE + "grid: {train.lr: 0.1}", "grid.train.lr = 0.1: input should be a valid list"),
        (ONE + "grid: {train.lr: [0.1, 0.1]}", "grid: 0.1 stands there twice"),
        (
            ONE + "grid: {model.kwargs.x: [2020-01-01]}",
            "grid.model.kwargs.x.0 = 2020-01-01: YAML would make a date of it: text",
        ),
        (ONE + "grid: {model.kwargs.block_args.ddf.squeze_ratio: [0.2]}", "cannot be built so"),
        (ONE + "overrides: [model.kwargs.widht=4]", "cannot be built so"),
        ("- a", "holds a list, expected a mapping"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UserError) as error:
        plan(tmp_path, text)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path / "s.yaml") in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_two_runs_of_one_name_are_refused(tmp_path):
    """lr of two sections, values that read alike: whatever makes a folder's name the same."""
    grid = "grid: {data.auto_augment: ['rand-m7', 'rand m7']}\n"
    with pytest.raises(UserError, match="two runs would be called a-auto_augmentrand_m7-seed0: rename a run"):
        plan(tmp_path, "runs: {a: small.yaml}\n" + grid.replace("rand-m7", "rand_m7"))


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_sweep_of_the_project_can_be_planned(tmp_path, paper_file, file):  # noqa: F811
    made = plan_sweep(file, tmp_path, [], paper_file)
    assert len(made.runs) >= 3 * len(made.rows) >= 6
    assert f"python scripts/sweep.py configs/sweeps/{file.name}" in file.read_text()


@pytest.mark.parametrize(
    "row,sentence",
    [
        (
            "{table: table3a, spatial: maybe}",
            "paper = spatial: maybe is no row of table3a, expected one of: spatial: false",
        ),
        ("{table: table3a, spatial: true}", "paper = spatial: true fits 2 rows of table3a"),
        ("{table: table3z}", "paper.table = 'table3z' is no table of the paper's accuracies, did you mean table3"),
        ("{table: table4, conv: ddf}", "paper.table = 'table4' is no table"),
        ("{table: [table3a], spatial: true}", "paper.table = ['table3a'] is no table"),
    ],
)
def test_an_unknown_row_of_the_paper_is_refused(tmp_path, paper_file, row, sentence):  # noqa: F811
    with pytest.raises(UserError) as error:
        plan(tmp_path, f"runs: {{a: {{config: small.yaml, paper: {row}}}}}", paper=paper_file)
    assert sentence in str(error.value) and "runs.a" in str(error.value)


def test_tables_are_named_by_a_prefix(tmp_path, paper_file):  # noqa: F811
    assert plan(tmp_path, ONE + "table: table3", paper=paper_file).tables == ["table3a", "table3b", "table3c"]
    assert plan(tmp_path, ONE + "table: [table4]", paper=paper_file).tables == ["table4.r18", "table4.r50"]
    assert plan(tmp_path, TWO_ROWS, paper=paper_file).tables == ["table3a"]
    with pytest.raises(UserError, match="table = 'table9' is no table"):
        plan(tmp_path, ONE + "table: table9", paper=paper_file)


def test_results_of_another_protocol_are_refused_before_any_run(tmp_path):
    made = plan(tmp_path)
    folder = made.runs[1].folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(made.runs[1].config))
    plan(tmp_path, overrides=["run.log_every=9", "data.workers=1"])  # which change no result
    for override, sentence in (
        ("train.epochs=4", "train.epochs = 3, now it is 4"),
        ("model.kwargs.stem_width=4", "model.kwargs.stem_width = 8, now it is 4"),
        ("data.root=elsewhere", "data.root = 'data/imagenet', now it is 'elsewhere'"),
    ):
        with pytest.raises(UserError) as error:
            plan(tmp_path, overrides=[override])
        assert str(error.value).startswith(f"{folder}: was trained with {sentence}: results of two protocols")
    (folder / "config.yaml").rename(folder / "summary.json")
    with pytest.raises(UserError, match=r"a summary.json without the config.yaml"):
        plan(tmp_path)


def test_a_mistake_on_the_command_line_is_laid_to_it(tmp_path):
    with pytest.raises(UserError, match=r"^command line: train.lrr = 1: no such key, did you mean train.lr\?"):
        plan(tmp_path, overrides=["train.lrr=1"])


def test_only_an_unknown_row_is_refused(tmp_path):
    write_sweep(tmp_path)
    with pytest.raises(UserError, match=r"--only dddf: no such row in .*, expected one of spatial_only, ddf"):
        sweep(tmp_path, "--only", "spatial_only,dddf", "--dry-run")


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path, capsys):
    write_sweep(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert sweep(tmp_path, "--dry-run", "--only", "ddf") == 0
    said = capsys.readouterr().out
    assert "3 runs in" in said and "0, 1, 2" in said and "the time of 3 runs is unknown" in said
    assert "spatial_only" not in said and sorted(tmp_path.rglob("*")) == before


def test_what_is_left_takes_no_less_than_the_longest_of_it(tmp_path):
    """Two of six runs are left, 16 s each, and there is room for six at once."""
    made = plan(tmp_path)
    for run in made.runs[:4]:
        run.folder.mkdir(parents=True)
        (run.folder / "summary.json").write_text('{"top1": 1.0}')
    said = Console(width=200, record=True, file=io.StringIO())
    for at_once in (1, 2, 6):
        show_plan(made, made.runs, dict.fromkeys(made.rows, Estimate(16, "known")), at_once, said)
    made.runs[4].folder.mkdir()
    (made.runs[4].folder / "metrics.jsonl").write_text('{"kind": "eval", "step": 7, "epoch": 1.5}\n')  # half is done
    show_plan(made, made.runs, dict.fromkeys(made.rows, Estimate(16, "known")), 2, said)
    times = re.findall(r"about (\S+) in all", said.export_text())
    assert times == ["0:00:32", "0:00:16", "0:00:16", "0:00:16"]


@pytest.mark.parametrize(
    "options,sentence",
    [
        (["--slurm", "partition=gpu"], "--slurm partition=gpu: is for --launcher slurm, which is not given"),
        (["--launcher", "slurm", "--gpus", "0,1"], "--gpus 0,1: SLURM chooses them"),
        (["--gpus", "0,1"], "--gpus 0,1: ddf-seed0 has run.device = cpu, so uses none"),
        (["--gpus-per-run", "2"], "--gpus-per-run 2: ddf-seed0 has run.device = cpu, so uses none"),
        (["--launcher", "slurm", "--slurm", "time=["], "--slurm time=[: expected minutes, or M:S, H:M:S, D-H"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, capsys, options, sentence):
    write_sweep(tmp_path, ONE)
    with pytest.raises((UserError, SystemExit)) as error:
        sweep(tmp_path, "--dry-run", *options)
    assert sentence in str(error.value) + capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "launcher,options",
    [
        ("run_local", ["--gpus", "2,3,4,5", "--gpus-per-run", "2", "--only", "ddf"]),
        ("run_slurm", ["--launcher", "slurm", "--gpus-per-run", "2", "--slurm", "partition=gpu", "time=30"]),
    ],
)
def test_the_report_is_told_the_whole_command(tmp_path, monkeypatch, launcher, options):
    write_sweep(tmp_path, ONE)
    given = []
    monkeypatch.setattr(command, launcher, lambda *values: given.extend(values))
    arguments = [str(tmp_path / "s.yaml"), "--dir", str(tmp_path / "runs"), "--no-measure", "run.device=auto", *options]
    monkeypatch.setattr("sys.argv", ["sweep.py", *arguments])
    assert command.main() == EXIT_CODE  # nothing has run
    content = json.loads((tmp_path / "runs/sweep.json").read_text())
    assert shlex.split(content["command"]) == ["python", "scripts/sweep.py", *arguments]
    assert "--nproc-per-node 2" in given[0][0].shown == content["runs"][0]["command"]
    if launcher == "run_local":
        assert given[1:3] == [[["2", "3"], ["4", "5"]], 2]
    else:
        assert given[3].items() >= {"partition": "gpu", "time": 30, "gpus_per_node": 2}.items()


def test_gpus_are_given_out_in_sets():
    assert gpu_sets([], 1) == [[]]
    assert gpu_sets(["0", "1", "2", "3"], 2) == [["0", "1"], ["2", "3"]]
    with pytest.raises(UserError, match="3 do not divide into sets of --gpus-per-run 2"):
        gpu_sets(["0", "1", "2"], 2)
    with pytest.raises(UserError, match="twice"):
        gpu_sets(["0", "0"], 1)


def test_the_command_shown_is_the_command(tmp_path):
    run = plan(tmp_path).runs[0]
    job = job_of(run, 2, on_gpu=True)
    assert "torch.distributed.run --standalone --nproc-per-node 2" in job.shown
    assert shlex.split(job.shown)[-1].startswith("run.dir=")  # small.yaml says run.device=cpu
    auto = plan(tmp_path, overrides=["run.device=auto"]).runs[0]
    assert job_of(auto, 1, on_gpu=True).command[-1] == "run.device=cuda"  # no quiet falling back to a CPU
    assert str(ROOT / "train.py") in job.command
