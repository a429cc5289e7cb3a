"""Audits: a sound model passes, each planted defect is caught by the change or the group it was planted for."""

import csv

import numpy as np
import pytest
import soundfile as sf

from avb.corpora.emogator import CATEGORIES
from avb.errors import AvbError
from avb.metrics import Units
from avb.reports.audit import CHANGES, audit, backgrounds, judge_change, judge_groups
from avb.reports.command import main
from avb.tasks import Task

TASK = Task("pitch", "classification", ("low", "middle", "high"))
PITCHES = (200, 400, 800)
GROUPS = {"sex": {f"s{number}": "female" if number % 2 else "male" for number in range(12)}}


@pytest.fixture(scope="module")
def clips():
    """60 tones of twelve speakers, with an overtone of 6.5 kHz."""
    generator = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 20)
    time = np.arange(6_400) / 16_000
    waveforms = []
    for label in labels:
        pitch = PITCHES[label] * generator.uniform(0.95, 1.05)
        tone = np.sin(2 * np.pi * pitch * time) + 0.1 * np.sin(2 * np.pi * 6_500 * time)
        waveforms.append((0.4 * tone).astype(np.float32))
    return waveforms, labels, [f"s{number // 5}" for number in range(60)]


def sound(waveform) -> int:
    """The pitch with the most energy around it."""
    spectrum = np.abs(np.fft.rfft(waveform, 16_000))  # a Hz per bin
    return int(np.argmax([spectrum[int(0.9 * pitch) : int(1.1 * pitch)].max() for pitch in PITCHES]))


def scorer(is_deaf=lambda waveform: False):
    """A model that is right, except where it is deaf: there it says the first class."""

    def score(waveforms):
        return np.eye(3)[[0 if is_deaf(waveform) else sound(waveform) for waveform in waveforms]]

    return score


def energy_above(waveform, hertz):
    spectrum = np.abs(np.fft.rfft(waveform)) ** 2
    return spectrum[int(hertz * len(waveform) / 16_000) :].sum() / spectrum.sum()


DEFECTS = {
    "gain -20 dB": lambda waveform: np.abs(waveform).max() < 0.1,
    "gain -40 dB": lambda waveform: np.abs(waveform).max() < 0.02,
    "white noise, 15 dB below": lambda waveform: energy_above(waveform, 7_000) > 0.001,
    "pink noise, 15 dB below": lambda waveform: energy_above(waveform, 0) - energy_above(waveform, 150) > 0.003,
    "rate 8 kHz": lambda waveform: energy_above(waveform, 4_500) < 1e-4,
    "codec mu-law, 8 kHz": lambda waveform: energy_above(waveform, 4_500) < 1e-4,
    "reverberation 1 s": lambda waveform: len(waveform) > 20_000,
    "clipping 10 dB": lambda waveform: np.isclose(np.abs(waveform), np.abs(waveform).max(), rtol=1e-4).mean() > 0.2,
    "first tenth cut off": lambda waveform: len(waveform) < 6_000,
    "last tenth cut off": lambda waveform: len(waveform) < 6_000,
    "half a second of silence around": lambda waveform: not waveform[:100].any() and len(waveform) > 8_000,
}


def run(score, clips, **settings):
    waveforms, labels, speakers = clips
    ids = [f"clip{number}" for number in range(len(labels))]
    return audit(score, TASK, ids, waveforms, labels, Units("speaker", speakers), **settings)


def test_a_sound_model_passes_every_test(clips):
    found = run(scorer(), clips, groups=GROUPS)
    assert found.scores["uar"] == 1 and found.failed == []
    assert [finding.test for finding in found.findings] == [*CHANGES, "sex: female", "sex: male"]
    assert all(finding.unchanged == 1 for finding in found.findings if finding.kind == "change")


@pytest.mark.parametrize("change", DEFECTS)
def test_a_planted_defect_is_caught(change, clips):
    found = run(scorer(DEFECTS[change]), clips, changes={change: CHANGES[change], "codec opus": CHANGES["codec opus"]})
    assert found.scores["uar"] == 1 and found.failed == [change]
    assert found.findings[0].score == pytest.approx(1 / 3)


def test_a_group_that_is_heard_worse_is_named(clips):
    waveforms, labels, speakers = clips
    is_deaf = np.isin(speakers, ["s1", "s3", "s5"])
    predicted = np.where(is_deaf, 0, [sound(waveform) for waveform in waveforms])
    kinds = {f"s{number}": "a" if number in (1, 3, 5) else "b" for number in range(12)}
    rows = judge_groups(TASK, "kind", labels, predicted, speakers, kinds)
    assert [(row.test, row.passed) for row in rows] == [("kind: a", False), ("kind: b", False)]
    assert rows[0].difference == pytest.approx(-2 / 3) and rows[0].num_clips == 15
    few = judge_groups(TASK, "kind", labels, predicted, speakers, {"s0": "a", "s1": "a", "s2": "b", "s4": "b"})
    assert [row.passed for row in few] == [None, None]


def test_groups_dealt_at_random_are_seldom_blamed(clips):
    _, labels, speakers = clips
    blamed = 0
    for seed in range(10):
        generator = np.random.default_rng(seed)
        predicted = np.where(generator.random(60) < 0.6, labels, generator.integers(0, 3, 60))
        kinds = {f"s{number}": "abc"[number % 3] for number in generator.permutation(12)}
        blamed += any(row.passed is False for row in judge_groups(TASK, "kind", labels, predicted, speakers, kinds))
    assert blamed <= 2  # 5 % of 10 is less than one


def test_what_another_draw_of_speakers_would_explain_is_no_failure():
    """Scores: half a point of loss within the interval passes, a loss beyond it fails."""
    task = Task("two", "regression", ("a", "b"))
    generator = np.random.default_rng(0)
    truth = generator.random((200, 2))
    speakers = [f"s{number // 10}" for number in range(200)]
    recorded = truth + generator.normal(scale=0.2, size=truth.shape)
    shaken = recorded + generator.normal(scale=0.02, size=truth.shape)
    slightly = judge_change(task, "x", truth, recorded, shaken, speakers)
    badly = judge_change(task, "x", truth, recorded, generator.random((200, 2)), speakers)
    assert slightly.passed and not badly.passed and badly.difference < badly.threshold < 0
    assert slightly.unchanged == pytest.approx(1 - 0.016, abs=0.005)
    alone = judge_change(task, "x", truth, recorded, recorded, ["s"] * 200)
    assert alone.passed is None


def test_changes_keep_clips_as_loud_as_they_were_and_depend_on_the_clip_alone(clips):
    waveform = clips[0][0]
    for name, change in CHANGES.items():
        first, second = (change(waveform, np.random.default_rng(3)) for _ in range(2))
        assert np.array_equal(first, second), name
        assert np.isfinite(first).all() and np.abs(first).max() <= 1.01, name
        short = change(waveform[:50], np.random.default_rng(3))
        assert len(short) and np.isfinite(short).all(), name


def test_the_command_audits_a_shipped_model(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for number in range(60):
        sf.write(tmp_path / f"{number}.wav", 0.1 * generator.normal(size=3_000), 16_000)
    (tmp_path / "speech" / "xx").mkdir(parents=True)
    sf.write(tmp_path / "speech" / "xx" / "a.wav", 0.1 * generator.normal(size=2_000), 16_000)
    write(tmp_path / "groups.csv", ["speaker", "sex"], [[f"s{number}", "fm"[number % 2]] for number in range(6)])
    kinds = [[f"{number}.wav", f"s{number % 6}", CATEGORIES[number % 30], "test"] for number in range(60)]
    write(tmp_path / "clips.csv", ["file", "speaker", "kind", "split"], kinds)
    write(tmp_path / "few.csv", ["file", "speaker", "kind", "split"], [row for row in kinds if row[2] != CATEGORIES[0]])

    argv = ["audit", "emogator-small", str(tmp_path / "clips.csv"), "--label_columns", "kind", "--max_clips", "12"]
    argv += ["--cache_dir", str(tmp_path / "cache"), "--groups", str(tmp_path / "groups.csv")]
    assert main([*argv, "--background", str(tmp_path / "speech"), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out/audit.md").read_text() and "on 12 clips of" in printed
    with open(tmp_path / "out/audit.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["test"] for row in rows] == [*CHANGES, "xx behind, 15 dB below", "sex: f", "sex: m"]
    assert float(rows[0]["unchanged"]) > 0.8  # the level is set before the model hears a clip

    write(tmp_path / "others.csv", ["speaker", "sex"], [["S1", "f"], ["s1", ""]])
    assert main([*argv, "--groups", str(tmp_path / "others.csv")]) == 1
    assert "it has groups of none of the speakers of" in capsys.readouterr().err
    write(tmp_path / "anonymous.csv", ["file", "kind", "split"], [[row[0], *row[2:]] for row in kinds])
    assert main([*argv[:2], str(tmp_path / "anonymous.csv"), *argv[3:]]) == 1
    assert "are not known; --speaker_column names their column" in capsys.readouterr().err
    argv[2] = str(tmp_path / "few.csv")
    assert main(argv) == 1
    assert "its labels are not those of the corpus" in capsys.readouterr().err
    with pytest.raises(AvbError, match="a sub-folder of recordings per language"):
        backgrounds(tmp_path / "speech" / "xx")


def write(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
