"""Images behind links, hard and symbolic, to files and folders: all are found; a link that leads nowhere is named."""

import io
import os
import subprocess
import tarfile

import numpy as np
import pytest
from commands import command
from PIL import Image

from ddfnet.data import open_source
from ddfnet.data.sources import ImageFolder, TarFolder, WebDataset
from ddfnet.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images; what else each test links."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data/train" / name).mkdir(parents=True)
        for i in range(2):
            image = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
            image.save(tmp_path / "data/train" / name / f"{i}.png")
    return tmp_path / "data/train"


def names(source):
    return [source.name(index) for index in range(len(source.labels))]


def link_all_ways(folder):
    """A linked file, a hard-linked one, a link to a link, a linked folder with a folder in it, the same one twice."""
    more = folder.parent / "more/inner"
    more.mkdir(parents=True)
    (folder / "cat/0.png").rename(more / "a.png")
    (folder / "cat/1.png").rename(more.parent / "b.png")
    (folder / "cat/linked").symlink_to("../../more")
    (folder / "dog/linked").symlink_to(more.parent)
    (folder / "dog/2.png").symlink_to("0.png")
    (folder / "dog/3.png").symlink_to("2.png")
    os.link(folder / "dog/1.png", folder / "dog/4.png")


FOUND = ["cat/linked/b.png", "cat/linked/inner/a.png", *(f"dog/{i}.png" for i in range(5))]
FOUND += ["dog/linked/b.png", "dog/linked/inner/a.png"]

# ---- folders


def test_images_in_linked_folders_and_files_count(folder):
    link_all_ways(folder)
    source = ImageFolder(folder)
    assert names(source) == FOUND and source.labels.tolist() == [0] * 2 + [1] * 7
    assert all(source.picture(index).size == (8, 8) for index in range(9))


def test_a_link_to_a_folder_around_it_ends_there(folder):
    for target in (".", "..", "../..", "/"):
        (folder / "cat/inner").mkdir(exist_ok=True)
        (folder / "cat/inner/back").symlink_to(target)
        assert names(ImageFolder(folder)) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
        (folder / "cat/inner/back").unlink()
    (folder / "cat/other").symlink_to("../dog")  # two classes that lead into each other
    (folder / "dog/other").symlink_to("../cat")
    both = [[f"{name}/{i}.png" for name in (one, f"{one}/other") for i in range(2)] for one in ("cat", "dog")]
    assert names(ImageFolder(folder)) == both[0] + both[1]


@pytest.mark.parametrize("place", ["cat/2.png", "cat/inner", "bird", "cat/self.png"])
def test_a_broken_link_is_named_when_the_folder_is_opened(folder, place):
    (folder / place).symlink_to("self.png" if "self" in place else "nowhere")
    with pytest.raises(UserError, match=rf"^{folder / place}: is a link that leads nowhere: mend it or remove it$"):
        ImageFolder(folder)
    (folder / "dog/9.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"is a link that leads nowhere \(and 1 more\): mend it or remove it"):
        ImageFolder(folder)


def test_a_subfolder_that_cannot_be_read_is_named(folder, monkeypatch):
    (folder / "cat/inner").mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=rf"^{folder}/cat/inner: the folder cannot be read: Permission denied$"):
        ImageFolder(folder)


@pytest.mark.parametrize("name", ["cat/.#0.png", "cat/README.md", ".DS_Store", "dog/.lock"])
def test_a_broken_link_that_is_no_image_is_passed_over(folder, name):
    before = names(ImageFolder(folder))
    (folder / name).symlink_to("user@host.1")
    assert names(ImageFolder(folder)) == before


def test_folders_that_a_file_system_numbers_alike_are_all_read(folder, monkeypatch):
    (folder / "cat/more").mkdir()
    (folder / "cat/0.png").rename(folder / "cat/more/0.png")
    monkeypatch.setattr("ddfnet.data.sources.folder._identity", lambda path: (1, 0))
    assert names(ImageFolder(folder)) == ["cat/1.png", "cat/more/0.png", "dog/0.png", "dog/1.png"]


def test_verify_names_a_broken_link(folder):
    (folder.parent / "val").symlink_to("train")
    (folder / "dog/9.png").symlink_to("nowhere")
    result = command("scripts/verify_data.py", folder.parent, "--workers", "1")
    assert result.returncode == 1 and "dog/9.png: is a link that leads nowhere" in result.stderr


# ---- archives


@pytest.mark.parametrize("prefix", ["", "./", "imagenet/train/"])
def test_links_in_an_archive_count_as_they_do_in_the_folder(folder, tmp_path, prefix):
    link_all_ways(folder)
    (folder / "cat/linked").unlink()
    (folder / "dog/linked").unlink()
    (folder.parent / "more").rename(folder / "cat/more")  # an archive holds all that it links to
    (folder / "dog/linked").symlink_to("../cat/more")
    (folder / "dog/back").symlink_to("../dog")
    (folder / "dog/deep.png").symlink_to("linked/inner/a.png")
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(folder, prefix or ".")
    source, want = TarFolder(tmp_path, "train"), ImageFolder(folder)
    assert names(source) == names(want) and source.fingerprint == want.fingerprint and len(want.labels) == 10
    assert all(source.encoded(index) == want.encoded(index) for index in range(10))


def test_an_archive_of_each_class_may_be_linked_and_hold_links(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tars/train").mkdir(parents=True)
    os.link(folder / "dog/1.png", folder / "dog/4.png")
    (folder / "dog/5.png").symlink_to("4.png")
    for name in ("cat", "dog"):
        with tarfile.open(tmp_path / f"elsewhere/{name}.tar", "w") as archive:
            archive.add(folder / name, ".")
        (tmp_path / f"tars/train/{name}.tar").symlink_to(tmp_path / f"elsewhere/{name}.tar")
    assert names(TarFolder(tmp_path / "tars", "train")) == names(ImageFolder(folder))
    (tmp_path / "elsewhere/dog.tar").unlink()
    with pytest.raises(UserError, match=r"train/dog.tar: is no archive but a folder or a link that leads nowhere"):
        open_source("tar", str(tmp_path / "tars"), "train", True, 0)


@pytest.mark.parametrize(
    "name,target,hard",
    [
        ("cat/9.png", "../../pool/9.png", False),
        ("cat/9.png", "/pool/9.png", False),
        ("cat/9.png", "cat/8.png", True),
        ("cat/9.png", "9.png", False),
        ("cat/more", "../../pool", False),
    ],
)
def test_a_link_out_of_an_archive_is_named(folder, tmp_path, name, target, hard):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(folder, ".")
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.LNKTYPE if hard else tarfile.SYMTYPE, target
        archive.addfile(link)
    with pytest.raises(UserError, match=rf"train.tar: {name} is a link to .*, which is not in the archive"):
        TarFolder(tmp_path, "train")


def test_webdataset_reads_linked_images_and_labels_where_the_links_stand(folder, tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for key, label in (("a", b"0"), ("b", b"1")):
            image = (folder / f"cat/{label.decode()}.png").read_bytes()
            for name, blob in ((f"{key}.png", image), (f"{key}.cls", label)):
                info = tarfile.TarInfo(name)
                info.size = len(blob)
                archive.addfile(info, io.BytesIO(blob))
        for name, target, kind in (
            ("c.png", "a.png", tarfile.LNKTYPE),
            ("c.cls", "b.cls", tarfile.LNKTYPE),
            ("d.png", "c.png", tarfile.SYMTYPE),
            ("d.cls", "c.cls", tarfile.SYMTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    source = WebDataset(tmp_path, "train")
    assert names(source) == ["a.png", "b.png", "c.png", "d.png"] and source.labels.tolist() == [0, 1, 1, 1]
    assert source.encoded(3) == source.encoded(0) == (folder / "cat/0.png").read_bytes()


def test_an_index_kept_before_links_counted_is_not_used(folder, tmp_path, capsys):
    """Its key was the archive's path, size and time alone."""
    import hashlib

    (folder / "cat/2.png").symlink_to("0.png")
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(folder, ".")
    about = (tmp_path / "train.tar").stat()
    key = hashlib.sha256(f"{tmp_path / 'train.tar'} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:32]
    kept = tmp_path / "cache/ddfnet/tar" / f"{key}.npz"
    kept.parent.mkdir(parents=True)
    blob = np.frombuffer(b"cat/0.pngdog/0.png", np.uint8)
    np.savez(kept, blob=blob, ends=np.array([9, 18]), offsets=np.zeros(2, int), sizes=np.ones(2, int), labels=[-1, -1])
    assert len(TarFolder(tmp_path, "train").labels) == 5


def test_a_hard_linked_file_that_tar_is_told_of_twice_counts_once(folder, tmp_path):
    """GNU tar writes it as a link to itself, or twice as a link to the other."""
    os.link(folder / "dog/1.png", folder / "dog/2.png")
    twice = ["train/dog/1.png", "train/dog/2.png"]
    subprocess.run(["tar", "cf", "train.tar", "train", *twice], cwd=tmp_path / "data", check=True)
    assert names(TarFolder(tmp_path / "data", "train")) == [
        "cat/0.png",
        "cat/1.png",
        *(f"dog/{i}.png" for i in range(3)),
    ]


def test_a_broken_link_in_an_archive_that_is_no_image_is_passed_over(folder, tmp_path):
    (folder / "cat/notes.txt").symlink_to("gone")
    subprocess.run(["tar", "cf", "train.tar", "train"], cwd=tmp_path / "data", check=True)
    assert len(names(TarFolder(tmp_path / "data", "train"))) == 4
