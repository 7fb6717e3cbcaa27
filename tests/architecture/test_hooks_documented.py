"""A hook exists in hooks.py, in docs/plugins/hooks.md with its exact arguments, and in a test of its name."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from nexus_core import hooks
from nexus_core.discovery import hook_names

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins" / "hooks.md").read_text(encoding="utf-8")


def test_there_are_six():
    assert hook_names() == [
        "detect_model_category",
        "load_teacher",
        "select_layers",
        "capability_metric",
        "build_adapter",
        "decode",
    ]


@pytest.mark.parametrize("name", hook_names())
def test_the_page_has_its_exact_arguments(name):
    arguments = ", ".join(inspect.signature(getattr(hooks, name)).parameters)
    assert f"### `{name}({arguments})`" in PAGE.splitlines()


def test_the_page_has_no_other_hooks():
    headings = re.findall(r"^### `(\w+)\(.*\)`$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(hook_names())


def test_there_is_a_test_of_each_name():
    tests = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("plugins/*/*/tests/test_*.py")]
    named = {
        node.name
        for path in tests
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert {f"test_hook_{name}" for name in hook_names()} - named == set()


@pytest.mark.parametrize("name", hook_names())
def test_the_specification_is_typed_and_says_the_five_things(name):
    spec = getattr(hooks, name)
    signature = inspect.signature(spec)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())
    text = inspect.getdoc(spec) or ""
    assert [word for word in ("When:", "By:", "Arguments:", "None:", "Example:") if word not in text] == []
    assert 8 <= len(text.splitlines()) <= 15
