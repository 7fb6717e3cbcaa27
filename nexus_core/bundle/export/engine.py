"""A GGUF file, run by llama.cpp (the package xllamacpp): an engine that shares no code with what wrote the file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from nexus_core.bundle.export.gguf import INSTALL, write_vocabulary
from nexus_core.errors import ModelError, UsageError
from nexus_core.hf.prompts import prompt_text
from nexus_core.hf.quiet import quiet
from nexus_core.printable import one_line
from nexus_core.types import GenerateOptions, Sample

# llama.cpp cuts text by rules that are built into it, each under the name of a model. One of each kind, those first
# that tokenizers of today copy; where two cut alike the earlier one is taken.
RULES: tuple[str, ...] = (
    "llama-bpe", "qwen2", "gpt-2", "smollm", "gpt-4o", "tekken", "deepseek-coder", "deepseek-v3",
    "falcon", "seed-coder", "chameleon", "poro-chat", "viking", "superbpe", "default",
)  # fmt: skip
SCRIPT = Path(__file__).with_name("llama_process.py")
LEAST_CONTEXT = 512  # what the engine makes of less is no faster
PATIENCE = 600.0  # seconds: nothing that is asked here takes minutes


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule that cuts text most like the student's tokenizer, and on which share of the texts it cuts just like it."""

    name: str
    same: float


def nearest_rule(tokenizer: Any, texts: Sequence[str]) -> Rule:
    """Each rule is tried on the texts, by the engine itself."""
    with quiet():  # the tokenizer warns of long texts
        wanted = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    found = []
    with tempfile.TemporaryDirectory(prefix="nexus-gguf-") as folder:
        path = Path(folder, "vocabulary.gguf")
        for name in RULES:
            write_vocabulary(path, tokenizer, name)
            with Engine(path, LEAST_CONTEXT) as engine:
                found.append(Rule(name, sum(map(list.__eq__, engine.tokens(texts), wanted)) / len(wanted)))
    return max(found, key=lambda rule: rule.same)


class Engine:
    """One file in the engine's memory, with room for `context` tokens: a process that ends with the `with` block."""

    def __init__(self, path: Path, context: int) -> None:
        if find_spec("xllamacpp") is None:
            raise UsageError("a GGUF file is tried before it is given out, and xllamacpp is missing", INSTALL)
        self.context, self._path = max(context, LEAST_CONTEXT), path
        script = [sys.executable, "-I", SCRIPT, path, self.context, torch.get_num_threads()]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(
            [str(word) for word in script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )
        try:
            if "ready" not in self._answer():
                reason = f"{path}: llama.cpp does not load it{self._reason()}"
                raise ModelError(reason, "report it with the student's config.json")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and give its memory back."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _reason(self) -> str:
        """The first error that it logged."""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").splitlines()
        found = next((line for line in lines if "error" in line), "")
        return f": {one_line(found, 300)}" if found else ""

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text by the file's own tokenizer."""
        found: list[list[int]] = self._ask({"texts": list(texts)})["tokens"]
        return found

    def complete(self, ids: Sequence[int], most: int, stop: Sequence[str] = ()) -> str:
        """What it writes after these tokens, greedily."""
        return str(self._choice(ids, n_predict=most, stop=list(stop))["text"])

    def next_log_probabilities(self, ids: Sequence[int], size: int) -> torch.Tensor:
        """(size) of the token after these."""
        found = torch.full((size,), -torch.inf)
        for one in self._choice(ids, n_predict=1, n_probs=size)["logprobs"]["content"][0]["top_logprobs"]:
            found[one["id"]] = one["logprob"]
        return found

    def _choice(self, ids: Sequence[int], **more: Any) -> Mapping[str, Any]:
        request = {"prompt": list(ids), "temperature": 0.0, "cache_prompt": False, **more}
        answer = self._ask(request)
        if "error" in answer:
            raise ModelError(f"llama.cpp refuses {len(ids)} tokens: {answer['error']}", "report it")
        choice: Mapping[str, Any] = answer["choices"][0]
        return choice

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: there is no answer to read, and that is said
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """The next line. A process that says nothing for so long, or that died, is an error."""
        assert self._process.stdout is not None
        timer = threading.Timer(PATIENCE, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise ModelError(
                f"{self._path}: llama.cpp ended without an answer{self._reason()}", "run the command again"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


class GgufModel:
    """Answers as a text model does. Prompts are the student's own tokens, or what the file's tokenizer makes of them."""

    def __init__(self, path: Path, tokenizer: Any, context: int, own_tokenizer: bool = False) -> None:
        self._path, self._tokenizer, self._own = path, tokenizer, own_tokenizer
        self._context = context
        self._engine = Engine(path, LEAST_CONTEXT)

    def __enter__(self) -> GgufModel:
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.close()

    def generate(self, samples: Sequence[Sample], options: GenerateOptions) -> list[str]:
        """One prompt at a time; greedy answers only."""
        if options.temperature > 0:
            raise UsageError("the engine is asked for greedy answers only", "leave the temperature at 0")
        rows = self.prompts(samples, options.max_new_tokens)
        return [self._answer(row, options) for row in rows]

    def prompts(self, samples: Sequence[Sample], room: int) -> list[list[int]]:
        """Tokens of the prompts, as `TextModel` has them: what does not fit the context loses its beginning."""
        texts = [prompt_text(self._tokenizer, sample.prompt, str(self._path)) for sample in samples]
        if self._own:
            rows = self._engine.tokens(texts)
        else:
            special = not getattr(self._tokenizer, "chat_template", None)
            with quiet():  # the tokenizer warns of long prompts; they are cut below
                rows = [self._tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]
        limit = max(self._context // 2, self._context - room)
        return [row[-limit:] for row in rows]

    def _answer(self, row: list[int], options: GenerateOptions) -> str:
        room = min(options.max_new_tokens, self._context - len(row))
        if (needed := len(row) + room) > self._engine.context:
            self._engine.close()
            self._engine = Engine(self._path, 1 << (needed - 1).bit_length())
        return self._engine.complete(row, room, options.stop)
