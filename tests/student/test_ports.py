"""Ports and towers: closed they change no bit, opened they listen to their own tower and to what is real of it."""

from __future__ import annotations

import pytest
import torch

from nexus_core.errors import DataError, UsageError
from nexus_core.student.arch import TowerArch
from nexus_core.student.ports import CrossAttention, NexusCrossAttention
from nexus_core.student.towers import ThoughtTower

IMAGE = TowerArch("image", 16, thought_tokens=4, port_blocks=(0,), port_heads=2, port_head_dim=8, feature_size=12)


@pytest.fixture
def thoughts():
    return {"image": torch.randn(3, 4, 16), "voice": torch.randn(3, 3, 8)}


def say(student, ids, **more):
    with torch.no_grad():
        return student(ids, **more).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_closed_port_changes_no_bit(make, ids, thoughts, dtype, attention):
    student = make(dtype=dtype, attention=attention)
    given = {tower: t.to(dtype) for tower, t in thoughts.items()}
    nothing = {tower: torch.zeros(t.shape[:2], dtype=torch.bool) for tower, t in thoughts.items()}
    assert torch.equal(say(student, ids, thoughts=given), say(student, ids))
    assert torch.equal(say(student, ids, thoughts=given, thoughts_mask=nothing), say(student, ids))


def test_an_open_port_listens(make, ids, thoughts):
    student = make(trained=True)
    heard = say(student, ids, thoughts=thoughts)
    assert not torch.equal(heard, say(student, ids))
    other = {**thoughts, "image": thoughts["image"] + 1}
    assert not torch.allclose(heard, say(student, ids, thoughts=other), atol=1e-4)
    assert torch.equal(say(student, ids, thoughts={}), say(student, ids)), "nothing said, nothing heard"


def test_each_row_hears_its_own(make, ids, thoughts):
    student = make(trained=True)
    changed = {tower: t.clone() for tower, t in thoughts.items()}
    changed["image"][1] += 1
    before, after = (say(student, ids, thoughts=t) for t in (thoughts, changed))
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[1], after[1], atol=1e-4)


def test_masked_thoughts_do_not_matter(make, ids, thoughts):
    student = make(trained=True)
    mask = {"image": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]])}
    changed = {tower: t.clone() for tower, t in thoughts.items()}
    changed["image"][mask["image"] == 0] = 1e4
    assert torch.equal(*(say(student, ids, thoughts=t, thoughts_mask=mask) for t in (thoughts, changed)))
    shorter = {"image": thoughts["image"][:1, :2]}
    ours = say(student, ids[:1], thoughts={"image": thoughts["image"][:1]}, thoughts_mask={"image": mask["image"][:1]})
    torch.testing.assert_close(ours, say(student, ids[:1], thoughts=shorter), atol=1e-6, rtol=1e-6)


def test_a_row_without_any_thought_is_as_if_nobody_spoke(make, ids, thoughts):
    student = make(trained=True).train()
    mask = {tower: torch.ones(t.shape[:2]) for tower, t in thoughts.items()}
    for given in mask.values():
        given[1] = 0
    out = student(ids, thoughts=thoughts, thoughts_mask=mask).logits
    torch.testing.assert_close(out[1], student(ids).logits[1], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(out[0], student(ids).logits[0], atol=1e-4)
    out.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in student.parameters())


def test_the_ports_of_one_tower_are_untouched_by_another(make, ids, thoughts):
    student, without = make(trained=True), make(trained=True)
    for layer in without.blocks:
        for name, port in layer.ports.items():
            if name == "voice":
                torch.nn.init.normal_(port.gate, 5.0)
    only = {"image": thoughts["image"]}
    assert torch.equal(say(student, ids, thoughts=only), say(without, ids, thoughts=only))
    assert not torch.equal(say(student, ids, thoughts=thoughts), say(without, ids, thoughts=thoughts))
    before = {name: t.clone() for name, t in student.state_dict().items()}
    student.add_tower(TowerArch("video", 8, 2, (0,), 1, 4, 6))
    assert all(torch.equal(t, before[name]) for name, t in student.state_dict().items() if name in before)
    assert torch.equal(say(student, ids, thoughts=only), say(without, ids, thoughts=only))


def test_a_tower_that_nobody_listens_to_is_an_error(make, ids, thoughts):
    student = make()
    with pytest.raises(UsageError, match='no port listens to the tower "imagee"; did you mean "image"') as caught:
        student(ids, thoughts={"imagee": thoughts["image"]})
    assert "image, voice" in caught.value.hint
    with pytest.raises(UsageError, match='the tower "text"'):
        student(ids, thoughts={"text": thoughts["image"]})
    assert "text" in student.config.towers
    assert "text" not in student.towers, "what speaks in the backbone's tokens needs no port"


@pytest.mark.parametrize("left_padded", [False, True])
def test_thoughts_hold_through_generation_with_its_cache(make, ids, thoughts, left_padded):
    student = make(trained=True)
    mask = torch.ones_like(ids)
    if left_padded:
        mask[0, :4] = 0
    said = {"thoughts": thoughts, "thoughts_mask": {"image": torch.tensor([[1, 1, 0, 1]] * 3)}}
    written = student.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0, **said)
    again, full = ids, mask
    student.generation_config.eos_token_id = None
    for _ in range(written.shape[1] - ids.shape[1]):  # the same without any cache
        positions = (full.cumsum(-1) - 1).clamp(min=0)
        token = say(student, again, attention_mask=full, position_ids=positions, **said)[:, -1:].argmax(-1)
        again = torch.cat([again, token], 1)
        full = torch.cat([full, torch.ones_like(token)], 1)
    ended = torch.cumsum(written[:, ids.shape[1] :] == 2, 1) > 1
    assert torch.equal(again[:, ids.shape[1] :][~ended], written[:, ids.shape[1] :][~ended])
    deaf = student.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert deaf.tolist() != written.tolist()


def test_beams_hear_the_thoughts_of_their_own_row(make, ids, thoughts):
    student = make(trained=True)
    settings = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    together = student.generate(ids, thoughts=thoughts, thoughts_mask={}, **settings)
    for row in range(len(ids)):
        own = {tower: t[row : row + 1] for tower, t in thoughts.items()}
        assert torch.equal(student.generate(ids[row : row + 1], thoughts=own, **settings)[0], together[row])


def test_the_formula_of_a_port():
    port = NexusCrossAttention(6, 5, heads=2, head_dim=3, seed=1)
    port.gate.data.fill_(0.5)
    h, t = torch.randn(2, 4, 6), torch.randn(2, 3, 5)
    heads = []
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        q, k, v = (
            port.norm(h) @ port.q_proj.weight[part].T,
            t @ port.k_proj.weight[part].T,
            t @ port.v_proj.weight[part].T,
        )
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 3**0.5, -1) @ v)
    expected = h + torch.tanh(torch.tensor(0.5)) * torch.cat(heads, -1) @ port.o_proj.weight.T
    torch.testing.assert_close(port(h, t), expected)


def test_every_parameter_of_a_tower_learns_once_its_ports_are_open(make, ids):
    student = make().train()
    student.requires_grad_(False)
    student.towers["image"].requires_grad_(True)
    features = torch.randn(3, 5, 12)
    student(ids, labels=ids, thoughts={"image": student.towers["image"](features)}).loss.backward()
    assert not any(p.grad.any() for p in student.towers["image"].parameters()), "closed gates pass nothing"
    for layer in student.blocks:
        layer.ports["image"].gate.data.fill_(0.3)
    student(ids, labels=ids, thoughts={"image": student.towers["image"](features)}).loss.backward()
    dead = [name for name, p in student.towers["image"].named_parameters() if not p.grad.any()]
    assert dead == []


def test_every_parameter_of_a_port_learns(make, ids, thoughts):
    student = make(trained=True).train()
    student(ids, labels=ids, thoughts=thoughts).loss.backward()
    ports = {n: p for n, p in student.named_parameters() if ".ports." in n}
    assert len(ports) == 3 * 7
    assert [name for name, p in ports.items() if p.grad is None or not p.grad.any()] == []


def test_the_resampler_gives_a_fixed_number_of_thoughts_and_ignores_padding():
    tower = ThoughtTower(IMAGE, seed=1).eval()
    features = torch.randn(2, 9, 12)
    assert tower(features).shape == (2, 4, 16)
    mask = torch.ones(2, 9)
    mask[0, 5:] = 0
    assert torch.allclose(tower(features, mask)[0], tower(features[:1, :5])[0], atol=1e-6)
    assert not torch.allclose(tower(features)[0], tower(features[:1, :5])[0], atol=1e-3)
    assert len(tower(features)[0].unique(dim=0)) == 4, "no two thoughts are the same"


def test_its_encoder_slot_takes_what_comes_in():
    encoder = torch.nn.Linear(3, 12)
    tower = ThoughtTower(IMAGE, 1, encoder)
    raw = torch.randn(2, 9, 3)
    assert torch.equal(tower(raw), ThoughtTower(IMAGE, 1)(encoder(raw)))


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = ThoughtTower(IMAGE, seed=1).state_dict(), CrossAttention(6, 5, 2, 3, seed=1).state_dict()
    torch.manual_seed(2)
    again = ThoughtTower(IMAGE, seed=1).state_dict(), CrossAttention(6, 5, 2, 3, seed=1).state_dict()
    other = ThoughtTower(IMAGE, seed=2).state_dict(), CrossAttention(6, 5, 2, 3, seed=2).state_dict()
    for a, b, c in zip(first, again, other, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert any(not torch.equal(a[name], c[name]) for name in a)


def test_a_port_behind_no_block_is_refused(make):
    with pytest.raises(DataError, match='tower "video": there is no block 2'):
        make().add_tower(TowerArch("video", 8, 2, (2,), 1, 4, 6))
