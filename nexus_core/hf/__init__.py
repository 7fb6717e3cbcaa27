"""What a teacher plugin needs for anything that transformers can instantiate: load, check, find blocks, generate.

Public API for plugin authors. Importing this package is cheap; torch and transformers come with the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_core.hf.check import check_loaded
from nexus_core.hf.config import read_config
from nexus_core.hf.quiet import quiet

if TYPE_CHECKING:
    from nexus_core.hf.load import load_hf_teacher
    from nexus_core.hf.teacher import HFTeacher

__all__ = ["HFTeacher", "check_loaded", "load_hf_teacher", "quiet", "read_config"]


def __getattr__(name: str) -> Any:
    """What only teachers need: a student's runtime imports this package, too."""
    if name == "HFTeacher":
        from nexus_core.hf.teacher import HFTeacher

        return HFTeacher
    if name == "load_hf_teacher":
        from nexus_core.hf.load import load_hf_teacher

        return load_hf_teacher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
