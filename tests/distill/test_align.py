"""Alignment by bytes: where both have read the same text, and mass that is never given to a token that might be wrong."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nexus_core.distill.align import Aligner, AlignSettings
from nexus_core.distill.vocabulary import load_vocabulary, read_vocabulary
from nexus_core.errors import ModelError

ALL = AlignSettings(most=64, least=0.0)
SUM = {"73+18=91": 0.8, "73+18=92": 0.08, "73+18=81": 0.06, "73+18=9": 0.04, "73+18=19": 0.02}


def said(vocabulary, tokens):
    return [vocabulary.bytes_of(int(i)) for i in tokens]


def masses(aligned, vocabulary, position):
    """Bytes -> probability of the listed tokens; the end token is None."""
    ids, logs = aligned.targets.ids[position], aligned.targets.log_probs[position]
    return {vocabulary.bytes_of(int(i)): float(np.exp(p)) for i, p in zip(ids, logs, strict=True) if i >= 0}


def rest(aligned, position):
    return float(np.exp(aligned.targets.rest[position]))


# --- numerals -----------------------------------------------------------------------------------------------------


def test_whole_numbers_from_a_teacher_that_splits_them(vocabularies, world):
    """The teacher says 9, then 1; the student has 91 as one token, and gets the product of the two."""
    teacher, student = vocabularies["split"], vocabularies["pairs"]
    (aligned,) = Aligner(teacher, student, ALL).align([world(teacher, SUM).signal("73+18=91")])
    assert said(student, aligned.answer_ids) == [b"73", b"+", b"18", b"=", b"91", None]
    assert aligned.places.tolist() == [0, 2, 3, 5, 6, 8]
    assert aligned.targets.has.all()
    found = masses(aligned, student, 4)
    # "91" is followed to its end, for "912" would be cut 9 12. So is "9", which ends there; 92 and the rest might go on.
    assert found == pytest.approx({b"91": 0.8, b"9": 0.04}, abs=2e-3)
    assert rest(aligned, 4) == pytest.approx(0.16, abs=2e-3)
    assert masses(aligned, student, 0) == pytest.approx({b"73": 1.0}, abs=2e-3)
    assert masses(aligned, student, 5) == pytest.approx({None: 1.0}, abs=2e-3)


def test_digits_from_a_teacher_that_has_whole_numbers(vocabularies, world):
    """The teacher says 91; the student says 9, for which all numbers that begin with 9 count, and then 1."""
    teacher, student = vocabularies["pairs"], vocabularies["split"]
    (aligned,) = Aligner(teacher, student, ALL).align([world(teacher, SUM).signal("73+18=91")])
    assert said(student, aligned.answer_ids) == [b"7", b"3", b"+", b"1", b"8", b"=", b"9", b"1", None]
    assert aligned.places.tolist() == [0, -1, 1, 2, -1, 3, 4, -1, 5]
    assert aligned.targets.has.tolist() == [True, False, True, True, False, True, True, False, True]
    assert masses(aligned, student, 6) == pytest.approx({b"9": 0.92, b"8": 0.06, b"1": 0.02}, abs=2e-3)
    assert rest(aligned, 6) < 1e-3


@pytest.mark.parametrize("names", list(itertools.permutations(["split", "merged", "pairs", "bytes"], 2)))
def test_no_wrong_digit_ever_has_mass_where_the_teacher_is_sure(vocabularies, world, names):
    teacher, student = (vocabularies[name] for name in names)
    aligner = Aligner(teacher, student, ALL)
    for text in ("73+18=91", "5+7=12", "100+0=100", "99+1=100", "007", "1234567890"):
        (aligned,) = aligner.align([world(teacher, {text: 1.0}).signal(text)])
        assert aligned.targets.has[0] and aligned.targets.has[-1]
        for j in np.flatnonzero(aligned.targets.has):
            actual = student.bytes_of(int(aligned.answer_ids[j]))
            assert masses(aligned, student, j) == pytest.approx({actual: 1.0}, abs=1e-3), (text, j)


# --- never more than the teacher means ----------------------------------------------------------------------------


def truth(known, student, text, position):
    """P(the student's token at this place), over the teacher's answers that begin with what the teacher has said there."""
    teacher, own = known.teacher, [*student.encode([text])[0], student.end]
    start, tokens, n = len(student.text(own[:position])), known.tokens(text), 0
    while len(teacher.text(tokens[:n])) < start:
        n += 1
    found: dict[int, float] = {}
    for other, p in known.answers.items():
        if known.tokens(other)[:n] == tokens[:n]:
            cut, at = [*student.encode([other])[0], student.end], 0
            while len(student.text(cut[:at])) < start:
                at += 1
            if len(student.text(cut[:at])) > start:  # there the student would have cut before: what it says from here
                cut, at = [*student.encode([other.encode()[start:].decode()])[0], student.end], 0
            found[cut[at]] = found.get(cut[at], 0.0) + p
    total = sum(found.values())
    return {token: p / total for token, p in found.items()}


def some_answers(seed, words):
    rng = random.Random(seed)
    numerals = {f"73+18={rng.choice([9, 91, 912, 90, 92, 19, 1, 81, 8, 918, 9185, 100, 181])}" for _ in range(10)}
    texts = {" ".join(rng.choices(words, k=rng.randrange(1, 4))) + rng.choice(["", " 12", "."]) for _ in range(10)}
    return [sorted(numerals), sorted(texts)]


WORDS = ["the", "answer", "then", "they", "there", "other", "naïve", "café", "minus", "number", "numb", "an", "and"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_token_is_given_more_than_the_teacher_means(vocabularies, world, seed):
    """For every pair of vocabularies, against all answers that the teacher may give, cut by the student's tokenizer."""
    checked, left = 0, []
    for teacher, student in itertools.product(vocabularies.values(), repeat=2):
        aligner = Aligner(teacher, student, ALL)
        for texts in some_answers(seed, WORDS):
            p = np.random.default_rng(seed).dirichlet(np.ones(len(texts)))
            known = world(teacher, dict(zip(texts, p.tolist(), strict=True)))
            for text, aligned in zip(texts, aligner.align([known.signal(text) for text in texts]), strict=True):
                for j in np.flatnonzero(aligned.targets.has):
                    meant = truth(known, student, text, j)
                    for token, log in zip(aligned.targets.ids[j], aligned.targets.log_probs[j], strict=True):
                        if token >= 0:
                            assert np.exp(log) <= meant.get(int(token), 0.0) + 2e-3, (text, j, student.bytes_of(token))
                            checked += 1
                assert np.abs(aligned.targets.mass()[aligned.targets.has] - 1).max() < 1e-6
                left += np.exp(aligned.targets.rest[aligned.targets.has]).tolist()
    assert checked > 3_000 and np.mean(left) < 0.1  # what is safe is said, not withheld


# --- the same tokenizer -------------------------------------------------------------------------------------------


def test_the_same_tokenizer_gives_the_teachers_own_distributions(vocabularies, world):
    teacher = vocabularies["merged"]
    signal = world(teacher, SUM).signal("73+18=91")
    (aligned,) = Aligner(teacher, teacher, ALL).align([signal])
    assert aligned.answer_ids.tolist() == signal.token_ids.tolist()
    assert aligned.places.tolist() == list(range(len(signal.token_ids)))
    top = signal.top_k()
    for t in range(len(top)):
        listed = top.log_probs[t] > -30
        expected = dict(zip(top.ids[t][listed].tolist(), top.log_probs[t][listed].astype(float).tolist(), strict=True))
        own = aligned.targets.log_probs[t] > -30
        found = dict(zip(aligned.targets.ids[t][own].tolist(), aligned.targets.log_probs[t][own].tolist(), strict=True))
        assert found == pytest.approx(expected, abs=2e-3)


def test_ids_go_through_bytes_only(vocabularies, world):
    """The same rules with other ids: each token's mass follows its bytes, not its number."""
    teacher, student = vocabularies["split"], vocabularies["split_large"]
    assert teacher.encode(["9"]) != student.encode(["9"])
    (aligned,) = Aligner(teacher, student, ALL).align([world(teacher, SUM).signal("73+18=92")])
    assert masses(aligned, student, 6) == pytest.approx({b"9": 0.92, b"8": 0.06, b"1": 0.02}, abs=2e-3)
    assert masses(aligned, student, 7) == pytest.approx(
        {b"1": 0.8 / 0.92, b"2": 0.08 / 0.92, None: 0.04 / 0.92}, abs=2e-3
    )


# --- answers that are not plain -----------------------------------------------------------------------------------


def test_parts_of_a_character_are_aligned_by_their_bytes(vocabularies, world):
    texts = {"né 日本": 0.7, "nè 日木": 0.3}
    for teacher, student in itertools.product(vocabularies.values(), repeat=2):
        (aligned,) = Aligner(teacher, student, ALL).align([world(teacher, texts).signal("né 日本")])
        assert student.text(aligned.answer_ids.tolist()) == "né 日本".encode()
        assert aligned.targets.has[0] and aligned.targets.has[-1]
        assert np.abs(aligned.targets.mass()[aligned.targets.has] - 1).max() < 1e-6


def test_an_answer_that_was_cut_has_no_end_and_one_that_met_a_stop_string_has(vocabularies, world):
    teacher, student = vocabularies["split"], vocabularies["merged"]
    known, aligner = world(teacher, {"the answer\n\n": 1.0}), Aligner(teacher, student, ALL)
    cut = known.signal("the answer\n\n", ended=False)
    assert aligner.align([cut])[0].answer_ids[-1] != student.end
    stopped = replace(cut, output="the answer", offsets=np.minimum(cut.offsets, len("the answer")))
    (aligned,) = aligner.align([stopped])
    assert said(student, aligned.answer_ids)[-1] is None and aligned.places[-1] == -1 and not aligned.targets.has[-1]
    (empty,) = aligner.align([world(teacher, {"": 1.0}).signal("")])
    assert empty.answer_ids.tolist() == [student.end] and empty.places.tolist() == [0]
    assert masses(empty, student, 0) == pytest.approx({None: 1.0}, abs=1e-3)
    nothing = replace(empty_signal(cut), output="")
    assert len(aligner.align([nothing])[0].answer_ids) == 0


def empty_signal(signal):
    return replace(
        signal,
        token_ids=signal.token_ids[:0],
        offsets=signal.offsets[:0],
        logits=signal.codec.encode(np.zeros((0, 329))),
    )


def test_without_logits_there_are_places_and_no_targets(vocabularies, world):
    teacher, student = vocabularies["split"], vocabularies["pairs"]
    signal = world(teacher, SUM).signal("73+18=91")
    bare = replace(signal, logits=None, codec=None)
    with_, without = Aligner(teacher, student, ALL).align([signal, bare])
    assert with_.targets.has.all() and not without.targets.has.any()
    assert without.places.tolist() == with_.places.tolist()
    assert not Aligner(teacher, student, ALL).align([bare])[0].targets.has.any()


def test_a_token_that_is_not_listed_leaves_its_position_to_cross_entropy(vocabularies, world):
    """A sampled answer may hold a token that the teacher's list does not: how likely it was is not known."""
    teacher, student = vocabularies["split"], vocabularies["merged"]
    signal = world(teacher, {"the answer": 1.0}).signal("the answer")
    certain = signal.codec.decode(signal.logits)
    ids = certain.ids.copy()
    ids[0, 0] = (ids[0, 0] + 7) % 300  # the list of the first token names others
    changed = replace(certain, ids=np.where(certain.ids == certain.ids[0, 0], ids[0, 0], certain.ids))
    odd = replace(signal, logits=signal.codec.pack(changed))
    (aligned,) = Aligner(teacher, student, ALL).align([odd])
    assert not aligned.targets.has[0] and aligned.places[0] == 0


def test_special_tokens_and_ids_beyond_the_tokenizer_go_to_the_rest(vocabularies, world):
    teacher, student = vocabularies["split"], vocabularies["merged"]
    signal = world(teacher, {"the": 1.0}).signal("the")
    from nexus_core.profiling.cache import LogitCodec

    n = len(teacher.tokens) + 40  # a model with more rows than its tokenizer has tokens
    rows = np.full((len(signal.token_ids), n), -np.inf, np.float32)
    rows[np.arange(len(rows)), signal.token_ids] = np.log(0.5)
    rows[:, n - 1] = np.log(0.3)
    rows[:, teacher.tokenizer.convert_tokens_to_ids("<user>")] = np.log(0.2)
    codec = LogitCodec(n)
    (aligned,) = Aligner(teacher, student, ALL).align([replace(signal, codec=codec, logits=codec.encode(rows))])
    assert list(masses(aligned, student, 0)) == [b"the"] and rest(aligned, 0) > 0.49


def test_long_lists_are_cut_into_the_rest(vocabularies, world):
    teacher, student = vocabularies["split"], vocabularies["bytes"]
    texts = {f"{chr(97 + i)}x": (i + 1) / 210 for i in range(20)}
    (aligned,) = Aligner(teacher, student, AlignSettings(4, 1e-4)).align([world(teacher, texts).signal("tx")])
    assert masses(aligned, student, 0) == pytest.approx(
        {bytes([97 + i]): (i + 1) / 210 for i in range(16, 20)}, abs=2e-3
    )
    assert rest(aligned, 0) == pytest.approx(136 / 210, abs=2e-3)


# --- other kinds of tokenizer -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentencepiece():
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "</s>"], show_progress=False)
    backend.train_from_iterator(["the answer is 12 and the other is 13"] * 10, trainer)
    backend.add_tokens(fallback)
    return read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"))


def test_pieces_of_sentencepiece_are_read_as_bytes(sentencepiece, vocabularies, world):
    assert said(sentencepiece, sentencepiece.encode(["the answer"])[0]) == [b" the", b" answer"]
    student = vocabularies["split"]
    known = world(sentencepiece, {"the answer is": 0.75, "the other is": 0.25})
    (aligned,) = Aligner(sentencepiece, student, ALL).align([known.signal("the answer is")])
    assert aligned.answer_ids.tolist()[:-1] == student.encode(["the answer is"])[0]
    place = said(student, aligned.answer_ids).index(b" answer")
    assert aligned.places[place] == 1
    assert masses(aligned, student, place)[b" answer"] == pytest.approx(0.75, abs=2e-3)
    assert aligned.places[0] == -1  # its first token has a space that the answer has not
    back = world(student, {"the answer is": 0.75, "the other is": 0.25})
    (aligned,) = Aligner(student, sentencepiece, ALL).align([back.signal("the answer is")])
    assert aligned.places[1] == 1 and masses(aligned, sentencepiece, 1)[b" answer"] == pytest.approx(0.75, abs=2e-3)


def test_tokenizers_whose_bytes_are_not_known_are_refused():
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1, "</s>": 2}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="neither byte-level nor"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    level = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    level.decoder = decoders.ByteLevel()
    with pytest.raises(ModelError, match="no token ends an answer"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=level))


def test_a_tokenizer_is_loaded_without_its_model(vocabularies, tmp_path):
    vocabularies["split"].tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    loaded = load_vocabulary(tmp_path)
    assert loaded.tokens == vocabularies["split"].tokens and loaded.ends == (1, 2)
    assert loaded.rules == vocabularies["split"].rules != vocabularies["merged"].rules
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_vocabulary(tmp_path / "nowhere")
