"""The six hook specifications: the whole seam between the core and its plugins, and nothing else.

A plugin is a module that marks functions of these names with `@hookimpl`. Hooks are called by keyword, and an
implementation may accept a subset of the arguments, so that an argument can be added without breaking anyone.
No spec is `firstresult`: who answers first depends on the order of installation. The facade collects the answers
and wants exactly one (detection: one that is the most confident); two answers are an error that names both plugins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import nn

    from nexus_core.types import (
        AdapterPlan,
        CapabilityMetric,
        DecodeOptions,
        Detection,
        LoadOptions,
        ModelSource,
        PilotScores,
        Teacher,
    )

NEXUS_API = 1
"""Version of this seam. A plugin module declares the one it was written for: `NEXUS_API = 1`."""

PROJECT = "nexus"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def detect_model_category(source: ModelSource) -> Detection | None:
    """Say what lies at `source`, if you know it.

    When: before a teacher is loaded, inspected or listed as present; every teacher plugin is asked.
    By: `Plugins.detect`. All answers are collected and the unique highest confidence wins; a tie is an error
    that names both plugins, so that the outcome never depends on the order of installation.
    Arguments: `source`, a directory or one file. Read config files and tensor *headers* only: no weights, no
    remote code, nothing heavy imported.
    None: not mine. Damaged files of your own layout: raise `ModelError` that names the file.
    Example: `config.json` says `"model_type": "llama"` ->
        `Detection(Category.TRANSFORMERS, "llama", 0.6, "config.json: model_type llama")`
    """
    raise AssertionError("a specification is never called")


@hookspec
def load_teacher(source: ModelSource, options: LoadOptions) -> Teacher | None:
    """Load the checkpoint at `source` as a frozen `Teacher`.

    When: a teacher is to be profiled, evaluated or checked.
    By: `Plugins.load_teacher`, and only in the plugin that won the detection.
    Arguments: `source` as in detection; `options` (device, dtype, quantisation).
    None: this plugin only detects, it cannot load; the core then says so with the plugin's name.
    Must hold: every checkpoint tensor is used or named as unused, nothing is randomly initialised, no remote
    code, no pickle. `nexus_core.hf.load_hf_teacher` does this for transformers layouts.
    Example: `return load_hf_teacher(source, options, detection)`
    """
    raise AssertionError("a specification is never called")


@hookspec
def select_layers(teacher: Teacher, capability: str, pilot: PilotScores) -> Sequence[str] | None:
    """Name the three to five blocks of `teacher` that carry `capability`.

    When: after pilot ablation, before the expensive steps of profiling.
    By: `Plugins.select_layers`, in the plugin that loaded the teacher.
    Arguments: the loaded `teacher`; the capability's name; `pilot.drops`, the metric drop of bypassing each
    block. Every name returned must be a key of `teacher.blocks`.
    None: no special knowledge; the core takes the three blocks with the largest drop.
    Example: a family that knows timbre to live in the middle third returns those of them with the largest drop.
    """
    raise AssertionError("a specification is never called")


@hookspec
def capability_metric(name: str) -> CapabilityMetric | None:
    """Give the samples and the score of the capability called `name`.

    When: whenever a teacher or student is measured on it, and when profiling needs its samples.
    By: `Plugins.capability_metric`.
    Arguments: `name`, a capability of registry.yaml.
    None: not mine. Two packs that answer for one name are an error that names both.
    Must hold: splits never overlap (by `Sample.digest`), the order depends on the seed alone, `direction` is that of the
    contract in the registry. Thresholds are not yours: they live in the registry.
    Example: `return Reasoning() if name == "reasoning" else None`
    """
    raise AssertionError("a specification is never called")


@hookspec
def build_adapter(plan: AdapterPlan) -> nn.Module | None:
    """Build the module that carries one capability in the student, as the architect planned it.

    When: the student is assembled, for training or from a bundle.
    By: `Plugins.build_adapter`.
    Arguments: `plan` (capability, tower, hidden size, rank, block index, seed).
    None: the plan is for another tower.
    Must hold: the module maps (B, T, hidden_size) to the same shape, starts as the identity (its gate is closed),
    draws its weights from `plan.seed` alone, and every parameter can receive a gradient once the gate is open.
    Example: `return AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed) if plan.tower == "text" else None`
    """
    raise AssertionError("a specification is never called")


@hookspec
def decode(modality: str, output: Any, options: DecodeOptions) -> Any | None:
    """Turn the student's raw output into what a user holds: text, a waveform, an image, frames, a tool call.

    When: at the end of a generation, and for each piece of a stream.
    By: `Plugins.decode`, and the runtime.
    Arguments: `modality` ("text", "tool_call", "audio", "image", "video"); `output`, what the student produced
    (token ids, frames of codes, latents); `options` (tokenizer or processor, tool schemas, sample rate).
    None: not my modality. An output that cannot be decoded: raise `NexusError`, never return an empty answer.
    Example: `decode("text", ids, DecodeOptions(processor=tokenizer))` -> `"the answer is 4"`
    """
    raise AssertionError("a specification is never called")
