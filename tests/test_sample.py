"""The embedded synthetic sample: deterministic, in the release's layout, and learnable from its audio.

The last tests would fail if the labels came apart from the clips: they fit a ridge regression and a nearest centroid
on a few spectral features of the training speakers, and score speakers never seen.
"""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

SCRIPT = Path(__file__).resolve().parents[1] / "data" / "make_sample.py"
spec = importlib.util.spec_from_file_location("make_sample", SCRIPT)  # data/ is no package
sample_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample_module)
make_sample = sample_module.make_sample

NINE = ["Awe", "Excitement", "Amusement", "Awkwardness", "Fear", "Horror", "Distress", "Triumph", "Sadness"]
COUNTRIES = ["China", "United States", "South Africa", "Venezuela"]
HEADERS = {
    "high": [*NINE, "Surprise"],
    "two": ["Valence", "Arousal"],
    "culture": [f"{c}_{e}" for c in COUNTRIES for e in NINE] + [f"{c}_Surprise" for c in COUNTRIES],
    "type": ["Voc_Type"],
}
CALL_TYPES = {"Gasp", "Laugh", "Cry", "Scream", "Grunt", "Groan", "Pant", "Other"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return make_sample(tmp_path_factory.mktemp("sample") / "sample")


def read_table(root: Path, name: str) -> list[list[str]]:
    with open(root / "labels" / name, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def read_labels(root: Path, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """File ids (clips,), splits (clips,) and label cells (clips, labels), all as text."""
    rows = np.array(read_table(root, f"{task}_info.csv")[1:])
    return rows[:, 0], rows[:, 1], rows[:, 2:]


def read_bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_arguments_give_same_bytes(tmp_path):
    first, again, other = (make_sample(tmp_path / name, 48, seed) for name, seed in [("a", 3), ("b", 3), ("c", 4)])
    assert read_bytes(first) == read_bytes(again)
    assert len(read_bytes(first)) == 48 + 5 + 1
    assert not set((first / "audio/wav").iterdir()) & set((other / "audio/wav").iterdir())
    assert read_bytes(first)["labels/two_info.csv"] != read_bytes(other)["labels/two_info.csv"]


def test_layout_is_the_release_s(sample):
    assert sorted(path.name for path in sample.iterdir()) == ["SYNTHETIC.txt", "audio", "labels"]
    assert "no person was recorded" in (sample / "SYNTHETIC.txt").read_text()
    names = {path.stem for path in (sample / "audio" / "wav").iterdir()}
    assert len(names) == 600
    for task, labels in HEADERS.items():
        table = read_table(sample, f"{task}_info.csv")
        assert table[0] == ["File_ID", "Split", *labels]
        assert all(row[0] == f"[{row[0][1:-1]}]" and len(row[0]) == 7 for row in table[1:])
        assert [row[0][1:-1] for row in table[1:]] == sorted(names)
        assert all(cell == "" for row in table[1:] if row[1] == "Test" for cell in row[2:])
        assert all(cell != "" for row in table[1:] if row[1] != "Test" for cell in row[2:])


def test_clips_are_16_khz_mono_pcm_at_minus_3_db(sample):
    for path in (sample / "audio" / "wav").iterdir():
        info = sf.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0.3 <= info.duration <= 1.6
        wave, _ = sf.read(path)
        assert 20 * np.log10(np.abs(wave).max()) == pytest.approx(-3, abs=0.01)
        edges = np.concatenate([wave[:320], wave[-320:]])  # 20 ms at either end
        assert 20 * np.log10(np.abs(edges).max()) < -30


def test_splits_share_no_speaker_and_hold_every_class(sample):
    speakers = dict(read_table(sample, "speakers.csv")[1:])
    ids, splits, types = read_labels(sample, "type")
    members = {split: {speakers[i] for i in ids[splits == split]} for split in ("Train", "Val", "Test")}
    assert {split: len(names) for split, names in members.items()} == {"Train": 16, "Val": 5, "Test": 3}
    assert len(set.union(*members.values())) == 24
    assert [(splits == split).sum() for split in members] == [400, 125, 75]
    for split in ("Train", "Val"):
        assert set(types[splits == split, 0]) == CALL_TYPES


@pytest.mark.parametrize("task", ["high", "two", "culture"])
def test_labels_lie_in_0_1_and_spread(sample, task):
    _, splits, cells = read_labels(sample, task)
    values = cells[splits != "Test"].astype(float)
    assert values.min() >= 0 and values.max() <= 1
    assert values.std(axis=0).min() >= 0.1


def measure(path: Path) -> np.ndarray:
    """Simple features of a clip: log spectrum in 24 bands (mean, spread, change), modulation spectrum, duration."""
    wave, _ = sf.read(path)
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::160] * np.hanning(512)  # (frames, 512)
    power = np.abs(np.fft.rfft(frames)) ** 2  # (frames, 257)
    edges = np.unique(np.geomspace(2, 256, 26).astype(int))
    bands = np.log(np.add.reduceat(power[:, 2:256], edges[:-1] - 2, axis=1) + 1e-6)  # (frames, bands)
    level = power.sum(axis=1)
    active = bands[level > level.max() * 0.02]
    half = len(active) // 2
    envelope = np.sqrt(level) - np.sqrt(level).mean()
    modulation = np.abs(np.fft.rfft(envelope, 256))[1:24]  # 0.4 to 9 Hz
    shape = np.log(modulation / modulation.sum() + 1e-3)
    change = active[half:].mean(axis=0) - active[:half].mean(axis=0)
    return np.concatenate([active.mean(axis=0), active.std(axis=0), change, shape, [len(wave) / 16_000]])


@pytest.fixture(scope="module")
def features(sample) -> np.ndarray:
    """(clips, features), standardised with the training clips' moments, in the order of the label files."""
    ids, splits, _ = read_labels(sample, "type")
    values = np.array([measure(sample / "audio" / "wav" / f"{name[1:-1]}.wav") for name in ids])
    train = values[splits == "Train"]
    return (values - train.mean(axis=0)) / train.std(axis=0)


def fit_and_score(x_train, y_train, x_val, y_val) -> float:
    """Mean CCC of a ridge regression."""
    centre = y_train.mean(axis=0)
    gram = x_train.T @ x_train + 30 * np.eye(x_train.shape[1])
    y = x_val @ np.linalg.solve(gram, x_train.T @ (y_train - centre)) + centre
    covariance = ((y - y.mean(axis=0)) * (y_val - y_val.mean(axis=0))).mean(axis=0)
    distance = (y.mean(axis=0) - y_val.mean(axis=0)) ** 2
    return float((2 * covariance / (y.var(axis=0) + y_val.var(axis=0) + distance)).mean())


@pytest.mark.parametrize("task", ["high", "two", "culture"])
def test_scores_are_learnable_on_unseen_speakers(sample, features, task):
    _, splits, cells = read_labels(sample, task)
    train, val = splits == "Train", splits == "Val"
    y_train, y_val = cells[train].astype(float), cells[val].astype(float)
    assert fit_and_score(features[train], y_train, features[val], y_val) > 0.65
    shuffled = np.random.default_rng(0).permutation(y_train)  # the control: labels that belong to other clips
    assert fit_and_score(features[train], shuffled, features[val], y_val) < 0.2


def test_call_types_are_learnable_on_unseen_speakers(sample, features):
    _, splits, types = read_labels(sample, "type")
    train, val, types = splits == "Train", splits == "Val", types[:, 0]
    names = np.array(sorted(CALL_TYPES))
    centroids = np.array([features[train & (types == name)].mean(axis=0) for name in names])  # (8, features)
    distances = ((features[val][:, None] - centroids) ** 2).sum(axis=2)  # (clips, 8)
    predicted, truth = names[distances.argmin(axis=1)], types[val]
    uar = np.mean([(predicted[truth == name] == name).mean() for name in names])
    assert 0.5 < uar < 1.0  # chance 0.125; not trivial either


def test_the_same_sample_is_left_alone_and_another_replaces_it(tmp_path):
    out = make_sample(tmp_path / "out", 24)
    wav = next((out / "audio" / "wav").iterdir())
    stamp = wav.stat().st_mtime_ns
    assert make_sample(out, 24) == out and wav.stat().st_mtime_ns == stamp
    wav.unlink()  # incomplete: made again
    make_sample(out, 24)
    assert wav.is_file()
    make_sample(out, 25)
    assert len(list((out / "audio" / "wav").iterdir())) == 25
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing temporary stays


def test_foreign_files_are_never_overwritten(tmp_path):
    (tmp_path / "recording.wav").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not empty and not a sample"):
        make_sample(tmp_path, 24)
    with pytest.raises(FileExistsError, match="is a file"):
        make_sample(tmp_path / "recording.wav", 24)
    out = make_sample(tmp_path / "out", 24)
    (out / "notes.txt").write_text("mine")  # a sample with something of the user's in it
    with pytest.raises(FileExistsError, match="not empty and not a sample"):
        make_sample(out, 25)
    assert (tmp_path / "recording.wav").read_bytes() == b"mine" and (out / "notes.txt").read_text() == "mine"


def test_command_line(tmp_path):
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run([*command, str(tmp_path / "out"), "--clips", "24"], capture_output=True, text=True)
    assert done.returncode == 0 and "24 synthetic clips" in done.stdout
    failed = subprocess.run([*command, str(tmp_path / "few"), "--clips", "3"], capture_output=True, text=True)
    assert (
        failed.returncode == 1
        and "--clips 3 is invalid: it must be 24" in failed.stderr
        and "Traceback" not in failed.stderr
    )
    assert not (tmp_path / "few").exists()
