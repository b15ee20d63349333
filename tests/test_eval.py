"""eval.py: its numbers against plain references, on any number of processes, in every form it gives them."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from eval_runs import FOLDER, eval_py, on_processes, plain_probabilities, result_of, with_content, write_digits
from PIL import Image
from small_runs import ALONE

from ddfnet.data.sources import ImageFolder
from ddfnet.tasks.classification import Classification
from ddfnet.tasks.classification.metrics import basic_metrics, basic_sums
from ddfnet.train import evaluate


@pytest.fixture(scope="module")
def truth(checkpoint, tmp_path_factory):
    """53 pictures in folders: overrides for eval.py, labels, file names, probabilities plain and mirrored."""
    root = write_digits(tmp_path_factory.mktemp("data") / "digits", 53)
    source = ImageFolder(root)
    pictures = [source.picture(index) for index in range(53)]
    names = [Path(source.name(index)).name for index in range(53)]
    views = [plain_probabilities(checkpoint, pictures, mirrored) for mirrored in (False, True)]
    return [*FOLDER, f"data.root={root}", "run.eval_batch_size=8"], torch.from_numpy(source.labels), names, views


def assert_scores(result, probabilities, labels, prefix=""):
    """top1, top5 and loss are those of these probabilities."""
    ranked = probabilities.argsort(dim=1, descending=True)
    assert result[f"{prefix}top1"] == pytest.approx(100 * (ranked[:, 0] == labels).double().mean().item())
    assert result[f"{prefix}top5"] == pytest.approx(
        100 * (ranked[:, :5] == labels[:, None]).any(1).double().mean().item()
    )
    right = probabilities[torch.arange(len(labels)), labels]
    assert result["loss"] == pytest.approx(-right.log().mean().item(), rel=1e-5)


# ---- every picture once


def everything(folder, name):
    files = ("--json", f"{name}.json", "--per-class", f"{name}.csv", "--confusion", f"{name}.npy")
    return [value if value.startswith("--") else folder / value for value in files]


@pytest.mark.parametrize("pictures", [2, 23, 53])
def test_one_two_and_three_processes_give_identical_results(checkpoint, tmp_path, pictures):
    root = write_digits(tmp_path / "digits", pictures, range(10) if pictures > 2 else [4])
    overrides = [*FOLDER, f"data.root={root}", "run.eval_batch_size=8"]
    if pictures == 2:  # on three processes one has nothing to do
        overrides = [*overrides, "run.eval_batch_size=1", "--class-map", tmp_path / "map.txt"]
        (tmp_path / "map.txt").write_text("4\n")
    classes = len(list(root.iterdir()))
    real = [[number % classes] if number % 3 else [] for number in range(pictures)]
    (tmp_path / "real.json").write_text(json.dumps(real))
    overrides += ["--real", tmp_path / "real.json"]
    found = []
    for world in (1, 2, 3):
        ends = on_processes(world, "--ckpt", checkpoint, *overrides, *everything(tmp_path, f"on{world}"))
        assert ends == [None] * world
        result = json.loads((tmp_path / f"on{world}.json").read_text())
        assert result.pop("images_per_second") > 0
        found.append((result, (tmp_path / f"on{world}.csv").read_text(), np.load(tmp_path / f"on{world}.npy").tolist()))
    assert found[0] == found[1] == found[2]  # the loss too, to its last bit
    assert found[0][0]["images"] == pictures


def test_every_picture_is_counted_once_or_evaluation_fails(small, monkeypatch):
    task = Classification(small("a", "run.eval_batch_size=100"), ALONE, training=False)
    assert evaluate(task.model, task, ALONE, "none")["images"] == 360
    for fault in (lambda batches: batches[1:], lambda batches: batches + batches[-1:]):
        batches = fault(list(task.eval_batches()))
        monkeypatch.setattr(task, "eval_batches", lambda batches=batches: batches)
        with pytest.raises(RuntimeError, match=r"counted \d+ pictures, the dataset has 360"):
            evaluate(task.model, task, ALONE, "none")
        monkeypatch.undo()


def test_sums_do_not_depend_on_their_order():
    x = torch.linspace(-60, 100, 5001)[torch.randperm(5001, generator=torch.Generator().manual_seed(0))]
    logits = torch.stack([x, torch.zeros_like(x)], 1)  # losses of the second class: softplus(x), from 1e-26 to 100
    ones = torch.ones(5001, dtype=torch.int64)

    def added_up(batch, order):
        parts = [basic_sums(*part) for part in zip(logits[order].split(batch), ones.split(batch), strict=True)]
        return sum(reversed(parts))

    totals = [added_up(batch, order) for batch in (1, 16, 977) for order in (slice(None), x.argsort())]
    assert all(torch.equal(totals[0], total) for total in totals)
    losses = torch.nn.functional.softplus(x).double()
    assert losses.cumsum(0)[-1] != losses.flip(0).cumsum(0)[-1]  # which plain sums in float64 do
    assert basic_metrics(totals[0])["loss"] == pytest.approx(math.fsum(losses.tolist()) / 5001, rel=1e-7)


# ---- the numbers


def test_scores_are_those_of_a_plain_reference(checkpoint, truth, tmp_path):
    overrides, labels, _, (probabilities, _) = truth
    result = result_of(tmp_path, "--ckpt", checkpoint, *overrides, *everything(tmp_path, "a")[2:])
    assert 10 < result["top1"] < 95, "too good or too bad to test anything"
    assert_scores(result, probabilities, labels)
    assert (result["images"], result["step"], result["model"]) == (53, 35, "ddf_resnet18")
    guesses = probabilities.argsort(dim=1, descending=True)
    confusion = np.zeros((10, 10), int)
    for label, guess in zip(labels.tolist(), guesses[:, 0].tolist(), strict=True):
        confusion[label, guess] += 1
    assert np.array_equal(np.load(tmp_path / "a.npy"), confusion)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["class"] for row in rows] == [str(digit) for digit in range(10)]
    for digit, row in enumerate(rows):
        own = guesses[labels == digit]
        assert int(row["images"]) == len(own)
        assert float(row["top1"]) == pytest.approx(100 * (own[:, 0] == digit).double().mean().item(), abs=1e-3)
        assert float(row["top5"]) == pytest.approx(100 * (own[:, :5] == digit).any(1).double().mean().item(), abs=1e-3)


def test_flip_is_the_mean_of_the_probabilities(checkpoint, truth, tmp_path):
    overrides, labels, _, (plain, mirrored) = truth
    result = result_of(tmp_path, "--ckpt", checkpoint, "--flip", *overrides)
    assert_scores(result, (plain + mirrored) / 2, labels)
    assert result["flip"] is True


def test_real_labels_go_by_file_names_and_pictures_without_any_are_not_counted(checkpoint, truth, tmp_path):
    overrides, _, names, (probabilities, _) = truth
    rng = np.random.default_rng(1)
    lists = [sorted(rng.choice(10, rng.integers(0, 4), replace=False).tolist()) for _ in names]
    (tmp_path / "real.json").write_text(json.dumps(lists))
    result = result_of(tmp_path, "--ckpt", checkpoint, *overrides, "--real", tmp_path / "real.json")
    ranked = probabilities.argsort(dim=1, descending=True).tolist()
    judged = [(ranked[i], lists[int(Path(name).stem)]) for i, name in enumerate(names)]
    judged = [(guesses, real) for guesses, real in judged if real]
    assert 0 < len(judged) < 53 and result["real_images"] == len(judged) and result["images"] == 53
    assert result["real_top1"] == pytest.approx(100 * np.mean([guesses[0] in real for guesses, real in judged]))
    assert result["real_top5"] == pytest.approx(
        100 * np.mean([bool({*guesses[:5]} & {*real}) for guesses, real in judged])
    )


@pytest.mark.parametrize(
    "name,content",
    [
        ("names.txt", "2\n7\n9\n"),
        ("indices.json", "[2, 7, 9]"),
        ("names.json", '["2", "7", "9"]'),
        ("object.json", '{"9": 9, "2": "2", "7": 7}'),
    ],
)
def test_class_map_leaves_out_the_other_classes(checkpoint, tmp_path, name, content):
    root = write_digits(tmp_path / "digits", 30, classes=[2, 7, 9])
    (tmp_path / name).write_text(content)
    overrides = [*FOLDER, f"data.root={root}", "--class-map", tmp_path / name]
    result = result_of(tmp_path, "--ckpt", checkpoint, *overrides)
    source = ImageFolder(root)
    probabilities = plain_probabilities(checkpoint, [source.picture(i) for i in range(30)])[:, [2, 7, 9]]
    assert_scores(result, probabilities / probabilities.sum(1, keepdim=True), torch.from_numpy(source.labels))


def test_size_and_crop_are_those_asked_for(checkpoint, tmp_path):
    short = result_of(tmp_path, "--ckpt", checkpoint, "--image-size", "24", "--crop-pct", "1.0")
    long = result_of(tmp_path, "--ckpt", checkpoint, "data.image_size=24", "data.crop_pct=1.0")
    over = result_of(
        tmp_path, "--ckpt", checkpoint, "data.eval_image_size=20", "--image-size", "24", "data.crop_pct=1.0"
    )
    usual = result_of(tmp_path, "--ckpt", checkpoint)
    assert over["loss"] == short["loss"]
    assert (short["image_size"], short["crop_pct"]) == (24, 1.0)
    assert short["loss"] == long["loss"] != usual["loss"]


def test_averaged_weights_on_demand(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    other = {key: value + 0.01 if key == "fc.weight" else value for key, value in state.items()}
    both = with_content(checkpoint, tmp_path / "both.pt", state_dict=other, state_dict_ema=state)
    plain = result_of(tmp_path, "--ckpt", checkpoint)
    assert (
        result_of(tmp_path, "--ckpt", both, "--ema")["loss"]
        == plain["loss"]
        != result_of(tmp_path, "--ckpt", both)["loss"]
    )


# ---- several at once


def test_several_checkpoints_come_into_one_table_csv_and_json(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["fc.bias"] = state["fc.bias"].roll(1) + 1
    second = with_content(checkpoint, tmp_path / "second.pt", state_dict=state, step=7)
    alone = [result_of(tmp_path, "--ckpt", path) for path in (checkpoint, second)]
    capsys.readouterr()
    files = ["--csv", tmp_path / "all.csv", "--per-class", tmp_path / "class.csv", "--confusion", tmp_path / "c.png"]
    together = result_of(tmp_path, "--ckpt", checkpoint, second, "run.eval_batch_size=256", *files)
    for one, other in zip(alone, together, strict=True):
        assert one | {"images_per_second": 0} == other | {"images_per_second": 0}
    table = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    for result, row in zip(alone, rows, strict=True):
        assert result["checkpoint"] in table and f"{result['top1']:.3f}" in table
        assert row["checkpoint"] == result["checkpoint"] and float(row["loss"]) == result["loss"]
    for number, result in enumerate(alone, 1):
        counts = np.load(tmp_path / f"c-{number}.npy")
        assert counts.sum() == 360 and 100 * np.trace(counts) / 360 == result["top1"]
        classes = list(csv.DictReader((tmp_path / f"class-{number}.csv").open()))
        assert sum(int(row["images"]) for row in classes) == 360
        assert Image.open(tmp_path / f"c-{number}.png").width > 1000
    assert not list(tmp_path.glob("*.tmp"))


def test_what_was_evaluated_before_an_error_is_kept(checkpoint, tmp_path, monkeypatch):
    write_digits(tmp_path / "digits", 20)
    calls = []

    def picture(self, index, read=ImageFolder.picture):
        calls.append(index)
        if len(calls) > 20:  # the disk is gone when the second one's turn comes
            raise OSError(5, "Input/output error", str(self.root))
        return read(self, index)

    monkeypatch.setattr(ImageFolder, "picture", picture)
    arguments = ["--ckpt", checkpoint, checkpoint, *FOLDER, f"data.root={tmp_path / 'digits'}"]
    said = eval_py(*arguments, "--json", tmp_path / "result.json")
    assert "Input/output error" in said
    (result,) = json.loads((tmp_path / "result.json").read_text())
    assert result["images"] == 20


# ---- models of timm


def test_timm_model_brings_its_own_size_crop_and_mean(tmp_path, capsys):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=10)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    cfg = network.pretrained_cfg
    assert cfg["input_size"][1] != 224 and cfg["crop_pct"] != 0.875
    root = write_digits(tmp_path / "digits", 21)
    options = [
        "--model",
        "test_resnet",
        "--weights",
        tmp_path / "w.pth",
        *FOLDER,
        f"data.root={root}",
        "data.workers=0",
    ]
    result = result_of(tmp_path, *options)
    assert (result["image_size"], result["crop_pct"]) == (cfg["input_size"][1], cfg["crop_pct"])
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    source = ImageFolder(root)
    with torch.no_grad():
        logits = network.eval()(torch.stack([transform(source.picture(i)) for i in range(21)]))
    assert_scores(result, logits.double().softmax(1), torch.from_numpy(source.labels))
    assert (result["checkpoint"], result["step"], result["model"]) == (str(tmp_path / "w.pth"), None, "test_resnet")

    (tmp_path / "data.yaml").write_text("data: {image_size: 32, mean: [0.5, 0.5, 0.5], source: digits, workers: 0}\n")
    options = ["--model", "test_resnet", "--weights", tmp_path / "w.pth", "--config", tmp_path / "data.yaml"]
    given = result_of(tmp_path, *options, "data.crop_pct=1.0")
    assert (given["image_size"], given["crop_pct"], given["images"]) == (32, 1.0, 360)


def test_a_runs_checkpoint_stands_beside_a_timm_model(checkpoint, tmp_path):
    kwargs = "model.kwargs={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16], stem_width: 8}"
    weights = ["--model", "ddf_resnet18", "--weights", checkpoint]
    options = [kwargs, "data.source=digits", "data.image_size=16", "data.workers=0", "run.device=cpu"]
    options += ["data.eval_interpolation=bilinear"]  # the run's; of a ddf_resnet18 by its name it is bicubic
    ours, timms = result_of(tmp_path, "--ckpt", checkpoint, *weights, *options)
    assert ours["loss"] == timms["loss"] and (ours["step"], timms["step"]) == (35, None)
