"""Training rows from a teacher's cached signals, or from gold answers for the control without a teacher.

Rows are built once: they are stored beside the hash of everything that decides them, and built again when it changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.atomic import write_atomic
from nexus_core.distill.align import Aligned, Aligner
from nexus_core.distill.attention_targets import HeadMap, attention_targets
from nexus_core.distill.spaces import AnchorSpace
from nexus_core.distill.targets import AnchorTarget, SparseTargets, TrainingRow
from nexus_core.distill.vocabulary import Vocabulary
from nexus_core.errors import DataError
from nexus_core.hf.prompts import prompt_text
from nexus_core.hf.quiet import quiet
from nexus_core.hf.spans import prompt_spans
from nexus_core.profiling.cache import Entry, SignalCache, TeacherSignal, byte_offsets
from nexus_core.profiling.model import CapabilityProfile
from nexus_core.types import Sample

FORMAT = 1
WORTH_A_PROCESS = 200_000  # tokens of signals; a process takes seconds to start, and builds so many meanwhile
STUDENT = "the student"
_REBUILD = "delete it: it is built again from the signals"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Room:
    """How much the student reads: `context` tokens in all, of which an answer may need `answer` (at most half)."""

    context: int
    answer: int

    @property
    def prompt(self) -> int:
        return max(self.context // 2, self.context - self.answer)


class RowBuilder:
    """Builds rows for one student and one teacher. A prompt that does not fit loses its beginning, an answer its end."""

    def __init__(
        self, aligner: Aligner, spaces: Sequence[AnchorSpace], room: Room, heads: HeadMap | None = None
    ) -> None:
        self._aligner, self._room = aligner, room
        self.spaces: tuple[AnchorSpace, ...] = tuple(spaces)
        self.heads: HeadMap = dict(heads or {})

    @property
    def identity(self) -> dict[str, Any]:
        """Everything but the signals that decides the rows."""
        return {
            "format": FORMAT,
            "teacher": self._aligner.teacher.sha256,
            "student": self._aligner.student.sha256,
            "align": asdict(self._aligner.settings),
            "spaces": [space.as_json() for space in self.spaces],
            "room": asdict(self._room),
            "heads": [asdict(head) for block in sorted(self.heads) for head in self.heads[block]],
        }

    def rows(self, signals: Sequence[TeacherSignal]) -> list[TrainingRow]:
        """One row per signal; a signal without any answer token has none."""
        student = self._aligner.student
        prompts = prompt_ids(student, [signal.prompt for signal in signals], self._room)
        attention = self._attention(signals, prompts) if self.heads else [{}] * len(signals)
        aligned = self._aligner.align(signals)
        return [
            self._row(signal, prompt, found, looks)
            for signal, prompt, found, looks in zip(signals, prompts, aligned, attention, strict=True)
            if len(found.answer_ids)
        ]

    def _row(
        self, signal: TeacherSignal, prompt: NDArray[np.int32], found: Aligned, looks: Mapping[int, AnchorTarget]
    ) -> TrainingRow:
        fits = slice(0, self._room.context - len(prompt) + 1)  # the last token is never read
        targets = found.targets.part(fits)
        return TrainingRow(
            digest=signal.digest,
            prompt_ids=prompt,
            answer_ids=found.answer_ids[fits],
            kl=targets,
            entropy=targets.entropy(),
            anchors={space.block: _anchor(signal, space, found.places[fits]) for space in self.spaces if space.k},
            attention={block: AnchorTarget(look.values[fits], look.has[fits]) for block, look in looks.items()},
        )

    def _attention(
        self, signals: Sequence[TeacherSignal], prompts: Sequence[NDArray[np.int32]]
    ) -> list[dict[int, AnchorTarget]]:
        """Where the mapped heads are to look; nothing where the tokenizer does not say which text a token is."""
        student = self._aligner.student
        samples = [Sample("", signal.prompt, "") for signal in signals]
        spans = prompt_spans(
            student.tokenizer, lambda sample: prompt_text(student.tokenizer, sample.prompt, STUDENT), samples
        )
        found: list[dict[int, AnchorTarget]] = []
        for signal, prompt, span, answer in zip(
            signals, prompts, spans or [[]] * len(signals), self._aligner.answers(signals), strict=True
        ):
            own = student.spans(answer, signal.output.encode())
            if spans is None or own is None:
                found.append({})
                continue
            asked = byte_offsets(signal.prompt, span[-len(prompt) :])
            targets = attention_targets(signal, self.heads, asked, own)
            found.append({block: target.packed() for block, target in targets.items()})
        return found


def _anchor(signal: TeacherSignal, space: AnchorSpace, places: NDArray[np.int64]) -> AnchorTarget:
    """The teacher's whitened coordinates where both have read the same text."""
    stored = signal.coefficients.get(space.teacher_block)
    if stored is None or stored.pooled or stored.values.shape[1] <= max(space.components):
        what = "none" if stored is None else f"{'pooled ones' if stored.pooled else stored.values.shape}"
        raise DataError(
            f"signal of sample {signal.digest[:12]}: coordinates of {space.teacher_block}: {what}; site of student block "
            f"{space.block} needs one row per token and component {max(space.components)}",
            "the signals are of another profile: delete them and run `nexus profile` again",
        )
    has = places >= 0
    values = np.zeros((len(places), space.k), np.float32)
    values[has] = space.whitened(stored.array()[places[has]])
    return AnchorTarget(values, has)


def gold_rows(student: Vocabulary, samples: Sequence[Sample], room: Room) -> list[TrainingRow]:
    """The control without a teacher: the reference answers, with nothing to match and nothing to be held to."""
    prompts = prompt_ids(student, [sample.prompt for sample in samples], room)
    found = []
    for sample, prompt, answer in zip(samples, prompts, student.encode([s.target for s in samples]), strict=True):
        ids = np.array([*answer, student.end], np.int32)[: room.context - len(prompt) + 1]
        targets = SparseTargets.none(len(ids))
        found.append(TrainingRow(sample.digest, prompt, ids, targets, targets.entropy()))
    return found


def prompt_ids(student: Vocabulary, prompts: Sequence[str], room: Room) -> list[NDArray[np.int32]]:
    """Prompts as the student sees them at inference: through its chat template if it has one."""
    tokenizer = student.tokenizer
    texts = [prompt_text(tokenizer, prompt, STUDENT) for prompt in prompts]
    # A chat template writes the special tokens itself; adding them again would double the first one.
    specials = not getattr(tokenizer, "chat_template", None)
    with quiet():  # the tokenizer warns of long prompts; they are cut here
        found = tokenizer(texts, add_special_tokens=specials, return_attention_mask=False)["input_ids"] if texts else []
    if empty := [prompt for prompt, ids in zip(prompts, found, strict=True) if not ids]:
        raise DataError(f"the prompt {empty[0]!r} has no tokens", "an answer needs something to answer")
    return [np.array(ids[-room.prompt :], np.int32) for ids in found]


def check_tokenizer(profile: CapabilityProfile, vocabulary: Vocabulary) -> None:
    """Refuse a tokenizer other than the one that the teacher was profiled with: its ids would mean something else."""
    from nexus_core.profiling.measure import tokenizer_facts

    found, expected = tokenizer_facts(vocabulary.tokenizer)["sha256"], profile.tokenizer.get("sha256")
    if found != expected:
        raise DataError(
            f"{profile.teacher}: its tokenizer is not the one it was profiled with ({found[:12]}, not "
            f"{str(expected)[:12]})",
            "restore the teacher's tokenizer files, or profile it again",
        )


# --- stored rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class StoredRows:
    """The rows of all signals `of` a teacher and capability, at `path` if they were built from the same input.

    >>> rows = StoredRows(run / "distill/reasoning/rows.safetensors", cache, profile, builder).read()
    """

    path: Path
    signals: SignalCache
    of: CapabilityProfile
    builder: RowBuilder

    @property
    def tokens(self) -> int:
        """Of the signals that rows are still to be built from."""
        entries = self._entries()
        return 0 if self._current(entries) else sum(entry.sizes["tokens"] for entry in entries)

    def read(self) -> list[TrainingRow]:
        """They are built first where they are not there."""
        entries = self._entries()
        return _unpacked(self.path) if self._current(entries) else self._build(entries)

    def build(self) -> None:
        """They are there afterwards."""
        self._build(self._entries())

    def _entries(self) -> list[Entry]:
        return self.signals.entries(self.of.capability, self.of.teacher)

    def _key(self, entries: Sequence[Entry]) -> str:
        content = json.dumps([self.builder.identity, [(e.key.digest, e.sha256) for e in entries]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _current(self, entries: Sequence[Entry]) -> bool:
        return self.path.exists() and _key_of(self.path) == self._key(entries)

    def _build(self, entries: Sequence[Entry]) -> list[TrainingRow]:
        rows: list[TrainingRow] = []
        for entry in entries:
            reader = self.signals.read(entry)
            rows += self.builder.rows([reader.sample(i) for i in range(len(reader))])
        if not rows:
            raise DataError(
                f"{self.signals.directory} has no answers of {self.of.teacher}/{self.of.capability}",
                "run `nexus profile` first",
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, _packed(rows, self._key(entries)))
        return rows


def build_side_by_side(stored: Sequence[StoredRows], processes: int) -> None:
    """What is still to be built, in as many processes; little is left to whoever reads it first."""
    waiting = sorted((one for one in stored if one.tokens), key=lambda one: -one.tokens)
    if min(processes, len(waiting)) < 2 or sum(one.tokens for one in waiting) < WORTH_A_PROCESS:
        return
    with get_context("spawn").Pool(min(processes, len(waiting))) as pool:  # ends its processes, whatever happens
        pool.map(StoredRows.build, waiting, chunksize=1)


def _key_of(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return str((file.metadata() or {}).get("key", ""))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is no readable safetensors file ({error})", _REBUILD) from error


def _packed(rows: Sequence[TrainingRow], key: str) -> bytes:
    """All rows end to end in few arrays: many small ones would take longer to read than to build."""
    from safetensors.numpy import save

    most = max(row.kl.ids.shape[1] for row in rows)
    arrays: Arrays = {
        "digests": np.frombuffer("".join(f"{row.digest:<64}" for row in rows).encode(), np.uint8),
        "sizes": np.array([[len(row.prompt_ids), len(row.answer_ids)] for row in rows], np.int64),
        "prompt_ids": np.concatenate([row.prompt_ids for row in rows]),
        "answer_ids": np.concatenate([row.answer_ids for row in rows]),
        "kl_ids": np.concatenate([_wide(row.kl.ids, most, -1) for row in rows]),
        "kl_log_probs": np.concatenate([_wide(row.kl.log_probs, most, -np.inf) for row in rows]),
        "kl_rest": np.concatenate([row.kl.rest for row in rows]),
        "kl_has": np.concatenate([row.kl.has for row in rows]),
        "entropy": np.concatenate([row.entropy for row in rows]),
    }
    sizes = [len(row.answer_ids) for row in rows]
    arrays |= _packed_held("anchor", sizes, [row.anchors for row in rows])
    arrays |= _packed_held("attention", sizes, [row.attention for row in rows])
    return save(arrays, {"key": key})


def _packed_held(name: str, sizes: Sequence[int], rows: Sequence[Mapping[int, AnchorTarget]]) -> Arrays:
    """Targets by block; where a row has none for a block, it is held to nothing."""
    widths = {block: target.values.shape[1] for targets in rows for block, target in targets.items()}
    found: Arrays = {}
    for block, width in widths.items():
        parts = [targets.get(block) or AnchorTarget.none(n, width) for n, targets in zip(sizes, rows, strict=True)]
        found[f"{name}.{block}.values"] = np.concatenate([part.values for part in parts])
        found[f"{name}.{block}.has"] = np.concatenate([part.has for part in parts])
    return found


def _wide(array: NDArray[Any], width: int, value: float) -> NDArray[Any]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=value)


def _unpacked(path: Path) -> list[TrainingRow]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return list(_views(load_file(path)))
    except (SafetensorError, OSError, KeyError, ValueError, IndexError, DataError) as error:
        raise DataError(f"{path} does not hold training rows ({error!r})", _REBUILD) from error


def _views(arrays: Arrays) -> Iterator[TrainingRow]:
    """Rows whose arrays are parts of the file's."""
    digests = arrays["digests"].tobytes().decode()
    prompts, answers = np.concatenate([[(0, 0)], np.cumsum(arrays["sizes"], axis=0)]).T.tolist()
    if (prompts[-1], answers[-1]) != (len(arrays["prompt_ids"]), len(arrays["answer_ids"])) or min(
        *prompts, *answers
    ) < 0:
        raise ValueError("its sizes do not add up")
    targets = SparseTargets(arrays["kl_ids"], arrays["kl_log_probs"], arrays["kl_rest"], arrays["kl_has"])
    for i in range(len(arrays["sizes"])):
        prompt, answer = slice(prompts[i], prompts[i + 1]), slice(answers[i], answers[i + 1])
        yield TrainingRow(
            digests[64 * i : 64 * (i + 1)].strip(),
            arrays["prompt_ids"][prompt],
            arrays["answer_ids"][answer],
            targets.part(answer),
            arrays["entropy"][answer],
            _held_at("anchor", arrays, answer),
            _held_at("attention", arrays, answer),
        )


def _held_at(name: str, arrays: Arrays, answer: slice) -> dict[int, AnchorTarget]:
    found = {}
    for key in sorted(arrays):
        kind, _, rest = key.partition(".")
        if kind == name and rest.endswith(".values"):
            block = rest.removesuffix(".values")
            found[int(block)] = AnchorTarget(arrays[key][answer], arrays[f"{name}.{block}.has"][answer])
    return found
