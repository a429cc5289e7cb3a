"""Vocal bursts in recordings: the detector, its streams, `avb.find`, tables and formats."""

import json
import os
import shutil
import sys
from itertools import pairwise

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import soundfile as sf
import torch
import warm
from conftest import ROOT
from recordings import noise
from tiny import detector_of_noise
from transformers import AutoModelForAudioFrameClassification

import avb
import predict_avb
from audio_avb import AudioError, load_audio
from avb.errors import AvbError
from avb.events import tables
from avb.events.detection import EventStream, FrameStream, Segmenter, load_detector
from avb.events.formats import FORMATS
from avb.events.reading import read_blocks
from modeling_events_avb import FRAME_SAMPLES, BurstEventsModel

RATE = 16_000


@pytest.fixture(scope="module")
def detector() -> BurstEventsModel:
    return detector_of_noise()


@pytest.fixture(scope="module")
def detector_folder(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    detector.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Nine seconds at 22,050 Hz: silence, tones that swell, noise."""
    rng = np.random.default_rng(0)
    time = np.arange(9 * 22_050) / 22_050
    waveform = 0.3 * np.sin(2 * np.pi * (200 + 300 * np.sin(time)) * time) * (np.sin(2 * time) > 0.3)
    path = tmp_path_factory.mktemp("recordings") / "an evening.wav"
    sf.write(path, waveform + rng.normal(0, 1e-4, len(time)), 22_050)
    return path


def whole(detector, waveform: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return detector(torch.from_numpy(waveform)[None]).logits[0, :, 0].sigmoid().numpy()


@pytest.mark.parametrize("step", [1_600, 977, 40_000, 160_000])
def test_a_stream_gives_what_the_whole_recording_gives(detector, step):
    waveform = np.random.default_rng(1).normal(0, 0.1, 61_234).astype(np.float32)
    expected = whole(detector, waveform)
    for start in (0, 24 * 3600 * RATE):  # a stream that has run for a day
        stream = FrameStream(detector, start)
        parts = [stream.push(waveform[at : at + step]) for at in range(0, len(waveform), step)]
        found = np.concatenate([*parts, stream.finish()])
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert stream.frame == start // FRAME_SAMPLES + len(expected)
        assert len(stream._buffer) <= 2 * detector.stem_samples + FRAME_SAMPLES
        assert stream._features.shape[2] <= detector.left_frames + detector.right_frames + 1


def test_what_a_frame_hears_is_bounded_and_no_smaller_than_said(detector):
    waveform = np.random.default_rng(1).normal(0, 0.1, 64_000).astype(np.float32)
    frame, expected = 50, whole(detector, waveform)
    changed = waveform.copy()
    changed[: frame * FRAME_SAMPLES - detector.left_samples] = 0.5
    changed[frame * FRAME_SAMPLES + detector.right_samples :] = 0.5
    assert whole(detector, changed)[frame] == pytest.approx(expected[frame], abs=1e-6)
    changed[frame * FRAME_SAMPLES - detector.left_samples + FRAME_SAMPLES * 2 :] += 0.1
    assert whole(detector, changed)[frame] != pytest.approx(expected[frame], abs=1e-6)


def test_a_clip_in_a_batch_gives_what_it_gives_alone(detector):
    clips = [torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.1 for size in (16_000, 9_999, 640)]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=7.0)
    mask = torch.stack([(torch.arange(16_000) < len(clip)).long() for clip in clips])
    with torch.inference_mode():
        logits = detector(padded, mask).logits
        for row, clip in zip(logits, clips, strict=True):
            alone = detector(clip[None]).logits[0]
            assert len(alone) == len(clip) // FRAME_SAMPLES + 1
            torch.testing.assert_close(row[: len(alone)], alone, atol=1e-4, rtol=1e-4)


def segments(probabilities, threshold=0.6) -> list[tuple[float, float, float]]:
    segmenter = Segmenter(threshold)
    found = [*segmenter.push(np.array(probabilities)), *segmenter.finish()]
    found = [(event.start_seconds, event.end_seconds, event.probability) for event in found]
    return [tuple(round(float(value), 2) for value in event) for event in found]


def test_events_of_probabilities():
    low, rise, high = [0.1] * 10, [0.5] * 5, [0.9] * 10
    assert segments(low) == []
    assert segments(low + rise + low) == []  # never as sure as the threshold
    assert segments(low + [0.9] + rise + low) == []  # not as a whole
    assert segments(low + rise[:4] + high + rise + low) == [(0.38, 1.14, 0.9)]  # 10 * 0.04 - 0.02 to 28 * 0.04 + 0.02
    assert segments(low + rise + high + rise + low) == [(0.38, 1.18, 0.7)]  # the median of an even number
    assert segments(low + [0.3] * 10 + low, threshold=0.2) == [(0.38, 0.78, 0.3)]
    bouts = (high[:3] + [0.0] * 3) * 3
    assert segments(bouts + high[:1] + [0.2] * 5)[0][2] == 0.9 and segments(bouts, 0.5) == [(0.0, 0.58, 0.9)]
    assert segments((high[:3] + [0.0] * 4) * 3 + high[:1]) == []  # pauses within an event count
    assert segments(low + high) == [(0.38, 0.78, 0.9)]  # to the end of the recording
    assert segments(high) == [(0.0, 0.38, 0.9)]
    assert len(segments(high + [0.0] * 5 + high)) == 1 and len(segments(high + [0.0] * 6 + high)) == 2
    assert segments(low + [0.9] * 2 + low) == []  # shorter than 0.12 s
    day = segments([0.9] * 2000)
    assert [round(end - start) for start, end, _ in day] == [30, 30, 20]
    with pytest.raises(AvbError, match="threshold=60 is invalid"):
        Segmenter(60)


@pytest.mark.parametrize("step", [640, 5_000, 10**6])
def test_each_event_comes_with_its_audio(detector, step):
    waveform = np.random.default_rng(2).normal(0, 0.1, 150_000).astype(np.float32)
    waveform *= np.where(np.arange(150_000) // 12_000 % 2, 1e-4, 1).astype(np.float32)  # on and off
    threshold = 0.5
    stream = EventStream(detector, threshold)
    found = [event for at in range(0, len(waveform), step) for event in stream.push(waveform[at : at + step])]
    found += stream.finish()
    once = EventStream(detector, threshold)
    assert len(found) > 3
    expected = once.push(waveform) + once.finish()
    assert [(event.start, event.stop) for event, _ in found] == [(event.start, event.stop) for event, _ in expected]
    for event, audio in found:
        np.testing.assert_array_equal(audio, waveform[max(0, event.start - 1_600) : event.stop + 1_600])


def test_a_detector_is_found_by_the_auto_class_and_exports(detector, detector_folder, tmp_path):
    model = AutoModelForAudioFrameClassification.from_pretrained(detector_folder)
    assert type(model) is BurstEventsModel and model.config.dilations == [1, -2, 2]
    torch.testing.assert_close(model(torch.ones(1, 8_000)).logits, detector(torch.ones(1, 8_000)).logits)
    written = json.loads((detector_folder / "config.json").read_text())
    assert written["auto_map"]["AutoModelForAudioFrameClassification"] == "modeling_events_avb.BurstEventsModel"
    from avb.events.export import export

    assert export(detector, tmp_path / "events.onnx").stat().st_size < 2_000_000  # compared with the original within


def test_the_detector_of_the_page_is_stored_in_half_the_size_and_gives_the_same(tmp_path):
    from avb.events.export import export
    from avb.export.weight_storage import store_exact_halves

    whole = export(load_detector(), tmp_path / "whole.onnx")
    shutil.copy(whole, tmp_path / "half.onnx")
    assert store_exact_halves(tmp_path / "half.onnx") > 12  # the weights were saved in half precision
    assert (tmp_path / "half.onnx").stat().st_size < 0.62 * whole.stat().st_size
    waveform = {"input_values": np.random.default_rng(0).normal(0, 0.1, (1, 24_000)).astype(np.float32)}
    found = [
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(None, waveform)[0] for name in ("whole", "half")
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_a_detector_loads_as_remote_code(detector, detector_folder):
    """Where nothing of this project can be imported."""
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForAudioFrameClassification as Auto\n"
        "model = Auto.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(type(model).__module__.split('.')[0], model(torch.ones(1, 8_000)).logits.sum().item())\n"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(detector_folder / "modules")}
    command = [sys.executable, "-I", "-c", code, detector_folder]
    done = warm.run(command, cwd=detector_folder.parent, env=environment)
    assert done.returncode == 0, done.stderr
    module, total = done.stdout.split()
    assert module == "transformers_modules"
    assert float(total) == pytest.approx(detector(torch.ones(1, 8_000)).logits.sum().item(), abs=1e-3)


def test_what_is_no_detector(detector_folder, tmp_path):
    with pytest.raises(AvbError, match="emogator-cnn: a 'log-mel-cnn' model, no detector; try emogator-events"):
        load_detector("emogator-cnn")
    with pytest.raises(AvbError, match="no such model"):
        load_detector(str(tmp_path / "none"))
    for file in detector_folder.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes()[:4_000])
    with pytest.raises(AvbError, match="its files are damaged .* copy it again"):
        load_detector(tmp_path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.m4a"])
def test_a_recording_is_read_in_blocks_as_a_clip_is_read_at_once(tmp_path, name):
    path = tmp_path / name
    if name == "a.m4a":
        from recordings import by_av

        path.write_bytes(next(found.content for found in by_av(3.0) if found.kind.startswith("ipod")))
    else:
        sf.write(path, np.stack([noise(3.0, 44_100), noise(3.0, 44_100)[::-1]], 1), 44_100)
    blocks = list(read_blocks(path, block_seconds=0.5))
    expected = load_audio(path, peak_db=None)
    joined = np.concatenate(blocks)
    assert len(blocks) > 3 and abs(len(joined) - len(expected)) <= 1
    np.testing.assert_allclose(joined[: len(expected)], expected[: len(joined)], atol=1e-6)
    (content,) = (np.concatenate(list(read_blocks(source))) for source in (path.read_bytes(),))
    np.testing.assert_array_equal(content, expected)


def test_recordings_that_cannot_be_read(tmp_path):
    (tmp_path / "text.wav").write_text("no audio at all")
    sf.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for name, said in (("none.wav", "no such file"), ("text.wav", "cannot be decoded"), ("empty.wav", "no samples")):
        with pytest.raises(AudioError, match=f"{name}: .*{said}"):
            list(read_blocks(tmp_path / name))
    sf.write(tmp_path / "nan.wav", np.where(np.arange(RATE) == 9_000, np.nan, 0), RATE, subtype="FLOAT")
    sf.write(tmp_path / "hours.wav", noise(2.0, RATE), RATE)
    promised = 10 * 3600 * 2 * RATE  # bytes of ten hours, of which two seconds are there
    content = bytearray((tmp_path / "hours.wav").read_bytes())
    content[4:8], content[40:44] = (promised + 36).to_bytes(4, "little"), promised.to_bytes(4, "little")
    (tmp_path / "hours.wav").write_bytes(content)
    for name, said in (("nan.wav", "NaN or infinite"), ("hours.wav", "truncated: 64,000 of the 1,152,000,000 bytes")):
        with pytest.raises(AudioError, match=f"{name}: .*{said}.* again"):
            list(read_blocks(tmp_path / name))
    for name in ("half.wav", "half.flac", "half.ogg", "half.mp3", "half.aiff"):
        sf.write(tmp_path / name, noise(2.0, RATE), RATE)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(AudioError, match=f"{name}: .*(truncated|damaged).* again"):
            list(read_blocks(tmp_path / name))
        (tmp_path / name).write_bytes(whole * 2)
        if not name.endswith("flac"):
            assert sum(map(len, read_blocks(tmp_path / name))) == 4 * RATE, "only the first of two was heard"


def test_find(detector, recording):
    threshold = 0.5
    found = avb.find(recording, "emogator-cnn", detector=detector, threshold=threshold)
    pipe = avb.load("emogator-cnn", "cpu")
    labels = list(pipe.model.config.id2label.values())
    assert list(found.columns) == ["start", "end", "detection", *labels] and len(found) > 1
    assert (found["end"] > found["start"]).all() and (found["detection"] >= threshold).all()
    assert all(end <= start for (_, end), (start, _) in pairwise(zip(found["start"], found["end"], strict=True)))
    np.testing.assert_allclose(found[labels].sum(axis=1), 1, atol=1e-4)
    again = list(pipe.events(recording, detector=detector, threshold=threshold))
    assert [event["start"] for event in again] == pytest.approx(found["start"].tolist(), abs=1e-3)
    assert [score["score"] for score in again[0]["scores"]] == pytest.approx(found.iloc[0, 3:].tolist(), abs=1e-5)

    waveform = load_audio(recording, peak_db=None)
    chunks = (waveform[at : at + 1_600] for at in range(0, len(waveform), 1_600))
    live = list(pipe.stream(chunks, detector=detector, threshold=threshold, top_k=1))
    assert [event["end"] for event in live] == pytest.approx(found["end"].tolist(), abs=1e-3)
    assert all(len(event["scores"]) == 1 for event in live)

    none = avb.find((np.zeros(1_000, np.float32), RATE), pipe, detector=detector)
    assert list(none.columns) == list(found.columns) and len(none) == 0 and none["start"].dtype == np.float64


def test_windows_are_those_of_a_call(recording):
    pipe = avb.load("emogator-cnn", "cpu")
    for window, hop in ((2.0, 1.0), (4.0, None), (60.0, 30.0)):
        called = pipe(str(recording), window_seconds=window, hop_seconds=hop)
        found = list(pipe.windows(recording, window, hop))
        assert [(one["start"], one["end"]) for one in found] == [(one["start"], one["end"]) for one in called]
        for one, other in zip(found, called, strict=True):
            assert [score["label"] for score in one["scores"]] == [score["label"] for score in other["scores"]]
    with pytest.raises(AvbError, match="hop_seconds=3"):
        list(pipe.windows(recording, 2.0, 3.0))


def test_saved_it_is_the_pipeline_that_the_hub_knows(tmp_path):
    avb.load("emogator-cnn", "cpu").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["custom_pipelines"]["vocal-burst-recognition"]["impl"] == "pipeline_avb.VocalBurstPipeline"


def test_tables_of_events_resume(recording, detector_folder, tmp_path, capsys):
    (tmp_path / "bad.wav").write_text("no audio")
    output = tmp_path / "events.csv"
    argv = ["emogator-cnn", str(recording), str(tmp_path / "bad.wav"), str(recording), "--output", str(output)]
    argv += ["--events", "--detector", str(detector_folder), "--threshold", "0.5", "--events_format", "textgrid"]
    assert predict_avb.main(argv) == predict_avb.EXIT_SKIPPED
    table = pd.read_csv(output)
    assert list(table.columns)[:6] == ["id", "start", "end", "detection", "prediction", "confidence"]
    assert "cannot be decoded" in (tmp_path / "events.csv.errors.csv").read_text()
    half = table.iloc[: len(table) // 2]
    pd.testing.assert_frame_equal(
        half, table.iloc[len(table) // 2 :].reset_index(drop=True)
    )  # twice the same recording
    expected = avb.find(recording, "emogator-cnn", detector=str(detector_folder), threshold=0.5)
    assert half["start"].tolist() == expected["start"].tolist()
    written = sorted(path.name for path in (tmp_path / "events.csv.textgrid").iterdir())
    assert written == ["an evening-2.TextGrid", "an evening.TextGrid"]

    def stop(*args):
        raise KeyboardInterrupt

    first = output.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "finish", stop)
        assert predict_avb.main([*argv, "--overwrite"]) == 130
    partial = tmp_path / "events.csv.partial"
    lines = partial.read_text().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if tables.END in json.loads(line)]
    partial.write_text("".join(lines[: ends[1] + 2]) + '{"id": "half a li')  # in the middle of the third recording
    capsys.readouterr()
    assert predict_avb.main([*argv, "--overwrite"]) == predict_avb.EXIT_SKIPPED
    assert "2 of 3 recordings are scored already" in capsys.readouterr().out
    assert output.read_bytes() == first and not partial.exists()


def test_tables_of_windows(recording, tmp_path):
    output = tmp_path / "windows.jsonl"
    argv = ["emogator-cnn", str(recording), "--window_seconds", "2", "--hop_seconds", "1", "--output", str(output)]
    assert predict_avb.main(argv) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["start"], row["end"]) for row in rows] == [(start, start + 2.0) for start in range(8)]


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--threshold", "0.5", "--output", "a.csv"], "--threshold is for --events or a picture"),
        (["--hop_seconds", "1", "--output", "a.csv"], "--hop_seconds is for --window_seconds or a picture"),
        (["--events", "--window_seconds", "2", "--output", "a.csv"], "either --events or --window_seconds"),
        (["--events", "--output", "shards"], "write a table"),
    ],
)
def test_options_that_do_not_fit_together(argv, said, capsys):
    with pytest.raises(SystemExit):
        predict_avb.main(["emogator-cnn", "a.wav", *argv])
    assert said in capsys.readouterr().err


def test_formats():
    rows = [
        {"id": "a.wav", "start": 0.5, "end": 1.25, "detection": 0.9, "prediction": "Romantic Love"},
        {"id": "a.wav", "start": 2.0, "end": 3.0, "detection": 0.8, "prediction": 'So "so"'},
    ]
    texts = {name: write("my call", rows, 3.0) for name, (write, _) in FORMATS.items()}
    assert texts["rttm"].splitlines()[0] == "SPEAKER my_call 1 0.500 0.750 <NA> <NA> Romantic_Love 0.900 <NA>"
    assert texts["audacity"] == '0.500000\t1.250000\tRomantic Love\n2.000000\t3.000000\tSo "so"\n'
    assert json.loads(texts["json"])["events"][0] == {name: rows[0][name] for name in list(rows[0])[1:]}
    grid = texts["textgrid"]
    assert "intervals: size = 4" in grid and 'text = "So ""so"""' in grid and 'text = "Romantic Love"' in grid
    bounds = [float(line.split("=")[1]) for line in grid.splitlines() if line.startswith("            xm")]
    assert bounds == [0.0, 0.5, 0.5, 1.25, 1.25, 2.0, 2.0, 3.0]
    assert "intervals: size = 1" in FORMATS["textgrid"][0]("empty", [], 3.0)


def test_the_shipped_detector_is_small_and_finds_a_real_burst(emogator):
    """Of a speaker of the validation split, in noise 20 dB below; and none in the noise alone."""
    folder = ROOT / "avb" / "models" / "emogator-events"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4 * 2**20
    import pyarrow.parquet as pq

    clips = next(pq.ParquetFile(emogator / "validation-1.parquet").iter_batches(1, columns=["audio"])).to_pylist()
    burst = load_audio(clips[0]["audio"], peak_db=-12.0)
    quiet = np.random.default_rng(0).normal(0, 0.003, 10 * RATE).astype(np.float32)
    assert avb.find((quiet, RATE), "emogator-cnn").empty
    mixed = quiet.copy()
    mixed[4 * RATE : 4 * RATE + len(burst)] += burst
    found = avb.find((mixed, RATE), "emogator-cnn")
    assert len(found) == 1 and 3.8 < found["start"][0] < found["end"][0] < 4.3 + len(burst) / RATE


def test_a_segment_and_a_name_of_bytes_are_recordings_too(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff a#b.wav")
    with open(path, "wb") as file:
        sf.write(file, noise(3.0, RATE), RATE, format="WAV")
    all_of_it = np.concatenate(list(read_blocks(path)))
    part = np.concatenate(list(read_blocks(f"{path}#1-2.5", block_seconds=0.5)))
    assert len(all_of_it) == 3 * RATE
    np.testing.assert_array_equal(part, all_of_it[RATE : round(2.5 * RATE)])


def test_what_is_no_recording_is_said_in_an_audio_error(tmp_path, monkeypatch):
    """Other errors would end the table of all recordings."""
    (tmp_path / "dir.wav").mkdir()
    os.mkfifo(tmp_path / "fifo.wav")
    sf.write(tmp_path / "slow.wav", noise(0.5, 500), 500)
    sf.write(tmp_path / "locked.wav", noise(0.5, RATE), RATE)
    said = {"dir.wav": "not a regular file", "fifo.wav": "not a regular file", "slow.wav": "says 500 Hz", "": "no such"}
    for name, message in said.items():
        with pytest.raises(AudioError, match=f"{name}.*: .*{message}"):
            list(read_blocks(str(tmp_path / name) if name else ""))

    def refuse(path, mode="r", *args, **kwargs):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("audio_avb.open", refuse, raising=False)  # root may read everything
    with pytest.raises(AudioError, match=r"locked.wav: cannot be read \(Permission denied\); check its permissions"):
        list(read_blocks(tmp_path / "locked.wav"))


@pytest.fixture(scope="module")
def pipe():
    return avb.load("emogator-cnn", "cpu")


def test_a_stream_takes_samples_as_microphones_deliver_them(pipe, detector, recording):
    """16-bit integers and (samples, channels): as floats they would be 32,768 times too loud."""
    waveform = load_audio(recording, peak_db=None)[: 2 * RATE]
    integers = (waveform * 32_767).round().astype(np.int16)
    settings = {"detector": detector, "threshold": 0.5, "top_k": 1}

    def heard(samples: np.ndarray) -> list[dict]:
        return list(pipe.stream((samples[at : at + RATE] for at in range(0, len(samples), RATE)), **settings))

    expected = heard(integers.astype(np.float32) / 32_768)
    assert expected
    assert heard(np.stack([integers, integers], 1)) == expected


@pytest.mark.parametrize(
    "chunk, rate, said",
    [
        (b"\0\1\2\3", RATE, "its type is"),
        (np.zeros(4, np.uint8), RATE, "its type is uint8"),
        (0.5, RATE, r"its shape is \(\)"),
        (np.array([0, np.nan]), RATE, "sample 1 is NaN"),
        (np.zeros(4), 0, "sampling_rate=0 is invalid"),
        (np.zeros(4), "48k", "sampling_rate='48k' is not a number"),
    ],
)
def test_what_is_no_stream_of_samples(chunk, rate, said, pipe, detector):
    with pytest.raises(AudioError, match=said):
        list(pipe.stream([chunk], rate, detector=detector))


def test_generators_refuse_what_calls_refuse(pipe, detector, recording):
    for top_k in (0, -1, 1.5, "3"):
        found = (pipe.events(recording, detector=detector, top_k=top_k), pipe.windows(recording, top_k=top_k))
        for results in (*found, pipe.stream([], detector=detector, top_k=top_k)):
            with pytest.raises(ValueError, match="top_k=.* is invalid: it must be 1 or more"):
                list(results)
        with pytest.raises(ValueError, match="top_k=.* is invalid: it must be 1 or more"):
            pipe(np.zeros(RATE), top_k=top_k)
    for seconds in (float("nan"), float("inf"), 0, -1, "2", True):
        for lengths in ((seconds,), (2, seconds)):
            with pytest.raises(AvbError, match="the hop must be positive, and at most the window"):
                list(pipe.windows(recording, *lengths))
        with pytest.raises(ValueError, match="window_seconds=.* is invalid"):
            pipe(str(recording), window_seconds=seconds)
    with pytest.raises(ValueError, match="hop_seconds=inf is invalid"):
        pipe(str(recording), window_seconds=2, hop_seconds=float("inf"))


def test_every_recording_has_annotations_of_its_own(tmp_path):
    """Under equal names, under a name that looks like a number given here, and the same recording twice in a row."""
    names = ["x/a.wav", "y/a.wav", "x/a-2.wav", "x/a-2.wav", "x/A.wav", "bad.wav", "b.wav"]
    lines: list[dict] = [{"fingerprint": "any"}]
    for number, name in enumerate(names):
        row = {"id": name, "start": float(number), "end": number + 0.5, "detection": 0.9}
        end = {"error": "bad"} if name == "bad.wav" else {"seconds": 60.0}
        lines += [row] * (name not in ("bad.wav", "b.wav")) + [{tables.END: name, **end}]
    (tmp_path / "journal").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tables.write_annotations(tmp_path / "journal", tmp_path / "events.csv", "json")
    found = [json.loads(path.read_text()) for path in sorted(folder.iterdir())]
    starts = sorted(event["start"] for content in found for event in content["events"])
    assert starts == [0.0, 1.0, 2.0, 3.0, 4.0] and all(len(content["events"]) < 2 for content in found)
    assert len({content["recording"].casefold() for content in found}) == len(found) == 6
