"""A recording as a picture: what is gathered of it, and what the files show."""

import re
import sys
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile as sf
from PIL import Image
from tiny import detector_of_noise

import avb
import predict_avb
from avb.errors import AvbError
from avb.events.timeline import Event, Track, make_timeline
from avb.reports.timeline import clock, named_events, ticks

RATE, THRESHOLD = 16_000, 0.5
SETTINGS = {"detector": detector_of_noise(), "threshold": THRESHOLD}


@pytest.fixture(scope="module")
def pipe():
    return avb.load("emogator-cnn", "cpu")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Twelve seconds at 8 kHz, tones on and off, of a name that matplotlib would take for a formula."""
    seconds = np.arange(12 * 8_000) / 8_000
    waveform = 0.3 * np.sin(2 * np.pi * (200 + 300 * np.sin(seconds)) * seconds) * (np.sin(2 * seconds) > 0.3)
    path = tmp_path_factory.mktemp("recordings") / "$5 & $6.wav"
    sf.write(path, waveform + np.random.default_rng(0).normal(0, 1e-4, len(seconds)), 8_000)
    return path


def texts(path) -> list[str]:
    return [element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_the_svg_names_labels_and_events_with_their_times(recording, pipe, tmp_path):
    avb.plot(recording, tmp_path / "a.svg", pipe, **SETTINGS)
    found, written = avb.find(recording, pipe, **SETTINGS), texts(tmp_path / "a.svg")
    names = list(pipe.model.config.id2label.values())
    assert f"{recording.name}: {len(found)} events" in written and len(found) > 2
    expected = [
        f"{row[names].astype(float).idxmax()} 0:{np.floor(row['start'] * 10 + 0.5) / 10:04.1f}"
        for _, row in found.iterrows()
    ]
    assert [text for text in written if re.search(r" \d+:\d\d\.\d$", text)] == expected
    highest = found[names].sum().sort_values(ascending=False).index[:8].tolist()
    assert [text for text in written if text in names] == highest
    assert [text for text in written if re.fullmatch(r"\d+:\d\d", text)] == [f"0:{s:02d}" for s in range(0, 13, 2)]
    before = (tmp_path / "a.svg").read_bytes()
    avb.plot(recording, tmp_path / "a.svg", pipe, **SETTINGS)
    assert (tmp_path / "a.svg").read_bytes() == before


def test_what_is_gathered_is_what_the_generators_give(recording, pipe):
    timeline = make_timeline(recording, pipe, window_seconds=2, hop_seconds=1, labels=["Pain", "Awe"], **SETTINGS)
    windows = list(pipe.windows(recording, 2, 1))
    assert timeline.labels == ["Pain", "Awe"] and timeline.seconds == pytest.approx(12)
    for column, window in zip(timeline.scores.values, windows, strict=True):
        scores = {entry["label"]: entry["score"] for entry in window["scores"]}
        assert column == pytest.approx([scores["Pain"], scores["Awe"]], abs=1e-6)
    assert timeline.scores.edges.tolist() == [0.0, *(1.5 + step for step in range(10)), 12.0]
    events = [(event["start"], event["end"], event["detection"]) for event in pipe.events(recording, **SETTINGS)]
    assert [(event.start, event.end, event.detection) for event in timeline.events] == events
    waveform = np.concatenate(timeline.level.values)
    assert waveform.max() == pytest.approx(0.3, abs=0.05) and waveform.min() < 0.001


def test_the_command_draws_what_python_draws(recording, pipe, tmp_path, capsys):
    output = tmp_path / "new folder" / "a.png"
    argv = ["emogator-cnn", str(recording), "--output", str(output), "--window_seconds", "4", "--labels", "Awe", "Pain"]
    assert predict_avb.main(argv) == 0 and f"drawn: {output}" in capsys.readouterr().out
    figure = avb.plot(recording, tmp_path / "b.png", pipe, window_seconds=4, labels=["Awe", "Pain"])
    with Image.open(output) as one, Image.open(tmp_path / "b.png") as other:
        assert one.size == other.size and one.size[0] == 1500
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert [text.get_text() for text in figure.axes[2].get_yticklabels()] == ["Awe", "Pain"]
    assert predict_avb.main(argv) == 1 and "exists: give another name, or --overwrite" in capsys.readouterr().err
    assert predict_avb.main([argv[0], str(recording), *argv[1:], "--overwrite"]) == 1
    assert f"{output}: a picture shows one recording, and 2 were given" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, said",
    [
        (["--labels", "Wonder"], "no label 'Wonder'"),
        (["--window_seconds", "1", "--hop_seconds", "2"], "the hop must be positive, and at most the window"),
    ],
)
def test_what_cannot_be_drawn(more, said, recording, tmp_path, capsys):
    argv = ["emogator-cnn", str(recording), "--output", str(tmp_path / "a.png"), *more]
    assert predict_avb.main(argv) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "a.png").exists()


def test_options_that_do_not_go_with_a_picture(capsys):
    for more, said in (
        (["--output", "a.png", "--events_format", "rttm"], "--events_format is for --events, not for a picture"),
        (["--output", "a.svg", "--dtype", "bfloat16"], "--window_seconds, not for a picture (--output FILE.png)"),
        (["--output", "a.jpg"], "a.jpg: a picture is written as .png or .svg"),
        (["--output", "a.csv", "--labels", "Awe"], "--labels is for a picture"),
    ):
        with pytest.raises(SystemExit):
            predict_avb.main(["emogator-cnn", "a.wav", *more])
        assert said in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(recording, pipe, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("avb.reports", "matplotlib"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AvbError, match=r'^a picture needs matplotlib: pip install "avb\[report\]"$'):
        avb.plot(recording, None, pipe)


def test_a_track_keeps_the_highest_in_bounded_columns():
    track, values = Track(most=100), np.random.default_rng(0).random((86_400, 2))
    for second, row in enumerate(values, 1):
        track.add(float(second), row)
        assert len(track.stops) <= 100
    edges = track.edges
    assert len(edges) > 50 and edges[0] == 0 and edges[-1] == 86_400
    for column, (start, stop) in zip(track.values, pairwise(edges.astype(int)), strict=True):
        np.testing.assert_array_equal(column, values[start:stop].max(0))


def test_an_hour_with_hundreds_of_events_stays_readable():
    rng = np.random.default_rng(0)
    starts = np.sort(rng.uniform(0, 3599, 400))
    events = [
        Event(start, start + 0.5, detection, "Awe") for start, detection in zip(starts, rng.random(400), strict=True)
    ]
    chosen = named_events(events, 3600)
    assert 20 < len(chosen) <= 37 and max(event.detection for event in events) in [event.detection for event in chosen]
    assert all(later.start - event.start >= 100 for event, later in pairwise(chosen))
    assert [clock(at, 3600, False) for at in ticks(3600)[:3]] == ["0:00:00", "0:10:00", "0:20:00"]
    assert clock(3599.96, 3600, True) == "1:00:00.0" and clock(59.96, 60, True) == "1:00.0"
    for seconds in (0.3, 1, 10, 61, 600, 3600, 86_400, 10**6):
        assert 2 <= len(ticks(seconds)) <= 11


def test_a_picture_that_cannot_be_written_is_one_clear_error(pipe, tmp_path):
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(AvbError, match=r"a\.svg: cannot be written \(Is a directory\)"):
        avb.plot((np.zeros(1_600), 16_000), tmp_path / "a.svg", pipe)
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]
