"""Stage 5: the hard gate. Imported in the student's own process too, so what it offers is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_core.gate.isolation import restore
    from nexus_core.gate.report import REPORT, Report, check_report, read_report, summary, write_report
    from nexus_core.gate.verify import GateOrder, verify_subject

__all__ = [
    "REPORT",
    "GateOrder",
    "Report",
    "check_report",
    "read_report",
    "restore",
    "summary",
    "verify_subject",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("verify", "report", "isolation"):
            if hasattr(found := import_module(f"nexus_core.gate.{module}"), name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
