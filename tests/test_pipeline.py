"""VocalBurstPipeline: every kind of input, batches, windows, the order of labels, and what is said of bad audio."""

import http.server
import io
import threading

import numpy as np
import pytest
import soundfile as sf
import torch
from datasets import Audio, Dataset
from tiny import tiny_model
from transformers import AutoModelForAudioClassification, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import avb
import pipeline_avb
from audio_avb import AudioError, load_audio
from avb.cards.hub_folder import save_hub_folder
from avb.inference.clips import Clip
from avb.inference.score import score_clips
from avb.tasks import TASKS
from configuration_avb import Wav2Vec2VocalBurstConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from pipeline_avb import TASK, VocalBurstPipeline, scores_from_logits, window_spans

AUDIO = {"peak_db": -3.0, "trim_top_db": 30.0}


def save(folder, task_name: str):
    return str(
        save_hub_folder(tiny_model(TASKS[task_name], pooling="avg"), VocalBurstFeatureExtractor(**AUDIO), folder)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name, name) for name in ("high", "type")}


@pytest.fixture(scope="module")
def pipe(folders):
    return avb.load(folders["high"])


@pytest.fixture
def clip(tone) -> np.ndarray:
    """A tone between quiet ends, which trimming cuts."""
    quiet = (1e-4 * np.random.default_rng(0).standard_normal(6000)).astype(np.float32)
    return np.concatenate([quiet, tone, quiet])


@pytest.fixture
def wav(tmp_path, clip):
    path = tmp_path / "clip.wav"
    sf.write(path, clip, 16_000, subtype="FLOAT")
    return path


def numbers(answer: list[dict]) -> list[float]:
    return [entry["score"] for entry in answer]


@pytest.fixture
def server(tmp_path):
    """The folder of the test over HTTP, and addresses that answer in other ways."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def do_GET(self):
            if self.path == "/moved.wav":
                self.send_response(302)
                self.send_header("Location", "/clip.wav")
                self.end_headers()
            elif self.path == "/endless.wav":
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(bytes(65_536))
                except OSError:
                    pass
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


# ---------------------------------------------------------------------------------------------------- inputs


def test_every_kind_of_one_clip_gives_the_same_scores(pipe, clip, wav, server):
    ((_, expected),) = score_clips(pipe.model, pipe.feature_extractor, [Clip("clip", lambda: wav)])  # as predict_avb.py
    content = wav.read_bytes()
    kinds = {
        "path": wav,
        "str": str(wav),
        "bytes": content,
        "URL": f"{server}/clip.wav",
        "redirected URL": f"{server}/moved.wav",
        "row with bytes": {"bytes": content, "path": None},
        "row with a path": {"bytes": None, "path": str(wav)},
        "array": clip,
        "float64": clip.astype(np.float64),
        "tensor": torch.from_numpy(clip),
        "array and rate": {"array": clip, "sampling_rate": 16_000},
        "raw and rate": {"raw": clip, "sampling_rate": 16_000},
        "decoded row": {"path": "gone.wav", "array": torch.from_numpy(clip), "sampling_rate": 16_000},
    }
    for kind, source in kinds.items():
        answer = pipe(source)
        assert [entry["label"] for entry in answer] == list(TASKS["high"].labels), kind
        np.testing.assert_allclose(numbers(answer), expected, rtol=0, atol=1e-6, err_msg=kind)
    assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize("name", ["clip.flac", "clip.ogg", "clip.mp3"])
def test_compressed_files_need_no_ffmpeg(pipe, clip, tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", "")
    sf.write(tmp_path / name, clip, 16_000)
    np.testing.assert_allclose(numbers(pipe(tmp_path / name)), numbers(pipe(load_audio(tmp_path / name))), atol=1e-6)


def test_what_people_have_at_hand(pipe, clip, wav):
    """Open files, arrays with their rate in either order, and several channels."""
    expected = numbers(pipe(str(wav)))
    stereo = np.stack([clip * 1.5, clip * 0.5], axis=1)
    with open(wav, "rb") as file:
        assert numbers(pipe(file)) == expected
    assert numbers(pipe(io.BytesIO(wav.read_bytes()))) == expected
    for source in ((clip, 16_000), (16_000, clip), (torch.from_numpy(clip), 16_000.0)):
        assert numbers(pipe(source)) == expected
    for source in ((stereo, 16_000), (stereo.T, 16_000), {"array": stereo, "sampling_rate": 16_000}):
        assert numbers(pipe(source)) == pytest.approx(expected, abs=1e-5)
    two = pipe([(clip, 16_000), (stereo, 16_000)])
    assert [numbers(answer) for answer in two] == [pytest.approx(expected, abs=1e-5)] * 2


def test_an_array_without_its_rate_is_read_with_a_warning(pipe, clip, wav):
    with pytest.warns(UserWarning, match=r"assuming 16,000 Hz: give \(array, rate\)"):
        assert numbers(pipe(clip)) == numbers(pipe(str(wav)))


def test_integers_and_other_rates(pipe, clip, tmp_path):
    integers = (clip * 2**15).round().astype(np.int16)
    sf.write(tmp_path / "int.wav", integers, 16_000)
    np.testing.assert_allclose(numbers(pipe(integers)), numbers(pipe(tmp_path / "int.wav")), atol=1e-6)
    sf.write(tmp_path / "slow.wav", clip, 8_000, subtype="FLOAT")
    slow = pipe({"array": clip, "sampling_rate": 8_000})
    np.testing.assert_allclose(numbers(slow), numbers(pipe(tmp_path / "slow.wav")), atol=1e-6)
    assert np.abs(np.subtract(numbers(slow), numbers(pipe(clip)))).max() > 1e-4


def test_many_clips_of_every_container(pipe, clip, tmp_path):
    clips = [clip[:length] for length in (28_000, 9_000, 17_000, 7_000, 12_345)]
    paths = [str(tmp_path / f"{number}.wav") for number in range(len(clips))]
    for path, waveform in zip(paths, clips, strict=True):
        sf.write(path, waveform, 16_000, subtype="FLOAT")
    alone = [numbers(pipe(waveform)) for waveform in clips]
    rows = Dataset.from_dict({"audio": [{"bytes": None, "path": path} for path in paths]})
    containers = {
        "list": clips,
        "tuple": tuple(paths),
        "generator": (path for path in paths),
        "KeyDataset": KeyDataset(rows, "audio"),
        "column": rows["audio"],
        "list of kinds": [clips[0], paths[1], {"array": clips[2], "sampling_rate": 16_000}, *paths[3:]],
    }
    for name, many in containers.items():
        answers = list(pipe(many, batch_size=3))
        np.testing.assert_allclose([numbers(answer) for answer in answers], alone, atol=1e-5, err_msg=name)
    assert isinstance(pipe(rows["audio"]), list) and pipe([]) == []
    assert np.ptp(alone, axis=0).max() > 1e-3


def test_a_column_that_datasets_decodes(pipe, clip, tmp_path):
    """Needs torchcodec (0.11 to 0.13 beside this torch) and an FFmpeg, for which PyAV's own can stand in.

    A folder of links called libavcodec.so.62 and so on, to the libraries in av.libs/, in LD_LIBRARY_PATH with av.libs.
    """
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # not installed, or without ffmpeg's libraries
        pytest.skip(f"datasets decodes by torchcodec, which cannot be imported: {str(error).splitlines()[0]}")
    path = str(tmp_path / "stereo.wav")
    sf.write(path, np.stack([clip, 0.5 * clip], axis=1), 22_050, subtype="FLOAT")
    rows = Dataset.from_dict({"audio": [path, path]}).cast_column("audio", Audio())
    for answer in (pipe(rows[0]["audio"]), pipe(rows["audio"])[1]):
        np.testing.assert_allclose(numbers(answer), numbers(pipe(path)), atol=1e-6)
    np.testing.assert_allclose(avb.embed(rows["audio"]), avb.embed([path, path]), atol=1e-5)


def test_a_generator_is_consumed_as_it_is_scored(pipe, clip):
    taken = []

    def clips():
        for number in range(6):
            taken.append(number)
            yield clip

    answers = pipe(clips(), batch_size=2)
    next(iter(answers))
    assert len(taken) < 6


# ---------------------------------------------------------------------------------------------------- answers


def test_top_k_is_sorted_and_everything_else_in_the_tasks_order(pipe, folders, clip):
    every = pipe(clip)
    assert [entry["label"] for entry in every] == list(TASKS["high"].labels)
    best = sorted(every, key=lambda entry: -entry["score"])
    assert best != every and pipe(clip, top_k=3) == best[:3] and pipe(clip, top_k=99) == best
    assert avb.load(folders["high"], top_k=2)(clip) == best[:2]


def test_classes_are_probabilities(folders, clip):
    classifier = avb.load(folders["type"])
    answer = classifier(clip)
    assert [entry["label"] for entry in answer] == list(TASKS["type"].labels)
    assert sum(numbers(answer)) == pytest.approx(1, abs=1e-6)
    inputs = classifier.feature_extractor(clip, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        expected = classifier.model(**inputs).logits.softmax(-1)[0]
    np.testing.assert_allclose(numbers(answer), expected, atol=1e-6)


def test_scores_of_several_tasks_are_those_of_each():
    widths = {"ccc": 2, "ce": 3, "mse": 1}
    tasks = [{"name": loss, "loss": loss, "num_labels": width} for loss, width in widths.items()]
    config = Wav2Vec2VocalBurstConfig(loss="multitask", tasks=tasks, num_labels=6)
    logits = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    expected = torch.from_numpy(logits.copy())
    expected[:, 2:5] = expected[:, 2:5].softmax(-1)
    scores = scores_from_logits(logits, config)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("task", ["high", "type"])
def test_stock_pipeline_gives_the_same_numbers(folders, clip, task):
    stock = pipeline("audio-classification", model=folders[task], trust_remote_code=True)
    assert type(stock).__name__ == "AudioClassificationPipeline"
    own = {entry["label"]: entry["score"] for entry in avb.load(folders[task])(clip)}
    answer = stock(clip)  # all labels, highest score first
    assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(own, abs=1e-6)
    assert numbers(answer) == sorted(numbers(answer), reverse=True)
    batched = stock([clip, clip[:9000]], top_k=None, batch_size=2)
    assert {entry["label"]: entry["score"] for entry in batched[0]} == pytest.approx(own, abs=1e-5)


def test_the_pipeline_is_registered(folders, clip):
    assert pipeline(model=folders["high"], trust_remote_code=True).task == TASK
    named = pipeline(TASK, model=AutoModelForAudioClassification.from_pretrained(folders["high"]),
                     feature_extractor=VocalBurstFeatureExtractor.from_pretrained(folders["high"]))  # fmt: skip
    assert type(named) is VocalBurstPipeline
    assert named(clip) == avb.load(folders["high"])(clip)


# ---------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_each_window_is_a_clip_of_its_own(pipe, batch_size):
    rng = np.random.default_rng(0)
    recording = np.concatenate([gain * rng.standard_normal(8_000) for gain in (0.2, 0.01, 0.5, 0.1, 0.3, 0.02, 0.05)])
    recording = recording[:51_000].astype(np.float32)  # 3.1875 s
    answer = pipe(recording, window_seconds=1.0, hop_seconds=0.5, batch_size=batch_size)
    assert [window["start"] for window in answer] == [0, 0.5, 1, 1.5, 2, 2.1875]
    assert [window["end"] for window in answer] == [1, 1.5, 2, 2.5, 3, 3.1875]
    for window in answer:
        cut = recording[round(window["start"] * 16_000) : round(window["end"] * 16_000)]
        assert [entry["label"] for entry in window["scores"]] == list(TASKS["high"].labels)
        np.testing.assert_allclose(numbers(window["scores"]), numbers(pipe(cut)), atol=1e-5)
    assert len({window["scores"][0]["score"] for window in answer}) == len(answer)


def test_windows_of_several_recordings_stay_apart(pipe, clip):
    recordings = [clip, clip[:5000], np.tile(clip, 2)]
    alone = [pipe(recording, window_seconds=0.5) for recording in recordings]
    together = pipe(recordings, window_seconds=0.5, batch_size=4)
    assert [[window["start"] for window in answer] for answer in together] == [
        [window["start"] for window in answer] for answer in alone
    ]
    assert alone[1][0]["end"] == 5000 / 16_000 and len(alone[1]) == 1
    for answer, expected in zip(together, alone, strict=True):
        for window, other in zip(answer, expected, strict=True):
            np.testing.assert_allclose(numbers(window["scores"]), numbers(other["scores"]), atol=1e-5)


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 149, 150, 1000, 1234])
@pytest.mark.parametrize("hop", [1.0, 0.5, 0.33, None])
def test_windows_cover_the_recording_once_each_and_whole(samples, hop):
    spans = window_spans(samples, 100, 1.0, hop)
    assert spans[0][0] == 0 and spans[-1][1] == samples and len(set(spans)) == len(spans)
    assert all(end - start == min(samples, 100) for start, end in spans)
    assert all(0 < later - start <= 100 for (start, _), (later, _) in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_seconds": 0}, "window_seconds=0 is invalid"),
        ({"window_seconds": 1, "hop_seconds": -1}, "hop_seconds=-1 is invalid"),
        ({"window_seconds": 1, "hop_seconds": 2}, "at most window_seconds=1"),
        ({"window_seconds": 1, "hop_seconds": 1e-9}, "at least one sample"),
        ({"hop_seconds": 1}, "needs window_seconds"),
        ({"max_seconds": 0}, "max_seconds=0 is invalid"),
        ({"top_k": 0}, "top_k=0 is invalid"),
        ({"windows": 1}, "unknown argument windows: this pipeline has"),
    ],
)
def test_illegal_arguments(pipe, clip, settings, message):
    with pytest.raises(ValueError, match=message):
        pipe(clip, **settings)


# ---------------------------------------------------------------------------------------------------- bad audio


def wav_bytes(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    sf.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.wav", "nowhere.wav: no such file; check the path"),
        (b"dear diary", "<10 bytes>: not audio but text"),
        (b"", "the file is empty"),
        (wav_bytes(np.array([0.0, np.nan])), "sample 1 is NaN"),
        (np.array([0.0, np.inf]), "<array>: sample 1 is NaN or infinite"),
        (np.zeros(0, np.float32), "<array>: contains no samples"),
        (np.zeros((50, 16_000), np.float32), r"<array>: its shape is \(50, 16000\); give \(samples,\), or"),
        (np.zeros((2, 2, 99), np.float32), r"<array>: its shape is \(2, 2, 99\)"),
        (io.StringIO("text"), "opened as text; open it for bytes"),
        (np.array(["a"]), "<array>: its type is <U1; give floats"),
        ({"array": np.zeros(9)}, "<array>: its rate is unknown"),
        ({"array": np.zeros(9), "sampling_rate": None}, "sampling_rate=None is not a number"),
        ({"array": np.zeros(9), "sampling_rate": 3}, "sampling_rate=3 is invalid"),
        (np.zeros(16_000 * 601, np.float32), "<array>: longer than 600 seconds"),
        (wav_bytes(np.zeros(16_000 * 601, np.float32)), "longer than 600 seconds"),
        ({"path": None, "bytes": None}, "neither bytes nor a path"),
        (17, "got int"),
        ("http://127.0.0.1:9/clip.wav", "http://127.0.0.1:9/clip.wav: cannot be downloaded"),
        ("http://[/clip.wav", r"http://\[/clip.wav: cannot be downloaded"),
    ],
    # Not the bytes of a recording, which hold its date: every process must call a test by the same name.
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bad_audio_is_one_line(pipe, source, message):
    for inputs in (source, [source]):
        with pytest.raises(AudioError, match=message) as caught:
            pipe(inputs)
        assert "\n" not in str(caught.value)


def test_max_seconds_can_be_raised(pipe, clip):
    assert len(pipe(np.tile(clip, 3), window_seconds=1, max_seconds=6)) == 6
    with pytest.raises(AudioError, match="longer than 5 seconds"):
        pipe(np.tile(clip, 3), window_seconds=1, max_seconds=5)


def test_bad_addresses(pipe, wav, server, tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("<html>not found</html>")
    with pytest.raises(AudioError, match="/gone.wav: the server answered 404; check the URL"):
        pipe(f"{server}/gone.wav")
    with pytest.raises(AudioError, match="/page.html: not audio but text"):
        pipe(f"{server}/page.html")
    monkeypatch.setattr(pipeline_avb, "MAX_DOWNLOAD_BYTES", 2**20)
    with pytest.raises(AudioError, match="/endless.wav: larger than 1 MiB"):
        pipe(f"{server}/endless.wav")
    monkeypatch.setattr(pipeline_avb, "MAX_DOWNLOAD_BYTES", 2**40)
    monkeypatch.setattr(pipeline_avb, "DOWNLOAD_SECONDS", 0.2)
    with pytest.raises(AudioError, match="/endless.wav: download timed out after 0.2 seconds"):
        pipe(f"{server}/endless.wav")
