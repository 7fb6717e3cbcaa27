"""From profiles to a student: every rank, place and teacher is decided, and every decision has its reason."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from nexus_core.architect.architect import Request
from nexus_core.architect.sites import student_blocks
from nexus_core.architect.sizes import sizes
from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.artifacts import ArtifactError
from nexus_core.student.arch import read_arch, write_arch

TINY = Request("tiny")
OWN = """
version: 1
tower_latent_factor: 1.2
compare_weights_up_to: 0
presets:
  {name}:
    description: of a test
    backbone: {{source: zoo-backbone}}
    adapters: {{rank_most: {rank}, delta_targets: [q_proj_here], delta_rank: {{least: {least}, most: {most}}}}}
    towers: {{text: {{thought_tokens: 0}}}}
    router: {{buckets: 16, width: 2, most: 2}}
    budget: {budget}
"""


@pytest.fixture
def own(bench, tmp_path):
    """The bench with a preset "own" of the test's numbers."""

    def make(rank=64, least=1, most=4, budget="{}", name="own"):
        text = OWN.format(name=name, rank=rank, least=least, most=most, budget=budget)
        bench.file = tmp_path / "own.yaml"
        bench.file.write_text(text.replace("q_proj_here", "self_attn.q_proj"))
        return bench.architect

    return make


def reasons(arch, action, subject=""):
    return [d.reason for d in arch.decisions if d.action == action and d.subject.startswith(subject)]


def three(bench):
    """With one of the three the budget of the tiny preset would be a share of too little."""
    for teacher, capability in (("ada", "reasoning"), ("bob", "code"), ("cyd", "tools")):
        bench.profile(teacher, capability)


def test_each_capability_gets_an_adapter_at_its_teachers_depth(bench):
    three(bench)
    arch = bench.architect.design(TINY)
    assert [(a.capability, a.teacher, a.tower) for a in arch.adapters] == [
        ("code", "bob", "text"),
        ("reasoning", "ada", "text"),
        ("tools", "cyd", "text"),
    ]
    for adapter in arch.adapters:
        assert [(s.block, s.rank, s.teacher_block) for s in adapter.sites] == [
            (0, 10, "model.layers.1"),
            (1, 8, "model.layers.2"),
            (2, 6, "model.layers.3"),
        ]
    assert arch.router.classes == ("code", "reasoning", "tools")
    assert len(reasons(arch, "map")) == 9
    assert all(decision.reason and decision.subject for decision in arch.decisions)


def test_the_same_inputs_give_the_same_bytes_and_are_read_back(bench, tmp_path):
    three(bench)
    first, second = (bench.architect.design(TINY) for _ in range(2))
    for name, arch in (("a.json", first), ("b.json", second)):
        write_arch(tmp_path / name, arch)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_arch(tmp_path / "a.json") == first


def test_the_order_in_which_teachers_were_profiled_changes_nothing(bench, tmp_path):
    three(bench)
    first = bench.architect.design(TINY)
    bench.run = tmp_path / "again"
    for teacher, capability in (("cyd", "tools"), ("bob", "code"), ("ada", "reasoning")):
        bench.profile(teacher, capability)
    assert bench.architect.design(TINY) == first


# --- where ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "depth", "blocks", "expected"),
    [
        ([0, 1, 2], 4, 3, (0, 1, 2)),
        ([1, 2, 3], 4, 3, (0, 1, 2)),
        ([1], 4, 3, (1,)),  # the last is never earlier than in the teacher
        ([2], 4, 3, (2,)),
        ([0], 1, 3, (2,)),
        ([7, 31], 32, 24, (5, 23)),
        ([1, 3], 4, 12, (5, 11)),
        ([0], 32, 2, (0,)),
    ],
)
def test_blocks_are_placed_by_their_depth(indices, depth, blocks, expected):
    assert student_blocks(indices, depth, blocks) == expected


@pytest.mark.parametrize("depth", [1, 2, 5, 12, 61])
@pytest.mark.parametrize("blocks", [1, 3, 24])
def test_deeper_blocks_are_placed_later_and_none_shares_a_place(depth, blocks):
    count = min(depth, blocks, 3)
    places = student_blocks(range(depth - count, depth), depth, blocks)
    assert list(places) == sorted(set(places))
    assert places[-1] == blocks - 1
    assert places[0] >= 0


def test_more_protected_blocks_than_student_blocks_leave_those_with_most_proof(bench, make_block):
    three(bench)
    bench.profile(
        "ada",
        "reasoning",
        make_block(1, 9, 3),
        make_block(3, 9, 2),
        make_block(4, 5, 5),
        make_block(11, 4, 4),
        depth=12,
    )
    arch = bench.architect.design(TINY)
    sites = arch.adapter("reasoning").sites
    assert [(s.block, s.teacher_block) for s in sites] == [
        (0, "model.layers.1"),
        (1, "model.layers.4"),
        (2, "model.layers.11"),
    ]
    (lost,) = reasons(arch, "drop", "ada/reasoning/model.layers.3")
    assert "2 proven components are the fewest" in lost


def test_a_block_without_anything_protected_gets_no_site_and_is_said(bench, make_block):
    three(bench)
    bench.profile("ada", "reasoning", make_block(1, 0, 0), make_block(3, 4, 4))
    arch = bench.architect.design(TINY)
    assert [s.teacher_block for s in arch.adapter("reasoning").sites] == ["model.layers.3"]
    assert reasons(arch, "drop", "ada/reasoning/model.layers.1") == ["nothing is protected there"]


# --- how wide ---------------------------------------------------------------------------------------------------


def test_a_cap_names_what_bound(bench, own, make_block):
    bench.profile("ada", "reasoning", make_block(3, 40, 8))
    (cap,) = reasons(own(rank=64).design(Request("own")), "cap")
    assert cap == "rank 32 of 40: the student's width allows no more"
    arch = own(rank=12).design(Request("own"))
    (cap,) = reasons(arch, "cap")
    assert cap == "rank 12 of 40: the preset own allows no more"
    assert arch.adapters[0].sites[0].rank == 12
    caps = {**bench.registry.defaults.rank_caps, 1: 7}
    bench.registry = replace(bench.registry, defaults=replace(bench.registry.defaults, rank_caps=caps))
    (cap,) = reasons(own(rank=12).design(Request("own")), "cap")
    assert cap == "rank 7 of 40: the contract allows no more"


def test_a_cap_of_the_time_of_profiling_is_still_said(bench, own, make_block):
    wide = bench.registry
    caps = {**wide.defaults.rank_caps, 1: 5}
    bench.registry = replace(wide, defaults=replace(wide.defaults, rank_caps=caps))
    bench.profile("ada", "reasoning", make_block(3, 9, 3))
    bench.registry = wide
    (cap,) = reasons(own().design(Request("own")), "cap")
    assert cap == "rank 5 of 9: the contract at the time of profiling allowed no more"


def test_deltas_take_what_the_budget_leaves_and_one_more_would_not_fit(bench):
    three(bench)
    arch = bench.architect.design(TINY)
    budget = bench.architect.budget(arch)
    ranks = {adapter.delta_rank for adapter in arch.adapters}
    assert len(ranks) == 1 and 2 < ranks.pop() < 48
    assert sizes(arch).total <= 90_000 * 0.95  # the largest teacher, bob, less the reserve
    assert budget.exceeded(sizes(arch), budget.reserve) is None
    more = replace(arch, adapters=tuple(replace(a, delta_rank=a.delta_rank + 1) for a in arch.adapters))
    assert budget.exceeded(sizes(more), budget.reserve) is not None
    (why,) = reasons(arch, "add", "deltas")
    assert "its largest teacher, bob, 90,000" in why and "5% stay free" in why


def test_deltas_stop_at_the_presets_most(bench, own):
    bench.profile("ada", "reasoning")
    arch = own(least=1, most=4).design(Request("own"))
    assert arch.adapters[0].delta_rank == 4
    assert reasons(arch, "add", "deltas") == ["rank 4: the preset own allows no more"]


def test_half_of_its_teachers_is_the_limit_where_that_is_less(bench):
    three(bench)
    architect = bench.architect
    limits = {limit.most for limit in architect.budget(architect.design(TINY)).limits}
    assert limits == {(60_000 + 90_000 + 70_000) // 2, 90_000, 1_400_000}


def test_a_student_that_cannot_fit_says_by_how_much_and_what_to_change(bench):
    bench.profile("ada", "reasoning")  # half of 60K is less than the backbone alone
    with pytest.raises(DataError, match=r"[\d,]+ more than allowed, which is 0.5 of the 60,000 parameters") as error:
        bench.architect.design(TINY)
    assert "--preset" in error.value.hint and "together" in error.value.hint


# --- towers, router ---------------------------------------------------------------------------------------------


def test_a_text_tower_has_no_port_and_others_have(bench):
    bench.profile("ada", "reasoning")
    bench.profile("eve", "voice")
    arch = bench.architect.design(Request("small"))
    text, voice = arch.towers
    assert (text.name, text.latent_size, text.thought_tokens, text.port_blocks) == ("text", 29, 0, ())  # 1.2 x 24
    assert (voice.name, voice.thought_tokens > 0, voice.port_blocks) == ("voice", True, (3, 7, 11))
    assert "no ports" in reasons(arch, "add", "tower text")[0]


def test_a_latent_size_is_bounded_by_the_registry(bench):
    bench.profile("eve", "voice")
    towers = {**bench.registry.towers, "voice": replace(bench.registry.towers["voice"], latent_max=20)}
    bench.registry = replace(bench.registry, towers=towers)
    arch = bench.architect.design(Request("small"))
    assert arch.towers[0].latent_size == 20
    assert "the registry allows 20" in reasons(arch, "cap", "tower voice")[0]


@pytest.mark.parametrize(("ranks", "latent"), [((5,), 6), ((10,), 12), ((7,), 9), ((25, 25), 60)])
def test_a_latent_size_is_rounded_up_and_not_beyond(bench, own, make_block, ranks, latent):
    bench.profile("ada", "reasoning", *(make_block(3 - i, rank, 1) for i, rank in enumerate(ranks)))
    assert own().design(Request("own")).towers[0].latent_size == latent


def test_a_preset_without_the_tower_is_refused(bench):
    bench.profile("eve", "voice")
    with pytest.raises(DataError, match='no tower "voice", which voice needs') as error:
        bench.architect.design(TINY)
    assert "another --preset" in error.value.hint


def test_the_router_chooses_no_more_than_there_are(bench, own):
    bench.profile("ada", "reasoning")
    assert own().design(Request("own")).router.most == 1
    bench.profile("bob", "code")
    assert own().design(Request("own")).router.most == 2


# --- who --------------------------------------------------------------------------------------------------------


def test_what_was_not_asked_for_or_not_profiled_is_said(bench):
    three(bench)
    arch = bench.architect.design(Request("small", ("tool-calling", "reasoning")))  # an alias, with a dash
    assert [a.capability for a in arch.adapters] == ["reasoning", "tools"]
    assert reasons(arch, "drop", "bob/code") == ["not asked for: planned are reasoning, tools"]
    assert reasons(arch, "drop", "bob/tools") == ["no profile in this run, and absent from this machine"]
    assert reasons(bench.architect.design(Request("small")), "drop", "fay/code")


def test_a_present_teacher_without_a_profile_is_told_how_to_get_one(bench, make_backbone):
    make_backbone(bench.registry.path.parent / "cyd")
    rows = {**bench.registry.teachers, "cyd": replace(bench.registry.teachers["cyd"], path="cyd")}
    bench.registry = replace(bench.registry, teachers=rows)
    bench.profile("bob", "tools")
    (said,) = reasons(bench.architect.design(Request("small")), "drop", "cyd/tools")
    assert "nexus profile --teacher cyd --capability tools" in said


def test_an_isolated_capability_is_opt_in_and_no_class_of_the_router(bench):
    bench.profile("ada", "reasoning")
    bench.profile("dan", "uncensored")
    without = bench.architect.design(Request("small"))
    assert [a.capability for a in without.adapters] == ["reasoning"]
    assert reasons(without, "drop", "dan/uncensored") == ["isolated: it is opt-in, by --capability uncensored"]
    arch = bench.architect.design(Request("small", ("reasoning", "uncensored")))
    assert [(a.capability, a.isolated) for a in arch.adapters] == [("reasoning", False), ("uncensored", True)]
    assert arch.router.classes == ("reasoning",)
    with pytest.raises(DataError, match="only isolated"):
        bench.architect.design(Request("small", ("uncensored",)))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"category": "refinement"}, "a super-teacher: it is added alone"), ({"role": "backbone"}, "its role in the")],
)
def test_what_may_not_teach_is_left_out_whatever_it_scores(bench, change, said):
    bench.profile("ada", "reasoning", baseline_score=1.0)
    bench.profile("bob", "reasoning", baseline_score=0.5)
    rows = {**bench.registry.teachers, "ada": replace(bench.registry.teachers["ada"], **change)}
    bench.registry = replace(bench.registry, teachers=rows)
    arch = bench.architect.design(Request("small"))
    assert arch.adapter("reasoning").teacher == "bob"
    assert reasons(arch, "drop", "ada/reasoning")[0].startswith(said)


def test_a_plan_of_before_is_named_by_what_it_lacks(bench):
    """As an earlier Nexus wrote it: the file is whole, by its manifest, and misses a key."""
    bench.profile("ada", "reasoning")
    plan, manifest = (bench.store.root / name for name in ("adapter_capacity_plan.json", "manifest.json"))
    old = plan.read_bytes()
    new = old.replace(b"needed_by_reconstruction", b"needed_by_another_name__")
    said = manifest.read_text()
    manifest.write_text(said.replace(hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest()))
    assert manifest.read_text() != said
    plan.write_bytes(new)
    with pytest.raises(DataError, match="ada/reasoning: no 'needed_by_reconstruction'") as error:
        bench.architect.design(Request("small"))
    assert "profile this teacher again" in error.value.hint


def test_nothing_proven_is_kept_by_caution_with_the_reservation(bench, make_block):
    bench.profile("ada", "reasoning", make_block(2, 6, 0))
    (why,) = reasons(bench.architect.design(Request("small")), "keep", "ada/reasoning")
    assert "0 components proven" in why and "by caution alone" in why


def test_a_profile_without_anything_protected_is_dropped_with_its_reason(bench, make_block):
    bench.profile("ada", "reasoning", make_block(2, 0, 0))
    with pytest.raises(DataError, match="ada/reasoning: its profile carries no plan: no non-negotiable component"):
        bench.architect.design(Request("small"))
    bench.profile("bob", "code")
    arch = bench.architect.design(Request("small"))
    assert [a.capability for a in arch.adapters] == ["code"]
    assert "no non-negotiable component" in reasons(arch, "drop", "ada/reasoning")[0]


# --- bad input --------------------------------------------------------------------------------------------------


def test_no_run_and_no_profile_are_said(bench):
    with pytest.raises(ArtifactError, match="not a directory") as error:
        bench.architect.design(TINY)
    assert "nexus profile" in error.value.hint
    bench.profile("ada", "reasoning")
    bench.store.remove("ada")
    with pytest.raises(DataError, match="has no profile") as error:
        bench.architect.design(TINY)
    assert "nexus profile" in error.value.hint


def test_a_damaged_profile_is_named(bench):
    bench.profile("ada", "reasoning")
    path = bench.store.root / "profiles" / "ada" / "reasoning" / "components.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"components\.json"):
        bench.architect.design(Request("small"))


def test_a_profile_that_does_not_know_its_teachers_depth_is_refused(bench, make_block):
    bench.profile("ada", "reasoning", make_block(5, 3, 3), depth=4)
    with pytest.raises(DataError, match="names block 5 and its pilot covers 4"):
        bench.architect.design(Request("small"))


def test_a_profile_of_other_weights_is_refused(bench):
    bench.profile("ada", "reasoning")
    with pytest.raises(ArtifactError, match="other weights of ada"):
        bench.architect.design(Request("small", weights={"ada": "0" * 64}))


def test_unknown_names_are_guessed(bench):
    bench.profile("ada", "reasoning")
    with pytest.raises(UsageError, match=r'no preset "smal".*did you mean "small"'):
        bench.architect.design(Request("smal"))
    with pytest.raises(UsageError, match=r'no capability "reasonin".*did you mean "reasoning"'):
        bench.architect.design(Request("small", ("reasonin",)))
    with pytest.raises(DataError, match='"code" was not profiled') as error:
        bench.architect.design(Request("small", ("code",)))
    assert "ada, bob, fay" in error.value.hint


def test_a_budget_of_teachers_needs_their_size(bench, make_block):
    three(bench)
    bench.profile("fay", "code", baseline_score=0.99)
    with pytest.raises(DataError, match='size of teacher fay is not known: its row says "Not specified"') as error:
        bench.architect.design(TINY)
    assert "registry.yaml:" in error.value.hint
    assert bench.architect.design(Request("small")).adapter("code").teacher == "fay"  # no share, no need to know
