"""Audio, images with captions, video."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile

import av
import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from nexus_core.data import AudioFile, ImageFile, LoaderOptions, StreamingDataLoader, VideoFile
from nexus_core.errors import DataError

TONE = 0.5 * np.sin(np.arange(8000) / 8000 * 2 * np.pi * 440).astype("float32")


def write_tone(path, channels=1):
    sf.write(path, TONE if channels == 1 else np.stack([TONE, -TONE], 1), 8000)
    return path


def write_image(path, color=(255, 0, 0), mode="RGB"):
    Image.new(mode, (12, 7), color if mode == "RGB" else color[0]).save(path)
    return path


def write_video(path, n=10):
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=5)
        track.width, track.height, track.pix_fmt = 32, 16, "yuv420p"
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 20 * i, dtype="uint8"), format="rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_audio_carries_header_facts_and_decodes_on_demand(tmp_path, suffix):
    path = write_tone(tmp_path / f"a.{suffix}")
    (record,) = StreamingDataLoader(path)
    audio = record.fields["audio"]
    assert isinstance(audio, AudioFile)
    assert (record.input, record.target) == (path.as_posix(), "")
    assert (record.fields["sample_rate"], record.fields["channels"]) == (8000, 1)
    assert record.fields["seconds"] == audio.seconds == pytest.approx(1.0, abs=0.2)  # MP3 pads
    samples = audio.load()
    assert samples.dtype == np.float32
    assert samples.shape == (audio.frames,)
    if suffix != "mp3":
        assert np.abs(samples - TONE).max() < 1e-3


def test_channels_are_not_mixed(tmp_path):
    (record,) = StreamingDataLoader(write_tone(tmp_path / "a.wav", channels=2))
    assert record.fields["audio"].load().shape == (8000, 2)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.png", "a.jpg", "a.webp", "a.mp4"])
def test_damaged_media(tmp_path, name):
    (tmp_path / name).write_bytes(b"not at all" * 20)
    with pytest.raises(DataError, match=name) as caught:
        list(StreamingDataLoader(tmp_path / name))
    assert caught.value.hint


def test_a_damaged_image_body_is_noticed_on_load(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype="uint8")).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    (record,) = StreamingDataLoader(path)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        record.fields["image"].load()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_images_and_same_stem_captions(tmp_path, suffix):
    write_image(tmp_path / f"b.{suffix}")
    (tmp_path / "b.txt").write_text("a red\nfield\n", encoding="utf-8")
    write_image(tmp_path / f"c.{suffix}")
    (tmp_path / "other.txt").write_text("a line of text\n")
    loader = StreamingDataLoader(tmp_path)
    by_name = {r.source.rsplit("/", 1)[1]: r for r in loader}
    assert sorted(by_name) == [f"b.{suffix}", f"c.{suffix}", "other.txt"]
    record = by_name[f"b.{suffix}"]
    assert record.target == "a red\nfield"
    assert by_name[f"c.{suffix}"].target == ""
    assert isinstance(record.fields["image"], ImageFile)
    assert (record.fields["width"], record.fields["height"]) == (12, 7)
    red = record.fields["image"].load().convert("RGB").getpixel((5, 3))
    assert all(abs(a - b) < 6 for a, b in zip(red, (255, 0, 0), strict=True))
    assert StreamingDataLoader(tmp_path / f"b.{suffix}").__iter__().__next__().target == "a red\nfield"


def test_an_image_keeps_its_mode(tmp_path):
    (record,) = StreamingDataLoader(write_image(tmp_path / "a.png", mode="L"))
    assert record.fields["image"].load().mode == "L"


def test_a_format_is_known_by_its_content(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a PNG, JPEG or WebP"):
        list(StreamingDataLoader(tmp_path / "a.png"))


def media_files(tmp_path):
    files = {}
    for name, write in (("x/a.webp", write_image), ("x/t.wav", write_tone)):
        path = tmp_path / name.rpartition("/")[2]
        files[name] = write(path).read_bytes()
        path.unlink()
    return files


def pack(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize("caption_first", [True, False])
def test_media_and_captions_in_archives(tmp_path, name, caption_first):
    files = media_files(tmp_path)
    files = {"x/a.txt": b"red", **files} if caption_first else {**files, "x/a.txt": b"red"}
    by_name = {r.source.rpartition("!")[2]: r for r in StreamingDataLoader(pack(tmp_path / name, files))}
    assert sorted(by_name) == ["x/a.webp", "x/t.wav"]
    assert by_name["x/a.webp"].target == "red"
    assert by_name["x/a.webp"].fields["image"].load().size == (12, 7)  # the archive is opened again
    assert by_name["x/t.wav"].fields["audio"].load().shape == (8000,)


def test_media_in_a_compressed_tar(tmp_path):
    files = media_files(tmp_path)
    by_name = {r.source.rpartition("!")[2]: r for r in StreamingDataLoader(pack(tmp_path / "a.tgz", files))}
    assert by_name["x/a.webp"].fields["image"].load().size == (12, 7)
    assert by_name["x/t.wav"].fields["audio"].load().shape == (8000,)
    with pytest.raises(DataError, match="back and forth") as caught:
        list(StreamingDataLoader(pack(tmp_path / "b.tgz", {**files, "x/a.txt": b"red"})))
    assert "gunzip" in caught.value.hint


def test_video_frames(tmp_path):
    (record,) = StreamingDataLoader(write_video(tmp_path / "a.mp4"))
    video = record.fields["video"]
    assert isinstance(video, VideoFile)
    assert (video.width, video.height, video.fps, video.n_frames) == (32, 16, 5.0, 10)
    assert video.seconds == pytest.approx(2.0, abs=0.3)
    frames = list(video.frames())
    assert [f.shape for f in frames] == [(16, 32, 3)] * 10
    assert [round(float(f.mean()) / 20) for f in frames] == list(range(10))
    assert len(list(video.frames(every=4))) == 3
    with pytest.raises(DataError, match="every=0"):
        next(video.frames(every=0))


def test_video_without_a_decoder_names_the_command(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match="av is needed to read video") as caught:
        list(StreamingDataLoader(path))
    assert caught.value.hint.startswith("pip install")


def test_audio_where_text_is_expected(tmp_path):
    path = write_tone(tmp_path / "a.wav")
    text = LoaderOptions(modality="text")
    with pytest.raises(DataError, match=r"a\.wav: this is audio, and text is expected"):
        StreamingDataLoader(path, options=text)
    with pytest.raises(DataError, match=r"no data files \(left out: 1 audio, not text\)"):
        StreamingDataLoader(tmp_path, options=text)
    (tmp_path / "b.txt").write_text("words\n")
    loader = StreamingDataLoader(tmp_path, options=text)
    assert [r.input for r in loader] == ["words"]
    assert loader.skipped == {"audio, not text": 1}


def test_a_shuffled_folder_of_media_resumes(tmp_path):
    for i in range(20):
        write_image(tmp_path / f"{i}.png", (i, 0, 0))
    loader = StreamingDataLoader(tmp_path, seed=5)
    everything = [r.source for r in loader]
    stream = iter(loader)
    for _ in range(7):
        next(stream)
    assert [r.source for r in StreamingDataLoader(tmp_path, seed=5, position=loader.position)] == everything[7:]
    assert everything != sorted(everything)
