"""What may and may not change when a run goes on, and who may go on with it."""

import itertools
import shutil
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from ranks import in_a_process, on_ranks
from small_runs import ALONE, SMALL, assert_equal_weights, logged, run, try_run, weights

from ddfnet.checkpoint_file import read_checkpoint, write_checkpoint
from ddfnet.config import load_config
from ddfnet.errors import UserError
from ddfnet.tasks.classification import Classification
from ddfnet.train import train
from ddfnet.train.folder import fresh_folder, held
from ddfnet.train.state import State, differences

pytestmark = pytest.mark.forks

EACH_STEP = "run.checkpoint_minutes=1e-9"  # a checkpoint after every step


def test_a_folder_belongs_to_one_process_at_a_time(small):
    config = small("a")
    with held(Path(config.run.dir), True):
        assert in_a_process(lambda: run(config)) == (
            f"{config.run.dir}: another process trains there: wait for it, or set another run.dir"
        )
    assert run(config)["step"] == 21


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_checkpoint_is_read_from_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    content = {"x": torch.arange(3.0)}
    if name == "a.pt":
        write_checkpoint(folder / name, content)
    else:
        (folder / name).write_bytes(safetensors.torch.save(content))
    assert torch.equal(read_checkpoint(folder / name)["x"], content["x"])


def damage(path, kind):
    content = path.read_bytes()
    if kind == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "one bit":
        with zipfile.ZipFile(path) as file:
            place = max(file.infolist(), key=lambda part: part.file_size).header_offset + 1000
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")


def test_a_damaged_last_checkpoint_is_called_damaged_and_the_way_on_from_the_best_is_named(small, monkeypatch):
    config = small("a")
    update_best = State.update_best
    monkeypatch.setattr(State, "update_best", lambda state, metric: state.step == 14 and update_best(state, metric))
    run(config)
    last, best = (Path(config.run.dir) / "checkpoints" / name for name in ("last.pt", "best.pt"))
    whole = weights(config)
    for kind in ("cut off", "one bit", "empty"):
        damage(last, kind)
        damaged = last.read_bytes()
        with pytest.raises(UserError, match="damaged") as error:
            run(config)
        said = str(error.value)
        assert said.endswith(f"; {best} is whole, of step 14: copy it to {last} to continue from there")
        assert "good checkpoint" not in said and last.read_bytes() == damaged
        shutil.copy(best, last)
    assert run(config)["step"] == 21
    assert_equal_weights(whole, weights(config))


def test_where_both_checkpoints_are_damaged_none_is_called_good(small):
    config = small("a", "train.epochs=2")
    run(config)
    for name in ("last.pt", "best.pt"):
        damage(Path(config.run.dir) / "checkpoints" / name, "cut off")
    with pytest.raises(UserError) as error:
        run(config)
    assert str(error.value).endswith("; no other checkpoint of the run can be read: start over with --fresh")


@pytest.mark.parametrize(
    "options",
    [
        ["train.batch_size=100"],
        ["train.seed=1"],
        ["train.optimizer=adamw"],
        ["model.kwargs.channels=[8, 8, 16, 32]"],
        ["train.epochs=1", "train.warmup_epochs=0"],
        ["train.lr=9"],
    ],
    ids=" ".join,
)
def test_a_run_that_is_refused_is_not_told_that_it_continues(small, options, capsys):
    run(small("a", "train.epochs=2"))
    capsys.readouterr()
    with pytest.raises(UserError) as error:
        run(small("a", "train.epochs=2", *options))
    said = capsys.readouterr().out + str(error.value)
    assert not any(words in said for words in ("continues", "continuing", "good checkpoint", "changed since"))


def test_a_dry_run_and_a_folder_in_use_name_no_checkpoint_to_continue_from(small, monkeypatch):
    config = small("a", "train.epochs=2")
    run(config)
    with held(Path(config.run.dir), True):
        assert "continues" not in in_a_process(lambda: run(config))

    def fail(task, batch, step):
        raise UserError("cat/3.png: cannot be decoded")

    monkeypatch.setattr(Classification, "prepare", fail)
    with pytest.raises(UserError, match=r"^cat/3\.png: cannot be decoded$"):
        try_run(config)


def test_ranks_with_other_pictures_or_options_are_refused_before_the_first_step(small):
    def learn(world):
        config = small("a", f"train.weight_decay={world.rank}")
        with pytest.raises(UserError, match="the processes have not the same config and pictures") as error:
            train(config, Classification(config, world), world)
        return str(error.value)

    assert len(on_ranks(2, learn)) == 2
    assert not (Path(small("a").run.dir) / "metrics.jsonl").exists()


def test_averaged_weights_may_begin_and_end_with_a_restart_on_two_ranks(small):
    options = ["train.epochs=2", EACH_STEP]

    def learn(*more):
        config = small("a", *options, *more)
        return on_ranks(2, lambda world: train(config, Classification(config, world), world))[0]

    learn()
    averaged = learn("train.epochs=3", "train.ema_decay=0.9")
    assert averaged["best_top1"] >= averaged["ema_top1"] > 0
    assert "ema_top1" not in learn("train.epochs=4")


def test_a_run_beyond_its_end_and_an_average_begun_after_it_have_their_sentences(small):
    finished = run(small("a", "train.epochs=2"))
    with pytest.raises(UserError, match=r"is at step 14, train\.epochs = 1 end at 7: set it higher"):
        run(small("a", "train.epochs=1", "train.warmup_epochs=0"))
    with pytest.raises(UserError, match=r"to its end with other settings, then -> now: train\.ema_decay: 0\.0 -> 0\.9"):
        run(small("a", "train.epochs=2", "train.ema_decay=0.9"))
    averaged = run(small("a", "train.epochs=3", "train.ema_decay=0.9"))
    assert averaged["best_top1"] >= averaged["ema_top1"] > 0 and finished["step"] == 14
    assert run(small("a", "train.epochs=3", "train.ema_decay=0.9"))["best_top1"] == averaged["best_top1"]


@pytest.mark.parametrize(
    "override,change",
    [
        ("train.lr=9", "train.lr: 0.2 -> 9.0"),
        ("model.kwargs.drop_path_rate=0.1", "model.kwargs.drop_path_rate: 0.2 -> 0.1"),
        ("data.crop_pct=0.5", "data.crop_pct: 0.875 -> 0.5"),
    ],
)
def test_a_finished_run_of_other_settings_is_not_done_and_stays(finished_run, override, change):
    options, folder = finished_run
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        run(options(override))
    assert str(error.value).startswith(
        f"{folder}: is trained to its end with other settings, then -> now: {change}: set them back"
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


def test_options_of_a_network_that_had_none_are_named_by_themselves():
    none, some = {"model": {"kwargs": {}}}, {"model": {"kwargs": {"a": {"b": 1}}}}
    assert differences(none, some, none) == ["model.kwargs.a.b: None -> 1"]
    assert differences(some, none, none) == ["model.kwargs.a.b: 1 -> None"]
    assert differences(none, none, none) == []
    assert "model.kwargs.a: 3 -> None" in differences({"model": {"kwargs": {"a": 3}}}, some, none)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """(overrides -> config, the run's folder)."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SMALL)

    def options(*overrides):
        short = ("train.epochs=1", "train.warmup_epochs=0", f"run.dir={folder / 'run'}")
        return load_config(folder / "small.yaml", [*short, *overrides])

    run(options())
    return options, folder / "run"


def test_a_checkpoint_older_than_a_key_was_trained_with_its_default(finished_run):
    options, folder = finished_run
    checkpoint = folder / "checkpoints/last.pt"
    content = read_checkpoint(checkpoint)
    del content["config"]["data"]["mix_switch_probability"], content["config"]["train"]["layer_decay"]
    write_checkpoint(checkpoint, content)
    assert run(options())["step"] == 7
    with pytest.raises(UserError, match=r"train\.layer_decay = None, now it is 0\.5"):
        run(options("train.layer_decay=0.5"))


def test_a_run_that_goes_on_has_no_result_until_its_new_end(small):
    run(small("a", "train.epochs=1", "train.warmup_epochs=0"))
    summary = Path(small("a").run.dir) / "summary.json"
    assert summary.exists()
    config = small("a", "train.epochs=2", "train.warmup_epochs=0")
    task = Classification(config, ALONE)

    def lost(first, last):
        assert not summary.exists()
        raise OSError("the disk is gone")

    task.train_batches = lost
    with pytest.raises(UserError, match="the disk is gone"):
        train(config, task, ALONE)
    assert run(config)["epochs"] == 2 and summary.exists()


def test_the_log_is_right_when_the_number_of_ranks_changes_between_log_steps(small):
    options = ["train.epochs=1", "train.warmup_epochs=0", "run.log_every=1000", "train.lr=1e-9"]
    whole = small("whole", *options)
    run(whole)
    broken = small("broken", *options, EACH_STEP)

    def learn(world):
        task = Classification(broken, world)
        batches = task.train_batches
        task.train_batches = lambda first, last: itertools.islice(batches(first, last), 4)
        with pytest.raises(KeyError):  # no evaluation came
            train(broken, task, world)

    on_ranks(2, learn)
    run(broken)
    losses = [[line["loss"] for line in logged(config, "train")] for config in (whole, broken)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_restart_of_a_fresh_run_goes_on_in_its_folder(tmp_path, monkeypatch):
    for nameless in (".", "/"):
        with pytest.raises(UserError, match=f"run.dir = {nameless} has no name for --fresh to number"):
            fresh_folder(Path(nameless), ALONE)
    assert fresh_folder(tmp_path / "a", ALONE) == tmp_path / "a"
    (tmp_path / "a").mkdir()
    assert fresh_folder(tmp_path / "a", ALONE) == tmp_path / "a-2"
    (tmp_path / "a-2").mkdir()
    for launcher in ("TORCHELASTIC", "SLURM"):
        with monkeypatch.context() as patch:
            patch.setenv(f"{launcher}_RESTART_COUNT", "1")
            assert fresh_folder(tmp_path / "a", ALONE) == tmp_path / "a-2"


def test_a_run_without_its_last_checkpoint_goes_on_from_its_best(small, capsys):
    """As after a kill between the two writes, or where somebody deleted a damaged one."""
    run(small("undisturbed"))
    config = small("a")
    task = Classification(config, ALONE)
    batches = task.train_batches
    task.train_batches = lambda first, last: itertools.islice(batches(first, last), 10)
    train(config, task, ALONE)
    (Path(config.run.dir) / "checkpoints/last.pt").unlink()
    run(config)
    assert "best.pt at step 7 of 21" in capsys.readouterr().out
    assert_equal_weights(weights(config), weights(small("undisturbed")))
