"""The demo: what it computes equals the pipeline's numbers; and the real app in a real browser, as a Space has it."""

import csv
import io
import os
import re
import shutil
import signal
import socket
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import answers
import figures
import make_space
import numpy as np
import pytest
import soundfile as sf
import warm
from answers import Answer, load_models, score_recording, score_recordings, table, write_csv
from conftest import ROOT
from examples import write_examples
from huggingface_hub import metadata_load
from tiny import tiny_model

import avb
from avb.cards.hub_folder import save_hub_folder
from avb.errors import AudioError, AvbError
from avb.tasks import TASKS
from feature_extraction_avb import VocalBurstFeatureExtractor

DEMO = ROOT / "demo"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A browser without a microphone plays one: a beep a second.
FLAGS = "--no-sandbox --disable-gpu --use-fake-device-for-media-stream --use-fake-ui-for-media-stream".split()
ROUNDING = 0.5e-3 + 1e-6  # the page shows three digits


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """A tiny model a task, whose scores lie far apart."""
    root = tmp_path_factory.mktemp("models")
    saved = {}
    for name in ("high", "two", "type"):
        task = TASKS[name]
        model = tiny_model(task, head_scale=30, pooling="avg")
        saved[name] = str(save_hub_folder(model, VocalBurstFeatureExtractor(peak_db=-3.0), root / name))
    return saved


@pytest.fixture(scope="module")
def pipes(folders):
    return {name: avb.load(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """A clip (a real one where EmoGator is at hand), a long recording, and two files that are no audio."""
    root = tmp_path_factory.mktemp("clips")
    seconds = np.arange(16_000 * 12) / 16_000
    sound = 0.5 * np.sin(2 * np.pi * (200 + 40 * seconds) * seconds) * np.exp(-3 * (seconds % 1.5))
    paths = {name: root / name for name in ("clip.wav", "long.wav", "note.wav", "note.txt")}
    sf.write(paths["clip.wav"], sound[:16_000], 16_000)
    sf.write(paths["long.wav"], sound, 16_000)
    for name in ("note.wav", "note.txt"):
        paths[name].write_text("eggs, bread, milk\n" * 20)
    if "AVB_EMOGATOR" in os.environ:
        import pyarrow.parquet as pq

        batch = next(pq.ParquetFile(Path(os.environ["AVB_EMOGATOR"], "validation-1.parquet")).iter_batches(1))
        del paths["clip.wav"]
        paths = {"clip.mp3": root / "clip.mp3", **paths}
        paths["clip.mp3"].write_bytes(batch.to_pylist()[0]["audio"]["bytes"])
    return paths


@pytest.fixture(scope="module")
def clip(clips) -> Path:
    return next(iter(clips.values()))


# ---- what is computed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["high", "two", "type"])
def test_a_short_recording_has_the_scores_of_the_pipeline(task, pipes, clip):
    answer = score_recording(pipes[task], clip, window_seconds=5, max_seconds=60)
    expected = pipes[task](str(clip))
    assert answer.labels == TASKS[task].labels == tuple(entry["label"] for entry in expected)
    np.testing.assert_allclose(answer.mean, [entry["score"] for entry in expected], atol=1e-6)
    assert len(answer.spans) == 1 and answer.seconds == pytest.approx(sf.info(clip).duration, abs=0.01)
    assert answer.is_classifier == (task == "type")


def test_a_long_recording_is_the_mean_of_its_windows(pipes, clips):
    answer = score_recording(pipes["high"], clips["long.wav"], window_seconds=5, max_seconds=60)
    assert answer.spans == ((0, 5), (2.5, 7.5), (5, 10), (7, 12))
    waveform, _ = sf.read(clips["long.wav"], dtype="float32")
    windows = [pipes["high"](waveform[int(start * 16_000) : int(end * 16_000)]) for start, end in answer.spans]
    expected = np.array([[entry["score"] for entry in window] for window in windows])
    np.testing.assert_allclose(answer.scores, expected, atol=1e-5)
    np.testing.assert_allclose(answer.mean, expected.mean(0), atol=1e-5)


def test_errors_name_the_file_and_not_where_the_server_keeps_it(pipes, clips):
    for name, said in {"note.wav": "not audio but text", "long.wav": "longer than 3 seconds"}.items():
        with pytest.raises(AudioError, match=rf"^{name}: {said}") as raised:
            score_recording(pipes["high"], clips[name], window_seconds=5, max_seconds=3)
        assert str(clips[name].parent) not in str(raised.value)


@pytest.mark.parametrize("task", ["two", "type"])
def test_the_table_keeps_every_file(task, pipes, clip, clips, tmp_path):
    paths = [clip, clips["note.txt"], clips["long.wav"]]
    frame = table(pipes[task], list(score_recordings(pipes[task], paths, window_seconds=5, max_seconds=60)))
    with open(write_csv(frame, tmp_path / "scores.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert os.listdir(tmp_path) == ["scores.csv"]
    assert [row["file"] for row in rows] == [path.name for path in paths]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert rows[1]["error"].startswith("note.txt: not audio but text") and not any(list(rows[1].values())[3:])
    expected = pipes[task](str(clip))
    labels = [entry["label"] for entry in expected]
    assert list(rows[0])[-len(labels) :] == labels
    assert [float(rows[0][label]) for label in labels] == pytest.approx([e["score"] for e in expected], abs=2e-6)
    if task == "type":
        best = max(expected, key=lambda entry: entry["score"])
        assert rows[0]["prediction"] == best["label"]
        assert float(rows[0]["confidence"]) == pytest.approx(best["score"], abs=2e-6)


def test_models_have_short_names_where_these_are_unique(folders, tmp_path):
    assert list(load_models([folders["high"], folders["high"] + "/"])) == ["high"]
    twin = str(shutil.copytree(folders["two"], tmp_path / "high"))
    assert list(load_models([folders["high"], twin])) == [folders["high"], twin]
    with pytest.raises(AvbError, match="no model to show"):
        load_models([])


def answer_of(scores, labels, **fields) -> Answer:
    settings = {
        "score_range": (0.0, 1.0),
        "is_classifier": False,
        "spans": tuple((i, i + 2) for i in range(len(scores))),
    }
    return Answer(labels=tuple(labels), scores=np.array(scores, np.float32), **{**settings, **fields})


def test_bars_are_in_proportion_to_the_range_and_labels_are_escaped():
    html = figures.cards({"<b>m</b>": answer_of([[1, 5], [2, 7]], ["<i>", "Joy"], score_range=(1.0, 7.0))})
    assert "<b>m" not in html and "&lt;i&gt;" in html and "<i>" not in html
    assert re.findall(r'avb-bar" style="width: ([\d.]+)%', html) == ["8.3", "83.3"]
    assert re.findall(r'avb-peak" style="left: ([\d.]+)%', html) == ["16.7", "100.0"]
    assert re.findall(r'avb-value">([\d.]+)<', html) == ["1.500", "6.000"]


def test_the_plane_has_valence_to_the_right_and_arousal_upwards_in_either_order():
    def dot(scores, labels) -> list[float]:
        svg = figures.plane(answer_of([scores], labels))
        return [float(number) for number in re.search(r'class="mean" cx="([\d.]+)" cy="([\d.]+)"', svg).groups()]

    calm, tense = dot([0.9, 0.1], ["Valence", "Arousal"]), dot([0.9, 0.1], ["arousal", "valence"])
    assert calm[0] > tense[0] and calm[1] > tense[1]  # SVG counts from the top
    assert figures.has_plane(answer_of([[0, 0]], ["arousal", "Valence"]))
    assert not figures.has_plane(answer_of([[0, 0]], ["arousal", "Valence"], is_classifier=True))
    assert not figures.has_plane(answer_of([[0, 0, 0]], ["valence", "arousal", "dominance"]))


def test_the_timeline_keeps_the_labels_with_the_highest_windows_in_order():
    labels = [f"label {number}" for number in range(figures.TIMELINE_LABELS + 2)]
    scores = np.linspace(0.1, 0.9, len(labels))[None].repeat(3, 0)
    scores[1, 0] = 1.0
    frame = figures.timeline(answer_of(scores, labels))
    assert list(frame["label"].unique()) == [labels[0], *labels[3:]]
    assert list(frame["seconds"].unique()) == [1.0, 2.0, 3.0]
    assert frame.loc[(frame.label == labels[0]) & (frame.seconds == 2), "score"].item() == 1.0


def test_sounds_to_try_are_computed_and_one_is_longer_than_a_window(pipes, tmp_path):
    sounds = write_examples(tmp_path)
    assert list(sounds) == ["laugh", "cry", "scream", "gasp", "several in a row"]
    answers_ = [score_recording(pipes["high"], path, window_seconds=5, max_seconds=60) for path in sounds.values()]
    assert [len(answer.spans) for answer in answers_[:-1]] == [1, 1, 1, 1] and len(answers_[-1].spans) > 1
    assert len({path.read_bytes() for path in sounds.values()}) == len(sounds)


def test_the_space_asks_for_the_versions_the_suite_runs_with():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    wanted = [line for line in (DEMO / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    front = metadata_load(DEMO / "README.md")
    assert len(wanted) > 5 and set(wanted) <= set(pins)
    assert f"gradio=={front['sdk_version']}" in pins
    assert front["sdk"] == "gradio" and (DEMO / front["app_file"]).is_file()


# ---- the app, in a browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    """The folder a Space is made of."""
    folder = tmp_path_factory.mktemp("space") / "space"
    assert make_space.main([str(folder)]) == 0
    assert os.listdir(folder.parent) == ["space"]
    return folder


def test_a_space_folder_that_exists_is_left_alone(tmp_path, capsys):
    assert make_space.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"make_space.py: error: {tmp_path} exists: give another name, or remove it\n"
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_the_space_folder_brings_all_it_imports(space):
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    script = (
        "import sys, app\n"
        "ours = [m for name, m in sys.modules.items() if name.split('.')[0] == 'avb' or name.endswith('_avb')]\n"
        "print(len(ours), [m.__file__ for m in ours if not m.__file__.startswith(sys.argv[1])])"
    )
    argv = [sys.executable, "-c", script, str(space)]
    done = warm.run(argv, cwd=space, env=offline())
    assert not done.returncode, done.stderr
    count, elsewhere = done.stdout.split(maxsplit=1)
    assert int(count) > 5 and elsewhere.strip() == "[]"


@pytest.mark.slow
def test_without_a_model_the_app_says_how_to_get_one(monkeypatch, capsys, tmp_path):
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    import app

    monkeypatch.delenv(app.MODELS_VARIABLE, raising=False)
    monkeypatch.setattr(app, "DEFAULT_MODEL", tmp_path / "runs" / "sample")
    with pytest.raises(SystemExit, match="1"):
        app.main([])
    said = capsys.readouterr().err
    assert said.startswith("app.py: error: no model to show") and "make demo" in said and said.count("\n") == 1
    monkeypatch.setenv(app.MODELS_VARIABLE, f"{tmp_path}/missing")
    assert app.main([]) == 1
    assert capsys.readouterr().err.startswith(f"app.py: error: {tmp_path}/missing: no such model")


def offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(scope="module")
def app(space, folders, tmp_path_factory):
    """Address of the running app, which shows the models that AVB_DEMO_MODELS names."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**offline(), "AVB_DEMO_MODELS": " ".join(folders.values())}
    environment["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("uploads"))
    environment["TMPDIR"] = str(tmp_path_factory.mktemp("tables"))
    process = warm.start([sys.executable, "app.py", "--port", str(port)], cwd=space, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 200
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, process.stderr
                time.sleep(0.2)
        yield address
        assert "Traceback" not in process.stderr and "gradio.live" not in process.stdout + process.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        done = process.wait()
    assert done.returncode == 0 and not list(Path(environment["TMPDIR"]).glob("avb-demo-*"))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, app):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    elsewhere = []
    local = (app, "blob:", "data:")
    page.on("request", lambda request: None if request.url.startswith(local) else elsewhere.append(request.url))
    page.goto(app)
    page.locator("#recording input[type=file]").wait_for(state="attached")
    yield page
    page.close()
    assert not elsewhere  # no font, script or statistics from anybody else's server


def upload(page, *paths: Path, into: str = "recording"):
    page.locator(f"#{into} input[type=file]").set_input_files([str(path) for path in paths])


@pytest.mark.slow
def test_uploading_a_clip_shows_the_scores_of_the_pipeline(page, pipes, clip):
    upload(page, clip)
    for name, pipe in pipes.items():
        card = page.locator(f'.avb-card[data-model="{name}"]')
        card.wait_for()
        expected = pipe(str(clip))
        assert card.locator(".avb-label").all_inner_texts() == [entry["label"] for entry in expected]
        values = [float(text) for text in card.locator(".avb-value").all_inner_texts()]
        assert values == pytest.approx([entry["score"] for entry in expected], abs=ROUNDING)
        track = card.locator(".avb-track").first.bounding_box()["width"]
        drawn = [bar.bounding_box()["width"] / track for bar in card.locator(".avb-bar").all()]
        assert drawn == pytest.approx(values, abs=0.01)
        assert card.locator(".avb-plane").count() == (name == "two")
    assert page.locator("#recording canvas").count()  # the waveform
    area = page.locator(".avb-plane .area").bounding_box()
    dot = page.locator(".avb-plane .mean").bounding_box()
    right = (dot["x"] + dot["width"] / 2 - area["x"]) / area["width"]
    up = 1 - (dot["y"] + dot["height"] / 2 - area["y"]) / area["height"]
    assert [right, up] == pytest.approx([entry["score"] for entry in pipes["two"](str(clip))], abs=0.02)

    page.get_by_label("type", exact=True).uncheck()
    page.locator('.avb-card[data-model="type"]').wait_for(state="detached")
    assert page.locator(".avb-card").count() == 2


@pytest.mark.slow
def test_a_sound_to_try_is_scored_at_a_click(page, pipes):
    page.locator("#examples").get_by_text("laugh", exact=True).click()
    page.locator('.avb-card[data-model="high"]').wait_for()
    assert page.locator(".avb-card").count() == len(pipes)


@pytest.mark.slow
def test_what_is_no_audio_is_said_kindly(page, clips, clip):
    upload(page, clips["note.wav"])
    error = page.locator("#result [role=alert]")
    error.wait_for()
    assert error.inner_text() == (
        "note.wav: not audio but text, starting with 'eggs, bread, milk\\neggs, '; is it the right file?"
    )
    page.locator("#recording button[aria-label=Clear]").click()
    page.locator("#result .avb-hint").wait_for()
    upload(page, clip)  # and the next one works
    page.locator(".avb-card").first.wait_for()
    assert not error.count()


@pytest.mark.slow
def test_a_long_recording_has_a_timeline_for_each_model(page, pipes, clips):
    upload(page, clips["long.wav"])
    page.get_by_text("What this is not").scroll_into_view_if_needed()  # plots are drawn when they come into view
    page.locator(".vega-embed svg").nth(len(pipes) - 1).wait_for()
    said = page.locator(".avb-card p").all_inner_texts()
    assert len(said) == len(pipes) and all(text.startswith("12.00 s, mean of 4 windows") for text in said)
    assert page.locator('.avb-card[data-model="two"] .window').count() == 4


@pytest.mark.slow
def test_a_recording_from_the_microphone_is_scored(page):
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    stop = page.get_by_role("button", name="Stop", exact=True).first
    stop.wait_for()  # it records
    page.wait_for_timeout(1200)
    stop.click()
    page.locator(".avb-card").first.wait_for()
    assert float(page.locator(".avb-card p").first.inner_text().split()[0]) > 0.2


@pytest.mark.slow
def test_many_files_become_a_table_and_a_csv(page, pipes, clip, clips, tmp_path):
    page.get_by_role("tab", name="Many files").click()
    upload(page, clip, clips["note.txt"], clips["long.wav"], into="files")
    page.locator("#files").get_by_text("long").first.wait_for()
    page.locator("#score").click()
    page.locator("#download").wait_for()
    assert page.locator("#status").inner_text().strip() == (
        "2 of 3 files scored by high; 1 could not be read: see the column 'error'"
    )
    page.locator('#table [data-testid="cell-2-0"]').wait_for()
    cells = [
        [cell.strip() for cell in page.locator(f'#table [data-testid^="cell-{row}-"]').all_inner_texts()]
        for row in range(3)
    ]
    assert [row[0] for row in cells] == [clip.name, "note.txt", "long.wav"]
    assert cells[1][2].startswith("note.txt: not audio but text") and not any(cells[1][3:])
    expected = [entry["score"] for entry in pipes["high"](str(clip))]
    assert [float(cell) for cell in cells[0][3:]] == pytest.approx(expected, abs=ROUNDING)

    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "scores.csv"
    download.value.save_as(tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [row[0] for row in cells]
    assert list(rows[0])[: len(answers.COLUMNS)] == list(answers.COLUMNS)
    assert [float(rows[0][label]) for label in TASKS["high"].labels] == pytest.approx(expected, abs=2e-6)


def test_events_of_a_longer_recording_are_played_and_a_clip_may_be_rejected(tmp_path):
    several = write_examples(tmp_path)["several in a row"]
    pipe = avb.load("emogator-cnn")
    answer = score_recording(pipe, several, 5, 120, with_events=True)
    found = avb.find(str(several), "emogator-cnn")
    assert [(event.start, event.end) for event in answer.events] == list(zip(found["start"], found["end"], strict=True))
    shown = figures.card("m", answer)
    assert len(answer.events) >= 1 and shown.count("<audio controls") == len(answer.events) and "Events: " in shown
    for event in answer.events:
        samples, rate = sf.read(io.BytesIO(event.wav))
        assert len(samples) / rate == pytest.approx(event.end - event.start + 0.2, abs=0.11)
        assert event.score == found.iloc[answer.events.index(event), 3:].max() and f" s: {event.label} " in shown
    sf.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(32_000), 16_000)
    noise = score_recording(pipe, tmp_path / "noise.wav", 5, 120, with_events=True)
    expected = pipe(str(tmp_path / "noise.wav"), false_alarms_per_hour=360)[0]
    assert noise.events is None and noise.is_burst is expected["is_burst"]
    assert ("Probably not a vocal burst" in figures.card("m", noise)) is not noise.is_burst
    assert "Probably not" in figures.card("m", replace(noise, is_burst=False))
