"""What `nexus plugins check code` runs."""

from __future__ import annotations

from nexus_core.testing import CapabilityConformance


class TestCode(CapabilityConformance):
    plugin = "code"
