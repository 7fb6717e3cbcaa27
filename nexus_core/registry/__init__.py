"""registry.yaml: towers, capabilities with their contracts, teachers. The single source of every threshold."""

from nexus_core.registry.load import check_own, check_registry, find_registry, load_registry, load_tolerant
from nexus_core.registry.model import (
    CapabilityRow,
    Fate,
    GateSettings,
    Presence,
    ProfilingSettings,
    Registry,
    TeacherRow,
    TowerRow,
)
from nexus_core.registry.paths import resolve_path
from nexus_core.registry.problems import Problem

__all__ = [
    "CapabilityRow",
    "Fate",
    "GateSettings",
    "Presence",
    "Problem",
    "ProfilingSettings",
    "Registry",
    "TeacherRow",
    "TowerRow",
    "check_own",
    "check_registry",
    "find_registry",
    "load_registry",
    "load_tolerant",
    "resolve_path",
]
