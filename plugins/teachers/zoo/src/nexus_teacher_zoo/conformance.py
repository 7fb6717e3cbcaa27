"""What `nexus plugins check zoo` runs: one of the zoo's own checkpoints, as it is shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

from nexus_core.testing import TeacherConformance

SHIPPED = Path(__file__).with_name("weights") / "code"


class TestZoo(TeacherConformance):
    plugin = "zoo"
    model_type = "gpt_neox"

    def build(self, directory: Path) -> None:
        shutil.copytree(SHIPPED, directory, dirs_exist_ok=True)
