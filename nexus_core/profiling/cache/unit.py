"""A unit as one `.npz`: the signals of one teacher for one chunk of a capability's samples, end to end in few arrays.

Members are stored, not deflated: signals are dense already, and a file then cannot unpack to more than its size.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import DataError
from nexus_core.profiling.cache.attention import AttentionSummary
from nexus_core.profiling.cache.codec import LogitCodec, Packed
from nexus_core.profiling.cache.signal import Coefficients, TeacherSignal
from nexus_core.profiling.cache.tail import TailShape

_REBUILD = "delete it and build this unit again"
Arrays = dict[str, NDArray[Any]]


def unit_bytes(key: str, signals: Sequence[TeacherSignal]) -> bytes:
    """The content of the file of unit `key`; equal signals give equal bytes."""
    texts = [(signal.prompt.encode(), signal.output.encode()) for signal in signals]
    arrays: Arrays = {
        "digests": np.array([signal.digest.encode() for signal in signals], "S64"),
        "text": np.frombuffer(b"".join(text for pair in texts for text in pair), np.uint8),
        "text_sizes": np.array([[len(text) for text in pair] for pair in texts], np.int64).reshape(-1, 2),
        "tokens": np.array([len(signal.token_ids) for signal in signals], np.int64),
        "token_ids": _joined([signal.token_ids for signal in signals]),
        "offsets": _joined([signal.offsets for signal in signals]),
    }
    meta: dict[str, Any] = {"unit": key, "blocks": _put_blocks(arrays, signals)} | _put_logits(arrays, signals)
    if attention := _put_attention(arrays, signals):
        meta["attention"] = attention  # a unit without it is as units were before there was any
    for i, signal in enumerate(signals):
        arrays |= {f"array_{i}_{name}": array for name, array in signal.arrays.items()}
    arrays["meta"] = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type, unused-ignore]
    return buffer.getvalue()


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _put_blocks(arrays: Arrays, signals: Sequence[TeacherSignal]) -> list[dict[str, Any]]:
    """Add every block's coefficients; all samples of a unit have the same blocks, widths and precision."""
    described = [
        [_description(block, rows) for block, rows in sorted(signal.coefficients.items())] for signal in signals
    ]
    if any(other != described[0] for other in described):
        raise DataError("the signals of a unit differ in their blocks, components or precision", "use one profile")
    for i, block in enumerate(described[0]):
        rows = [signal.coefficients[block["name"]] for signal in signals]
        arrays[f"values_{i}"] = np.concatenate([row.values for row in rows])
        if block["int8"]:
            arrays[f"scales_{i}"] = np.stack([row.scales for row in rows if row.scales is not None])
    return described[0]


def _description(block: str, rows: Coefficients) -> dict[str, Any]:
    k, int8 = rows.values.shape[1], rows.values.dtype == np.int8
    return {"name": block, "dim": rows.dim, "k": k, "int8": bool(int8), "pooled": rows.pooled, "reason": rows.reason}


def _put_attention(arrays: Arrays, signals: Sequence[TeacherSignal]) -> list[dict[str, Any]]:
    """Add every block's attention summary; all samples of a unit have the same blocks and heads."""
    described: list[list[dict[str, Any]]] = [
        [{"name": block, "heads": list(of.heads)} for block, of in sorted(signal.attention.items())]
        for signal in signals
    ]
    if any(other != described[0] for other in described):
        raise DataError("the signals of a unit differ in the heads whose attention they keep", "use one profile")
    for i, block in enumerate(described[0]):
        summaries = [signal.attention[block["name"]] for signal in signals]
        arrays[f"attention_{i}_starts"] = np.concatenate([summary.starts for summary in summaries])
        arrays[f"attention_{i}_sizes"] = np.concatenate([summary.sizes for summary in summaries])
        arrays[f"attention_{i}_mass"] = np.concatenate([summary.mass for summary in summaries])
    return described[0]


def _put_logits(arrays: Arrays, signals: Sequence[TeacherSignal]) -> dict[str, Any]:
    """Add the packed logits and the one tail shape that they share."""
    first = signals[0].codec
    if len({signal.codec is None for signal in signals}) > 1:
        raise DataError("some signals of a unit have logits and some have none", "compress all of them")
    if first is None:
        return {"vocabulary": 0, "step": None}
    if any(signal.codec is not first and not first.same_as(signal.codec) for signal in signals if signal.codec):
        raise DataError("the logits of a unit were packed by different codecs", "use one codec for the whole unit")
    packed = Packed.concatenate([signal.logits for signal in signals if signal.logits is not None])
    arrays |= {"logits": packed.data, "logit_sizes": packed.lengths}
    if first.shape is None:
        return {"vocabulary": first.vocabulary, "step": None}
    arrays["tail"] = first.shape.levels
    return {"vocabulary": first.vocabulary, "step": first.shape.step}


class UnitReader:
    """Signals of one unit, whose bytes are held in memory for as long as this object lives."""

    def __init__(self, content: bytes, where: str) -> None:
        self.where = where
        self._arrays = _load(content, where)
        try:
            self._meta = json.loads(self._arrays["meta"].tobytes())
            self.key = str(self._meta["unit"])
            self.digests = tuple(name.decode() for name in self._arrays["digests"].tolist())
            self._tokens = _starts(self._arrays["tokens"], self._arrays["token_ids"], self._arrays["offsets"])
            self._texts = _starts(self._arrays["text_sizes"].reshape(-1), self._arrays["text"])
            self._codec = self._make_codec()
            if self._codec is not None:
                self._logits = _starts(self._arrays["logit_sizes"].astype(np.int64), self._arrays["logits"])
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{where} is not a unit of a signal cache ({error!r})", _REBUILD) from error

    def __len__(self) -> int:
        return len(self.digests)

    def sample(self, i: int) -> TeacherSignal:
        """The signal of sample `i`, in arrays of its own: keeping it does not keep the unit."""
        try:
            return self._sample(i)
        except DataError as error:
            raise DataError(f"{self.where}: {error.message}", _REBUILD) from error
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise DataError(f"{self.where}: sample {i} cannot be read ({error!r})", _REBUILD) from error

    def _sample(self, i: int) -> TeacherSignal:
        tokens = slice(int(self._tokens[i]), int(self._tokens[i + 1]))
        text, cuts = self._arrays["text"], self._texts[2 * i : 2 * i + 3]
        prefix = f"array_{i}_"
        arrays = {name.removeprefix(prefix): a.copy() for name, a in self._arrays.items() if name.startswith(prefix)}
        logits = None
        if self._codec is not None:
            span = slice(int(self._logits[tokens.start]), int(self._logits[tokens.stop]))
            logits = Packed(self._arrays["logits"][span].copy(), self._arrays["logit_sizes"][tokens].copy())
        return TeacherSignal(
            digest=self.digests[i],
            prompt=text[cuts[0] : cuts[1]].tobytes().decode(),
            output=text[cuts[1] : cuts[2]].tobytes().decode(),
            token_ids=self._arrays["token_ids"][tokens].copy(),
            offsets=self._arrays["offsets"][tokens].copy(),
            logits=logits,
            codec=self._codec,
            coefficients={
                block["name"]: self._coefficients(place, block, i, tokens)
                for place, block in enumerate(self._meta["blocks"])
            },
            arrays=arrays,
            attention={
                block["name"]: AttentionSummary(
                    tuple(block["heads"]),
                    *(self._arrays[f"attention_{place}_{part}"][tokens].copy() for part in ("starts", "sizes", "mass")),
                )
                for place, block in enumerate(self._meta.get("attention", ()))
            },
        )

    def _coefficients(self, place: int, block: Mapping[str, Any], i: int, tokens: slice) -> Coefficients:
        rows = slice(i, i + 1) if block["pooled"] else tokens
        scales = self._arrays[f"scales_{place}"][i].copy() if block["int8"] else None
        values = self._arrays[f"values_{place}"][rows].copy()
        return Coefficients(values, block["dim"], scales, block["pooled"], block["reason"])

    def _make_codec(self) -> LogitCodec | None:
        vocabulary, step = int(self._meta["vocabulary"]), self._meta["step"]
        if vocabulary == 0:
            return None
        return LogitCodec(vocabulary, None if step is None else TailShape(self._arrays["tail"], float(step)))


def _load(content: bytes, where: str) -> Arrays:
    """The members of an `.npz`. Nothing is allocated that the file does not hold, and nothing is unpickled."""
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                    raise ValueError(f"{member.filename} is compressed, which a signal cache never writes")
                with archive.open(member) as file:
                    if np.lib.format.read_magic(file) != (1, 0):
                        raise ValueError(f"{member.filename} is of another version of the format")
                    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                    if dtype.hasobject or math.prod(shape) * dtype.itemsize > member.file_size:
                        raise ValueError(f"{member.filename} holds objects or says that it is larger than it is")
                    file.seek(0)
                    arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError, NotImplementedError) as error:
        raise DataError(f"{where} is not a readable .npz ({error})", _REBUILD) from error
    return arrays


def _starts(sizes: NDArray[Any], *wholes: NDArray[Any]) -> NDArray[np.int64]:
    """Where each of the pieces starts that `wholes` are laid out in, and where the last ends."""
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if sizes.ndim != 1 or (sizes < 0).any() or any(len(whole) != starts[-1] for whole in wholes):
        raise ValueError(f"sizes that add up to {starts[-1]} for arrays of {[len(whole) for whole in wholes]}")
    return starts
