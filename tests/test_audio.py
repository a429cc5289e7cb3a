"""Decoding one clip: every format, rate and level, and what is said of files that are no clip."""

import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT

from audio_avb import AUDIO_SUFFIXES, CONVERTIBLE_SUFFIXES, load_audio, prepare_waveform, set_peak, waveform_from_array
from avb.errors import AudioError, AvbError

MINUS_3_DB = 10 ** (-3 / 20)
FORMATS = [
    ("u8.wav", "WAV", "PCM_U8"),
    ("s16.wav", "WAV", "PCM_16"),
    ("s24.wav", "WAV", "PCM_24"),
    ("float.wav", "WAV", "FLOAT"),
    ("double.wav", "WAV", "DOUBLE"),
    ("clip.flac", "FLAC", "PCM_16"),
    ("clip.ogg", "OGG", "VORBIS"),
    ("clip.opus", "OGG", "OPUS"),
    ("clip.mp3", "MP3", "MPEG_LAYER_III"),
]


def sine(seconds: float = 0.5, rate: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    return (0.25 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def message(source, **settings) -> str:
    with pytest.raises(AudioError) as caught:
        load_audio(source, **settings)
    return str(caught.value)


@pytest.mark.parametrize(("name", "container", "subtype"), FORMATS)
def test_every_format_gives_the_same_waveform(tmp_path, name, container, subtype):
    path = tmp_path / name
    sf.write(path, sine(), 16_000, format=container, subtype=subtype)
    waveform = load_audio(path)
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and waveform.flags.c_contiguous
    assert abs(len(waveform) - 8000) <= 2400  # lossy codecs pad
    assert np.abs(waveform).max() == pytest.approx(MINUS_3_DB, abs=1e-6)
    middle = waveform[2000:6000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 16_000 / len(middle) == pytest.approx(440, abs=8)
    assert path.suffix in AUDIO_SUFFIXES
    np.testing.assert_array_equal(load_audio(path.read_bytes()), waveform)
    np.testing.assert_array_equal(load_audio({"bytes": path.read_bytes(), "path": None}), waveform)
    np.testing.assert_array_equal(load_audio({"bytes": None, "path": str(path)}), waveform)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_is_resampled(tmp_path, rate):
    path = tmp_path / "clip.wav"
    sf.write(path, sine(0.5, rate), rate)
    waveform = load_audio(path, peak_db=None)
    assert len(waveform) == 8000
    np.testing.assert_allclose(waveform[1000:7000], sine()[1000:7000], atol=2e-3)


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "stereo.wav"
    sf.write(path, np.stack([sine(), np.zeros(8000, np.float32)], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path, peak_db=None), sine() / 2, atol=1e-7)


def test_one_sample_is_a_clip(tmp_path):
    path = tmp_path / "one.wav"
    for rate in (16_000, 48_000):
        sf.write(path, np.array([0.5], np.float32), rate)
        assert load_audio(path, trim_top_db=40).shape == (1,)


def test_level(tmp_path):
    path = tmp_path / "clip.wav"
    sf.write(path, sine(), 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(path, peak_db=None), sine())
    assert np.abs(load_audio(path, peak_db=0)).max() == pytest.approx(1)
    assert np.abs(load_audio(path, peak_db=-20)).max() == pytest.approx(0.1)


@pytest.mark.parametrize("peak", [1e-40, 1e-30, 1e30])
def test_extreme_levels_stay_finite(peak):
    waveform = set_peak(np.array([peak, -peak / 2], np.float32), -3.0)
    np.testing.assert_allclose(waveform, [MINUS_3_DB, -MINUS_3_DB / 2], rtol=1e-4)


def test_silence_stays_silence(tmp_path):
    path = tmp_path / "silence.wav"
    sf.write(path, np.zeros(16_000, np.float32), 16_000)
    waveform = load_audio(path, trim_top_db=60)
    assert len(waveform) and not waveform.any()


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_array_is_taken_as_its_file_is(tmp_path, rate):
    waveform = sine(0.5, rate)
    sf.write(tmp_path / "clip.wav", waveform, rate, subtype="FLOAT")
    from_file = load_audio(tmp_path / "clip.wav", trim_top_db=30, peak_db=-6)
    from_array = prepare_waveform(waveform_from_array(waveform.astype(np.float64), rate), trim_top_db=30, peak_db=-6)
    assert from_array.dtype == np.float32 and from_array.flags.c_contiguous
    np.testing.assert_array_equal(from_array, from_file)


@pytest.mark.parametrize(("dtype", "subtype"), [(np.int16, "PCM_16"), (np.int32, "PCM_32")])
def test_integers_have_the_scale_of_a_file(tmp_path, dtype, subtype):
    integers = (sine() * -float(np.iinfo(dtype).min)).astype(dtype)
    sf.write(tmp_path / "clip.wav", integers, 16_000, subtype=subtype)
    expected = load_audio(tmp_path / "clip.wav", peak_db=None)
    np.testing.assert_array_equal(waveform_from_array(integers, 16_000), expected)


@pytest.mark.slow
def test_librosa_is_loaded_when_it_is_needed():
    """It takes seconds, and most clips are at the right rate."""
    code = "import sys, audio_avb, pipeline_avb; sys.exit('librosa' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_trim_cuts_silent_ends(tmp_path):
    path = tmp_path / "padded.wav"
    silence = np.zeros(16_000, np.float32)
    sf.write(path, np.concatenate([silence, sine(), silence]), 16_000)
    assert len(load_audio(path)) == 40_000
    assert 8000 <= len(load_audio(path, trim_top_db=60)) <= 8000 + 2 * 2048
    assert "trim_top_db must be positive" in message(path, trim_top_db=-60)


# ---------------------------------------------------------------------------------------------------- bad clips


def test_missing(tmp_path):
    assert "gone.wav: no such file; check the path" in message(tmp_path / "gone.wav")
    assert "not a regular file" in message(tmp_path)
    assert "neither bytes nor a path" in message({"bytes": None, "path": None})
    assert "got list" in message([0.0])


def test_empty_and_without_samples(tmp_path):
    path = tmp_path / "empty.wav"
    path.touch()
    assert "empty.wav: the file is empty (0 bytes)" in message(path)
    assert "<0 bytes>: the file is empty" in message(b"")
    sf.write(path, np.zeros(0, np.float32), 16_000)
    assert "empty.wav: holds no samples (0 seconds)" in message(path)


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.ogg", "clip.mp3"])
def test_truncated(tmp_path, name):
    path = tmp_path / name
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    sf.write(path, noise, 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = message(path)
    assert name in text and ("truncated" in text) and "again" in text


def test_damaged_in_the_middle(tmp_path):
    path = tmp_path / "clip.flac"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), 16_000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    assert "clip.flac" in message(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, bad):
    path = tmp_path / "broken.wav"
    waveform = sine()
    waveform[123] = bad
    sf.write(path, waveform, 16_000, subtype="FLOAT")
    assert "broken.wav: sample 123 is NaN or infinite" in message(path)


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("voice.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0", "MP4/AAC"),
        ("voice.wav", b"\0\0\0\x20ftypM4A \0\0\0\0", "MP4/AAC"),  # renamed
        ("voice.webm", b"\x1aE\xdf\xa3", "WebM"),
        ("voice.aac", b"\xff\xf1\x50\x80", "MP4/AAC"),
        ("voice.amr", b"#!AMR\n", ".amr"),
    ],
)
def test_formats_to_convert(tmp_path, name, head, kind):
    path = tmp_path / name
    path.write_bytes(head + bytes(2000))
    text = message(path)
    assert f"{name}: soundfile cannot read {kind} audio" in text
    assert f"ffmpeg -i {name} -ac 1 voice.wav" in text


def test_no_suffix_is_both_read_and_converted():
    assert not set(AUDIO_SUFFIXES) & set(CONVERTIBLE_SUFFIXES)


def test_longer_than_max_seconds(tmp_path):
    path = tmp_path / "long.wav"
    sf.write(path, sine(2.0), 16_000)
    assert len(load_audio(path, max_seconds=2)) == 32_000
    assert "long.wav: longer than 1.5 seconds" in message(path, max_seconds=1.5)


def test_a_header_that_claims_2_to_the_31_frames(tmp_path):
    path = tmp_path / "claim.wav"
    sf.write(path, sine(), 16_000)
    header = bytearray(path.read_bytes())
    header[40:44] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(header)
    assert len(load_audio(path)) == 8000  # as written to a pipe: the length was not known
    header[40:44] = struct.pack("<I", 0x7000_0000)
    path.write_bytes(header)
    assert "truncated: 16,000 of the 1,879,048,192 bytes" in message(path)
    sf.write(tmp_path / "claim.flac", sine(), 16_000)
    stream = bytearray((tmp_path / "claim.flac").read_bytes())
    stream[21] |= 0x0F  # the low four of 36 bits of the number of samples, then the other 32
    stream[22:26] = b"\xff" * 4
    (tmp_path / "claim.flac").write_bytes(stream)
    assert "claim.flac" in message(tmp_path / "claim.flac")


def test_an_absurd_rate_in_the_header(tmp_path):
    path = tmp_path / "rate.wav"
    sf.write(path, sine(), 16_000)
    for rate in (1, 2**31 - 1):
        header = bytearray(path.read_bytes())
        header[24:28] = struct.pack("<I", rate)
        path.write_bytes(header)
        assert f"rate.wav: its header says {rate:,} Hz" in message(path)


def test_mp3_without_its_length_is_not_taken_for_truncated(tmp_path):
    """Without the encoder's Xing or Info frame libsndfile guesses the length from the first frame's bit rate."""
    path = tmp_path / "clip.mp3"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)
    sf.write(path, np.concatenate([np.zeros(40_000), noise]), 16_000, bitrate_mode="VARIABLE")
    content = path.read_bytes()
    second_frame = content.index(content[:2], 4)
    while second_frame < content.index(b"Xing"):
        second_frame = content.index(content[:2], second_frame + 1)
    path.write_bytes(content[second_frame:])
    assert len(load_audio(path)) > 70_000


def test_errors_are_value_errors(tmp_path):
    assert issubclass(AudioError, AvbError) and issubclass(AvbError, ValueError)
    shutil.copy(__file__, tmp_path / "code.wav")
    with pytest.raises(ValueError, match=r"code\.wav"):
        load_audio(tmp_path / "code.wav")
