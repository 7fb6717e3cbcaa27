"""What `nexus plugins check templatename` runs: a tiny checkpoint in the true layout, and every check of a teacher on it."""

from __future__ import annotations

from pathlib import Path

from nexus_core.testing import TeacherConformance


class TestTemplatename(TeacherConformance):
    plugin = "templatename"
    model_type = "templatename"

    def build(self, directory: Path) -> None:
        from nexus_core.testing import tiny

        tiny.rename_model_type(tiny.save_causal_lm(directory, "llama"), "templatename")
