"""The forms that a bundle is exported to: how each is written, read back by strangers, used, and what it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import LlamaForCausalLM

from nexus_core.bundle.export import engine, gguf, hf, peft
from nexus_core.bundle.export.engine import GgufModel, Rule
from nexus_core.bundle.export.files import DTYPES, read_checkpoint
from nexus_core.bundle.export.plain import as_plain
from nexus_core.errors import UsageError
from nexus_core.student.files import Student

if TYPE_CHECKING:
    from nexus_core.hf.text import TextModel

TOKENIZER = "tokenizer"
ROUTER = "There is no router: whoever asks chooses the capability by choosing the export."
BOTTLENECKS = (
    "Bottlenecks stand as blocks of their own. Their LayerNorm has become RMSNorm, which is nearly the same where the "
    "residual stream has no common offset; the table says what it costs here."
)
PADDED = "Those blocks have an attention that gives nothing and an MLP as wide as the others, most of it zeros."
OWN_IDS = "the student's tokens"
OWN_TEXT = "text, by the file's tokenizer"


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """`capabilities` none: the plain backbone. `texts` are what the tokenizer must cut as it does now."""

    folder: Path
    student: Student
    capabilities: tuple[str, ...]
    dtype: str
    texts: tuple[str, ...]

    @property
    def only(self) -> str | None:
        """The one capability of a form that holds one."""
        return self.capabilities[0] if self.capabilities else None


@dataclass(frozen=True, slots=True)
class Size:
    """Of the plain model in the export; `bottlenecks` of its blocks are one each."""

    blocks: int
    bottlenecks: int
    parameters: int


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What was written. `answerers` of a capability, by the way in which they are asked; the stack ends them."""

    answerers: Callable[[str, ExitStack], Mapping[str, Any]]
    size: Size
    use: str
    limits: tuple[str, ...]
    tried_with: str
    rule: Rule | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """`needs` are the packages that write it and try it; `several`: whether it holds more than one capability."""

    write: Callable[[Wanted], Made]
    needs: tuple[str, ...] = ()
    several: bool = False
    dtypes: tuple[str, ...] = tuple(DTYPES)

    def check(self, dtype: str) -> None:
        """Before the work, not after it."""
        if dtype not in self.dtypes:
            raise UsageError(f"this form is not written in {dtype}", f"--dtype is one of: {', '.join(self.dtypes)}")
        for name in self.needs:
            try:
                version(name)
            except PackageNotFoundError as error:
                raise UsageError(f"the package {name} is missing", f"pip install {name}") from error


def _hf(wanted: Wanted) -> Made:
    hf.write_hf(wanted.folder, wanted.student, wanted.only, wanted.dtype, allow_isolated=True)
    model, size = hf.read_hf(wanted.folder), _size(wanted, read_checkpoint(wanted.folder))
    return Made(
        answerers=lambda name, stack: {"": model},
        size=size,
        use=_USE_HF,
        limits=_limits(size),
        tried_with=_versions("transformers"),
    )


def _peft(wanted: Wanted) -> Made:
    peft.write_peft(wanted.folder, wanted.student, wanted.capabilities, wanted.dtype)

    def answerers(name: str, stack: ExitStack) -> dict[str, TextModel]:
        return {"": peft.read_peft(wanted.folder, name)}

    size = _size(wanted, read_checkpoint(wanted.folder / peft.BASE))
    return Made(
        answerers=answerers,
        size=size,
        use=_USE_PEFT.replace("NAME", wanted.capabilities[0]),
        limits=(
            ROUTER,
            BOTTLENECKS,
            PADDED,
            "The adapters need the base beside them: on another backbone they are noise.",
        ),
        tried_with=_versions("peft", "transformers"),
    )


def _gguf(wanted: Wanted) -> Made:
    tokenizer, name = wanted.student.tokenizer, f"{wanted.only or 'backbone'}.gguf"
    path = wanted.folder / name
    rule = engine.nearest_rule(tokenizer, wanted.texts)
    gguf.write_gguf(path, wanted.student, wanted.only, gguf.Form(wanted.dtype, rule.name), allow_isolated=True)
    tokenizer.save_pretrained(wanted.folder / TOKENIZER, save_jinja_files=False)
    config = wanted.student.model.config
    context = int(config.max_position_embeddings)

    def answerers(capability: str, stack: ExitStack) -> dict[str, GgufModel]:
        ways = (OWN_IDS, OWN_TEXT)
        return {way: stack.enter_context(GgufModel(path, tokenizer, context, way == OWN_TEXT)) for way in ways}

    size = _size(wanted, as_plain(wanted.student.model, wanted.only, allow_isolated=True))
    return Made(
        answerers=answerers,
        size=size,
        use=_USE_GGUF.replace("NAME", name),
        limits=(_cut(rule), *_limits(size)),
        tried_with=_versions("xllamacpp"),
        rule=rule,
    )


FORMS = {
    "hf": Form(_hf),
    "peft": Form(_peft, ("peft",), several=True),
    "gguf": Form(_gguf, ("gguf", "xllamacpp"), dtypes=gguf.DTYPES),
}


def _size(wanted: Wanted, model: LlamaForCausalLM) -> Size:
    blocks = model.config.num_hidden_layers
    return Size(blocks, blocks - len(wanted.student.model.blocks), model.num_parameters())


def _limits(size: Size) -> tuple[str, ...]:
    return (ROUTER, BOTTLENECKS, PADDED) if size.bottlenecks else (ROUTER,)


def _cut(rule: Rule) -> str:
    text = f"Its own tokenizer cuts text by llama.cpp's rule \"{rule.name}\", the nearest to the student's: "
    text += f"{rule.same:.1%} of the prompts come out as the same tokens."
    if rule.same < 1:
        text += " A rule of one's own cannot be written into the file; give tokens, made by the tokenizer beside it."
    return text


def _versions(*names: str) -> str:
    return " and ".join(f"{name} {version(name)}" for name in names)


_USE_HF = """
A plain Llama checkpoint. Nothing of Nexus is needed:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```
"""
_USE_PEFT = """
Adapters for the library peft, and the base that they stand on. Nothing of Nexus is needed:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "NAME")
```
"""
_USE_GGUF = """
`NAME` is for llama.cpp and what is built on it. Prompts are best given as tokens, made by the tokenizer beside it:

```python
from transformers import AutoTokenizer

chat = [{"role": "user", "content": "..."}]
ids = AutoTokenizer.from_pretrained("tokenizer").apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
```

The `prompt` of a completion may be such a list (llama-server's `/completion`, and most bindings).
"""
