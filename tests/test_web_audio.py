"""The page's audio modules, run by Node: the waveforms that `load_audio` and the feature extractor make, to rounding.

One process reads every file of a folder. Without Node these tests skip; tests/test_web.py has a browser run the same.
"""

import json
import shutil
import subprocess

import av
import numpy as np
import pytest
import soundfile as sf
import soxr
from conftest import ROOT

from audio_avb import load_audio
from avb.events.detection import Segmenter, decoding_rule, load_detector
from avb.export.check import made_up_bursts
from avb.export.page_folder import PAGE
from feature_extraction_avb import VocalBurstFeatureExtractor
from pipeline_avb import window_spans

SETTINGS = {"peak_db": -3.0, "trim_top_db": 30.0, "do_normalize": True}
SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW")
RATES = (8000, 11_025, 12_000, 22_050, 24_000, 32_000, 37_811, 44_100, 48_000, 96_000)
COMPRESSED = {"a.mp3": 22_050, "a.ogg": 32_000, "a.flac": 44_100, "a.opus": 48_000, "a.m4a": 24_000}


RULE = {"threshold": 0.7, "low": 0.5}


def probabilities() -> np.ndarray:
    """Events of all lengths, with pauses that end them and pauses that do not."""
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.normal(size=4000), np.hanning(9), "same")
    return (1 / (1 + np.exp(-2 * smooth))).astype(np.float32)


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> tuple:
    """The folder of clips, and what Node said of each."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    folder = tmp_path_factory.mktemp("clips")
    burst = np.concatenate([np.zeros(6000), made_up_bursts()["burst 8"], 1e-4 * np.ones(9000)]).astype(np.float32)
    stereo = np.stack([burst, 0.3 * burst[::-1]], 1)  # (samples, channels)
    for subtype in SUBTYPES:
        sf.write(folder / f"{subtype}.wav", 0.5 * burst, 16_000, subtype=subtype)
    sf.write(folder / "stereo.wav", stereo, 16_000, subtype="PCM_24", format="WAVEX")
    sf.write(folder / "rf64.wav", stereo, 16_000, format="RF64")
    sf.write(folder / "one.wav", burst[7000:7001], 16_000)
    sf.write(folder / "silent.wav", np.zeros(5000), 16_000)
    for rate in RATES:
        sf.write(folder / f"{rate}.wav", soxr.resample(burst, 16_000, rate), rate, subtype="FLOAT")
    whole = (folder / "PCM_16.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_bytes(b"no sound")
    (folder / "header.wav").write_bytes(whole[:44])
    sf.write(folder / "long.wav", np.zeros(16_000 * 21), 16_000)
    for name, rate in COMPRESSED.items():
        if name.endswith(".m4a"):
            write_m4a(folder / name, burst, rate)
        else:
            kind = {"format": "OGG", "subtype": "OPUS"} if name.endswith(".opus") else {}
            sf.write(folder / name, soxr.resample(burst, 16_000, rate), rate, **kind)
    text = {"rule": decoding_rule(load_detector()) | RULE, "probabilities": probabilities().tolist()}
    (folder / "events.json").write_text(json.dumps(text))
    command = [node, ROOT / "tests" / "web_audio.mjs", PAGE, folder, json.dumps(SETTINGS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def write_m4a(path, burst, rate):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(soxr.resample(burst, 16_000, rate)[None], "fltp", "mono")
        frame.sample_rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])


def expected(path) -> np.ndarray:
    """(samples,) that a model hears in Python."""
    waveform = load_audio(path, trim_top_db=SETTINGS["trim_top_db"], peak_db=SETTINGS["peak_db"])
    return VocalBurstFeatureExtractor(**SETTINGS)(waveform, sampling_rate=16_000, prepared=True).input_values[0]


def found(path) -> np.ndarray:
    return np.fromfile(f"{path}.f32", np.float32)


@pytest.mark.parametrize("name", [*SUBTYPES, "stereo", "rf64", "one", "silent"])
def test_a_wav_of_16_khz_is_heard_as_in_python(heard, name):
    folder, said = heard
    assert said[f"{name}.wav"] == "ok"
    np.testing.assert_allclose(found(folder / f"{name}.wav"), expected(folder / f"{name}.wav"), atol=3e-6, rtol=0)


@pytest.mark.parametrize("rate", RATES)
def test_another_rate_is_resampled_as_soxr_does(heard, rate):
    folder, said = heard
    assert said[f"{rate}.wav"] == "ok"
    one, other = found(folder / f"{rate}.wav"), expected(folder / f"{rate}.wav")
    assert len(one) == len(other)
    assert np.sqrt(np.mean((one - other) ** 2)) < 5e-4  # of a standard deviation of 1


def test_what_cannot_be_heard_is_said(heard):
    _, said = heard
    assert said["cut.wav"].startswith("truncated: 30") and "copy or export it again" in said["cut.wav"]
    assert said["text.wav"] == "no WAV" and "truncated: 0 of" in said["header.wav"]
    assert said["long.wav"] == "longer than 20 seconds; cut it into bursts"


def test_the_rate_of_compressed_files_is_read(heard):
    _, said = heard
    assert {name: said[name] for name in COMPRESSED} == COMPRESSED


def test_windows_are_the_pipelines(heard):
    _, said = heard
    spans = [(5, 2, 2, 1), (32_000, 16_000, 1, 0.5), (33_001, 16_000, 1, 0.5), (160, 16_000, 1, 0.5)]
    assert said["spans"] == [[list(pair) for pair in window_spans(*span)] for span in spans]


def test_a_stream_is_resampled_as_a_whole_recording_is(heard):
    _, said = heard
    for stream in said["streams"]:
        assert stream["wrong"] == 0 and 0 <= stream["late"] <= 160, stream  # 10 ms


def test_events_of_probabilities_are_those_of_python(heard):
    segmenter = Segmenter(RULE["threshold"])
    expected = [*segmenter.push(probabilities()), *segmenter.finish()]
    found = heard[1]["events"]
    assert len(expected) > 20 and len({event.stop - event.start for event in expected}) > 10
    assert [(event["start"], event["stop"]) for event in found] == [(event.start, event.stop) for event in expected]
    assert [event["probability"] for event in found] == pytest.approx([event.probability for event in expected])
