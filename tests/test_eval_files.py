"""The files around an evaluation: labels and class maps that it reads, results and pictures that it writes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from eval_runs import FOLDER, assert_says, eval_py, with_content, write_digits
from PIL import Image

from ddfnet.errors import UserError
from ddfnet.tasks.classification.confusion_picture import NAMES_UP_TO, draw_confusion
from ddfnet.tasks.classification.label_files import read_class_map, read_real
from ddfnet.tasks.classification.metrics import METRICS
from ddfnet.tasks.result_files import Results

# ---- labels


@pytest.mark.parametrize(
    "content,sentence",
    [
        (None, "real.json: no such file for --real"),
        ("[[1], [2]", "real.json: is no JSON, as --real expects"),
        ("[" * 100_000, "real.json: is no JSON, as --real expects"),
        ("\xff", "real.json: cannot be read for --real"),
        ({"a": 1}, "real.json: is no list of lists of labels"),
        ([1] * 20, "real.json: is no list of lists of labels"),
        ([[1]] * 19, "real.json: holds labels of 19 pictures, the dataset has 20"),
        ([[1]] * 19 + [[10]], "real.json: picture 19 has the label 10, expected 0 to 9"),
        ([[1]] * 19 + [[-1]], "real.json: picture 19 has the label -1, expected 0 to 9"),
        ([[1]] * 19 + [["1"]], "real.json: picture 19 has the label '1', expected 0 to 9"),
        ([[]] * 20, "real.json: no picture has a label"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_real_labels_that_do_not_fit(checkpoint, tmp_path, content, sentence):
    root = write_digits(tmp_path / "digits", 20)
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "real.json").write_bytes(text.encode("latin-1"))
    arguments = ["--ckpt", checkpoint, *FOLDER, f"data.root={root}", "--real", tmp_path / "real.json"]
    assert_says(sentence, tmp_path, *arguments)


def test_real_labels_need_file_names_that_differ(checkpoint, tmp_path):
    root = write_digits(tmp_path / "digits", 20)
    first, second = sorted(root.rglob("*.png"))[:2]
    (root / "9/same.png").write_bytes(first.read_bytes())
    (root / "3/same.png").write_bytes(second.read_bytes())
    (tmp_path / "real.json").write_text(json.dumps([[1]] * 22))
    real = ["--ckpt", checkpoint, "--real", tmp_path / "real.json"]
    assert_says("goes by file names, but 2 pictures are named same.png", tmp_path, *real, *FOLDER, f"data.root={root}")
    (tmp_path / "real.json").write_text(json.dumps([[1]] * 360))
    assert_says("--real goes by the pictures' file names, and data.source = digits has none", tmp_path, *real)


@pytest.mark.parametrize(
    "name,content,sentence",
    [
        ("map.txt", None, "map.txt: no such file for --class-map"),
        ("map.txt", "2 7\n9", "map.txt: names 2 classes, the dataset has 3"),
        ("map.txt", "2\n7\ncat", "map.txt: 'cat' is no class of the network, which has 10, '0' to '9'"),
        ("map.txt", "2\n7\n7", "map.txt: gives '7' to 2 classes of the dataset, expected one each"),
        ("map.json", "[2, 7, 10]", "map.json: 10 is no class of the network, which has 10, '0' to '9'"),
        ("map.json", "[2, 7, -1]", "map.json: -1 is no class of the network"),
        ("map.json", "[2, 7, true]", "map.json: True is no class of the network"),
        ("map.json", "[2, 7, [9]]", "map.json: [9] is no class of the network"),
        ("map.json", '["2", 2, 7]', "map.json: gives '2' to 2 classes of the dataset"),
        ("map.json", "2 7 9", "map.json: is no JSON, as --class-map expects"),
        ("map.json", "7", "map.json: holds a int, expected a list of classes"),
        ("map.json", '{"2": 2, "7": 7}', "map.json: has no entry for the class of the dataset: '9'"),
        (
            "map.json",
            '{"2": 2, "7": 7, "8": 8, "9": 9}',
            "map.json: has an entry for what is no class of the dataset: '8'",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_class_map_that_does_not_fit(checkpoint, tmp_path, name, content, sentence):
    root = write_digits(tmp_path / "digits", 12, classes=[2, 7, 9])
    if content is not None:
        (tmp_path / name).write_text(content)
    arguments = ["--ckpt", checkpoint, *FOLDER, f"data.root={root}", "--class-map", tmp_path / name]
    assert_says(sentence, tmp_path, *arguments)


def test_timms_lists_of_imagenet_a_r_and_real_are_read():
    folder = Path(timm.data.__file__).parent / "_info"
    outputs = timm.data.ImageNetInfo().label_names()
    for subset in "ar":
        synsets = (folder / f"imagenet_{subset}_synsets.txt").read_text().split()
        by_name, by_index = (
            read_class_map(str(folder / f"imagenet_{subset}_{kind}.txt"), outputs, synsets)
            for kind in ("synsets", "indices")
        )
        assert by_name == by_index and [outputs[index] for index in by_name] == synsets and len(synsets) == 200
    names = [f"n0/ILSVRC2012_val_{number:08d}.JPEG" for number in range(50_000, 0, -1)]
    table = read_real(str(folder / "imagenet_real_labels.json"), names, 1000)
    lists = json.loads((folder / "imagenet_real_labels.json").read_text())
    assert [label for label in table[-1].tolist() if label >= 0] == lists[0]
    assert (table >= 0).any(1).sum() == 46_837  # pictures with a label, as the ReaL paper counts them


# ---- results


def test_full_disk_leaves_the_old_result(tmp_path, monkeypatch):
    (tmp_path / "r.json").write_text("old")
    result = dict(checkpoint="c", model="m", step=1, ema=False, top1=1.0, top5=1.0, loss=1.0, images=1)

    class Judged:
        about, classes, metrics = result, ["a"], METRICS

    with Results(1, tmp_path / "r.json", None, (), enabled=True) as results:
        results.add(Judged, {"images_per_second": 1.0})
        write = Path.write_bytes

        def full(path, content):
            write(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"r.json: the result cannot be written: No space left on device"):
            results.__exit__(None, None, None)
        monkeypatch.undo()
        assert (tmp_path / "r.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_loss_that_is_not_finite_is_null_in_json(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["fc.bias"] = state["fc.bias"] * float("nan")
    bad = with_content(checkpoint, tmp_path / "nan.pt", state_dict=state)
    assert eval_py("--ckpt", bad, "--json", tmp_path / "r.json") is None
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text)["loss"] is None and "NaN" not in text


def test_drawing_without_matplotlib(checkpoint, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ["--ckpt", checkpoint, "--confusion", tmp_path / "c.png"]
    assert_says("c.png: drawing needs matplotlib: pip install matplotlib", tmp_path, *options)


@pytest.mark.parametrize("number", [2, 10, 30, 31, 120, 121, 1000])
def test_confusion_picture_shows_every_cell_that_is_not_empty(number, tmp_path):
    counts = np.zeros((number, number), int)
    counts[range(number), np.random.default_rng(0).permutation(number)] = 1
    counts[:, 0] += 10_000  # so that the others are rare
    (tmp_path / "c.png").write_bytes(draw_confusion(counts, [f"class ${i}" for i in range(number)], "png"))
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
    cell = max(1, 1000 // number)
    reddish = (pixels[..., 0] > 200) & (pixels[..., 2] < 100)  # the colour of a single picture in ten thousand
    assert reddish.sum() >= 0.5 * cell * cell * np.sum(counts == 1)
    assert max(pixels.shape) < 3000


def test_confusion_picture_names_the_classes_where_they_can_be_read_else_the_commonest_confusions():
    for number, named in ((3, True), (30, True), (31, True), (NAMES_UP_TO, True), (NAMES_UP_TO + 1, False)):
        counts = np.eye(number, dtype=int)
        counts[1, 0] = 7
        drawing = draw_confusion(counts, [f"kind {i}" for i in range(number)], "svg").decode()  # texts are comments
        assert (f"<!-- kind {number - 1} -->" in drawing) == named
        assert ("<!-- 7 / 8  kind 1 -&gt; kind 0 -->" in drawing) == (number > 30)
        assert "kind 2 -&gt; kind 2" not in drawing
