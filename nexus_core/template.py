"""`nexus plugins new`: copy the template of a kind, which is itself a valid plugin called `templatename`."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import tempfile
from pathlib import Path

from nexus_core.errors import NexusError, UsageError
from nexus_core.resources import shared_path
from nexus_core.types import Kind

TOKEN = "templatename"
LEFT_OUT = {"__pycache__", ".pytest_cache", ".ruff_cache"}


def generate(kind: Kind, name: str, into: Path) -> Path:
    """Write the plugin `nexus-<kind>-<name>` into a new directory below `into`, whole or not at all."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name) or name == TOKEN:
        raise UsageError(
            f"'{name}' cannot name a plugin",
            "use a lower-case letter, then letters, digits and underscores: nexus plugins new teacher my_model",
        )
    target = into / f"nexus-{kind.value}-{name}".replace("_", "-")
    if target.exists():
        raise NexusError(f"{target} exists already", "choose another name, or remove it first")
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=".nexus-new-") as scratch:
            draft = Path(scratch) / target.name
            _render(shared_path("template") / kind.value, draft, name)
            os.replace(draft, target)
    except OSError as error:
        raise NexusError(f"cannot write {target}: {error.strerror}", "choose another place with --into") from error
    return target


def _render(source: Path, target: Path, name: str) -> None:
    """Copy a tree, with the name in place of the token in every path and text."""
    if source.is_dir():
        target.mkdir()
        for entry in sorted(source.iterdir()):
            if entry.name not in LEFT_OUT:
                _render(entry, target / entry.name.replace(TOKEN, name), name)
        return
    text = source.read_text(encoding="utf-8")
    # A distribution's name is written with dashes, everything else with underscores.
    text = re.sub(rf"(nexus-[a-z]+-){TOKEN}", rf"\g<1>{name.replace('_', '-')}", text)
    text = text.replace(TOKEN.capitalize(), "".join(part.capitalize() for part in name.split("_")))  # class names
    target.write_text(text.replace(TOKEN, name), encoding="utf-8")
    shutil.copymode(source, target)
