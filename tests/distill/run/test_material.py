"""What an adapter is taught from, and the Distiller that teaches it: what decides an outcome, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nexus_core.cli.context import open_plugins, open_registry
from nexus_core.distill import run
from nexus_core.distill.material import Gatherer
from nexus_core.distill.rows import StoredRows
from nexus_core.distill.run import JOINT, Distiller, Order, gather, new_student, workers
from nexus_core.distill.settings import teach_from
from nexus_core.distill.vocabulary import read_vocabulary
from nexus_core.errors import DataError, UsageError
from nexus_core.student.arch import read_arch


@pytest.fixture
def gathered(planned):
    """The plan, the student before training, and the material of one capability."""
    from nexus_core.distill.settings import read_teaching

    arch, registry = read_arch(planned / "student_arch.json"), open_registry()
    settings = read_teaching("tiny")
    student = new_student(arch, registry, None, "cpu")
    gatherer = Gatherer(planned, registry, open_plugins(), settings.data)
    return arch, student, gatherer, gather(gatherer, student, ["tools"])["tools"], settings


def test_material_is_what_the_profile_and_the_signals_say(gathered):
    _, student, _, material, settings = gathered
    assert (material.capability, material.teacher, material.contract.capability) == ("tools", 0.9, "tools")
    assert len(material.held) == settings.data.held
    assert len(material.rows) + len(material.held) == 12
    assert not {row.digest for row in material.rows} & {row.digest for row in material.held}
    (space,) = material.spaces
    assert (space.teacher_block, space.k) == ("model.layers.1", 4)
    assert all(row.anchors[space.block].values.shape[1] == 4 for row in material.rows)
    assert max(row.answer_ids.max() for row in material.rows) < student.model.config.vocab_size


def test_the_control_without_a_teacher_is_another_material(gathered):
    """The same prompts in the same order; a checkpoint of the one is never gone on from with the other."""
    arch, student, gatherer, material, _ = gathered
    control = gatherer.without_teacher(material, arch, read_vocabulary(student.tokenizer), 42)
    assert [row.digest for row in control.rows] == [row.digest for row in material.rows]
    assert not any(row.kl.has.any() or row.anchors for row in control.rows)
    logits_only = replace(material, spaces=(), heads={})
    digests = {m.digest for m in (material, control, logits_only, replace(material, teacher=0.8))}
    assert len(digests) == 4
    assert material.digest == replace(material).digest
    with pytest.raises(DataError, match="are not in the train split of seed 7"):
        gatherer.without_teacher(material, arch, read_vocabulary(student.tokenizer), 7)


def test_an_adapter_cannot_be_taught_alone_where_no_phase_does_that(gathered, tmp_path):
    _, student, _, material, settings = gathered
    together = replace(settings, phases=tuple(p for p in settings.phases if p.together))
    order = Order(tmp_path / "other", adapter="tools")
    with pytest.raises(UsageError, match="no phase of this preset teaches an adapter alone"):
        Distiller(order, student, together, {"tools": material}, print).teach()
    assert not (tmp_path / "other").exists()


def test_phases_of_a_kind_stand_together(gathered):
    settings = gathered[-1]
    joint, alone = settings.phases
    teach_from(replace(settings, phases=(joint, joint, alone, alone)).as_json(), "here")
    with pytest.raises(DataError, match=r"here\.phases is out of its range"):
        teach_from(replace(settings, phases=(joint, alone, joint)).as_json(), "here")


def test_a_phase_without_steps_is_passed_over(gathered, planned):
    _, student, _, material, settings = gathered
    none = tuple(replace(phase, steps=0) for phase in settings.phases)
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    (taught,) = Distiller(Order(planned), student, replace(settings, phases=none), {"tools": material}, print).distill()
    assert (taught.trainings, taught.met) == ((), False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.model.state_dict().items())


def test_of_a_prompt_that_the_signals_hold_twice_one_row_stays(gathered, monkeypatch):
    """Else a row could be trained on and held out at once."""
    arch, student, gatherer, material, _ = gathered
    real = StoredRows.read
    monkeypatch.setattr(StoredRows, "read", lambda stored: [row for row in real(stored) for _ in range(2)])
    again = gatherer.gather(arch, "tools", read_vocabulary(student.tokenizer))
    assert [row.digest for row in again.rows] == [row.digest for row in material.rows]
    assert [row.digest for row in again.held] == [row.digest for row in material.held]


def test_held_rows_are_checked_in_batches_that_fit_into_memory(gathered, planned, monkeypatch):
    _, student, _, material, settings = gathered
    rows = sorted(material.rows, key=len)
    most = 2 * len(rows[-1])  # two of the longest, or more of the short ones
    monkeypatch.setattr(run, "HELD_TOKENS", most)
    distiller = Distiller(Order(planned), student, settings, {}, print)
    batches = distiller._held(replace(material, held=tuple(reversed(rows))))
    assert len(batches) > 2
    assert all(batch.input_ids.numel() <= most for batch in batches)
    assert sum(len(batch.input_ids) for batch in batches) == len(rows)
    assert sum(int(batch.attention_mask.sum()) for batch in batches) == sum(map(len, rows))
    monkeypatch.setattr(run, "HELD_TOKENS", 1)
    alone = distiller._held(replace(material, held=rows))
    assert [tuple(batch.input_ids.shape) for batch in alone] == [(1, len(row)) for row in rows]
    assert distiller._held(replace(material, held=())) == []


@pytest.mark.parametrize("training", [JOINT, "tools"])
def test_a_checkpoint_is_not_gone_on_from_over_another_backbone(gathered, planned, training):
    _, student, _, material, settings = gathered
    distiller = Distiller(Order(planned), student, settings, {"tools": material}, print)
    before = distiller._identity(training)
    assert distiller._identity(training) == before
    with torch.no_grad():
        for tensor in student.model.adapters["tools"].parameters():
            tensor.add_(1.0)
    assert distiller._identity(training) == before, "what is taught is in the checkpoint itself"
    with torch.no_grad():
        student.model.backbone_state()["model.norm.weight"][0] += 2**-10
    assert distiller._identity(training) != before


@pytest.mark.parametrize(("asked", "batches", "expected"), [(1, 8, 1), (3, 8, 3), (9, 4, 4), (2, 1, 1)])
def test_as_many_workers_as_asked_for_or_as_there_are_batches(asked, batches, expected):
    assert workers(asked, torch.nn.Linear(2, 2), batches) == expected


def test_unasked_a_small_model_has_one_worker_for_each_core(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert workers(0, torch.nn.Linear(2, 2), 8) == 4
    assert workers(0, torch.nn.Linear(2, 2), 3) == 3
    with torch.device("meta"):
        assert workers(0, torch.nn.Linear(6000, 6000), 8) == 1, "operations of a large one share the cores themselves"
        assert workers(0, torch.nn.Linear(2, 2), 8) == 1, "elsewhere than on a CPU"
