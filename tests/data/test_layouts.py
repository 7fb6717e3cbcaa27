"""RAVDESS names and Common Voice transcripts."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf

from nexus_core.data import StreamingDataLoader
from nexus_core.errors import DataError


@pytest.fixture
def clip(tmp_path):
    def write(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, np.zeros(800, dtype="float32"), 8000)
        return path

    return write


def test_ravdess_facts_come_from_the_name(clip, tmp_path):
    clip("birgermoell_ravdess/Actor_12/03-01-06-01-02-01-12.wav")
    clip("birgermoell_ravdess/Actor_03/03-02-05-02-01-02-03.wav")
    angry, fearful = StreamingDataLoader(tmp_path / "birgermoell_ravdess")
    assert fearful.target == "fearful"
    facts = ("modality", "vocal_channel", "emotion", "intensity", "statement", "repetition", "actor")
    found = [tuple(r.fields[k] for k in facts) for r in (fearful, angry)]
    assert found == [
        ("audio-only", "speech", "fearful", "normal", "Dogs are sitting by the door", 1, 12),
        ("audio-only", "song", "angry", "strong", "Kids are talking by the door", 2, 3),
    ]


def test_a_single_ravdess_file(clip):
    (record,) = StreamingDataLoader(clip("Actor_01/03-01-08-02-02-01-01.wav"))
    assert record.target == "surprised"


@pytest.mark.parametrize("name", ["03-01-09-01-02-01-12", "00-01-01-01-02-01-12", "03-01-01-01-02-01-25"])
def test_codes_outside_the_convention(clip, name):
    with pytest.raises(DataError, match="is not in the RAVDESS convention"):
        list(StreamingDataLoader(clip(f"Actor_12/{name}.wav")))


@pytest.mark.parametrize("name", ["other/03-01-06-01-02-01-12.wav", "Actor_12/speech.wav", "Actor_12/03-01-06.wav"])
def test_other_files_are_only_audio(clip, name):
    (record,) = StreamingDataLoader(clip(name))
    assert record.target == ""
    assert "emotion" not in record.fields


def test_common_voice_transcripts_come_from_its_tables(clip, tmp_path):
    for name in ("en/clips/common_voice_en_1.mp3", "en/clips/common_voice_en_2.mp3", "en/clips/common_voice_en_3.mp3"):
        clip(f"Mozilla_Common-Voice/{name}")
    head = "client_id\tpath\tsentence\tage\taccents\n"
    (tmp_path / "Mozilla_Common-Voice/en/train.tsv").write_text(
        head + 'id1\tcommon_voice_en_2.mp3\tHe said "grüß" twice.\tteens\t\n', encoding="utf-8"
    )
    (tmp_path / "Mozilla_Common-Voice/en/validated.tsv").write_text(
        head + "id9\tcommon_voice_en_1.mp3\tOne.\t\tUS\n", encoding="utf-8"
    )
    for seed in (None, 4):
        records = sorted(StreamingDataLoader(tmp_path / "Mozilla_Common-Voice", seed=seed), key=lambda r: r.source)
        assert [r.target for r in records] == ["One.", 'He said "grüß" twice.', ""]
        assert records[0].fields["client_id"] == "id9"
        assert records[0].fields["accents"] == "US"
        assert records[0].fields["path"] == "common_voice_en_1.mp3"
        assert "sentence" not in records[2].fields


def test_many_transcripts_are_found_by_offset(clip, tmp_path):
    clip("cv/deep/er/c777.mp3")
    rows = "".join(f"id{i}\tc{i}.mp3\tsentence number {i}\n" for i in range(3000))
    (tmp_path / "cv/all.tsv").write_text("client_id\tpath\tsentence\n" + rows)
    (record,) = StreamingDataLoader(tmp_path / "cv")
    assert record.target == "sentence number 777"


def test_other_tables_stay_tables(tmp_path):
    (tmp_path / "a.tsv").write_text("input\ttarget\npath\tsentence\n")
    assert [r[:2] for r in StreamingDataLoader(tmp_path)] == [("path", "sentence")]
