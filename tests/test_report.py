"""What a run tells: console, metrics.jsonl, TensorBoard, and what happens when none of it can be written."""

import json
import resource
from io import StringIO
from pathlib import Path

import pytest
import torch
from commands import command
from rich.console import Console
from small_runs import ALONE, SMALL, logged, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddfnet.tasks.classification import Classification
from ddfnet.tasks.filter_pictures import generated_filters
from ddfnet.train.logging.console import RunConsole, describe
from ddfnet.train.logging.run_log import Report

STEP = dict(loss=2.3456, lr=0.1, images_per_second=12345.6)
ON_GPU = STEP | dict(data_wait=0.034, memory=12.3 * 2**30, mfu=0.231)


def events(folder):
    accumulator = EventAccumulator(str(folder / "tb"), size_guidance={"images": 0, "histograms": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture
def console():
    """(terminal) -> (a run's console, what it says)."""

    def make(terminal: bool):
        made = RunConsole(quiet=False)
        made.console = Console(
            file=StringIO(), width=80, force_terminal=terminal, color_system=None, highlight=False, soft_wrap=True
        )
        return made, made.console.file.getvalue

    return make


@pytest.fixture
def report(tmp_path):
    report = Report(tmp_path / "run", enabled=True)
    report.open("model: {}\n", 0, 100)
    yield report
    report.close()


# ---- the console


def test_a_line_holds_what_is_known_and_leaves_out_the_rest():
    assert describe(STEP) == "loss 2.3456  lr 0.10000  12,346 img/s"
    assert describe(ON_GPU) == "loss 2.3456  lr 0.10000  12,346 img/s  data wait 3%  12.3 GiB  MFU 23%"


def test_no_terminal_gets_a_line_per_log_step(console):
    made, said = console(terminal=False)
    made.start(0, 100)
    made.train(10, 0.5, ON_GPU, seconds_left=3725)
    made.close()
    assert said() == f"epoch    0.50  step     10  {describe(ON_GPU)}  1:02:05 left\n"


def test_where_the_wait_for_data_is_not_known_nothing_is_warned_of(console):
    made, said = console(terminal=False)
    made.start(0, 100)
    for step in (10, 20, 30):
        made.train(step, 0.5, STEP, seconds_left=0)
    made.close()
    assert "warning" not in said() and said().count("\n") == 3


def test_a_terminal_gets_a_bar_with_all_of_it(console):
    made, said = console(terminal=True)
    made.start(0, 100)
    made.train(10, 0.5, ON_GPU, seconds_left=3725)
    made.close()
    for part in ("epoch 0.50", "10/100", "1:02:05 left", describe(ON_GPU)):
        assert part in said()


def test_waiting_for_data_is_warned_of_once_between_evaluations(console):
    made, said = console(terminal=False)
    made.start(0, 100)
    slow, fine = STEP | dict(data_wait=0.37), STEP | dict(data_wait=0.1)
    made.train(1, 0.1, slow, 9)  # the workers were still starting
    made.train(2, 0.2, fine, 9)
    assert "warning" not in said()
    for step in (3, 4, 5):
        made.train(step, 0.5, slow, 9)
    (warning,) = [line for line in said().splitlines() if line.startswith("warning: ")]
    for part in ("37%", "data.workers", "data.decoder=turbo", "scripts/pack.py"):
        assert part in warning
    made.evaluation(1.0, "top-1 50", best=True)
    made.train(6, 1.1, slow, 9)
    assert said().count("warning: ") == 2


# ---- the files


def test_metrics_hold_one_line_per_log_step_and_evaluation_in_strict_json(report):
    report.train(10, 0.5, STEP | dict(grad_norm=float("inf")), 9)
    report.evaluation(20, 1.0, {"top1": 50.0, "replaced": ["a.jpg"]}, "top-1 50", best=True)
    lines = (report.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"kind": "train", "step": 10, "epoch": 0.5} | STEP | {"grad_norm": None},
        {"kind": "eval", "step": 20, "epoch": 1.0, "top1": 50.0, "replaced": ["a.jpg"]},
    ]


def test_continuing_drops_what_was_logged_after_the_checkpoint(report):
    for step in (10, 20, 30):
        report.train(step, step / 20, STEP | dict(loss=float(step)), 9)
    with open(report.folder / "metrics.jsonl", "a") as log:
        log.write('{"kind": "train", "st')  # killed while it wrote
    again = Report(report.folder, enabled=True)
    again.open("model: {}\n", 20, 100)
    again.train(30, 1.5, STEP | dict(loss=31.0), 9)
    again.close()
    lines = map(json.loads, (report.folder / "metrics.jsonl").read_text().splitlines())
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 10.0), (20, 20.0), (30, 31.0)]
    assert [(e.step, e.value) for e in events(report.folder).Scalars("train/loss")] == [(10, 10), (20, 20), (30, 31)]


def test_other_processes_write_nothing(tmp_path, capsys):
    report = Report(tmp_path / "run", enabled=False, wandb_project="none")
    report.open("model: {}\n", 0, 100)
    report.say("text")
    report.train(10, 0.5, STEP, 9)
    report.evaluation(20, 1.0, {"top1": 50.0}, "top-1 50", best=True)
    report.pictures(20, {"picture": torch.rand(3, 4, 4)}, {"values": torch.rand(9)})
    report.summary({"top1": 50.0})
    report.close()
    assert not (tmp_path / "run").exists() and capsys.readouterr().out == ""


def test_tensorboard_gets_the_pictures_and_histograms_that_it_was_given(report):
    picture = torch.zeros(3, 5, 7)
    picture[0, 2] = 1
    values = torch.tensor([1.0, 2, 2, 3, float("nan")])
    report.pictures(4, {"picture": picture}, {"values": values, "nothing": torch.empty(0)})
    read = events(report.folder)
    (image,) = read.Images("picture")
    assert (image.step, image.height, image.width) == (4, 5, 7)
    (histogram,) = read.Histograms("values")
    shown = histogram.histogram_value
    assert (histogram.step, shown.num, shown.min, shown.max, shown.sum) == (4, 4, 1, 3, 8)
    assert read.Tags()["histograms"] == ["values"]


# ---- a whole run


def test_a_run_shows_its_training_pictures_and_the_filters_of_every_layer(small, capsys):
    config = small("a", "train.epochs=2", "run.log_every=5")
    run(config)
    folder = Path(config.run.dir)
    read = events(folder)
    filters = generated_filters(Classification(config, ALONE).model, torch.zeros(8, 3, 16, 16))
    assert len(filters) == 8
    tags = {f"{kind}/{name}" for kind in ("channel", "spatial") for name in filters}
    assert set(read.Tags()["histograms"]) == tags
    for name, (channel_filter, spatial_filter) in filters.items():
        for kind, of_8_pictures in (("channel", channel_filter), ("spatial", spatial_filter)):
            shown = read.Histograms(f"{kind}/{name}")
            assert [h.step for h in shown] == [7, 14]
            assert shown[0].histogram_value.num == of_8_pictures.numel()
    (training,) = read.Images("training")  # 4 x 4 pictures of 16 pixels, with a gap of 2
    assert (training.step, training.height, training.width) == (0, 72, 72)
    assert {"train/loss", "train/lr", "train/images_per_second", "train/data_wait", "eval/top1"} <= set(
        read.Tags()["scalars"]
    )
    lines = logged(config, "train")
    assert [line["step"] for line in lines] == [5, 7, 10, 14]
    assert all(0 < line["data_wait"] < 1 and "memory" not in line and "mfu" not in line for line in lines)
    assert [(s.step, s.value) for s in read.Scalars("train/lr")] == [
        (line["step"], pytest.approx(line["lr"])) for line in lines
    ]
    assert capsys.readouterr().out.count("  data wait ") == 4


def test_the_network_sees_the_training_pictures_that_are_shown(small):
    config = small("a")
    task = Classification(config, ALONE)
    batch = next(task.train_batches(0, 1))
    seen = []
    handle = task.model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0]))
    shown = task.training_pictures(task.prepare(batch, 0))["training"]
    task.loss(task.model, task.prepare(batch, 0))
    handle.remove()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.data.mean, config.data.std))
    first = (seen[0][0] * std + mean).clamp(0, 1)
    assert torch.allclose(shown[:, :16, :16], first, atol=1e-6)
    assert not torch.allclose(seen[0][:16], task.normalised(batch.images)[:16])  # some are erased


def test_a_compiled_network_shows_its_filters_too(small):
    """One that was compiled before the hooks came passes them by."""
    task = Classification(small("a"), ALONE)
    before = task.histograms(task.model)
    task.model.compile(backend="eager")
    with torch.no_grad():
        task.model.eval()(torch.zeros(8, 3, 16, 16))
    compiled = task.histograms(task.model)
    assert len(compiled) == 16 and all(torch.equal(values, before[name]) for name, values in compiled.items())


def test_the_log_does_not_change_the_run(small):
    """What is computed for pictures and histograms draws no random number and leaves no trace in the network."""
    task = Classification(small("a"), ALONE)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    state = torch.get_rng_state()
    assert task.pictures(task.model) and task.histograms(task.model) and task.macs_per_image
    assert torch.equal(torch.get_rng_state(), state) and task.model.training
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert not task.model.layer1[0].conv1._forward_pre_hooks


# ---- what cannot be written


@pytest.mark.parametrize("file", ["log", "events"])
def test_a_full_disk_raises_at_once_and_names_the_file(report, file):
    path = report._log.path if file == "log" else report._events.path
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        report.train(10, 0.5, STEP, 9)
    assert caught.value.filename == str(path)
    report.close()  # has nothing left that could fail


def test_a_summary_that_cannot_be_written_leaves_the_old_one(report):
    report.summary({"top1": 1.0})
    (report.folder / "summary.json.tmp").mkdir()
    with pytest.raises(OSError) as caught:
        report.summary({"top1": 2.0})
    assert caught.value.filename == str(report.folder / "summary.json")
    assert json.loads((report.folder / "summary.json").read_text()) == {"top1": 1.0}


def test_a_run_on_a_full_disk_ends_in_one_sentence_that_names_the_file(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    result = command(
        *("train.py", "--config", tmp_path / "small.yaml", f"run.dir={tmp_path / 'run'}"),
        fresh=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)),  # a file may have so many bytes
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert "File too large" in result.stderr and str(tmp_path / "run/tb/events") in result.stderr
