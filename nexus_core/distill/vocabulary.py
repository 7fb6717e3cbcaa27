"""What the tokens of a tokenizer say in bytes: the one language that two tokenizers share.

Ids of one tokenizer mean nothing to another, and neither do its pieces ("Ġthe" and "▁the" are both " the"). Two kinds
of pieces are read: byte-level ones (GPT-2, Llama 3, Qwen), and those of SentencePiece, where "▁" is a space and <0x0A> a
byte (Llama 2, Mistral, Gemma).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import DataError, ModelError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """A tokenizer, the bytes of each of its tokens (None: a special token, which has no text), and its end tokens."""

    tokenizer: Any
    tokens: tuple[bytes | None, ...]
    ends: tuple[int, ...]
    rules: str  # hash of what decides how a text is cut
    sha256: str  # the same with the chat template and the end tokens

    @property
    def end(self) -> int:
        """The token that this model is to end an answer with."""
        return self.ends[0]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts that go on from another text: no special tokens are added."""
        if not texts:
            return []
        found: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]
        return found

    def text(self, ids: Iterable[int]) -> bytes:
        """What these tokens say, special ones left out; an id outside the vocabulary says nothing either."""
        return b"".join(self.bytes_of(i) or b"" for i in ids)

    def bytes_of(self, token: int) -> bytes | None:
        return self.tokens[token] if 0 <= token < len(self.tokens) else None

    def spans(self, ids: Sequence[int], text: bytes) -> Ints | None:
        """Starts and ends (T, 2) of the tokens in `text`, cut at its end; None if they do not say `text`, or more.

        SentencePiece begins a text with a space that decoding drops again; it belongs to no span.
        """
        sizes = np.array([len(self.bytes_of(i) or b"") for i in ids], np.int64)
        said = self.text(ids)
        if said.startswith(text):
            shift = 0
        elif said[:1] == b" " and said[1:].startswith(text):
            shift = 1
        else:
            return None
        edges = np.concatenate([[0], np.cumsum(sizes)]) - shift
        edges = np.clip(edges, 0, len(text))
        return np.stack([edges[:-1], edges[1:]], 1)


def read_vocabulary(tokenizer: Any, ends: Sequence[int] = ()) -> Vocabulary:
    """Of a loaded tokenizer. `ends`, where given, are the tokens that end an answer beside its own end token."""
    where = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"{where}: a tokenizer without tokenizer.json cannot be aligned",
            "convert it: AutoTokenizer.from_pretrained(PATH).save_pretrained(PATH) of a fast tokenizer",
        )
    rules = json.loads(backend.to_str())
    pieces: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    read = _reader(rules, where)
    added = {int(i): token for i, token in tokenizer.added_tokens_decoder.items()}
    special = set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
    tokens = tuple(_bytes(i, piece, added, special, read) for i, piece in enumerate(pieces))
    known = [i for i in (tokenizer.eos_token_id, *ends) if i is not None]
    if not known:
        raise ModelError(f"{where}: no token ends an answer", "set eos_token in tokenizer_config.json")
    found = tuple(dict.fromkeys(map(int, known)))
    cutting = _hash(rules)
    return Vocabulary(
        tokenizer, tokens, found, cutting, _hash([cutting, getattr(tokenizer, "chat_template", None), found])
    )


def load_vocabulary(path: Path) -> Vocabulary:
    """Of a checkpoint's directory, without its model. The generation config may name more tokens that end an answer."""
    from nexus_core.hf.tokenizer import load_tokenizer

    return read_vocabulary(load_tokenizer(path), _ends(path / "generation_config.json"))


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _ends(path: Path) -> tuple[int, ...]:
    try:
        found = json.loads(path.read_bytes()).get("eos_token_id")
    except FileNotFoundError:
        return ()
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is no JSON object ({error})", "restore it from where the model came") from error
    return tuple(found) if isinstance(found, list) else () if found is None else (int(found),)


def _bytes(token: int, piece: str | None, added: dict[int, Any], special: set[int], read: Any) -> bytes | None:
    if piece is None or token in special:
        return None
    if token in added:
        return str(added[token].content).encode()  # kept as it is written, in no alphabet
    found: bytes | None = read(piece)
    return found


def _reader(rules: dict[str, Any], where: str) -> Any:
    decoder = json.dumps(rules.get("decoder"), ensure_ascii=False)
    if '"ByteLevel"' in decoder:
        table = _byte_level()
        return lambda piece: bytes(table[c] for c in piece) if all(c in table for c in piece) else None
    if "▁" in decoder or '"Metaspace"' in decoder:
        return _sentencepiece
    raise ModelError(
        f"{where}: its tokens are neither byte-level nor SentencePiece's, so their bytes are not known",
        "distil this teacher without aligned logits, or give it a tokenizer of one of these kinds",
    )


def _sentencepiece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


def _byte_level() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: itself where it is printable, else the next free one from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
