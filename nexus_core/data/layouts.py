"""What the layout of a media dataset says about a file: captions, RAVDESS file names, Common Voice transcripts."""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from nexus_core.data.blob import Blob
from nexus_core.data.kinds import modality_of
from nexus_core.data.optional import need
from nexus_core.errors import DataError

# RAVDESS: Livingstone & Russo 2018, "File naming convention"; seven two-digit codes.
RAVDESS_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)\.\w+")
RAVDESS_FOLDER = re.compile(r"(?:audio_\w+_|video_\w+_)?actor_(\d\d)", re.IGNORECASE)
RAVDESS_CODES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("modality", ("full-av", "video-only", "audio-only")),
    ("vocal_channel", ("speech", "song")),
    ("emotion", ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")),
    ("intensity", ("normal", "strong")),
    ("statement", ("Kids are talking by the door", "Dogs are sitting by the door")),
    ("repetition", ("1", "2")),
    ("actor", tuple(str(n) for n in range(1, 25))),
)
INDEX_COLUMNS = frozenset({"client_id", "path", "sentence"})
MAX_ROW = 1 << 20


def dress(blob: Blob, sibling: Callable[[str], Blob | None], transcripts: Transcripts | None = None) -> Blob:
    """`blob` with what its neighbours know; `sibling` opens another name in the same place, None when absent."""
    kind = modality_of(blob.name)
    if kind == "image":
        return replace(blob, caption=sibling(blob.name.rpartition(".")[0] + ".txt"))
    if kind in ("audio", "video"):
        return replace(blob, labels=partial(_labels, blob.name, transcripts))
    return blob


def _labels(name: str, transcripts: Transcripts | None) -> dict[str, Any]:
    facts = ravdess(name)
    return facts if facts or transcripts is None else transcripts.find(name)


def ravdess(name: str) -> dict[str, Any]:
    """The facts in the name of a RAVDESS recording, with the emotion as target; empty for any other file."""
    path = PurePosixPath(name.replace("!", "/"))
    codes, folder = RAVDESS_NAME.fullmatch(path.name), RAVDESS_FOLDER.fullmatch(path.parent.name)
    if codes is None or folder is None:
        return {}
    facts: dict[str, Any] = {}
    for code, (what, meanings) in zip(codes.groups(), RAVDESS_CODES, strict=True):
        if not 1 <= int(code) <= len(meanings):
            raise DataError(
                f"{name}: {what} code {code} is not in the RAVDESS convention (01 to {len(meanings):02d})",
                "correct the file's name, or move it out of the Actor_XX folder",
            )
        facts[what] = meanings[int(code) - 1]
    facts["repetition"], facts["actor"] = int(facts["repetition"]), int(facts["actor"])
    return {"target": facts["emotion"], **facts}


def is_transcript_table(head: bytes) -> bool:
    """Whether a .tsv begins with the columns of Common Voice."""
    first = head.split(b"\n", 1)[0].decode("utf-8", "replace")
    return set(first.strip().split("\t")) >= INDEX_COLUMNS


@dataclass(slots=True)
class Transcripts:
    """Common Voice tables, by the folder they lie in. `open_table` gives a table's bytes by name."""

    tables: Mapping[str, Sequence[str]]
    open_table: Callable[[str], Blob]
    root: str
    _indexes: dict[str, _Index] = field(default_factory=dict)

    def find(self, name: str) -> dict[str, Any]:
        """All columns of a clip's row, with the sentence as target; empty when no table above it names it."""
        relative = PurePosixPath(name.removeprefix(self.root).lstrip("/"))
        for parent in relative.parents:
            folder = "" if str(parent) == "." else f"{parent}/"
            if folder in self.tables:
                if folder not in self._indexes:
                    self._indexes[folder] = _Index([self.open_table(folder + t) for t in self.tables[folder]])
                return self._indexes[folder].find(relative.name)
        return {}


class _Index:
    """Where each clip's row is: sorted 8-byte hashes, so that a million clips take 24 MB and not a gigabyte."""

    def __init__(self, tables: Sequence[Blob]) -> None:
        numpy = need("numpy", "index transcripts")
        self._tables = tables
        self._headers: list[list[str]] = []
        hashes, places = array("Q"), array("Q")
        for number, table in enumerate(tables):
            for clip, offset in self._clips(table):
                hashes.append(_hash(clip))
                places.append(offset * len(tables) + number)
        order = numpy.argsort(numpy.frombuffer(hashes, dtype="u8"), kind="stable") if hashes else []
        self._hashes = array("Q", (hashes[i] for i in order))
        self._places = array("Q", (places[i] for i in order))

    def _clips(self, table: Blob) -> Iterator[tuple[str, int]]:
        with table.open() as stream:
            header = stream.readline(MAX_ROW)
            self._headers.append(_cells(header))
            column = self._headers[-1].index("path")
            offset = len(header)
            while line := stream.readline(MAX_ROW):
                cells = _cells(line)
                if len(cells) > column:
                    yield PurePosixPath(cells[column]).name, offset
                offset += len(line)

    def find(self, clip: str) -> dict[str, Any]:
        wanted = _hash(clip)
        at = bisect_left(self._hashes, wanted)
        while at < len(self._hashes) and self._hashes[at] == wanted:
            offset, number = divmod(self._places[at], len(self._tables))
            with self._tables[number].open() as stream:
                stream.seek(offset)
                cells = _cells(stream.readline(MAX_ROW))
            row = dict(zip(self._headers[number], cells, strict=False))
            if PurePosixPath(row["path"]).name == clip:
                return {**row, "target": row.get("sentence", "")}
            at += 1
        return {}


def _cells(line: bytes) -> list[str]:
    return line.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n").split("\t")


def _hash(clip: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip.encode(), digest_size=8).digest(), "big")
