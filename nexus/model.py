"""The model that a consumer holds: load it once, then ask it from any thread. It needs no teacher, no network and, once
loaded, no disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Unpack, overload

import torch

from nexus.options import Options, checked
from nexus.prompts import Tool, read_tools, tool_prompt
from nexus.session import Session, Voice
from nexus.towers import Towers
from nexus_core.bundle.manifest import CapabilityFacts
from nexus_core.bundle.reader import Bundle, open_bundle
from nexus_core.errors import NexusError, UsageError
from nexus_core.student.router import SparseIntentRouter
from nexus_core.types import GenerateOptions, ToolCall

Tools = Sequence[Tool] | Mapping[str, Tool]
Fallback = Literal["backbone"] | None
PADDED, SHORT = 1.25, 100  # a batch's longest prompt is at most so many times its shortest, and so many characters more
_ENABLE = "ask for it by name and with enable_uncensored=True (--enable-uncensored)"


@dataclass(frozen=True, slots=True)
class Route:
    """What the router says of a prompt: the capability, or None where it recognises none of them."""

    capability: str | None
    reason: str
    probabilities: Mapping[str, float] = field(default_factory=dict)


class NexusModel:
    """A student from a bundle. `load` makes one."""

    def __init__(self, bundle: Bundle, device: torch.device, dtype: torch.dtype) -> None:
        self._bundle = bundle
        self._towers = Towers([tower.name for tower in bundle.arch.towers])
        self._model = bundle.model(device, dtype)
        self._tokenizer = bundle.tokenizer()
        self._session = Session(self._model, self._tokenizer, str(bundle.path))
        self._router: SparseIntentRouter | None = None

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", verify: bool = True) -> NexusModel:
        """The bundle in a directory. Every file is compared with its hash, unless `verify` is switched off.

        A student computes in fp32 on a CPU, where it was verified, and in fp16 elsewhere.
        """
        place = _device(device)
        model = cls(open_bundle(Path(path), verify), place, torch.float32 if place.type == "cpu" else torch.float16)
        # What the libraries import at first use is imported now: later, nothing reads the disk.
        model._towers.rehearse(model._tokenizer)
        model._session.rehearse()
        return model

    def __repr__(self) -> str:
        return f"NexusModel({self._bundle.manifest.name}: {', '.join(self.capabilities)})"

    # --- what it can do -----------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Mapping[str, CapabilityFacts]:
        """What can be asked for, by name: tower, aliases, contract, and the score that the gate measured."""
        return MappingProxyType(dict(self._bundle.manifest.capabilities))

    def resolve(self, capability: str) -> str:
        """The name of the capability that is called so; `UsageError` with the nearest name where there is none."""
        if not isinstance(capability, str):
            raise UsageError(f"the capability is {capability!r}", f"name one of: {', '.join(self._open())}")
        return self._bundle.manifest.resolve(capability)

    def route(self, prompt: str, tools: Tools | None = None) -> Route:
        """Which capability the router takes a prompt for."""
        (text,) = _prompts([prompt])
        return self._routes([_asked(text, None if tools is None else read_tools(tools))])[0]

    # --- answers ------------------------------------------------------------------------------------------------

    @overload
    def generate(
        self,
        prompt: str,
        capability: str | None = None,
        *,
        tools: None = None,
        fallback: Fallback = None,
        enable_uncensored: bool = False,
        **options: Unpack[Options],
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: str,
        capability: str | None = None,
        *,
        tools: Tools,
        fallback: Fallback = None,
        enable_uncensored: bool = False,
        **options: Unpack[Options],
    ) -> ToolCall: ...

    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        capability: str | None = None,
        *,
        tools: Tools | None = None,
        fallback: Fallback = None,
        enable_uncensored: bool = False,
        **options: Unpack[Options],
    ) -> list[Any]: ...

    def generate(
        self,
        prompt: str | list[str] | tuple[str, ...],
        capability: str | None = None,
        *,
        tools: Tools | None = None,
        fallback: Fallback = None,
        enable_uncensored: bool = False,
        **options: Unpack[Options],
    ) -> str | ToolCall | list[Any]:
        """The answer to a prompt, or to each of several; with `tools`, the call that it is, checked against its schema.

        Without a `capability` the router chooses one. Where it recognises none, that is an error, or with
        `fallback="backbone"` the plain backbone answers. The same arguments give the same answer, alone and in a list.
        """
        offered = None if tools is None else read_tools(tools)
        prompts = _prompts(prompt)
        asked = [_asked(text, offered) for text in prompts]
        jobs = [
            (members, self._options(name, options), self._voice(name, enable_uncensored))
            for name, members in self._chosen(asked, capability, fallback).items()
        ]
        answers: list[str | ToolCall] = [""] * len(prompts)
        for members, settings, voice in jobs:
            written = self._write([asked[i] for i in members], voice, settings)
            for i, text in zip(members, written, strict=True):
                answers[i] = text if offered is None else self._call(text, voice, offered, f"prompt {i + 1}")
        return answers[0] if isinstance(prompt, str) else answers

    def stream(
        self,
        prompt: str,
        capability: str | None = None,
        *,
        tools: Tools | None = None,
        fallback: Fallback = None,
        enable_uncensored: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[str]:
        """The answer in pieces of whole characters, as they are written: put together they are what `generate` returns.

        With `tools` they are the text of the call, and an error at the end where that text is none.
        """
        if not isinstance(prompt, str):
            raise UsageError("a stream is of one prompt", "call stream once for each")
        offered = None if tools is None else read_tools(tools)
        (text,) = _prompts(prompt)
        asked = _asked(text, offered)
        (name,) = self._chosen([asked], capability, fallback)
        settings, voice = self._options(name, options), self._voice(name, enable_uncensored)
        return self._stream(asked, voice, settings, offered)

    def _stream(
        self, asked: str, voice: Voice, options: GenerateOptions, tools: tuple[Tool, ...] | None
    ) -> Iterator[str]:
        text = ""
        for _, piece in self._session.pieces([asked], voice, options):
            text += piece
            yield piece
        if tools is not None:
            self._call(text, voice, tools)

    def _write(self, prompts: Sequence[str], voice: Voice, options: GenerateOptions) -> list[str]:
        """Answers in order."""
        texts = [""] * len(prompts)
        for members in _batches([len(prompt) for prompt in prompts], options.batch_size):
            for row, piece in self._session.pieces([prompts[i] for i in members], voice, options):
                texts[members[row]] += piece
        return texts

    def _call(self, text: str, voice: Voice, tools: tuple[Tool, ...], where: str = "") -> ToolCall:
        try:
            return self._towers.tool_call(self._tower(voice.capability), text, self._tokenizer, tools)
        except NexusError as error:
            if where:
                error.add_note(where)
            raise

    # --- who answers --------------------------------------------------------------------------------------------

    def _chosen(
        self, prompts: Sequence[str], capability: str | None, fallback: Fallback
    ) -> dict[str | None, list[int]]:
        """Capability (None: the plain backbone) to the prompts that it answers."""
        if fallback not in (None, "backbone"):
            raise UsageError(f"fallback is {fallback!r}", 'the only one is "backbone"')
        if capability is not None:
            return {self.resolve(capability): list(range(len(prompts)))}
        chosen: dict[str | None, list[int]] = {}
        for i, route in enumerate(self._routes(prompts)):
            if route.capability is None and fallback is None:
                raise UsageError(
                    "the router recognises no capability for this prompt",
                    f'name one ({", ".join(self._open())}), or allow the plain backbone: fallback="backbone" (--fallback)',
                )
            chosen.setdefault(route.capability, []).append(i)
        return chosen

    def _open(self) -> list[str]:
        """The capabilities that need no permission."""
        return [name for name, facts in self.capabilities.items() if not facts.isolated]

    def _routes(self, prompts: Sequence[str]) -> list[Route]:
        with self._session.lock:
            if self._router is None:
                self._router = self._bundle.router()
            if self._router is None:
                raise UsageError(f"{self._bundle.path} has no router", f"name one of: {', '.join(self._open())}")
            found = self._router.routes(prompts)
        return [Route(next(iter(one.adapters), None), one.reason, one.probabilities) for one in found]

    def _tower(self, capability: str | None) -> str | None:
        return None if capability is None else self.capabilities[capability].tower

    def _voice(self, capability: str | None, enable_uncensored: bool) -> Voice:
        """Who answers, with its adapter built. An isolated one is not so much as built without permission."""
        isolated = capability is not None and self.capabilities[capability].isolated
        if isolated and not enable_uncensored:
            raise UsageError(f'"{capability}" is isolated', _ENABLE)
        decode = self._towers.text(self._tower(capability), self._tokenizer)
        with self._session.lock:
            if capability is not None and capability not in self._model.adapters:
                self._bundle.add_adapter(self._model, capability, self._towers.build)
        return Voice(capability, isolated, decode)

    def _options(self, capability: str | None, options: Mapping[str, Any]) -> GenerateOptions:
        verified = GenerateOptions()
        if capability is not None:
            facts = self.capabilities[capability].options
            verified = GenerateOptions(max_new_tokens=facts.max_new_tokens, stop=facts.stop)
        return checked(options, verified)


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise UsageError(
            f"the device {str(name)!r} cannot be used: {str(error).splitlines()[0]}", 'device="cpu" works everywhere'
        ) from error
    return device


def _prompts(prompt: Any) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, Sequence) else [prompt]
    for text in prompts:
        if not isinstance(text, str):
            raise UsageError(f"a prompt is {type(text).__name__}, not a string", "give a string, or a list of them")
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise UsageError("the prompt is no text: it holds half of a surrogate pair", "read it as UTF-8")
    return prompts


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The prompts by length, `most` at a time and none much longer than the first: padding costs as much as text.

    24 prompts of 150 to 1500 tokens took 3.2 s in one batch, and 1.2 s one by one.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == most or lengths[i] > PADDED * lengths[batch[0]] + SHORT):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _asked(prompt: str, tools: tuple[Tool, ...] | None) -> str:
    return prompt if tools is None else tool_prompt(prompt, tools)
