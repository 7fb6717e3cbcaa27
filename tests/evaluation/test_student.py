"""`nexus eval` on the directory of a student: each capability is answered with its own adapter, and with no other."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from nexus_core.cli.main import cli
from nexus_core.errors import UsageError
from nexus_core.evaluation import draw
from nexus_core.hf.tokenizer import load_tokenizer
from nexus_core.student.answer import StudentAnswerer
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch
from nexus_core.student.files import Student, read_student, write_student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.testing import tiny
from nexus_core.types import GenerateOptions, SampleRequest, Split


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny.save_causal_lm(tmp_path_factory.mktemp("tiny"), max_position_embeddings=640)


@pytest.fixture(scope="module")
def student(backbone, tmp_path_factory):
    """A random backbone with two adapters that change its answers; math is isolated."""
    config = json.loads((backbone / "config.json").read_text())
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    numbers = {name: config[name] for name in (*names, "vocab_size", "max_position_embeddings")}
    adapters = tuple(
        AdapterArch(name, "text", "t", (Site(0, 4, "a"),), 2, ("q_proj", "down_proj"), isolated=name == "math")
        for name in ("reasoning", "math")
    )
    router = RouterArch(("reasoning",), 64, 4, 1)
    arch = StudentArch(1, "tiny", 42, numbers, "random", adapters, (), router, ())
    model = NexusForCausalLM.from_backbone(backbone, arch)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("adapters."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    path = tmp_path_factory.mktemp("run") / "student"
    write_student(path, Student(model, load_tokenizer(backbone), arch))
    return path


def evaluated(tmp_path, *arguments):
    """Rows and outputs of the command."""
    outputs = tmp_path / "outputs.jsonl"
    options = ["--samples", "2", "--json", "--outputs", str(outputs)]
    result = CliRunner().invoke(cli, ["eval", *map(str, arguments), *options], catch_exceptions=False)
    assert result.exit_code == 0
    written = [json.loads(text) for text in outputs.read_text().splitlines()]
    return [json.loads(line) for line in result.stdout.splitlines()], written


def answers(student, metric, capability):
    """What the student says when it is asked without the command."""
    whole = read_student(student)
    answerer = StudentAnswerer(whole.model, whole.tokenizer, capability, allow_isolated=True)
    samples = draw(metric, SampleRequest(Split.VERIFY, 2))
    return answerer.generate(samples, GenerateOptions(metric.options.max_new_tokens))


def test_each_capability_is_answered_with_its_own_adapter(student, tmp_path, metrics):
    rows, written = evaluated(tmp_path, student, "--capability", "reasoning", "--capability", "math")
    assert [(row["target"], row["capability"], row["n"]) for row in rows] == [
        (str(student), "reasoning", 2),
        (str(student), "math", 2),
    ]
    for name in ("reasoning", "math"):
        said = [line["output"] for line in written if line["capability"] == name]
        assert said == answers(student, metrics[name], name)
        assert said != answers(student, metrics[name], None), "the adapter changes what the backbone says"


def test_a_student_and_a_teacher_stand_in_one_table(student, backbone, tmp_path):
    rows, _ = evaluated(tmp_path, backbone, student, "--capability", "reasoning")
    assert [row["target"] for row in rows] == [str(backbone), str(student)]


def test_a_capability_without_an_adapter_is_an_error_that_names_those_it_has(student):
    """And no score of the plain backbone, which would look like one of the student's."""
    with pytest.raises(UsageError, match='no adapter for "tools"') as error:
        CliRunner().invoke(
            cli, ["eval", str(student), "--capability", "tools", "--samples", "1"], catch_exceptions=False
        )
    assert error.value.hint == "it has: reasoning, math"


@pytest.fixture(scope="module")
def metrics():
    from nexus_core.cli.context import open_plugins

    plugins = open_plugins()
    return {name: plugins.capability_metric(name) for name in ("reasoning", "math")}
