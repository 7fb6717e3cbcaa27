"""What `nexus plugins check transformers` runs: two layouts that differ in nearly everything."""

from __future__ import annotations

from pathlib import Path

from nexus_core.testing import TeacherConformance


class TestLlama(TeacherConformance):
    plugin = "transformers"
    model_type = "llama"

    def build(self, directory: Path) -> None:
        from nexus_core.testing import tiny

        tiny.save_causal_lm(directory, "llama")


class TestGPTNeoX(TeacherConformance):
    plugin = "transformers"
    model_type = "gpt_neox"

    def build(self, directory: Path) -> None:
        from nexus_core.testing import tiny

        tiny.save_causal_lm(directory, "gpt_neox")
