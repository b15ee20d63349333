"""Pictures inside tar archives, read where they lie: an index of offsets, no extraction."""

import hashlib
import os
import re
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...counted import counted
from ...errors import UserError
from ...files import whole_file
from .base import EXTENSIONS, EncodedSource, vanished_or_unreadable
from .names import Names, fingerprint
from .tar_links import Member, followed, leads_to

INDEX_VERSION = 2  # since links count; an index of before would leave their images out
CLASS_NAMES = "classnames.txt"
OPEN_FILES = 64  # of a process at a time: ImageNet has a thousand archives, a process may often open no more


class Archives(EncodedSource):
    """Files at known places of archives. Each process opens the archives anew, and only those that it reads."""

    root: Path
    archives: list[Path]

    def _fill(self, classes: list[str], names: list[str], labels, archive, offsets, sizes) -> None:
        """The pictures in their order; `archive`, `offsets`, `sizes`: where each one's bytes are."""
        self.classes, self._names = classes, Names(names)
        self.labels = np.asarray(labels, np.int64)
        self._archive, self._offsets, self._sizes = (np.asarray(a, np.int64) for a in (archive, offsets, sizes))
        self.fingerprint = fingerprint(classes, self._names, self.labels)
        self._open: dict[int, int] = {}
        self._owner = os.getpid()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}

    def name(self, index: int) -> str:
        return self._names[index]

    def place(self, index: int) -> str:
        return f"{self.archives[self._archive[index]]}: {self._names[index]}"

    def encoded(self, index: int) -> bytes:
        number, offset, size = (int(a[index]) for a in (self._archive, self._offsets, self._sizes))
        path = self.archives[number]
        try:
            blob = os.pread(self._descriptor(number), size, offset)
        except OSError as error:
            raise vanished_or_unreadable(error, path, self.root) from None
        if len(blob) < size:
            raise UserError(f"{path}: is shorter than when it was indexed: bring the whole archive back and run again")
        return blob

    def _descriptor(self, number: int) -> int:
        if self._owner != os.getpid():  # forked: the parent closes its own
            self._open, self._owner = {}, os.getpid()
        if number not in self._open:
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[number] = os.open(self.archives[number], os.O_RDONLY)
        return self._open[number]


class TarFolder(Archives):
    """root/SPLIT.tar with CLASS/*.JPEG inside, or root/SPLIT/CLASS.tar as ImageNet is handed out.

    Raises:
        UserError: neither is there, or pictures that lie in no class folder.
    """

    def __init__(self, root: str | Path, split: str):
        whole, folder = Path(root) / f"{split.removesuffix('.tar')}.tar", Path(root) / split
        if whole.is_file():
            self.root, self.archives = whole, [whole]
        elif folder.is_dir() and (found := sorted(folder.glob("*.tar"))):
            self.root, self.archives = folder, found
        else:
            raise UserError(f"{whole}: no such archive, and {folder} holds no archives, one for each class, either")
        indices = indexed(self.archives)
        rows: list[tuple[str, str, int, int, int]] = []
        for number, (names, offsets, sizes, _) in enumerate(indices):
            inside = list(names)
            if self.archives == [whole]:
                inside = _below_common_folder(inside)
                flat = next((name for name in inside if "/" not in name), None)
                if flat is not None:
                    raise UserError(f"{whole}: {flat} lies in no class folder, expected CLASS/{flat}")
            else:
                inside = [f"{self.archives[number].stem}/{name}" for name in inside]
            if not inside:
                raise UserError(f"{self.archives[number]}: holds no pictures ({', '.join(EXTENSIONS)})")
            rows += zip((n.split("/")[0] for n in inside), inside, [number] * len(inside), offsets, sizes, strict=True)
        rows.sort(key=lambda row: row[:2])
        classes = sorted({row[0] for row in rows})
        number_of = {name: number for number, name in enumerate(classes)}
        self._fill(
            classes,
            [row[1] for row in rows],
            [number_of[row[0]] for row in rows],
            *([row[i] for row in rows] for i in (2, 3, 4)),
        )


class WebDataset(Archives):
    """Shards of pairs KEY.jpg and KEY.cls, in the order of the shards; the class is the number in KEY.cls.

    Read by offset rather than as a stream, which alone gives the exact order. The classes' names come from
    root/classnames.txt, one a line, where there is one. Without it they are `numbered`, as far as there are images.

    Args:
        split: root/SPLIT-*.tar; or a pattern, as train-{000000..000146}.tar or train-*.tar.

    Raises:
        UserError: no such shard, or a picture without its class.
    """

    def __init__(self, root: str | Path, split: str):
        self.root = Path(root)
        pattern = split if re.search(r"[{*?\[]|\.tar$", split) else f"{split}-*.tar"
        self.archives = []
        for name in expand_braces(pattern):
            found = sorted(self.root.glob(name))
            if not found:
                raise UserError(f"{self.root / name}: no such shard")
            self.archives += found
        names: list[str] = []
        arrays: list[list[np.ndarray]] = [[], [], [], []]
        for number, (inside, offsets, sizes, labels) in enumerate(indexed(self.archives)):
            without = np.flatnonzero(labels < 0)
            if len(without):
                raise UserError(f"{self.archives[number]}: {inside[without[0]]} has no .cls file beside it")
            names += inside
            for array, values in zip(arrays, (labels, np.full(len(labels), number), offsets, sizes), strict=True):
                array.append(values)
        if not names:
            raise UserError(f"{self.archives[0]}: holds no pictures ({', '.join(EXTENSIONS)})")
        all_labels, *places = (np.concatenate(array) for array in arrays)
        self._fill(self._classes(int(all_labels.max()) + 1), names, all_labels, *places)

    def _classes(self, count: int) -> list[str]:
        file = self.root / CLASS_NAMES
        self.numbered = not file.exists()
        if self.numbered:
            return [str(number) for number in range(count)]
        classes = file.read_text("utf-8-sig", "surrogateescape").rstrip("\r\n").splitlines()
        if "" in map(str.strip, classes):
            raise UserError(f"{file}: line {[*map(str.strip, classes)].index('') + 1} is empty: name a class there")
        if len(classes) < count:
            has = counted(len(classes), "class")
            raise UserError(f"{file}: names {has}, but the shards have {count}: name all, one a line")
        return classes


Index = tuple[Names, np.ndarray, np.ndarray, np.ndarray]  # names, offsets, sizes, labels (-1: no .cls)


def indexed(archives: Sequence[Path]) -> list[Index]:
    """The pictures of each archive; kept under ~/.cache/ddfnet, since an archive has to be read through for it."""
    for path in archives:
        if not path.is_file():
            raise UserError(f"{path}: is no archive but a folder or a link that leads nowhere: mend it or remove it")
    missing = [path for path in archives if not _cache(path).exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        print(f"indexing {missing[0]}{more}, once", file=sys.stderr)
    return [_index(path) for path in archives]


def _cache(path: Path) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddfnet" / "tar"
    about = path.stat()
    identity = f"{INDEX_VERSION} {path.resolve()} {about.st_size} {about.st_mtime_ns}"
    return folder / f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"


def _index(path: Path) -> Index:
    cache = _cache(path)
    try:
        with np.load(cache) as kept:
            return Names.of_arrays(kept["blob"], kept["ends"]), kept["offsets"], kept["sizes"], kept["labels"]
    except Exception:  # not there, or half of it: whatever it is, the archive has it all
        index = _read_through(path)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(cache, shared=True) as temporary, open(temporary, "wb") as file:
            np.savez(file, blob=index[0].blob, ends=index[0].ends, offsets=index[1], sizes=index[2], labels=index[3])
    except OSError:
        pass  # a home that cannot be written: read through again next time
    return index


def _read_through(path: Path) -> Index:
    members: list[Member] = []
    folders: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
                name = info.name.removeprefix("./")
                if info.isdir():
                    folders.append(name)
                elif info.isreg() or info.islnk() or info.issym():
                    members.append(Member(name, info.offset_data, info.size, leads_to(info)))
        members = followed(members, folders, path)
        labels = _labels(path, members)
    except tarfile.ReadError as error:
        reason = "is no plain tar archive (a compressed one cannot be read by offset)"
        raise UserError(f"{path}: {reason}: {error}") from None
    except OSError as error:
        raise vanished_or_unreadable(error, path, path.parent) from None
    images = [member for member in members if member.name.lower().endswith(EXTENSIONS)]
    numbers = [[m.offset for m in images], [m.size for m in images], [labels.get(_key(m.name), -1) for m in images]]
    offsets, sizes, labels_in_order = (np.array(each, np.int64) for each in numbers)
    return Names(member.name for member in images), offsets, sizes, labels_in_order


def _labels(path: Path, members: list[Member]) -> dict[str, int]:
    """What the .cls files hold, by the keys that WebDataset gives them."""
    found = {}
    with open(path, "rb") as file:
        for member in members:
            if not member.name.endswith(".cls"):
                continue
            text = os.pread(file.fileno(), min(member.size, 32), member.offset)
            try:
                found[_key(member.name)] = int(text)
            except ValueError:
                wrong = f"{member.name} holds {text[:20]!r}, expected the number of a class"
                raise UserError(f"{path}: {wrong}") from None
    return found


def _key(name: str) -> str:
    """WebDataset's: up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".")[0]


def _below_common_folder(names: list[str]) -> list[str]:
    """Without the folders that all lie in, as train/ or imagenet/train/; the classes' own stays."""
    while names and all(name.count("/") > 1 for name in names) and len({name.split("/")[0] for name in names}) == 1:
        names = [name.split("/", 1)[1] for name in names]
    return names


def expand_braces(pattern: str) -> list[str]:
    """train-{000..002}.tar -> train-000.tar, train-001.tar, train-002.tar; {a,b} too."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not match:
        return [pattern]
    first, last, listed = match.groups()
    if listed is not None:
        inner = listed.split(",")
    else:
        inner = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [one for text in inner for one in expand_braces(pattern[: match.start()] + text + pattern[match.end() :])]
