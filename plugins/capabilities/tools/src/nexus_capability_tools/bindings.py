"""Samples from data that the pack did not make: the BFCL benchmark as pip installs it, or a user's own rows."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_capability_tools.calls import clean_schema
from nexus_capability_tools.generator import call_text
from nexus_core.errors import DataError
from nexus_core.types import Sample, SampleRequest, Split

if TYPE_CHECKING:
    from nexus_core.data import StreamingDataLoader

BFCL_PACKAGE = "bfcl-eval==2026.3.23"
BFCL_CATEGORIES = ("simple_python", "multiple")  # one call is right; the others need several calls or turns

_TOOLS = ("tools", "functions", "function")
_QUESTIONS = ("messages", "question", "query", "prompt", "input", "instruction")
_ANSWERS = ("answer", "answers", "tool_calls", "ground_truth", "target", "output", "response")

_NEEDED = "a row needs tools (or functions), a question (or messages) and an answer: one call"

_PROMPT = (
    "Tools: {tools}\nRequest: {question}\n"
    'Answer with one JSON object {{"name": ..., "arguments": {{...}}}} and nothing else.\nJSON:'
)


def bind(request: SampleRequest) -> Iterator[Sample]:
    """Samples of `request.data`. Each row belongs to one split by the hash of what it asks."""
    data = str(request.data)
    files = bfcl_files(bfcl_folder()) if data == "bfcl" else bfcl_files(Path(data))
    rows = _bfcl_rows(files, request.seed) if files else _path_rows(data, request.seed)
    samples = (sample_from_row(row, where) for row, where in rows)
    return islice((sample for sample in samples if _split_of(sample) is request.split), request.n)


def _split_of(sample: Sample) -> Split:
    """Foreign rows are for measuring: 20 % train, 20 % profile, 60 % verify."""
    bucket = int(sample.digest[:8], 16) % 5
    return Split.TRAIN if bucket == 0 else Split.PROFILE if bucket == 1 else Split.VERIFY


def bfcl_folder() -> Path:
    """The data folder inside the installed package, found without importing it."""
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the benchmark `bfcl` is not installed", f"pip install --no-deps {BFCL_PACKAGE}")
    return Path(spec.submodule_search_locations[0]) / "data"


def bfcl_files(path: Path) -> list[Path]:
    """BFCL's question files at `path` (its data folder, or one file of it): those with a file of answers beside them."""
    if path.is_file():
        files = [path]
    else:
        files = [file for category in BFCL_CATEGORIES for file in sorted(path.glob(f"BFCL_v[0-9]_{category}.json"))]
    return [file for file in files if (file.parent / "possible_answer" / file.name).is_file()]


def _bfcl_rows(files: Sequence[Path], seed: int) -> Iterator[tuple[Mapping[str, Any], str]]:
    rows = []
    for path in files:
        answers = {row["id"]: row["ground_truth"] for row in _json_lines(path.parent / "possible_answer" / path.name)}
        stratum = re.sub(r"^BFCL_v\d+_", "", path.stem)
        rows += [
            ({**row, "ground_truth": answers.get(row["id"]), "stratum": stratum}, f"{path.name}, {row['id']}")
            for row in _json_lines(path)
        ]
    random.Random(f"bfcl/{seed}").shuffle(rows)
    yield from rows


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON", f"pip install --no-deps {BFCL_PACKAGE}") from error
        if not isinstance(row, dict) or "id" not in row:
            raise DataError(f"{path}, line {number}: a row without an id", f"pip install --no-deps {BFCL_PACKAGE}")
        yield row


def _path_rows(path: str, seed: int) -> Iterator[tuple[Mapping[str, Any], str]]:
    for record in _loader(path, seed):
        yield record.fields, f"{record.source}, row {record.index}"


def _loader(path: str, seed: int) -> StreamingDataLoader:
    """The rows at `path`, whole: the loader is only asked to insist on the key that holds the tools."""
    from nexus_core.data import LoaderOptions, StreamingDataLoader

    reasons: list[str] = []
    for key in _TOOLS:
        loader = StreamingDataLoader(path, seed=seed, options=LoaderOptions(keys=(key, key)))
        try:
            next(iter(loader))
        except DataError as error:
            reasons.append(error.message)
        else:
            return loader
    raise DataError(reasons[-1], _NEEDED)


def _get(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> Any:
    for key in keys:
        if row.get(key) not in (None, "", []):
            return row[key]
    raise DataError(
        f"{where}: none of the keys {', '.join(keys)}; found {', '.join(map(str, row)) or 'nothing'}",
        _NEEDED,
    )


def _decoded(value: Any, where: str) -> Any:
    """JSON inside a string, as many datasets keep it; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {value[:80]!r}", "tools and answers must be JSON") from error


def _question(value: Any, where: str) -> str:
    """A plain question, or the contents of the user's messages (BFCL wraps them in turns)."""
    if isinstance(value, str):
        return value
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, list) and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) for m in value):
        asked = [m["content"] for m in value if m.get("role", "user") in ("user", "system")]
        if asked:
            return "\n".join(asked)
    raise DataError(f"{where}: the question is neither text nor messages", "write a string, or role/content messages")


def _tools(value: Any, where: str) -> dict[str, dict[str, Any]]:
    """Tools by name, from a list of `{"name", "parameters"}`, plain or in OpenAI's `{"function": ...}` envelope."""
    value = _decoded(value, where)
    tools = {}
    for item in [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []:
        tool = item.get("function", item) if isinstance(item, Mapping) else item
        if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
            raise DataError(f"{where}: a tool without a name", "each tool needs name and parameters")
        parameters = tool.get("parameters") or {}
        if isinstance(parameters, Mapping) and "properties" not in parameters:  # a bare mapping of arguments
            parameters = {"type": "object", "properties": {k: v for k, v in parameters.items() if k != "type"}}
        description = str(tool.get("description", ""))
        tools[tool["name"]] = {"description": description, "parameters": clean_schema(parameters, where)}
    if not tools:
        raise DataError(f"{where}: no tools", "each row needs at least one tool with name and parameters")
    return tools


def _call(value: Any, where: str) -> tuple[str, Mapping[str, Any], bool]:
    """Name, arguments, and whether the arguments list possible values (BFCL's `{"name": {"argument": [...]}}`)."""
    value = _decoded(value, where)
    if isinstance(value, list):
        if len(value) != 1:
            raise DataError(f"{where}: the answer has {len(value)} calls", "`tools` measures one call: filter the rows")
        value = value[0]
    if isinstance(value, Mapping):
        value = value.get("function", value)
    if isinstance(value, Mapping) and "name" in value and "arguments" in value:
        arguments = _decoded(value["arguments"], where)
        if isinstance(arguments, Mapping):
            return str(value["name"]), arguments, False
    elif isinstance(value, Mapping) and len(value) == 1:
        name, arguments = next(iter(value.items()))
        if isinstance(arguments, Mapping) and all(isinstance(v, list) and v for v in arguments.values()):
            return str(name), arguments, True
    raise DataError(f"{where}: the answer is no call", 'write {"name": ..., "arguments": {...}}')


def _first(possible: Any, required: Sequence[str] = ()) -> Any:
    """One concrete value out of BFCL's nested lists of possible ones; an argument that may be left out is."""
    if isinstance(possible, list):
        return [_first(item) for item in possible]
    if not isinstance(possible, Mapping):
        return possible
    chosen = {}
    for key, options in possible.items():
        choices = options if isinstance(options, list) else [options]
        if "" not in choices:
            chosen[key] = _first(choices[0])
        elif key in required:  # a few schemas of BFCL require what its answers allow to leave out
            chosen[key] = next((_first(choice) for choice in choices if choice != ""), "")
    return chosen


def sample_from_row(row: Mapping[str, Any], where: str) -> Sample:
    """One sample from one row, or a `DataError` that says where and what is wrong."""
    tools = _tools(_get(row, _TOOLS, where), where)
    question = _question(_get(row, _QUESTIONS, where), where)
    name, arguments, is_possible = _call(_get(row, _ANSWERS, where), where)
    if name not in tools:
        raise DataError(
            f"{where}: the answer calls {name!r}, which is no tool of the row", f"offered: {', '.join(tools)}"
        )
    shown = json.dumps([{"name": key, **tool} for key, tool in tools.items()], ensure_ascii=False)
    meta: dict[str, Any] = {"tools": {key: tool["parameters"] for key, tool in tools.items()}}
    if is_possible:
        meta["possible"] = arguments
        arguments = _first(arguments, tools[name]["parameters"].get("required", ()))
    return Sample(
        id=str(row.get("id") or hashlib.sha256(where.encode()).hexdigest()[:12]),
        prompt=_PROMPT.format(tools=shown, question=question),
        target=call_text(name, arguments),
        stratum=str(row.get("stratum", "")),
        meta=meta,
    )
