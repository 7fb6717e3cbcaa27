"""Features of a hand-built autoencoder on a planted teacher: what lies in the planted space is kept, the rest is lost."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nexus_core.errors import ModelError
from nexus_core.plugins import Plugins
from nexus_core.profiling import sae as module
from nexus_core.profiling.capture import capture
from nexus_core.profiling.measure import spectra
from nexus_core.profiling.pca import PCA
from nexus_core.profiling.sae import Comparison, check_site, features_kept, load_sae
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import find_sites
from nexus_core.types import Contract, Direction, Thresholds

INSIDE, OUTSIDE = 22, 30  # features in the planted space (each code's direction, and its opposite), and beside it


def write(folder, weights, upper=False, **config):
    folder.mkdir(parents=True, exist_ok=True)
    named = {key.upper() if upper and key == "w_enc" else key: torch.tensor(w).float() for key, w in weights.items()}
    save_file({key: tensor.contiguous() for key, tensor in named.items()}, folder / "params.safetensors")
    stated = {"type": "sae", "architecture": "jump_relu", "model_name": "planted/teacher", **config}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
    return folder


@pytest.fixture(scope="module")
def ground(one_planted, lookup, verify_samples):
    """Scorer, the planted site, and the activations at its answer positions (gathered here, by the test alone)."""
    sites = find_sites(one_planted.teacher, one_planted.teacher.encode(verify_samples[:2]))
    site = next(site for site in sites if site.name == one_planted.block)
    scorer = Scorer(one_planted.teacher, lookup, verify_samples)
    rows = []
    capture(scorer, [site], range(len(verify_samples)), lambda s, c, hidden, mask: rows.append(hidden[mask].clone()))
    return scorer, site, torch.cat(rows).numpy().astype(np.float64)


@pytest.fixture(scope="module")
def weights(one_planted, ground):
    """Half-space detectors: one half along directions of the planted space, the other along ones orthogonal to it."""
    _, _, rows = ground
    rng = np.random.default_rng(0)
    space = one_planted.subspace.astype(np.float64)
    inside = rng.standard_normal((INSIDE, 4)) @ space
    beside = rng.standard_normal((OUTSIDE, rows.shape[1]))
    beside -= beside @ space.T @ space
    directions = np.concatenate([inside, beside])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    spread = ((rows - rows.mean(0)) @ directions.T).std(0)
    return {
        "w_enc": directions.T,
        "b_enc": -rows.mean(0) @ directions.T + 0.01 * spread,  # positive: what loses everything reads this
        "w_dec": directions,
        "b_dec": rows.mean(0),
        "threshold": 0.3 * spread,
    }


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("sae"), weights, hf_hook_point_in="model.layers.2.output", width=INSIDE + OUTSIDE
    )


def protected(subspace, rows) -> PCA:
    return PCA(rows.mean(0), subspace.astype(np.float64), np.ones(len(subspace)), float(len(subspace)), len(rows))


# --- the planted truth ------------------------------------------------------------------------------------------


def test_features_inside_are_kept_and_those_beside_are_lost(one_planted, ground, folder):
    scorer, site, rows = ground
    sae = load_sae(folder)
    kept, control = features_kept(scorer, site, sae, protected(one_planted.subspace, rows), range(40))
    assert kept.positions == len(rows) == 80  # a letter and an end for each of 40 prompts
    assert (kept.before > 0).all(), "every feature fires somewhere, or the test would say nothing of it"
    assert (kept.both[:INSIDE] == kept.before[:INSIDE]).all()
    assert (kept.after[:INSIDE] == kept.before[:INSIDE]).all()
    assert (kept.after[INSIDE:] == 0).all()
    assert set(kept.most_lost(OUTSIDE)) == set(range(INSIDE, INSIDE + OUTSIDE))
    inside, chance = kept.before[:INSIDE].sum(), control.both[:INSIDE].sum()
    assert chance < 0.25 * inside, "as many random directions keep little of what the planted ones keep whole"


def test_without_a_threshold_the_autoencoder_is_a_plain_relu(one_planted, ground, weights, tmp_path):
    """A bias above 0 then lets a feature fire that reads nothing any more: the lost ones fire everywhere."""
    scorer, site, rows = ground
    plain = {key: value for key, value in weights.items() if key != "threshold"}
    sae = load_sae(write(tmp_path, plain, architecture="relu"))
    kept, _ = features_kept(scorer, site, sae, protected(one_planted.subspace, rows), range(40))
    assert (kept.after[INSIDE:] == kept.positions).all()
    assert (kept.before[INSIDE:] < kept.positions).all()


def test_what_the_profiler_protects_keeps_them_too(ground, folder):
    """The subspace as profiling finds it, rather than as it was planted: the four strongest directions."""
    scorer, site, _ = ground
    (spectrum,) = spectra(scorer, [site], range(40), 16, pooled=False)
    kept, _ = features_kept(scorer, site, load_sae(folder), spectrum.pca.select(range(4)), range(40))
    assert kept.both[:INSIDE].sum() > 0.95 * kept.before[:INSIDE].sum()
    assert kept.both[INSIDE:].sum() < 0.2 * kept.before[INSIDE:].sum()


def test_looking_writes_no_file(one_planted, ground, folder):
    scorer, site, rows = ground
    written, watching = [], True

    def watch(event, arguments):
        if watching and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            written.append(str(arguments[0]))

    sys.addaudithook(watch)
    try:
        features_kept(scorer, site, load_sae(folder), protected(one_planted.subspace, rows), range(40))
    finally:
        watching = False
    assert written == []


# --- counting ---------------------------------------------------------------------------------------------------


def test_counts_equal_a_plain_loop_however_the_stream_is_cut(weights, folder, monkeypatch):
    rng = np.random.default_rng(1)
    one, two = (torch.from_numpy(rng.standard_normal((50, 64)) * 3).float() for _ in range(2))
    sae = load_sae(folder)
    monkeypatch.setattr(module, "VALUES", 7 * sae.features)
    comparison = Comparison(sae)
    for start in (0, 20):
        comparison.add(one[start : start + 20], two[start : start + 20])
    comparison.add(one[40:], two[40:])
    firing = comparison.result()
    before, after, both = (np.zeros(sae.features, int) for _ in range(3))
    errors = 0.0
    for x, y in zip(one.numpy(), two.numpy(), strict=True):
        fires = []
        for row in (x, y):
            z = row @ weights["w_enc"] + weights["b_enc"]
            fires.append((z > weights["threshold"]) & (z > 0))
        said = np.where(fires[0], x @ weights["w_enc"] + weights["b_enc"], 0)
        errors += ((x - said @ weights["w_dec"] - weights["b_dec"]) ** 2).sum()
        before, after, both = before + fires[0], after + fires[1], both + (fires[0] & fires[1])
    assert (firing.before == before).all()
    assert (firing.after == after).all()
    assert (firing.both == both).all()
    variance = ((one.numpy() - one.numpy().mean(0)) ** 2).sum()
    assert firing.explained == pytest.approx(1 - errors / variance, rel=1e-4)
    assert firing.share_kept == both.sum() / before.sum()
    lost = before - both
    assert [lost[i] for i in firing.most_lost(10)] == sorted(lost, reverse=True)[:10]


def test_a_teacher_against_itself_keeps_everything(folder, ground):
    _, _, rows = ground
    comparison = Comparison(load_sae(folder))
    comparison.add(torch.from_numpy(rows), torch.from_numpy(rows))
    assert comparison.result().share_kept == 1.0


def test_nothing_fires(folder):
    comparison = Comparison(load_sae(folder))
    assert comparison.result().share_kept is None
    assert comparison.result().most_lost(5) == []


def test_activations_of_another_width_are_refused(folder):
    with pytest.raises(ModelError, match=r"\(n, 64\)"):
        Comparison(load_sae(folder)).add(torch.zeros(3, 32), torch.zeros(3, 32))


def test_both_spellings_of_the_keys(weights, tmp_path):
    small, mixed = load_sae(write(tmp_path / "a", weights)), load_sae(write(tmp_path / "b", weights, upper=True))
    assert torch.equal(small.w_enc, mixed.w_enc)


def test_b_dec_is_taken_from_the_input_where_config_json_says_so(weights, tmp_path):
    sae = load_sae(write(tmp_path, weights, apply_b_dec_to_input=True))
    rows = torch.from_numpy(weights["b_dec"]).float()[None]
    said = (torch.from_numpy(weights["b_enc"]).float()[None]).relu()
    assert torch.allclose(sae.encode(rows), said * (said > sae.threshold))


# --- the right place --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("model.layers.1.output", "it reads block 1, and model.layers.2 is block 2"),
        ("model.layers.2.mlp.output", "not the output of a whole block"),
        ("model.layers.2.pre_feedforward_layernorm.output", "not the output of a whole block"),
    ],
)
def test_an_autoencoder_of_another_place_is_refused(weights, ground, tmp_path, point, said):
    sae = load_sae(write(tmp_path, weights, hf_hook_point_in=point))
    with pytest.raises(ModelError, match=said):
        check_site(sae, ground[1])


def test_an_autoencoder_of_another_width_is_refused(ground, tmp_path):
    narrow = {"w_enc": np.ones((32, 5)), "b_enc": np.ones(5), "w_dec": np.ones((5, 32)), "b_dec": np.ones(32)}
    sae = load_sae(write(tmp_path, narrow, architecture="relu"))
    with pytest.raises(ModelError, match=r"it reads 32 values, model\.layers\.2 gives 64"):
        check_site(sae, ground[1])


def test_what_cannot_be_checked_is_said(weights, folder, ground, tmp_path):
    assert "does not say at which block" in check_site(load_sae(write(tmp_path, weights)), ground[1])
    assert check_site(load_sae(folder), ground[1]) == "trained on planted/teacher at model.layers.2.output"


# --- the command ------------------------------------------------------------------------------------------------

LOOKUP = """
import random
from nexus_core.hooks import hookimpl
from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample

NEXUS_API = 1


class Lookup(CapabilityMetric):
    name, metric, direction = "lookup", "exact_match", Direction.HIGHER
    options = GenerateOptions(max_new_tokens=4, batch_size=64)

    def samples(self, request):
        rng = random.Random(f"{request.seed}-{request.split}")
        for i in range(request.n or 100_000):
            digit = rng.randrange(10)
            prefix = "".join(rng.choices("klmnopqrstuvwxyz", k=6))
            yield Sample(str(i), f"{prefix}{digit}", "abcdefghij"[digit], stratum=str(digit))

    def score(self, sample, output):
        return float(output == sample.target)


@hookimpl
def capability_metric(name):
    return Lookup() if name == "lookup" else None
"""
ROWS = """
version: 1
capabilities:
  lookup:
    tier: 1
    tower: text
    description: which letter belongs to a digit
    thresholds: points
    contract: {benchmark: pack, metric: exact_match, direction: higher}
teachers:
  planted:
    name: Planted
    parameters: 0.2M
    category: Language model
    best_feature: lookup
    tower: text
    capabilities: [lookup]
    path: weights
    license: LICENCE
"""
CONTRACT = Contract("lookup", "pack", "exact_match", Direction.HIGHER, 0.97, None, 1, 512, Thresholds(0.02, 0.005))


@pytest.fixture(scope="module")
def run(one_planted, lookup, tmp_path_factory):
    """A stored profile of the planted teacher, under the name that it has in the registry."""
    from dataclasses import replace

    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.profiling.plan import PlanSettings, plan_capability
    from nexus_core.profiling.run import Profiler, ProfileSettings

    settings = ProfileSettings(
        sample_size=24, pilot=8, verify=8, blocks=1, components=4, k=8, k_middle=8, max_drop=0.01
    )
    profile, _ = Profiler(Plugins([]), one_planted.teacher, lookup, CONTRACT, settings).run()
    profile = replace(profile, teacher="planted")
    folder = tmp_path_factory.mktemp("run")
    plan = plan_capability(profile, CONTRACT, PlanSettings(0.97, 5, 10))
    ProfileStore(folder / "niwt_stage2_output").write(profile, plan)
    return folder


@pytest.fixture
def installed(site, one_planted):
    """The planted teacher and its capability as an installed plugin with rows of its own."""
    package = site.path / site.add("capability", "lookup", LOOKUP, files={"registry.yaml": ROWS})
    one_planted.teacher.model.save_pretrained(package / "weights")
    one_planted.teacher.processor.save_pretrained(package / "weights")
    return package


def nexus(capsys, *arguments):
    from nexus_core.cli.main import main

    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code, *capsys.readouterr()


def asked(run, folder, block="model.layers.2"):
    return ["profile", "features", "planted", "lookup", "--block", block, "--sae", folder, "--run", run]


def test_the_command_prints_the_document(installed, run, folder, capsys):
    code, out, err = nexus(capsys, *asked(run, folder), "--samples", 30, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["directions"] >= 4
    assert found["positions"] == 60
    assert found["share_kept"] > found["share_kept_by_chance"] + 0.2
    assert all(row["feature"] >= INSIDE for row in found["most_lost"])
    assert all(row["kept"] < 0.9 for row in found["most_lost"])


def test_the_command_prints_tables(installed, run, folder, capsys):
    code, out, err = nexus(capsys, *asked(run, folder), "--samples", 10)
    assert code == 0, err
    assert "52 features, trained on planted/teacher at model.layers.2.output" in out
    assert "features by loss" in out


def test_a_block_that_was_not_profiled_is_refused(installed, run, folder, capsys):
    code, _, err = nexus(capsys, *asked(run, folder, "model.layers.9"))
    assert code == 1
    assert "'model.layers.9' is no block of this profile" in err
    assert "its blocks: model.layers.2" in err


def test_a_profile_of_other_weights_is_refused(installed, run, folder, capsys):
    from safetensors.torch import load_file

    path = installed / "weights" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, path, {"format": "pt"})
    code, _, err = nexus(capsys, *asked(run, folder))
    assert code == 1
    assert "belongs to other weights of planted" in err


def test_a_licence_that_forbids_it_stops_it(installed, run, folder, capsys):
    rows = installed / "registry.yaml"
    rows.write_text(rows.read_text().replace("LICENCE", "forbidden by its owner"))
    code, _, err = nexus(capsys, *asked(run, folder))
    assert code == 1
    assert "licence" in err
