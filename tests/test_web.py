"""The shipped models outside of torch: in ONNX Runtime, and on the page in a real browser, with Python's scores.

Without npm, its registry, Playwright or Chromium the browser's part skips and says so; AVB_ORT_DIR names a folder with
the runtime's files instead.
"""

import html
import io
import json
import os
import re
import shutil

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import soxr
from examples import write_examples
from page_server import PageServer
from tiny import save_model

import avb
from audio_avb import load_audio
from avb.errors import AvbError
from avb.export.check import made_up_bursts
from avb.export.hub import export_hub
from avb.export.page_folder import HEADERS, build_page
from avb.inference.engines import HUB_FILES
from avb.inference.load import load_model
from avb.inference.score import score_waveforms
from avb.models import FOLDER, names
from avb.tasks import TASKS

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TOLERANCES = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.01}  # of scores, on WAV files of 16 kHz
OTHER_RATES, LOSSY = 1e-3, 0.01
CLIPS = 10
FRAME = 0.04 + 1e-6  # of the detector, seconds
LARGEST, SMALLEST = "emogator-small", "emogator-cnn"


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict:
    """Folders of the shipped models' exports by name, and of a tiny model of valence and arousal."""
    root = tmp_path_factory.mktemp("exports")
    save_model(root / "trained" / "two", TASKS["two"], pooling="avg")
    sources = {name: name for name in names()} | {"two": root / "trained" / "two"}
    few = dict(list(made_up_bursts().items())[::4])  # the test compares the others
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avb.export.hub.made_up_bursts", lambda: few)
        for name, source in sources.items():
            export_hub(source, root / name)
    return {name: root / name for name in sources} | {"root": root}


@pytest.mark.parametrize("name", names())
def test_every_shipped_model_exports_and_scores_the_same(exports, name):
    folder = exports[name]
    report = json.loads((folder / "onnx" / "export.json").read_text())
    assert [file["name"] for file in report["files"]] == list(HUB_FILES.values())
    sizes = {file["precision"]: (folder / "onnx" / file["name"]).stat().st_size for file in report["files"]}
    assert sizes["int8"] < sizes["fp16"] < 0.7 * sizes["fp32"]
    bursts = list(made_up_bursts(peak=0.5).values())[4:]
    expected = score_waveforms(*load_model(name, "cpu"), bursts)
    assert expected.max(0).std() > 1e-3  # what is compared is not the same everywhere
    for precision, tolerance in TOLERANCES.items():
        scores = score_waveforms(*load_model(folder, "cpu", engine="onnx", precision=precision), bursts)
        np.testing.assert_allclose(scores, expected, atol=tolerance)


def test_load_takes_torch_where_there_are_safetensors_and_else_what_there_is(exports, tone, tmp_path):
    both = shutil.copytree(exports[SMALLEST], tmp_path / "both")
    for file in ("model.safetensors", "config.json"):
        shutil.copyfile(FOLDER / SMALLEST / file, both / file)
    kinds = {
        (place, engine): type(avb.load(str(path), engine=engine).model).__name__
        for place, path in {"both": both, "onnx only": exports[SMALLEST]}.items()
        for engine in (None, "onnx")
    }
    assert kinds.pop(("both", None)) == "LogMelCNN" and set(kinds.values()) == {"ExportedModel"}
    openvino = pytest.importorskip("openvino") and avb.load(str(exports[SMALLEST]), engine="openvino")
    expected = [score["score"] for score in avb.load(SMALLEST, device="cpu")((tone, 16_000))]
    np.testing.assert_allclose([score["score"] for score in openvino((tone, 16_000))], expected, atol=1e-4)
    (both / "onnx" / "model_fp16.onnx").unlink()
    with pytest.raises(AvbError, match=r"no onnx/model_fp16.onnx; write it first: python -m avb.export"):
        avb.load(str(both), engine="onnx", precision="fp16")
    with pytest.raises(AvbError, match="engine='jax' is invalid"):
        avb.load(str(both), engine="jax")
    with pytest.raises(AvbError, match="precision='fp16' is for engine='onnx'"):
        avb.load(str(both), precision="fp16")


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of files: real bursts where EmoGator is at hand, as WAV, at other rates and in other formats."""
    folder, waveforms = tmp_path_factory.mktemp("clips"), []
    if root := os.environ.get("AVB_EMOGATOR"):
        table = pq.read_table(os.path.join(root, "validation-1.parquet"), columns=["audio"])
        rows = table.take(list(range(0, len(table), len(table) // CLIPS))[:CLIPS])["audio"].to_pylist()
        for number, row in enumerate(rows):
            (folder / f"real{number}.mp3").write_bytes(row["bytes"])
            waveforms.append(load_audio(folder / f"real{number}.mp3", peak_db=None))
    else:
        waveforms = [0.5 * burst for burst in list(made_up_bursts().values())[:CLIPS]]
    for number, waveform in enumerate(waveforms):
        sf.write(folder / f"{number}.wav", waveform, 16_000)
    for rate, number in {48_000: 0, 44_100: 1, 22_050: 2, 8000: 3}.items():
        stereo = soxr.resample(np.stack([waveforms[number], 0.5 * waveforms[number]], 1), 16_000, rate)
        sf.write(folder / f"{rate}.wav", stereo, rate, subtype="PCM_24")
    sf.write(folder / "a.flac", soxr.resample(waveforms[4], 16_000, 44_100), 44_100)
    sf.write(folder / "a.ogg", soxr.resample(waveforms[5], 16_000, 44_100), 44_100)
    sf.write(folder / "a.mp3", soxr.resample(waveforms[6], 16_000, 44_100), 44_100)
    with av.open(str(folder / "a.webm"), "w") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(soxr.resample(waveforms[7], 16_000, 48_000)[None], "flt", "mono")
        frame.sample_rate = 48_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    sf.write(folder / "long.wav", np.resize(waveforms[0], 16_000 * 12), 16_000)
    sounds, scene = write_examples(folder), 0.002 * np.random.default_rng(0).standard_normal(16_000 * 34)
    several, rate = sf.read(sounds["several in a row"])
    sf.write(folder / "microphone.wav", soxr.resample(several, rate, 48_000), 48_000)
    for number, burst in enumerate([soxr.resample(several, rate, 16_000), *waveforms[:3]]):  # around 30 s, a seam, too
        start = 16_000 * (0, 15, 22, 29)[number]
        scene[start : start + len(burst)] += burst[: len(scene) - start]
    sf.write(folder / "scene.wav", scene, 16_000, subtype="FLOAT")
    (folder / "notes.txt").write_text("Wednesday: laughed twice")
    return folder


@pytest.fixture(scope="module")
def server(exports):
    try:
        build_page(
            exports["root"] / "page", [exports[LARGEST], exports[SMALLEST]], ort_dir=os.environ.get("AVB_ORT_DIR")
        )
    except AvbError as error:
        if "npm" not in str(error):
            raise
        pytest.skip(str(error))
    with PageServer(exports["root"] / "page", HEADERS) as server:
        yield server


@pytest.fixture(scope="module")
def launch():
    """Starts a browser with flags; all of them end with the tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
        yield lambda *flags: started.chromium.launch(executable_path=executable, args=["--no-sandbox", *flags])


@pytest.fixture(scope="module")
def browser(launch, clips):
    flags = "--disable-gpu --disable-audio-output --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    browser = launch(*flags.split(), f"--use-file-for-fake-audio-capture={clips / 'microphone.wav'}")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(browser, server):
    """The page, its first model open; in the end it has asked nobody else for anything, and nothing failed unseen."""
    page = new_page(browser, viewport={"width": 1100, "height": 900}, accept_downloads=True)
    elsewhere, wrong = [], []
    local = (server.address, f"blob:{server.address}", "data:")
    page.on("request", lambda request: None if request.url.startswith(local) else elsewhere.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(server.address)
    wait(page, "ready")
    yield page
    page.close()
    assert not elsewhere and not wrong


def new_page(browser, **settings):
    """A page that has time, where other work leaves it little; what it logs is in pytest's report."""
    page = browser.new_page(**settings)
    page.set_default_timeout(120_000)
    page.on("console", lambda message: print("console:", message.text))
    return page


def wait(page, *states: str, having: str = ""):
    """Until the page is in one of these states, in which it must stay: it is looked at now and then. Errors end it."""
    ends = {f"#result[data-state={state}]{having}" for state in states} | {"#result[data-state=error]"}
    try:
        page.locator(", ".join(sorted(ends))).wait_for()
    except Exception as error:
        said = page.locator("#result").evaluate("({ dataset, innerText }) => JSON.stringify([dataset, innerText])")
        raise AssertionError(f"not {states} {having}: {said}") from error
    if "error" not in states:
        assert_no_error(page)


def assert_no_error(page):
    alert = page.get_by_role("alert")
    assert not alert.is_visible(), alert.inner_text()


def choose(page, model: str, precision: str):
    page.get_by_label("Model", exact=True).select_option(label=model)
    page.get_by_label("Weights").select_option(precision)
    wait(page, "ready", "scored", having=f"[data-model='{model} {precision} wasm']")


def hear(page, path) -> dict[str, float]:
    """The scores that the page shows of a file, by label."""
    page.get_by_label("Choose an audio file").set_input_files(path)
    wait(page, "scored", "error", having=f"[data-name='{path.name}']")
    return shown(page)


def shown(page) -> dict[str, float]:
    table = page.locator("#answer").inner_html()  # at once: it changes while the page listens
    found = re.findall(r'data-label="([^"]*)" data-score="([^"]*)"', table)
    return {html.unescape(label): float(score) for label, score in found}


def differences(page, model, paths, expected=None) -> list[float]:
    """Of each file, the largest difference of a score from what the model says in Python."""
    score = expected or avb.load(model, device="cpu")
    found = []
    for path in paths:
        here, there = hear(page, path), {entry["label"]: entry["score"] for entry in score(str(path))}
        assert list(here) == list(there), path
        found.append(max(abs(here[label] - there[label]) for label in there))
    return found


def test_ten_clips_have_pythons_scores(page, clips, server, record_property):
    measured = {}
    choose(page, LARGEST, "fp32")
    wavs = [clips / f"{number}.wav" for number in range(CLIPS)]
    measured["fp32"] = differences(page, LARGEST, wavs)
    milliseconds = [float(page.locator("#result").get_attribute("data-milliseconds"))]
    rates = [clips / f"{rate}.wav" for rate in (48_000, 44_100, 22_050, 8000)]
    measured["other rates"] = differences(page, LARGEST, [*rates, clips / "a.flac"])
    lossy = [clips / name for name in ("a.ogg", "a.mp3", "a.webm")] + sorted(clips.glob("real*.mp3"))[:3]
    measured["lossy"] = differences(page, LARGEST, lossy)
    for model, precision in ((LARGEST, "fp16"), (LARGEST, "int8"), (SMALLEST, "fp32"), (SMALLEST, "int8")):
        choose(page, model, precision)
        measured[f"{model} {precision}"] = differences(page, model, wavs[:3])
        milliseconds.append(float(page.locator("#result").get_attribute("data-milliseconds")))
    for what, found in measured.items():
        print(f"{what}: {max(found):.2g} ({len(found)} files)")
        record_property(what, max(found))
    print("ms per clip:", *(f"{value:.0f}" for value in milliseconds))
    limits = {"other rates": OTHER_RATES, "lossy": LOSSY}
    for what, found in measured.items():
        assert max(found) <= limits.get(what, TOLERANCES.get(what.split()[-1])), (what, found)
    loaded = {path: size for path, size in server.sent.items() if not path.endswith(".onnx")}
    print(
        f"bytes without models: {sum(loaded.values()):,}, of the runtime {loaded['/ort/ort-wasm-simd-threaded.wasm']:,}"
    )
    assert sum(loaded.values()) < 15e6


def test_a_long_recording_is_scored_by_windows_and_drawn_over_time(page, clips):
    choose(page, SMALLEST, "fp32")
    here = hear(page, clips / "long.wav")
    windows = avb.load(SMALLEST, device="cpu")(str(clips / "long.wav"), window_seconds=5, hop_seconds=2.5)
    for index, (label, score) in enumerate(here.items()):
        assert score == pytest.approx(np.mean([w["scores"][index]["score"] for w in windows]), abs=1e-4), label
    assert page.locator(".timeline polyline").count() == 6 and page.locator(".legend li").count() == 6
    assert f"{len(windows)} windows" in page.locator("#status").inner_text()


def test_events_are_those_of_avb_find_and_are_played(page, clips):
    choose(page, LARGEST, "fp32")
    hear(page, clips / "scene.wav")
    here = page.locator(".event-list li").evaluate_all("items => items.map((item) => ({ ...item.dataset }))")
    there = avb.find(str(clips / "scene.wav"), LARGEST, device="cpu")
    assert len(here) == len(there) >= 2  # made-up bursts are found less often than real ones
    for found, (_, expected) in zip(here, there.iterrows(), strict=True):
        for edge in ("start", "end"):
            assert float(found[edge]) == pytest.approx(expected[edge], abs=FRAME), edge
        assert float(found["detection"]) == pytest.approx(expected["detection"], abs=1e-4)
        scores = [float(score) for score in found["scores"].split(",")]
        np.testing.assert_allclose(scores, expected.iloc[3:].to_numpy(), atol=1e-4)
    assert f"{len(there)} events" in page.locator("#status").inner_text()
    assert page.get_by_role("img", name=f"{len(there)} events from 0.0 to 34.0 s").is_visible()
    print("ms of events in 34 s:", page.locator("#result").get_attribute("data-event-milliseconds"))
    second = page.get_by_role("button", name=re.compile("^Play ")).nth(1)
    second.press("Enter")
    start, end = there["start"][1], there["end"][1]
    page.wait_for_function("start => document.querySelector('#player').currentTime > start", arg=start)
    page.wait_for_function("() => document.querySelector('#player').paused")
    assert end - 0.1 <= page.locator("#player").evaluate("player => player.currentTime") < end + 5  # of 34 s


def test_what_is_probably_no_burst_is_said_as_in_python(page, clips):
    choose(page, LARGEST, "fp32")
    rng = np.random.default_rng(0)
    sf.write(clips / "noise.wav", 0.1 * rng.standard_normal(32_000), 16_000)
    model, verdicts = avb.load(LARGEST, device="cpu"), {}
    for name in ("0.wav", "1.wav", "noise.wav"):
        hear(page, clips / name)
        note, expected = page.locator(".burst"), model(str(clips / name), false_alarms_per_hour=360)[0]
        assert float(note.get_attribute("data-burst")) == pytest.approx(expected["burst_score"], abs=1e-4)
        verdicts[name] = note.inner_text().startswith("Probably not") is not expected["is_burst"]
        (shown,) = re.findall(r"burst score ([\d.]+)", note.inner_text())
        assert float(shown) == pytest.approx(expected["burst_score"], abs=1e-3)
    assert all(verdicts.values()), verdicts
    assert "Probably not a vocal burst" in note.inner_text()  # of noise


def test_a_page_without_a_detector_has_no_events(browser, server, clips):
    plain = new_page(browser)
    described = json.loads((server.folder / "models.json").read_text()) | {"detector": None}
    plain.route("**/models.json", lambda route: route.fulfill(json=described))
    plain.goto(server.address)
    wait(plain, "ready")
    assert hear(plain, clips / "0.wav") and not plain.locator(".events").count()
    sf.write(clips / "two minutes.wav", np.zeros(1000 * 121), 1000)
    assert not hear(plain, clips / "two minutes.wav")
    assert "longer than 120 seconds" in plain.get_by_role("alert").inner_text()
    plain.close()


def test_what_is_no_audio_is_said_and_the_page_goes_on(page, clips):
    assert not hear(page, clips / "notes.txt")
    said = page.get_by_role("alert").inner_text()
    assert said.startswith("notes.txt: this browser cannot decode its audio; save it as WAV") and "\n" not in said
    assert hear(page, clips / "0.wav") and not page.get_by_role("alert").is_visible()


def test_the_microphone_is_recorded_as_it_is_and_heard_live(page, clips, tmp_path):
    choose(page, SMALLEST, "fp32")
    page.get_by_label("Choose an audio file").set_input_files(clips / "scene.wav")  # its answer is no longer awaited
    record = page.get_by_role("button", name="Record")
    record.focus()
    page.keyboard.press("Enter")
    wait(page, "recording")
    page.wait_for_timeout(1500)
    assert page.locator("#result").get_attribute("data-state") == "recording"
    page.get_by_role("button", name="Stop").press("Enter")
    wait(page, "scored", having="[data-name='recording.wav']")
    here = shown(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the recording").click()
    download.value.save_as(tmp_path / "recording.wav")
    samples, _ = sf.read(tmp_path / "recording.wav")
    assert len(samples) > 16_000 and np.abs(samples).max() > 0.05  # the fake device plays a burst
    there = {
        entry["label"]: entry["score"] for entry in avb.load(SMALLEST, device="cpu")(str(tmp_path / "recording.wav"))
    }
    assert max(abs(here[label] - there[label]) for label in there) < LOSSY  # saved in 16 bits

    page.get_by_role("button", name="Listen live").click()
    page.wait_for_function(HEARD_LIVE)
    assert_no_error(page)
    print("ms per hop:", page.locator("#result").get_attribute("data-milliseconds"))
    assert sum(shown(page).values()) == pytest.approx(1, abs=1e-4)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped listening.").wait_for()


HEARD_LIVE = """() => {
  const [{ dataset }, heard] = [document.querySelector("#result"), [".timeline", ".event-list li"]];
  return dataset.state === "error" || (dataset.hops >= 3 && heard.every((place) => document.querySelector(place)));
}"""  # a timeline is of two windows that were not quiet; the events are found while it listens
WATCHED = """() => {
  [window.tracks, window.contexts] = [[], []];
  const ask = MediaDevices.prototype.getUserMedia;
  MediaDevices.prototype.getUserMedia = async function (...asked) {
    const stream = await ask.apply(this, asked);
    tracks.push(...stream.getTracks());
    return stream;
  };
  window.AudioContext = class extends AudioContext {
    constructor() {
      super();
      contexts.push(this);
      this.suspend(); // so that it needs its resume()
    }
  };
}"""
HANGING = """([owner, name]) => {
  const [prototype, real] = [window[owner].prototype, window[owner].prototype[name]];
  window.release = null;
  prototype[name] = function (...args) {
    return new Promise((resolve) => {
      window.release = () => {
        prototype[name] = real;
        resolve(real.apply(this, args));
      };
    });
  };
}"""
CLOSED = """() => tracks.length && tracks.every(({ readyState }) => readyState === "ended")
    && contexts.every(({ state }) => state === "closed")"""


def test_a_microphone_that_does_not_start_is_said_and_closed(browser, server):
    """Whatever of the browser it is that never answers: no device for sound, or one that another program holds."""
    page, wrong = new_page(browser), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.clock.install()
    page.goto(server.address)
    wait(page, "ready")
    page.evaluate(WATCHED)
    record = page.get_by_role("button", name="Record")
    for part in ("MediaDevices.getUserMedia", "AudioWorklet.addModule", "AudioContext.resume"):
        page.evaluate(HANGING, part.split("."))
        record.click()
        page.wait_for_function("() => window.release")
        assert "allow access when the browser asks" in page.get_by_role("status").inner_text()
        page.clock.fast_forward(11_000)
        wait(page, "error")
        assert "no sound from the microphone within 10 s" in page.get_by_role("alert").inner_text(), part
        page.evaluate("release()")
        page.wait_for_function(CLOSED)
        assert record.is_enabled() and record.inner_text() == "Record"
    page.close()
    assert not wrong


def test_a_dropped_export_is_a_model_of_the_page(page, clips, exports):
    page.get_by_text("Use your own model").click()
    page.get_by_label("The export's files").set_input_files([exports["two"] / "config.json"])
    wait(page, "error")
    assert "model.onnx, preprocessor_config.json missing" in page.get_by_role("alert").inner_text()
    files = [exports["two"] / name for name in ("config.json", "preprocessor_config.json", "onnx/model.onnx")]
    page.get_by_label("The export's files").set_input_files(files)
    wait(page, "ready", "scored", having="[data-model='your model (model.onnx) fp32 wasm']")
    (found,) = differences(page, None, [clips / "2.wav"], avb.load(str(exports["two"])))
    assert found < 1e-4
    said = page.get_by_role("img", name=re.compile("^Valence")).get_attribute("aria-label")
    valence, arousal = (f"{score:.2f}" for score in shown(page).values())
    assert f"Valence {valence}, arousal {arousal}" in said


def test_it_fits_a_phone_in_light_and_dark_and_everything_has_a_name(browser, server, clips):
    phone = new_page(browser, viewport={"width": 360, "height": 740})
    phone.goto(server.address)
    wait(phone, "ready")
    hear(phone, clips / "1.wav")
    for place in ("main", ".panel", ".buttons", ".drop", "#file", ".choices", "#player", ".top", ".bars", "footer"):
        box = phone.locator(place).last.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360, place
    for name in ("Record", "Listen live"):
        assert phone.get_by_role("button", name=name, exact=True).is_enabled()
    for label in ("Model", "Weights", "Runs on"):
        assert phone.get_by_role("combobox", name=label, exact=True).is_visible()
    assert phone.get_by_role("table", name="Probability of each label").is_visible()
    pictures = []
    for scheme in ("light", "dark"):
        phone.emulate_media(color_scheme=scheme)
        pictures.append(phone.screenshot())
    phone.close()
    dark, light = (read_brightness(picture) for picture in reversed(pictures))
    assert dark < 60 and light > 200  # of 255


def read_brightness(picture: bytes) -> float:
    with av.open(io.BytesIO(picture)) as image:
        return float(np.median(next(image.decode(video=0)).to_ndarray(format="gray")))


@pytest.mark.nightly
def test_webgpu_has_the_same_scores(launch, server, clips):
    """By an adapter in software, which takes a minute; the page offers it and does not choose it."""
    flags = "--enable-unsafe-webgpu --use-webgpu-adapter=swiftshader --enable-features=Vulkan --use-angle=swiftshader"
    browser = launch(*flags.split(), "--use-vulkan=swiftshader", "--ignore-gpu-blocklist")
    page = browser.new_page()
    page.set_default_timeout(240_000)
    page.goto(server.address)
    wait(page, "ready")
    assert page.locator("#result").get_attribute("data-model") == f"{LARGEST} fp16 wasm"
    page.get_by_label("Runs on").select_option("webgpu")
    wait(page, "ready", having=f"[data-model='{LARGEST} fp16 webgpu']")
    assert max(differences(page, LARGEST, [clips / "0.wav", clips / "48000.wav"])) < 1e-3
    browser.close()
