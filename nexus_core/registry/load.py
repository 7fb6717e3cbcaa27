"""Find, read, merge and check registry files."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from pathlib import Path

from nexus_core.errors import RegistryError
from nexus_core.registry.model import Registry
from nexus_core.registry.problems import Problem, ProblemError, raise_first
from nexus_core.registry.reader import Document, parse_document, read_document
from nexus_core.registry.rows import build_registry
from nexus_core.registry.rules import check_rules
from nexus_core.registry.shape import check_shape
from nexus_core.registry.sources import SECTIONS, Merged, Source
from nexus_core.resources import shared_path

FILE_NAME = "registry.yaml"
PROJECT = "registry"
Fragments = Sequence[tuple[str, Path]]
Excluded = tuple[Path, tuple[str, str] | None]
"""A row of a file; with None, the whole file."""


def find_registry(explicit: str | Path | None = None) -> Path:
    """The registry to use: the one named, else $NEXUS_REGISTRY, else ./registry.yaml, else the one that ships."""
    for named, by in ((explicit, "the command line"), (os.environ.get("NEXUS_REGISTRY"), "NEXUS_REGISTRY")):
        if named:
            path = Path(named).expanduser()
            if path.is_dir():
                path = path / FILE_NAME
            if not path.is_file():
                raise RegistryError(f"no registry at {path} (named by {by})", "give the path of a registry.yaml")
            return path
    local = Path(FILE_NAME)
    return local if local.is_file() else shared_path(FILE_NAME)


def load_registry(path: str | Path | None = None, fragments: Fragments = ()) -> Registry:
    """Read the registry and the plugins' fragments, checked; RegistryError names file and line of the first problem."""
    merged, problems = _read(find_registry(path), fragments)
    raise_first(problems)
    return build_registry(merged)


def load_tolerant(
    path: str | Path | None, fragments: Fragments, text: str | None = None
) -> tuple[Registry, list[Problem]]:
    """As `load_registry`, but the faulty rows of plugins are left out, and their problems are returned.

    One broken plugin must not stop every command. Problems of the registry itself are still raised. `text` is what the file
    at `path` is about to hold: it is asked for, and may not be there yet.
    """
    found = find_registry(path) if text is None else Path(str(path))
    merged, own, left_out = _without_faulty_rows(found, fragments, text)
    raise_first(own)
    return build_registry(merged), left_out


def check_own(path: str | Path | None, fragments: Fragments) -> tuple[list[Problem], list[Problem]]:
    """Every problem of the registry beside the sound rows of plugins, which it may refer to; and those of plugins."""
    _, own, left_out = _without_faulty_rows(find_registry(path), fragments)
    return own, left_out


def _without_faulty_rows(
    found: Path, fragments: Fragments, text: str | None = None
) -> tuple[Merged, list[Problem], list[Problem]]:
    """What is left, the registry's own problems, and the plugins'."""
    without: set[Excluded] = set()
    left_out: list[Problem] = []
    while True:
        merged, problems = _read(found, fragments, without, text)
        foreign = [problem for problem in problems if problem.path != found]
        if not foreign:
            return merged, problems, left_out
        # Leaving a row out can leave another without what it refers to: look again until nothing is wrong.
        left_out += foreign
        without |= {(problem.path, problem.row) for problem in foreign}


def check_registry(path: str | Path | None = None, fragments: Fragments = ()) -> list[Problem]:
    """Every problem, not only the first."""
    return _read(find_registry(path), fragments)[1]


def _read(
    path: Path, fragments: Fragments, without: Set[Excluded] = frozenset(), text: str | None = None
) -> tuple[Merged, list[Problem]]:
    sources: list[Source] = []
    problems: list[Problem] = []
    files = {path: PROJECT}
    for plugin, file in fragments:
        if (file, None) not in without:
            files.setdefault(file, plugin)  # one package may hold several plugins, and then they share its file
    for file, owner in files.items():
        try:
            document = read_document(file) if text is None or owner != PROJECT else parse_document(text, file)
            source = Source(owner, _drop_rows(document, without))
        except ProblemError as error:
            problems.append(error.problem)
        else:
            sources.append(source)
            problems += [*source.document.problems, *check_shape(source.document, fragment=owner != PROJECT)]
    if problems:  # the rules below rely on the shape
        return Merged({}, {}), problems
    merged, problems = _merge(sources)
    return merged, problems + check_rules(merged)


def _drop_rows(document: Document, without: Set[Excluded]) -> Document:
    for file, row in without:
        if file == document.path and row is not None:
            document.data[row[0]].pop(row[1], None)
    document.problems = [problem for problem in document.problems if (document.path, problem.row) not in without]
    return document


def _merge(sources: Sequence[Source]) -> tuple[Merged, list[Problem]]:
    """One owner for each row. The project's file wins; two plugins that claim one id are a problem."""
    project = sources[0]
    merged = Merged(project.document.data["defaults"], {section: {} for section in SECTIONS}, project)
    problems: list[Problem] = []
    for section in SECTIONS:
        owners = merged.rows[section]
        for source in sources:
            for row_id in source.document.data.get(section, {}):
                holder = owners.setdefault(row_id, source)
                if holder is not source and holder is not project:
                    message = f'{section}.{row_id} is claimed by two plugins: "{holder.owner}" and "{source.owner}"'
                    hint = f"uninstall one of them, or settle it with a row of your own in {project.document.path}"
                    problems.append(source.document.problem((section, row_id), message, hint))
    return merged, problems
