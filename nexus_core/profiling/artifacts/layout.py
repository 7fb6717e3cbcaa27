"""The fixed names of stage 2's output, and the only paths that are ever read or written below its directory."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_core.errors import DataError

MANIFEST = "manifest.json"
PROTECTED = "protected_subspaces.json"
CAPACITY = "adapter_capacity_plan.json"
CONSTRAINTS = "recovery_constraints.json"
TOP_LEVEL = (PROTECTED, CAPACITY, CONSTRAINTS)

COMPONENTS = "components.json"
HEADS = "heads_importance.json"
OUTPUTS = "verify_outputs.jsonl"
SCORES = "verify_scores.json"
PROFILES = "profiles"
PLANS = "micro_preservation_plan"

MAX_OUTPUTS = 50
"""An invariant of the project, not a setting: what is kept of a teacher's answers."""

# As the registry writes ids: neither can be "..", hold a separator, or differ in case alone.
_TEACHER = r"[a-z0-9][a-z0-9._-]{0,127}"
_CAPABILITY = r"[a-z][a-z0-9_]{0,63}"
_LAYER = r"layer_(?:0|[1-9][0-9]{0,5})_(?:basis\.npz|coeffs\.npz|meta\.json)"
_FILES = "|".join([_LAYER, *map(re.escape, (COMPONENTS, HEADS, OUTPUTS, SCORES))])
_OWNED = re.compile(
    rf"{PROFILES}/({_TEACHER})/({_CAPABILITY})/(?:{_FILES})|{PLANS}/({_TEACHER})/({_CAPABILITY})\.yaml", re.ASCII
)


class ArtifactError(DataError):
    """An artifact of profiling cannot be stored or used; the message names the file."""


def profile_folder(teacher: str, capability: str) -> str:
    """`profiles/<teacher>/<capability>`, after a check that both are names and nothing more."""
    for kind, name, pattern in (("teacher", teacher, _TEACHER), ("capability", capability, _CAPABILITY)):
        if not re.fullmatch(pattern, name, re.ASCII):
            hint = "use its id in registry.yaml: lower-case letters, digits and _ (teachers also - and .)"
            raise ArtifactError(f'"{name[:80]}" cannot be the name of a {kind}', hint)
    return f"{PROFILES}/{teacher}/{capability}"


def plan_file(teacher: str, capability: str) -> str:
    """`micro_preservation_plan/<teacher>/<capability>.yaml`."""
    profile_folder(teacher, capability)
    return f"{PLANS}/{teacher}/{capability}.yaml"


def layer_file(index: int, what: str) -> str:
    """`layer_<L>_basis.npz`, `layer_<L>_coeffs.npz` or `layer_<L>_meta.json`."""
    return f"layer_{index}_{what}"


def owner_of(path: str) -> tuple[str, str] | None:
    """Teacher and capability that a path belongs to; None for the top-level files."""
    match = _OWNED.fullmatch(path)
    if match is None:
        return None
    first, second, third, fourth = match.groups()
    return first or third, second or fourth


def is_artifact(path: str) -> bool:
    """Whether a path, relative to the output directory, is one that this module writes."""
    return path in TOP_LEVEL or path == MANIFEST or _OWNED.fullmatch(path) is not None


def locate(root: Path, path: str) -> Path:
    """The file of an artifact's path. A symbolic link on the way is refused: it could lead out of the directory."""
    if not is_artifact(path):
        raise ArtifactError(f'"{path[:120]}" is not the path of an artifact', f"see {root / MANIFEST}")
    here = root
    for part in path.split("/"):
        here = here / part
        if here.is_symlink():
            raise ArtifactError(f"{here} is a symbolic link", "profiles hold plain files: remove the link")
    return here
