"""Hard and symbolic links in a tar archive, followed as the file system follows them once it is unpacked."""

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from posixpath import basename, dirname, join, normpath
from typing import NamedTuple

from ...errors import UserError
from .base import may_be_an_image

LONGEST_CHAIN = 40  # links to links; Linux follows as many


class Member(NamedTuple):
    """A file in an archive, or a link to one or to a folder."""

    name: str
    offset: int  # of its first byte
    size: int
    leads_to: str | None = None  # of a link: a path in the archive


def leads_to(info: tarfile.TarInfo) -> str | None:
    if info.islnk():
        return normpath(info.linkname)
    return normpath(join(dirname(info.name), info.linkname)) if info.issym() else None


def followed(members: list[Member], folders: Iterable[str], archive: Path) -> list[Member]:
    """The members with the file that it leads to in the place of each link, or all files of that folder.

    A link to a folder that it lies in is passed over: all in there is found anyway. So is one of the name of a file,
    which GNU tar writes for a hard-linked file that is named twice, a link that stands there twice, and one that leads
    nowhere and whose name is hidden or no image's.

    Raises:
        UserError: a link that leads out of the archive or nowhere, naming both.
    """
    if all(member.leads_to is None for member in members):
        return members
    tree, found, passed = _Tree(members, folders), [], set()
    for member in members:
        if member.leads_to is None:
            found.append(member)
            continue
        if member.name in passed or tree.is_file(member.name):
            continue
        passed.add(member.name)
        try:
            found += tree.files(member.name, normpath(member.name), frozenset(_folders_of(normpath(member.name))))
        except KeyError:
            if not may_be_an_image(member.name):
                continue
            raise UserError(
                f"{archive}: {member.name} is a link to {member.leads_to}, which is not in the archive: write it anew"
                " with what the links lead to (tar --dereference --hard-dereference), or without the link"
            ) from None
    return found


class _Tree:
    """An archive as a file system. Paths are normalised; "." is its root."""

    def __init__(self, members: list[Member], folders: Iterable[str]):
        self._files = {normpath(m.name): m for m in members if m.leads_to is None}
        self._links = {normpath(m.name): m.leads_to for m in members if m.leads_to is not None}
        self._links = {name: leads_to for name, leads_to in self._links.items() if name not in self._files}
        self._inside: dict[str, dict[str, None]] = {normpath(folder): {} for folder in folders}  # in their order
        for path in (*self._inside, *self._files, *self._links):
            for folder in _folders_of(path):
                self._inside.setdefault(folder, {})[path] = None
                path = folder

    def is_file(self, name: str) -> bool:
        return normpath(name) in self._files

    def files(self, name: str, path: str, around: frozenset[str]) -> Iterator[Member]:
        """All files at a path, called `name` instead; `around`: the folders that it lies in.

        Raises:
            KeyError: there is nothing.
        """
        path = self._without_links(path)
        if path in self._files:
            yield self._files[path]._replace(name=name)
        elif path not in around:
            for inside in self._inside[path]:
                yield from self.files(join(name, basename(inside)), inside, around | {path})

    def _without_links(self, path: str) -> str:
        for _ in range(LONGEST_CHAIN):
            ways = [*reversed(list(_folders_of(path))), path]
            link = next((way for way in ways if way in self._links), None)
            if link is None:
                return path
            path = normpath(self._links[link] + path[len(link) :])
        raise KeyError(path)


def _folders_of(path: str) -> Iterator[str]:
    """The folders that a path lies in, the innermost first, the root "." last."""
    while path not in (".", "/"):
        path = dirname(path) or "."
        yield path
