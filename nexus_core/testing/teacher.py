"""Conformance of a teacher plugin: it recognises its own layout and no other, loads it whole, and leaves it untouched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nexus_core.testing.base import Conformance, require
from nexus_core.types import Category, GenerateOptions, Kind, LoadOptions, ModelSource, PilotScores, Sample, Teacher

if TYPE_CHECKING:
    import torch

PROMPTS = ("one two three", "a", "The quick brown fox jumps over the lazy dog.")


class _TeacherCase(Conformance):
    """What the three hook classes share: a fixture that the subclass builds."""

    kind = Kind.TEACHER
    category: ClassVar[Category] = Category.TRANSFORMERS
    model_type: ClassVar[str] = ""

    def build(self, directory: Path) -> None:
        """Write a tiny checkpoint of this plugin's architecture, in its true file layout, into `directory`."""
        raise NotImplementedError("a conformance class builds its own fixture")  # abstract: a subclass must say what

    def locate(self, directory: Path) -> Path:
        """What is detected and loaded once `build` has filled `directory`: the directory, or a file in it."""
        return directory

    def drop_tensor(self, directory: Path) -> str:
        """Remove one tensor from the checkpoint that `build` wrote; returns its name in the model."""
        return _drop_one_tensor(directory)

    def claim(self, path: Path) -> Any:
        """What this plugin alone says of what lies in `path`."""
        source = ModelSource(self.locate(path))
        answers = self.alone.answers(self.kind, "detect_model_category", self.subject.key, source=source)
        return next((detection for _, detection in answers), None)


class DetectModelCategoryConformance(_TeacherCase):
    def test_claims_its_fixture(self) -> None:
        """detection: claims its fixture, with evidence"""
        with self.workdir() as path:
            self.build(path)
            detection = self.claim(path)
            require(detection is not None, "does not claim the fixture that its own conformance class builds")
            require(detection.category is self.category, f"category is {detection.category}, expected {self.category}")
            require(
                detection.model_type == self.model_type,
                f"model_type is {detection.model_type!r}, expected {self.model_type!r}",
            )
            require(bool(detection.evidence), "the evidence is empty; say which file told it")

    def test_wins_its_fixture(self) -> None:
        """detection: wins its fixture among all installed plugins"""
        with self.workdir() as path:
            self.build(path)
            winner = self.plugins.detect(ModelSource(self.locate(path))).plugin
            require(winner == self.subject.name, f"{winner} is more confident about this plugin's own fixture")

    def test_leaves_others_alone(self) -> None:
        """detection: claims neither an empty directory nor a stranger's"""
        with self.workdir() as path:
            require(self.claim(path) is None, "claims an empty directory")
            (path / "config.json").write_text('{"model_type": "stranger-of-no-library"}', encoding="utf-8")
            require(self.claim(path) is None, "claims a directory whose model_type nobody knows")

    def test_reads_no_weights(self) -> None:
        """detection: reads no tensor data"""
        with self.workdir() as path:
            self.build(path)
            before = self.claim(path)
            for shard in path.rglob("*.safetensors"):
                header = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
                shard.write_bytes(shard.read_bytes()[:header])
            require(self.claim(path) == before, "answers otherwise when the files hold headers only")


class LoadTeacherConformance(_TeacherCase):
    def load(self, path: Path, **options: Any) -> Teacher:
        return self.plugins.load_teacher(ModelSource(self.locate(path)), LoadOptions(**options))

    def samples(self) -> list[Sample]:
        """Inputs that this teacher understands; text unless the subclass says otherwise."""
        return [Sample(str(i), prompt, "") for i, prompt in enumerate(PROMPTS)]

    def test_loads_whole_and_the_same_twice(self) -> None:
        """load: two loads give the same parameters, frozen and in eval mode"""
        with self.workdir() as path:
            self.build(path)
            first, second = self.load(path).model, self.load(path).model
            require(_hash(first) == _hash(second), "two loads differ: something is initialised at random")
            require(not first.training, "the model is in training mode")
            require(not any(p.requires_grad for p in first.parameters()), "parameters require gradients")

    def test_missing_tensor_is_an_error(self) -> None:
        """load: a checkpoint that lacks a tensor is refused by name"""
        from nexus_core.errors import NexusError

        with self.workdir() as path:
            self.build(path)
            missing = self.drop_tensor(path)
            try:
                self.load(path)
            except NexusError as error:
                require(missing.split(".")[-2] in str(error), f"the message does not name {missing}: {error}")
            else:
                require(False, f"loads although {missing} is missing")

    def test_blocks_capture_without_a_trace(self) -> None:
        """blocks: every block runs once per forward, and a hook on it changes no bit of the output"""
        with self.workdir() as path:
            self.build(path)
            teacher = self.load(path)
            require(len(teacher.blocks) > 0, "no blocks found")
            batch = teacher.encode(self.samples())
            plain = _tensor(teacher.forward(batch))
            seen: list[str] = []
            handles = [
                block.register_forward_hook(lambda *_, name=name: seen.append(name))
                for name, block in teacher.blocks.items()
            ]
            hooked = _tensor(teacher.forward(batch))
            for handle in handles:
                handle.remove()
            require(seen == list(teacher.blocks), f"blocks ran in the order {seen}, listed as {list(teacher.blocks)}")
            require(bool((plain == hooked).all()), "hooks on the blocks change the output")

    def test_padding_changes_nothing(self) -> None:
        """encode: an answer does not depend on what it is batched with"""
        with self.workdir() as path:
            self.build(path)
            teacher = self.load(path)
            options = GenerateOptions(max_new_tokens=8)
            together = teacher.generate(self.samples(), options)
            alone = [teacher.generate([sample], options)[0] for sample in self.samples()]
            require(len(together) == len(self.samples()), f"{len(together)} answers for {len(self.samples())} samples")
            same = [_equal(a, b) for a, b in zip(together, alone, strict=True)]
            require(all(same), f"sample {same.index(False) if False in same else '?'} is answered otherwise in a batch")


class SelectLayersConformance(_TeacherCase):
    def test_selects_known_blocks(self) -> None:
        """layers: the chosen blocks exist, are distinct, and are at most five"""
        with self.workdir() as path:
            self.build(path)
            teacher = self.plugins.load_teacher(ModelSource(self.locate(path)))
            pilot = PilotScores({name: float(i) for i, name in enumerate(teacher.blocks)}, baseline=1.0, n=20)
            chosen = self.plugins.select_layers(teacher, "reasoning", pilot)
            require(0 < len(chosen) <= 5, f"chose {len(chosen)} blocks")
            require(len(set(chosen)) == len(chosen), f"chose a block twice: {chosen}")


class TeacherConformance(DetectModelCategoryConformance, LoadTeacherConformance, SelectLayersConformance):
    """All checks of a teacher plugin that loads what it detects."""


def _hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(_uint8()).numpy().tobytes())
    return digest.hexdigest()


def _uint8() -> torch.dtype:
    import torch

    return torch.uint8


def _tensor(output: Any) -> torch.Tensor:
    """The main tensor of a model output."""
    tensor: torch.Tensor = output.logits if hasattr(output, "logits") else output[0]
    return tensor


def _equal(a: Any, b: Any) -> bool:
    equal = a == b
    return bool(equal.all()) if hasattr(equal, "all") else bool(equal)


def _drop_one_tensor(path: Path) -> str:
    """Rewrite the first shard without its last layer-like tensor; returns the tensor's name."""
    from safetensors.torch import load_file, save_file

    shard = sorted(path.rglob("*.safetensors"))[0]
    tensors = load_file(shard)
    name = sorted((name for name in tensors if name.endswith(".weight")), key=lambda n: (n.count("."), n))[-1]
    save_file({key: value for key, value in tensors.items() if key != name}, shard, metadata={"format": "pt"})
    return name
