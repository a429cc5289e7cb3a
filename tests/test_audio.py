"""Decoding one clip: every format, rate and level, and what is said of files that are no clip."""

import io
import shutil
import struct
import sys

import numpy as np
import pytest
import soundfile as sf
import soxr
import warm
from recordings import by_av, by_libsndfile, encode, noise

import recording_avb
from audio_avb import AUDIO_SUFFIXES, AudioPreparation, load_audio, set_peak, waveform_from_array
from avb.errors import AudioError, AvbError, printable

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
    assert warm.run([sys.executable, "-c", code]).returncode == 0


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
    assert "empty.wav: contains no samples (0 seconds)" in message(path)


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
            assert "a truncation cannot be detected" in caplog.text, recording.kind


def written(container: str, subtype: str | None = None, seconds: float = 1.0, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    sf.write(file, noise(seconds, rate), rate, subtype, None, container)
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


@pytest.mark.parametrize("kind", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3",), ("WAV",), ("AIFF",), ("AU",)])
def test_recordings_joined_in_one_file_are_all_heard(kind, caplog):
    one, two = written(*kind), written(*kind, seconds=2.0)
    recording_avb._said.clear()
    joined = load_audio(one + two + one, peak_db=None)
    np.testing.assert_array_equal(joined, np.concatenate([load_audio(part, peak_db=None) for part in (one, two, one)]))
    assert "3 recordings joined in one file; all are read" in caplog.text
    assert "recording 2 in it: " in message(one + two[: len(two) // 2])
    assert "longer than 2.5 seconds" in message(one + two, max_seconds=2.5)
    if kind == ("MP3",):
        assert len(load_audio(one + b"TAG" + bytes(125))) == 16_000
    other = written("OGG", "OPUS") if kind[0] == "OGG" else written(*kind, rate=8_000)
    assert len(load_audio(one + other)) == pytest.approx(32_000, abs=2), "of another codec or rate"


def test_an_m4a_behind_another_is_heard():
    content = encode("ipod", "aac", noise(), 16_000)
    assert len(load_audio(content * 2)) == 2 * len(load_audio(content))


def test_headers_that_were_never_finished_are_read(caplog):
    """Lengths of 0, of -1 or of all that a field holds, as what writes to a pipe or is interrupted leaves them."""
    rf64, aiff, au, w64, caf = map(written, ("RF64", "AIFF", "AU", "W64", "CAF"))
    place = w64.find(b"data\xf3") + 16
    for content in (
        patched(rf64, 28, bytes(8)), patched(rf64, 28, b"\xff" * 8),
        *(patched(aiff, aiff.find(b"SSND") + 4, length) for length in (bytes(4), b"\xff" * 4)),
        *(patched(au, 8, length) for length in (bytes(4), b"\xff" * 4)),
        *(patched(w64, place, length.to_bytes(8, "little")) for length in (0, 24, 2**63 - 1)),
        *(patched(caf, caf.find(b"data") + 4, length) for length in (bytes(8), b"\xff" * 8, bytes(7) + b"\4")),
        patched(written("AVR"), 26, bytes(4)), written("NIST").replace(b"sample_count", b"sample_cOunt"),
    ):  # fmt: skip
        recording_avb._said.clear()
        caplog.clear()
        assert len(load_audio(content)) == 16_000
        assert "does not state the length" in caplog.text


SEGMENTS = [
    ("a.wav", 0),
    ("a.flac", 0),
    ("a.mp3", 0.05),
    ("a.ogg", 0.01),
    ("a.m4a", 0.02),
    ("a.webm", 0.02),
    ("a.amr", 0),
]


@pytest.mark.parametrize(("name", "tolerance"), SEGMENTS)
def test_a_segment_is_that_part_of_its_file(tmp_path, name, tolerance):
    sweep = np.sin(2 * np.pi * np.cumsum(np.linspace(100, 3000, 8 * 16_000)) / 16_000).astype(np.float32) * 0.5
    path = tmp_path / name
    if name in ("a.m4a", "a.webm", "a.amr"):
        kinds = {
            "a.m4a": ("ipod", "aac", 16_000),
            "a.webm": ("webm", "libopus", 48_000),
            "a.amr": ("amr", "libopencore_amrnb", 8_000),
        }
        container, codec, rate = kinds[name]
        path.write_bytes(encode(container, codec, soxr.resample(sweep, 16_000, rate), rate))
    else:
        sf.write(path, sweep, 16_000)
    whole = load_audio(path, peak_db=None)
    for start, end in ((0, 1.5), (2.5, 2.75), (6.25, 8.0)):
        part = load_audio(f"{path}#{start}-{end}", peak_db=None)
        expected = whole[round(start * 16_000) : round(end * 16_000)]
        assert abs(len(part) - len(expected)) <= 1
        if tolerance == 0:
            middle = slice(200, len(part) - 200)  # where a resampler knows both sides
            np.testing.assert_allclose(part[middle], expected[middle], atol=1e-4)
        # The frequency tells the time: 362.5 Hz per second.
        window = slice(len(part) // 2 - 1600, len(part) // 2 + 1600)
        spectra = [np.abs(np.fft.rfft(wave[window] * np.hanning(3200))) for wave in (part, expected)]
        centres = [(spectrum**2 @ np.arange(1601)) / (spectrum**2).sum() * 5 for spectrum in spectra]
        assert centres[0] == pytest.approx(centres[1], abs=8), "another place of the recording"
    rest = load_audio(f"{path}#7-", peak_db=None)
    assert len(rest) == pytest.approx(len(whole) - 7 * 16_000, abs=2)


def test_segments_that_are_not_there(tmp_path):
    sf.write(path := tmp_path / "a.wav", sine(2.0), 16_000)
    for segment in ("2-3", "1.5-2.5", "5-"):
        assert f"a.wav#{segment}: the segment is beyond the end" in message(f"{path}#{segment}")
    assert "must end after it starts" in message(f"{path}#1-1") and "no such file" in message(f"{path}#x-y")
    assert "longer than 1 seconds" in message(f"{path}#0-1.5", max_seconds=1)
    assert len(load_audio(f"{path}#0.5-1", max_seconds=1)) == 8_000, "the segment is what may be no longer"
    sf.write(tmp_path / "b.wav#0-1", sine(2.0), 16_000, format="WAV")
    assert len(load_audio(tmp_path / "b.wav#0-1")) == 32_000, "a file of that very name"
    path.write_bytes(path.read_bytes()[:20_000])
    assert "truncated" in message(f"{path}#0-0.1")


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


def test_names_in_messages():
    """One line each; a name that the locale could not decode (`LC_ALL=C`) is UTF-8, unless it is not."""
    assert printable("a\nb\x1b[1m") == r"a\nb\x1b[1m"
    assert printable("lächeln.wav".encode().decode("ascii", "surrogateescape")) == "lächeln.wav"
    assert printable(b"a\xff.wav".decode("utf-8", "surrogateescape")) == r"a\xff.wav"
    assert printable("\ud800") == r"\ud800"
