"""Tokens to text: the pieces are those of the whole, whatever the tokenizer, and no character is torn."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nexus.text import BROKEN, Answer, Characters
from nexus_core.hf.tokenizer import load_tokenizer
from nexus_core.testing.tiny import byte_tokenizer

ZOO = Path(__file__).parents[2] / "plugins/teachers/zoo/src/nexus_teacher_zoo/weights/backbone"
TEXTS = [
    "The answer is 4.",
    "Zürich, 東京 and 😀👩‍👩‍👧 — “quoted”",
    " leading blank,  two  blanks\n\n\tand a tab ",
    'def f(x):\n    return {"a": [1, 2]}',
    "e\u0301 is two signs, \ufeff is one, \u200b too",
]


def pieces_tokenizer() -> Tokenizer:
    """As SentencePiece makes them: words carry their blank, the first one loses it, other bytes have tokens of their own."""
    letters = {chr(code) for code in range(33, 127)} | {"▁", "\n", "\t"}
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate(["<unk>", "</s>", *bytes_, *sorted(letters)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def decoders_of() -> dict[str, tuple]:
    own, zoo, pieces = byte_tokenizer(), load_tokenizer(ZOO), pieces_tokenizer()
    return {
        "bytes": (lambda t: own.encode(t, add_special_tokens=False), lambda i: own.decode(i, skip_special_tokens=True)),
        "zoo": (lambda t: zoo.encode(t, add_special_tokens=False), lambda i: zoo.decode(i, skip_special_tokens=True)),
        "pieces": (lambda t: pieces.encode(t, add_special_tokens=False).ids, lambda i: pieces.decode(i)),
    }


@pytest.fixture(scope="module")
def known():
    return decoders_of()


@pytest.mark.parametrize("name", ["bytes", "zoo", "pieces"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_whole(known, name, text):
    encode, decode = known[name]
    tokens = encode(text)
    characters = Characters(decode)
    pieces = [characters.push(token) for token in tokens]
    assert "".join(pieces) + characters.rest() == decode(tokens)
    assert BROKEN not in "".join(pieces)
    assert len([piece for piece in pieces if piece]) > 3, "it streams"


@pytest.mark.parametrize("name", ["bytes", "zoo"])
def test_also_of_tokens_that_are_no_text(known, name):
    _, decode = known[name]
    rng = random.Random(5)
    for _ in range(200):
        tokens = [rng.randrange(259) for _ in range(rng.randrange(1, 30))]
        characters = Characters(decode)
        text = "".join([characters.push(token) for token in tokens]) + characters.rest()
        assert text == decode(tokens)


@pytest.mark.parametrize("name", ["bytes", "zoo", "pieces"])
@pytest.mark.parametrize("stop", [["is"], ["4.", "東"], [" ", "\n"], ["😀👩"], ["nothing of it"], ["t", "th", "the"]])
def test_a_stop_string_ends_the_text_before_it(known, name, stop):
    encode, decode = known[name]
    for text in TEXTS:
        answer, pieces = Answer(decode, stop), []
        for token in encode(text):
            pieces.append(answer.push(token))
            if answer.ended:
                break
        pieces.append(answer.rest())
        whole = decode(encode(text))
        ends = [place for word in stop if (place := whole.find(word)) >= 0]
        assert answer.ended == bool(ends)
        assert "".join(pieces) == (whole[: min(ends)] if ends else whole)


def test_what_is_held_back_is_the_shortest_possible():
    answer = Answer(lambda tokens: "".join(map(chr, tokens)), ["abcd", "cx"])
    assert [answer.push(ord(sign)) for sign in "zabcabcabd"] == ["z", "", "", "", "abc", "", "", "abc", "", "abd"]
    assert not answer.ended
    assert answer.rest() == ""
