"""What a teacher plugin needs for anything that transformers can instantiate: load, check, find blocks, generate.

Public API for plugin authors. Importing this package is cheap; torch and transformers come with the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_core.hf.config import read_config
    from nexus_core.hf.load import load_hf_teacher
    from nexus_core.hf.teacher import HFTeacher

__all__ = ["HFTeacher", "load_hf_teacher", "read_config"]

_WHERE = {"HFTeacher": "teacher", "load_hf_teacher": "load", "read_config": "config"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
