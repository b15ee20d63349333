"""Sources other than a folder: the same pictures in the same order, whatever holds them."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from image_batches import feeder, images_and_labels
from PIL import Image

from ddfnet.config import Data
from ddfnet.data import TrainOrder, open_source
from ddfnet.data.sources import HuggingFace, ImageFolder, Synthetic, TarFolder, WebDataset
from ddfnet.data.sources.archives import expand_braces
from ddfnet.data.sources.names import Names
from ddfnet.errors import UserError
from ddfnet.tasks.classification.augment import train_transform
from ddfnet.tasks.classification.dataset import Pictures, synthetic_batches

CLASSES = ("cat", "dog", "emu")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Three classes of two JPEGs in train."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "folder/train" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)).save(
                tmp_path / "folder/train" / name / f"{i}.JPEG"
            )
    return tmp_path / "folder"


def add(archive, name, blob):
    member = tarfile.TarInfo(name)
    member.size = len(blob)
    archive.addfile(member, io.BytesIO(blob))


def assert_same(source, folder):
    want = ImageFolder(folder / "train")
    assert source.classes == want.classes and np.array_equal(source.labels, want.labels)
    for index in range(len(want.labels)):
        assert source.encoded(index) == want.encoded(index)
        assert np.array_equal(np.asarray(source.picture(index)), np.asarray(want.picture(index)))
    again = pickle.loads(pickle.dumps(source))  # as sent to workers that are not forked
    assert again.encoded(3) == want.encoded(3)


@pytest.mark.parametrize("prefix", ["", "./", "train/", "imagenet/train/"])
def test_tar_with_class_folders(folder, tmp_path, prefix):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for path in sorted((folder / "train").rglob("*.JPEG"), reverse=True):  # in any order
            archive.add(path, f"{prefix}{path.parent.name}/{path.name}")
        add(archive, f"{prefix}readme.txt", b"no picture")
    source = TarFolder(tmp_path, "train")
    assert_same(source, folder)
    assert source.fingerprint == ImageFolder(folder / "train").fingerprint
    assert source.name(5) == "emu/1.JPEG" and source.place(5) == f"{tmp_path}/train.tar: emu/1.JPEG"


def test_tar_of_each_class_as_imagenet_is_handed_out(folder, tmp_path):
    (tmp_path / "train").mkdir()
    for name in CLASSES:
        with tarfile.open(tmp_path / "train" / f"{name}.tar", "w") as archive:
            for path in (folder / "train" / name).iterdir():
                archive.add(path, path.name)
    source = open_source("tar", str(tmp_path), "train", True, 0)
    assert_same(source, folder)
    assert source.fingerprint == ImageFolder(folder / "train").fingerprint


def write_shards(folder, root):
    paths = sorted((folder / "train").rglob("*.JPEG"))
    for number in range(2):
        with tarfile.open(root / f"train-{number:06}.tar", "w") as archive:
            for path in paths[number * 3 : number * 3 + 3]:
                key = f"{path.parent.name}_{path.stem}"
                add(archive, f"{key}.cls", str(CLASSES.index(path.parent.name)).encode())
                add(archive, f"{key}.jpg", path.read_bytes())
    (root / "classnames.txt").write_text("\n".join(CLASSES))


@pytest.mark.parametrize(
    "split", ["train", "train-{000000..000001}.tar", "train-00000?.tar", "train-{000000,000001}.tar"]
)
def test_webdataset_shards(folder, tmp_path, split):
    write_shards(folder, tmp_path)
    assert_same(WebDataset(tmp_path, split), folder)


def test_webdataset_without_names_of_classes_numbers_them(folder, tmp_path):
    write_shards(folder, tmp_path)
    (tmp_path / "classnames.txt").unlink()
    assert WebDataset(tmp_path, "train").classes == ["0", "1", "2"]


def test_braces():
    assert expand_braces("a{08..11}{x,yy}") == [f"a{n}{s}" for n in ("08", "09", "10", "11") for s in ("x", "yy")]


def test_an_archives_index_is_kept_until_the_archive_changes(folder, tmp_path, capsys):
    def write(count):
        with tarfile.open(tmp_path / "train.tar", "w") as archive:
            for i in range(count):
                archive.add(folder / "train/cat/0.JPEG", f"cat/{i}.JPEG")
                archive.add(folder / "train/dog/0.JPEG", f"dog/{i}.JPEG")

    write(2)
    assert len(TarFolder(tmp_path, "train").labels) == 4 and "indexing" in capsys.readouterr().err
    assert len(TarFolder(tmp_path, "train").labels) == 4 and "indexing" not in capsys.readouterr().err
    for kept in (tmp_path / "cache").rglob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:50])
    assert len(TarFolder(tmp_path, "train").labels) == 4  # read through again
    write(3)
    assert len(TarFolder(tmp_path, "train").labels) == 6


def test_workers_read_archives_and_give_the_same_batches_as_one_process(folder, tmp_path):
    write_shards(folder, tmp_path)
    source, data = WebDataset(tmp_path, "train"), Data(image_size=16)
    source.encoded(0)  # the parent's open file must not be the children's
    found = []
    for workers in (0, 2):
        pictures = Pictures(source, train_transform(data), 0)
        found.append(images_and_labels(feeder(pictures, TrainOrder(6, 3, 0, 0, 4), workers)))
    assert all(torch.equal(a, b) for one, other in zip(*found, strict=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["disk", "disk with splits", "parquet"])
def test_hugging_face_dataset(folder, tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    paths = sorted((folder / "train").rglob("*.JPEG"))
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=list(CLASSES))})
    rows = {
        "img": [{"bytes": path.read_bytes(), "path": None} for path in paths],
        "fine": [path.parent.name for path in paths],
    }
    table = datasets.Dataset.from_dict(rows, features=features)
    if kind == "disk":
        table.save_to_disk(tmp_path / "hf/train")
    elif kind == "disk with splits":
        datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "hf")
    else:
        (tmp_path / "hf").mkdir()
        table.to_parquet(tmp_path / "hf/train-00000-of-00001.parquet")
    source = HuggingFace(str(tmp_path / "hf"), "train")
    assert_same(source, folder)
    assert "row 3" in source.place(3)
    with pytest.raises(UserError, match=r"no split|cannot be opened"):
        HuggingFace(str(tmp_path / "hf"), "test")


def test_hugging_face_dataset_needs_pictures_and_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "train")
    with pytest.raises(UserError, match="has no column of pictures"):
        HuggingFace(str(tmp_path), "train")


def test_synthetic_pictures_are_made_once_for_each_shape():
    source = Synthetic(5000)
    assert len(source.labels) == 5000 and len(source.classes) == 1000 and source.picture(3).size == (256, 256)
    order = [[(0, 1), (0, 2)], [(0, 3), (0, 4)], [(1, 1), (1, 2)]]
    batches = list(synthetic_batches(source, order, lambda epoch: 16 + 16 * epoch, torch.device("cpu")))
    assert [tuple(batch.images.shape) for batch in batches] == [(2, 3, 16, 16)] * 2 + [(2, 3, 32, 32)]
    assert batches[0].images is batches[1].images
    assert batches[0].images.dtype == torch.uint8 and batches[0].targets.dtype == torch.int64


def test_fingerprint_says_which_pictures_not_where(folder, tmp_path):
    first = ImageFolder(folder / "train").fingerprint
    folder.rename(tmp_path / "elsewhere")
    assert ImageFolder(tmp_path / "elsewhere/train").fingerprint == first
    (tmp_path / "elsewhere/train/cat/0.JPEG").rename(tmp_path / "elsewhere/train/dog/2.JPEG")
    assert ImageFolder(tmp_path / "elsewhere/train").fingerprint != first


def test_names_are_two_arrays_and_read_back():
    names = ["a", "", "ümläut", "b" * 300, "\udcff raw bytes"]
    held = Names(names)
    assert list(held) == names and len(held.blob) == sum(len(n.encode("utf-8", "surrogateescape")) for n in names)


@pytest.mark.parametrize(
    "source,files,sentence",
    [
        ("tar", {}, "no such archive"),
        ("tar", {"train.tar": b"nonsense"}, "is no plain tar archive"),
        ("tar", {"train.tar": {"a.jpg": b""}}, "a.jpg lies in no class folder, expected CLASS/a.jpg"),
        ("tar", {"train.tar": {"a.txt": b""}}, "holds no pictures"),
        ("webdataset", {}, "train-*.tar: no such shard"),
        ("webdataset", {"train-0.tar": {"a.jpg": b""}}, "a.jpg has no .cls file beside it"),
        ("webdataset", {"train-0.tar": {"a.jpg": b"", "a.cls": b"cat"}}, "a.cls holds b'cat', expected the number"),
        ("webdataset", {"train-0.tar": {"a.jpg": b"", "a.cls": b"7"}, "classnames.txt": b"x"}, "names 1 class,"),
        ("hf", {}, "cannot be opened as a dataset"),
        ("packed", {}, "train.pack: no such packed file"),
    ],
)
def test_what_is_wrong_with_a_dataset_is_one_sentence(tmp_path, monkeypatch, source, files, sentence):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
            continue
        with tarfile.open(tmp_path / name, "w") as archive:
            for inside, blob in content.items():
                add(archive, inside, blob)
    with pytest.raises(UserError) as error:
        open_source(source, str(tmp_path), "train", True, 0)
    assert sentence in str(error.value) and "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_an_archive_that_shrank_or_vanished_is_named(folder, tmp_path):
    write_shards(folder, tmp_path)
    source = WebDataset(tmp_path, "train")
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"train-000001.tar: the file has vanished since the dataset was opened"):
        source.encoded(5)
    content = (tmp_path / "train-000000.tar").read_bytes()
    (tmp_path / "train-000000.tar").write_bytes(content[:1000])
    with pytest.raises(UserError, match="shorter than when it was indexed"):
        source.encoded(2)
