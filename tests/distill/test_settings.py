"""Teaching settings: every preset reads, and what cannot be meant is named."""

from __future__ import annotations

import copy

import pytest
import yaml

from nexus_core.distill.settings import PRESETS, read_teaching, teach_from
from nexus_core.errors import DataError, UsageError

RAW = yaml.safe_load(PRESETS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("preset", RAW)
def test_every_preset_reads_and_survives_its_json(preset):
    settings = read_teaching(preset)
    assert teach_from(settings.as_json(), "x") == settings
    assert settings.steps == sum(phase.steps for phase in settings.phases)


def test_an_unknown_preset_is_named_with_the_nearest():
    with pytest.raises(UsageError, match=r'no preset "tinny".*did you mean "tiny"') as caught:
        read_teaching("tinny")
    assert "small" in caught.value.hint


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("loss", "alfa"), 1.0, "unknown key 'alfa'"),
        (("retention", "every"), None, "the key 'every' is missing"),
        (("retention", "every"), "often", "retention.every is 'often', expected int"),
        (("optimizer", "kind"), "sgd", "optimizer.kind is 'sgd'"),
        (("precision",), "fp8", "precision is 'fp8'"),
        (("accumulate",), 0, "accumulate is out of its range"),
        (("accumulate",), True, "accumulate is True, expected int"),
        (("recovery", "spike_factor"), 1.0, "spike_factor is out of its range"),
        (("recovery", "cut_rate"), 0.0, "cut_rate is out of its range"),
        (("retention", "screen"), 10**6, "screen is out of its range"),
        (("phases",), [], "phases is out of its range"),
        (("phases",), {}, "phases: expected a list"),
        (("loss",), 3, "loss: expected keys and values"),
    ],
)
def test_what_cannot_be_meant_is_named(path, value, message):
    raw = copy.deepcopy(RAW["tiny"])
    *parents, last = path
    place = raw
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(DataError) as caught:
        teach_from(raw, "presets.yaml: tiny")
    assert message in caught.value.message
