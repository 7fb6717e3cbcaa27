"""What `nexus plugins check long_context` runs."""

from __future__ import annotations

from nexus_core.testing import CapabilityConformance


class TestLongContext(CapabilityConformance):
    plugin = "long_context"
