"""From a row as it was read to a `Record`: which keys are the input and the target."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from nexus_core.data.records import Chunk, LoaderOptions, Record
from nexus_core.errors import DataError

PAIRS = (
    ("input", "target"),
    ("question", "answer"),
    ("prompt", "target"),
    ("prompt", "response"),
    ("instruction", "output"),
)
CHATS = {"messages": ("role", "content"), "conversations": ("from", "value")}
MARKED = (True, "true", "True", "TRUE", "yes", "1")  # 1 equals True
ASSISTANTS = frozenset({"assistant", "gpt", "model", "chatbot", "bot"})
UNDERSTOOD = ", ".join(f"{a}/{b}" for a, b in PAIRS) + ", messages (chat), conversations (chat)"
Build = Callable[[dict[str, Any]], tuple[str, str]]


class _BadRow(Exception):
    """A row that cannot be used; the text says why."""


class RowMapper:
    """Maps chunks of rows to records. It remembers the layouts it has met, since most rows of a file share one."""

    def __init__(self, options: LoaderOptions, skipped: Counter[str], allow_uncensored: bool) -> None:
        self._options = options
        self._skipped = skipped
        self._allow_uncensored = allow_uncensored
        self.first_bad = ""
        self._layouts: dict[tuple[str, ...], Build] = {}

    def records(self, chunk: Chunk) -> list[Record]:
        """The records of a chunk, in its order."""
        rows = chunk.rows
        if not rows:
            return []
        return self._fast(chunk, rows) or [
            record for i, row in enumerate(rows) if (record := self._one(chunk, i, row)) is not None
        ]

    def _fast(self, chunk: Chunk, rows: list[Any]) -> list[Record] | None:
        """The records, when all rows have the keys of the first and plain texts under them; this is most files."""
        if type(rows[0]) is not dict:
            return None
        layout = tuple(rows[0])
        pair = ("input", "target") if chunk.mapped else self._plain_pair(rows[0], layout)
        if pair is None:
            return None
        a, b = pair
        source, new = chunk.source, tuple.__new__  # Record(...) has a Python-level __new__ that costs twice as much
        try:
            records: list[Any] = [
                new(Record, (x, y, row, source, i))
                for i, row in enumerate(rows, chunk.first)
                if tuple(row) == layout and type(x := row[a]) is str and type(y := row[b]) is str
            ]
        except TypeError:  # a row that is a number, or a list
            return None
        return records if len(records) == len(rows) else None

    def _plain_pair(self, row: dict[str, Any], layout: tuple[str, ...]) -> tuple[str, str] | None:
        """The two keys, when they name an input and a target directly."""
        pair = self._options.keys or _pair_of(row)
        if pair is None or pair[0] not in layout or pair[1] not in layout or "uncensored" in layout:
            return None
        return None if pair == ("instruction", "output") and "input" in layout else pair

    def _one(self, chunk: Chunk, i: int, row: Any) -> Record | None:
        try:
            if type(row) is not dict:
                raise _BadRow(f"a {_kind(row)} where an object with named fields is expected")
            if row.get("uncensored") in MARKED and not self._allow_uncensored:
                self._skipped["uncensored record"] += 1
                return None
            source, target = self._build(row)(row)
        except _BadRow as bad:
            if self._options.bad_rows == "skip":
                self._skipped["bad row"] += 1
                self.first_bad = self.first_bad or f"; the first bad row is {chunk.place(i)}: {bad}"
                return None
            raise DataError(
                f"{chunk.place(i)}: {bad}",
                f"understood are {UNDERSTOOD}; so rename the columns to input and target, or remove the row"
                ' (from Python: LoaderOptions(keys=(INPUT, TARGET)), LoaderOptions(bad_rows="skip"))',
            ) from None
        return Record(source, target, row, chunk.source, chunk.first + i)

    def _build(self, row: dict[str, Any]) -> Build:
        layout = tuple(row)
        build = self._layouts.get(layout)
        if build is None:
            build = self._find(row)
            if len(self._layouts) > 1000:  # rows that each have keys of their own must not fill the memory
                self._layouts.clear()
            self._layouts[layout] = build
        return build

    def _find(self, row: dict[str, Any]) -> Build:
        keys = self._options.keys
        if keys is not None:
            missing = [key for key in dict.fromkeys(keys) if key not in row]
            if missing:
                raise _BadRow(f"no field {' and '.join(missing)} in this row; {_found(row)}")
            return lambda r: (_text(r, keys[0]), _text(r, keys[1]))
        pair = _pair_of(row)
        if pair == ("instruction", "output"):
            return _instruction
        if pair is not None:
            return lambda r: (_text(r, pair[0]), _text(r, pair[1]))
        for key, (who, what) in CHATS.items():
            if isinstance(row.get(key), list):
                return lambda r: _chat(r[key], who, what)
        raise _BadRow(f"no input and target in this row; {_found(row)}")


def _pair_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if pair[0] in row and pair[1] in row), None)


def _found(row: Mapping[str, Any]) -> str:
    names = [str(key)[:60] for key in row][:20]
    return "keys found: " + (", ".join(names) if names else "none") + (", ..." if len(row) > 20 else "")


def _kind(value: Any) -> str:
    names = {list: "list", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _text(row: Mapping[str, Any], key: str) -> str:
    """The text of a field. A number or a list is given as its JSON text; the value itself stays in `fields`."""
    value = row[key]
    if type(value) is str:
        return value
    if value is None:
        raise _BadRow(f"the field {key} is null")
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise _BadRow(f"the field {key} holds {type(value).__name__}, which is not text") from None


def _instruction(row: Mapping[str, Any]) -> tuple[str, str]:
    """Alpaca's layout: an instruction, and sometimes a text that it is about."""
    about = _text(row, "input") if row.get("input") else ""
    instruction = _text(row, "instruction")
    return (f"{instruction}\n\n{about}" if about else instruction), _text(row, "output")


def _chat(messages: Any, who: str, what: str) -> tuple[str, str]:
    """The last message, which must be the assistant's, is the target; what stands before it is the input.

    One message before it is given as it is; several are joined as `role: content`, a blank line between them. The
    messages themselves stay in `fields`.
    """
    if not isinstance(messages, list) or not all(isinstance(m, dict) and who in m and what in m for m in messages):
        raise _BadRow(f"a chat must be a list of objects with {who} and {what}")
    if len(messages) < 2:
        raise _BadRow(f"a chat of {len(messages)} message(s) has no question and answer")
    last = messages[-1]
    if str(last[who]).lower() not in ASSISTANTS:
        raise _BadRow(f"the last message of the chat is by {str(last[who])[:60]!r}, not by the assistant")
    before = messages[:-1]
    if len(before) == 1:
        return _text(before[0], what), _text(last, what)
    return "\n\n".join(f"{m[who]}: {_text(m, what)}" for m in before), _text(last, what)
