"""The conformance kit: what every plugin must hold to, as base classes to subclass. Public API for plugin authors.

A plugin ships `conformance.py` beside its `plugin.py`, with one subclass per kind. `nexus plugins check` runs it, and so
does pytest when a test module imports the subclass. The kit itself needs no pytest.
"""

from __future__ import annotations

from nexus_core.testing.base import CheckFailed, Conformance
from nexus_core.testing.capability import CapabilityConformance
from nexus_core.testing.teacher import (
    DetectModelCategoryConformance,
    LoadTeacherConformance,
    SelectLayersConformance,
    TeacherConformance,
)
from nexus_core.testing.tower import BuildAdapterConformance, DecodeConformance, TowerConformance

CapabilityMetricConformance = CapabilityConformance  # one hook, one kind: the same class under the hook's name

__all__ = [
    "BuildAdapterConformance",
    "CapabilityConformance",
    "CapabilityMetricConformance",
    "CheckFailed",
    "Conformance",
    "DecodeConformance",
    "DetectModelCategoryConformance",
    "LoadTeacherConformance",
    "SelectLayersConformance",
    "TeacherConformance",
    "TowerConformance",
]
