"""Earlier versions of a bundle, kept beside it, and the way back to them.

BUNDLE.versions/0001, 0002 ...   whole bundles; the one with the highest number was replaced last
BUNDLE.versions/.draft           one that is being written
BUNDLE.versions/.new             one that was read back, on its way in; .back-0002: a kept one, on its way back in

Two renamings put a bundle in place: the present one becomes a version, then the other one the bundle. Whoever is killed
before the first has changed nothing; after it, the next command finishes, and readers are told which command that is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_core.atomic import make_directory, sync_directory, writing
from nexus_core.bundle.disk import VERSIONS, read_manifest
from nexus_core.errors import ModelError, NexusError, StateError, UsageError
from nexus_core.lock import held

if TYPE_CHECKING:
    from nexus_core.bundle.manifest import Manifest

KEEP = 3  # versions of one bundle, unless somebody says otherwise: each is as large as the bundle
_NUMBER = re.compile(r"[0-9]{4}|[1-9][0-9]{4,8}")
_DRAFT, _NEW, _BACK, _GONE = ".draft", ".new", ".back-", ".gone-"
_COMING = re.compile(rf"{re.escape(_BACK)}({_NUMBER.pattern})")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Version:
    """A kept version: its manifest, or why it has none that can be read, and the files that the bundle has otherwise."""

    number: int
    manifest: Manifest | None
    problem: str = ""
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is the bundle now, where it came from, and the number of the one that it replaced (None: there was none)."""

    manifest: Manifest
    number: int
    replaced: int | None


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one bundle, while this process alone changes them (see `versions_of`)."""

    bundle: Path
    say: Say = field(default=lambda text: None)

    @property
    def folder(self) -> Path:
        return self.bundle.with_name(f"{self.bundle.name}{VERSIONS}")

    def path(self, number: int) -> Path:
        return self.folder / f"{number:04d}"

    def numbers(self) -> list[int]:
        """Of all that are kept, in order."""
        entries = self.folder.iterdir() if self.folder.exists() else ()
        found = [int(entry.name) for entry in entries if _NUMBER.fullmatch(entry.name)]
        for number in found:
            _refuse_link(self.path(number))
        return sorted(found)

    def kept(self) -> list[Version]:
        """All of them, by their manifests alone."""
        try:
            present = None if self._is_free() else read_manifest(self.bundle)
        except NexusError as error:
            self.say(f"the bundle itself is damaged: {error.message}")
            present = None
        return [self._version(number, present) for number in self.numbers()]

    def _version(self, number: int, present: Manifest | None) -> Version:
        try:
            manifest = read_manifest(self.path(number))
        except NexusError as error:
            return Version(number, None, error.message)
        ours, theirs = manifest.files, manifest.files if present is None else present.files
        differs = tuple(name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name))
        return Version(number, manifest, differs=differs)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Where a new bundle is written. What is there when the block ends, and was not `accept`ed, is removed."""
        place = self.folder / _DRAFT
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def accept(self, keep: int = KEEP) -> int | None:
        """The draft becomes the bundle, whose number as a version is returned. Of all versions, the last `keep` stay."""
        new = self.folder / _NEW
        with writing(self.folder):
            (self.folder / _DRAFT).rename(new)
            sync_directory(self.folder)
        number = self._put_in_place(new)
        for old in self.numbers()[:-keep]:
            self._remove(old)
        return number

    def back(self, to: int | None = None) -> Exchange:
        """A kept version (the last one, unless another is named) becomes the bundle, if every file of it is right."""
        from nexus_core.bundle.check import check_bundle

        numbers = self.numbers()
        if not numbers:
            hint = "versions are kept by `nexus capability update` and by `nexus bundle rollback`"
            raise UsageError(f"no earlier version of {self.bundle} is kept", hint)
        number = numbers[-1] if to is None else to
        if number not in numbers:
            raise UsageError(f"{self.bundle} has no version {number}", f"kept are: {', '.join(map(str, numbers))}")
        manifest = check_bundle(self.path(number))
        coming = self.folder / f"{_BACK}{number:04d}"
        with writing(self.folder):
            self.path(number).rename(coming)
            sync_directory(self.folder)
        return Exchange(manifest, number, self._put_in_place(coming))

    def recover(self) -> None:
        """Finish or undo what a killed process left, and say so."""
        for entry in sorted(self.folder.iterdir()):
            if entry.name == _DRAFT or entry.name.startswith(_GONE):
                _clear(entry)
            elif entry.name == _NEW or _COMING.fullmatch(entry.name):
                _refuse_link(entry)
                self._settle(entry)

    def _settle(self, coming: Path) -> None:
        """Where the bundle has not left its place nothing was exchanged; where it has, the other one takes it."""
        from nexus_core.bundle.check import check_bundle

        if not self._is_free():
            self._undo(coming)
            return
        try:
            check_bundle(coming)
        except NexusError as error:
            self.say(f"{coming} was to become {self.bundle}, and cannot: {error.message}")
            self._undo(coming)
            if numbers := self.numbers():
                self.back(numbers[-1])
                self.say(f"{self.bundle} is what it was before")
            return
        self._put_in_place(coming)
        self.say(f"an exchange that was interrupted is finished: {self.bundle} is in place again")

    def _is_free(self) -> bool:
        """Whether nothing is in the bundle's place; an empty directory is nothing."""
        return not self.bundle.exists() or not any(self.bundle.iterdir())

    def _put_in_place(self, coming: Path) -> int | None:
        """The exchange itself. What interrupts this process between the two renamings does not end it there."""
        number = None
        with writing(self.bundle):
            try:
                if self._is_free():
                    if self.bundle.exists():
                        self.bundle.rmdir()
                else:
                    number = self._next(coming)
                    self.bundle.rename(self.path(number))
                    sync_directory(self.folder)
                coming.rename(self.bundle)
            except BaseException:
                if not self._is_free():
                    self._undo(coming)
                elif coming.exists():
                    coming.rename(self.bundle)
                raise
            sync_directory(self.bundle.absolute().parent)
            sync_directory(self.folder)
        return number

    def _next(self, coming: Path) -> int:
        """A number that names nothing yet, nor what is on its way."""
        own = [] if coming.name == _NEW else [int(coming.name.removeprefix(_BACK))]
        return max([*self.numbers(), *own], default=0) + 1

    def _undo(self, coming: Path) -> None:
        """A kept version gets its number back; a new bundle can be made again."""
        if not coming.exists():
            return
        if coming.name == _NEW:
            shutil.rmtree(coming)
            return
        coming.rename(self.path(int(coming.name.removeprefix(_BACK))))
        sync_directory(self.folder)

    def _remove(self, number: int) -> None:
        """Under another name first: half a version is none."""
        gone = self.folder / f"{_GONE}{number:04d}"
        self.path(number).rename(gone)
        shutil.rmtree(gone)


@contextmanager
def versions_of(bundle: Path, say: Say = lambda text: None) -> Iterator[Versions]:
    """The versions of a bundle, held by this process; what a killed one left is put right first."""
    from nexus_core.bundle.writer import check_place

    check_place(bundle)
    versions = Versions(bundle, say)
    if versions.folder.is_symlink():
        raise UsageError(
            f"{versions.folder} is a symbolic link", "versions are kept beside their bundle; move them there"
        )
    make_directory(versions.folder)
    try:
        with held(versions.folder):
            versions.recover()
            yield versions
    except (BlockingIOError, FileNotFoundError) as error:  # it is at work, or has just ended
        if isinstance(error, FileNotFoundError) and versions.folder.exists():
            raise
        raise StateError(f"the versions of {bundle} are in use by another process", "wait until it has ended") from None
    finally:
        with suppress(OSError):
            versions.folder.rmdir()  # where nothing is kept, nothing lies beside a bundle


def rollback(bundle: Path, to: int | None = None, say: Say = lambda text: None) -> Exchange:
    """Put a kept version in the bundle's place, and keep what was there: the same command takes it back."""
    _refuse_nothing(bundle)
    with versions_of(bundle, say) as versions:
        return versions.back(to)


def list_versions(bundle: Path, say: Say = lambda text: None) -> list[Version]:
    """The kept versions; an exchange that was interrupted is finished."""
    _refuse_nothing(bundle)
    if not Versions(bundle).folder.exists():
        return []
    with versions_of(bundle, say) as versions:
        return versions.kept()


def _refuse_nothing(bundle: Path) -> None:
    """Nobody wants versions of what never was."""
    if not bundle.name or (not bundle.exists() and not Versions(bundle).folder.exists()):
        raise ModelError(f"{bundle}: no such directory", "name the directory of a bundle")


def _refuse_link(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        raise ModelError(f"{path} is no directory of its own", "take it out of there: a version is a whole bundle")


def _clear(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
