"""What `nexus plugins check reasoning` runs."""

from __future__ import annotations

from nexus_core.testing import CapabilityConformance


class TestReasoning(CapabilityConformance):
    plugin = "reasoning"
