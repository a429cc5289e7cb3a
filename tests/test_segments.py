"""Segments of recordings as clips: the same samples in training, in prepared shards and in prediction."""

import csv

import numpy as np
import pytest
import soundfile as sf
from recordings import encode, noise

import predict_avb
from audio_avb import load_audio
from avb.corpora import load_bursts
from avb.corpora.conversion import prepare
from avb.corpora.decode import decode_splits

FILES = [f"talk{number}.{suffix}" for number, suffix in enumerate(("wav", "flac", "m4a", "wav", "ogg", "wav"))]
SPANS = [("0", "0.5"), ("0.5", "1.25"), ("1.25", "")]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Six recordings of two seconds, three segments each, one of them beyond the end."""
    folder = tmp_path_factory.mktemp("talks")
    for number, name in enumerate(FILES):
        waveform = np.roll(noise(2.0), 997 * number)
        if name.endswith("m4a"):
            (folder / name).write_bytes(encode("ipod", "aac", waveform, 16_000))
        else:
            sf.write(folder / name, waveform, 16_000)
    rows = [(name, *span, "ab"[number % 2]) for name in FILES for number, span in enumerate(SPANS)]
    rows.append((FILES[0], "1.5", "9", "b"))
    path = folder / "talks.csv"
    path.write_text("".join(",".join(row) + "\n" for row in [("file", "start", "end", "feeling"), *rows]))
    return path


def waveforms(splits) -> dict[str, np.ndarray]:
    return {row["id"]: np.asarray(row["input_values"]) for rows in splits.values() for row in rows}


def test_segments_are_clips(table, tmp_path):
    corpus = load_bursts("folder", table)
    of_file = {}
    for split, rows in corpus.splits.items():
        for clip_id in rows["id"][:]:
            of_file.setdefault(clip_id.partition("#")[0], set()).add(split)
    assert set(of_file) == set(FILES) and all(len(splits) == 1 for splits in of_file.values())
    splits, bad = decode_splits(corpus.splits, cache_dir=str(tmp_path))
    assert [clip.id for clip in bad] == ["talk0.wav#1.5-9"] and "segment is beyond the end" in bad[0].reason
    decoded = waveforms(splits)
    assert len(decoded) == 18
    for clip_id, waveform in decoded.items():
        np.testing.assert_array_equal(waveform, load_audio(table.parent / clip_id))
    assert {len(decoded[f"talk0.wav#{start}-{end}"]) for start, end in SPANS} == {8_000, 12_000}


def test_prepared_segments_are_the_same(table, tmp_path):
    bad = prepare("folder", table, tmp_path / "shards")
    assert [clip.id for clip in bad] == ["talk0.wav#1.5-9"]
    prepared = load_bursts("folder", tmp_path / "shards", cache_dir=str(tmp_path / "cache")).splits
    clips = {row["id"]: load_audio(row["audio"], peak_db=None) for rows in prepared.values() for row in rows}
    assert len(clips) == 18
    for clip_id, waveform in clips.items():
        np.testing.assert_allclose(waveform, load_audio(table.parent / clip_id), atol=1e-4)  # 16 bits


def test_predict_scores_segments(table, tmp_path):
    named = [str(table.parent / name) for name in ("talk0.wav#0.5-1.25", "talk2.m4a#0.5-1.25", "talk0.wav#3-4")]
    assert predict_avb.main(["emogator-cnn", *named, "--output", str(tmp_path / "scores.csv")]) == 3
    with open(tmp_path / "scores.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == named[:2]
    corpus = ["--corpus", "folder", "--data_dir", str(table), "--split", "train"]
    assert predict_avb.main(["emogator-cnn", *corpus, "--output", str(tmp_path / "train.csv")]) in (0, 3)
    with open(tmp_path / "train.csv", newline="") as file:
        assert all("#" in row["id"] for row in csv.DictReader(file))
