"""Files are written whole or not at all, by ddfnet/files.py alone; an error names the file."""

import os
import resource
import threading
from pathlib import Path

import pytest
from import_law import files_moved, files_opened_to_write

from ddfnet.files import append, move, require_writable, whole_file, write_whole

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def full_disk():
    """No file may have more than 1000 bytes; writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "a.json"
    for content in ("first, and long", "höher\udcff"):  # the last is a byte of a name that is no UTF-8
        write_whole(path, content)
    assert path.read_bytes() == b"h\xc3\xb6her\xff" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("a disk without a number"), RuntimeError("torch's"), KeyboardInterrupt()])
@pytest.mark.parametrize("options", [{}, {"durable": True}, {"shared": True}], ids=str)
def test_a_failure_in_the_middle_leaves_the_old_file_and_no_temporary(tmp_path, error, options):
    path = tmp_path / "last.pt"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, whole_file(path, **options) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert (caught.value.filename, caught.value.strerror) == (str(path), "a disk without a number")


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, full_disk):
    path = tmp_path / "a"
    write_whole(path, b"old")
    for fails in (lambda: write_whole(path, bytes(1001)), lambda: append(path, bytes(1001))):
        with pytest.raises(OSError, match="File too large") as caught:
            fails()
        assert caught.value.filename == str(path)
        assert path.read_bytes()[:3] == b"old" and list(tmp_path.iterdir()) == [path]
    link = tmp_path / "full"  # never /dev/full itself, which a fault would replace for the whole machine
    link.symlink_to("/dev/full")
    for fails in (write_whole, append):
        with pytest.raises(OSError, match="No space left on device") as caught:
            fails(link, b"1")
        assert caught.value.filename == str(link)


def test_a_folder_that_is_gone_is_found_before_the_work(tmp_path):
    for fails in (require_writable, lambda path: write_whole(path, ""), lambda path: append(path, b"")):
        with pytest.raises(FileNotFoundError) as caught:
            fails(tmp_path / "none" / "a")
        assert caught.value.filename == str(tmp_path / "none" / "a")
    with pytest.raises(FileNotFoundError) as caught:
        move(tmp_path / "none", tmp_path / "a")
    assert caught.value.filename == str(tmp_path / "a")
    for name in ("there", "new.tmp"):
        (tmp_path / name).write_text("old")
    for name in ("there", "new"):
        require_writable(tmp_path / name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"there": "old", "new.tmp": "old"}


def test_a_link_is_written_through(tmp_path):
    link, target = tmp_path / "link", tmp_path / "target"
    target.write_text("much longer than what comes")
    link.symlink_to(target)
    require_writable(link)
    assert target.read_text() == "much longer than what comes"
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_a_pipe_is_written_through(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    write_whole(pipe, "through it")
    reader.join(60)
    assert got == ["through it"] and pipe.is_fifo()


def test_processes_that_write_one_file_have_a_temporary_each(tmp_path, monkeypatch):
    path = tmp_path / "index.npz"
    with whole_file(path, shared=True) as first:
        first.write_text("of this process")
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: -1)
            with whole_file(path, shared=True) as second:
                second.write_text("of another")
        assert path.read_text() == "of another"
    assert path.read_text() == "of this process" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_cleared_away_by_the_next(tmp_path):
    path = tmp_path / "last.pt"
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        raise RuntimeError
    temporary.write_text("left by a kill")
    write_whole(path, "new")
    assert list(tmp_path.iterdir()) == [path]


CODE = [*ROOT.glob("*.py"), *(ROOT / "ddfnet").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
OPENED = {  # to write, and why not by write_whole
    "ddfnet/files.py",
    "ddfnet/checkpoint_file.py",  # into the temporary of whole_file: gigabytes need not be in memory
    "ddfnet/data/sources/archives.py",  # the same
    "ddfnet/data/packing.py",  # appends for hours, with a journal
    "ddfnet/train/folder.py",  # a lock
    "scripts/sweeping/attempt.py",  # what a run says, as it says it
    "scripts/sweeping/estimate.py",  # the same
    "scripts/measure/ops_cpu.py",  # the kernel's /proc
}


def test_no_other_module_writes_a_file_by_itself(tmp_path):
    assert {path.relative_to(ROOT).as_posix() for path in CODE if files_opened_to_write(path)} == OPENED
    for text in ("open(a, 'w')", "Path(a).write_text(b)", "a.open('ab')", "open(a, mode='x')", "f(open(a, 'r+b'))"):
        (tmp_path / "a.py").write_text(text)
        assert len(files_opened_to_write(tmp_path / "a.py")) == 1, text
    (tmp_path / "a.py").write_text("open('a')\nopen(a, 'rb')\nopen('wax')\nImage.open(file)")
    assert files_opened_to_write(tmp_path / "a.py") == []


def test_no_other_module_moves_a_file_into_place(tmp_path):
    assert [path for path in CODE if files_moved(path)] == [ROOT / "ddfnet/files.py"]
    for text in (
        "import os\nos.replace(a, b)",
        "def f(part):\n    part.replace(path)",
        "Path(a).rename(b)",
        "from os import rename",
        "import shutil\nshutil.move(a, b)",
    ):
        (tmp_path / "a.py").write_text(text)
        assert len(files_moved(tmp_path / "a.py")) == 1, text
    (tmp_path / "a.py").write_text("'text'.replace('a', 'b')\nreplace(batch, images=1)\ntime.replace(second=0)")
    assert files_moved(tmp_path / "a.py") == []
