"""Decoding one clip: every format, rate and level, and what is said of files that are no clip."""

import io
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT
from recordings import by_av, by_libsndfile, encode, noise

import recording_avb
from audio_avb import AUDIO_SUFFIXES, AudioPreparation, load_audio, set_peak, waveform_from_array
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
    from_array = AudioPreparation(trim_top_db=30, peak_db=-6).apply(
        waveform_from_array(waveform.astype(np.float64), rate)
    )
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


@pytest.mark.parametrize("recording", [*by_av(0.5)], ids=lambda recording: recording.kind)
def test_what_phones_and_browsers_record(tmp_path, recording):
    """PyAV reads it, from a path and from bytes; half of it is refused, or is known to vouch for no end."""
    path = tmp_path / "clip.audio"
    path.write_bytes(recording.content)
    waveform = load_audio(path)
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and 8000 * 0.9 <= len(waveform) <= 8000 * 1.4
    spectrum = np.abs(np.fft.rfft(waveform[2000:6000] * np.hanning(4000)))
    assert np.argmax(spectrum) * 4 == pytest.approx(220, abs=12)
    np.testing.assert_array_equal(load_audio(recording.content), waveform)
    path.write_bytes(recording.content[: len(recording.content) // 2])
    if recording.states_length:
        assert "clip.audio: " in (text := message(path)) and "truncated" in text
    else:
        assert len(load_audio(path)) < 0.7 * len(waveform)
    if "adpcm" in recording.kind:
        assert "longer than 0.25 seconds" in message(recording.content, max_seconds=0.25)


def test_the_second_decoder_is_named_where_it_is_not_installed(tmp_path, monkeypatch):
    path = tmp_path / "voice.m4a"
    path.write_bytes(encode("ipod", "aac", noise(0.2), 16_000))
    monkeypatch.setitem(sys.modules, "av", None)
    assert "voice.m4a: soundfile cannot read it" in message(path) and "pip install av" in message(path)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_half_a_file_is_never_a_whole_one(share, caplog):
    """Every container that libsndfile writes: refused where it states its length, else a line says so."""
    for recording in by_libsndfile(0.2):
        recording_avb._said.clear()
        caplog.clear()
        half = recording.content[: int(share * len(recording.content))]
        if recording.states_length:
            assert "again" in message(half), recording.kind
        else:
            load_audio(half)
            assert "nothing vouches for its end" in caplog.text, recording.kind


def written(container: str, subtype: str | None = None, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    sf.write(file, noise(seconds), 16_000, subtype, None, container)
    return file.getvalue()


def patched(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def test_a_whole_file_is_never_refused(caplog):
    """Headers that were never finished, or lie a little."""
    flac, wav = written("FLAC"), written("WAV")
    piped = patched(patched(flac, 21, bytes([flac[21] & 0xF0])), 22, bytes(4))
    short, burst = wav[:-44], written("WAV", seconds=0.1)[:-44]
    for content, samples in (
        (piped, 16_000),
        (patched(wav, 40, bytes(4)), 16_000),
        (patched(wav, 40, b"\xff" * 4), 16_000),
        (short, 16_000 - 22),
        (burst, 1600 - 22),
    ):
        recording_avb._said.clear()
        caplog.clear()
        assert len(load_audio(content)) == samples
        assert len(caplog.records) == 1 and "\n" not in caplog.text.strip()
        load_audio(content)
        assert len(caplog.records) == 1, "said twice"
    assert "truncated" in message(written("WAV", seconds=0.01)[:-44])
    assert "truncated" in message(wav[:-400])


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_recordings_joined_in_one_file_are_all_heard(container, subtype):
    one, two = written(container, subtype), written(container, subtype, 2.0)
    assert 48_000 * 0.99 < len(load_audio(one + two)) < 48_000 * 1.06
    assert len(load_audio(one + b"TAG" + bytes(125) if container == "MP3" else one)) == 16_000


def test_ogg_without_its_last_page_is_read_and_a_line_says_so(caplog):
    whole = written("OGG", "VORBIS", 8.0)
    recording_avb._said.clear()
    assert len(load_audio(whole[: whole.rfind(b"OggS")])) > 64_000 * 0.5
    assert "its last part is not marked as the end" in caplog.text
    assert "truncated" in message(whole[: whole.rfind(b"OggS") - 5])


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
