"""Clips decoded once to disk: shared between tasks, never stale, and bad clips reported every time."""

import os

import numpy as np
import pytest
from small_corpora import write_clip, write_release

from audio_avb import AudioPreparation
from avb.corpora import decode, load_bursts
from avb.corpora.decode import decode_splits
from avb.errors import AudioError, AvbError, CorpusError


def test_decode_once(tmp_path):
    splits = load_bursts("hume_vb", write_release(tmp_path / "corpus"), "two").splits
    cache = tmp_path / "cache"
    decoded, bad = decode_splits(splits, cache_dir=cache)
    row = decoded["train"][1]
    assert not bad and set(row) == {"id", "labels", "input_values", "num_samples"}
    assert isinstance(row["input_values"], np.ndarray) and row["input_values"].dtype == np.float32
    assert row["input_values"].shape == (1600,) and row["num_samples"] == 1600
    assert np.abs(row["input_values"]).max() == pytest.approx(10 ** (-3 / 20), abs=1e-4)
    assert [path.suffix for path in cache.iterdir()] == [".arrow"] * 3
    assert decoded["train"].cache_files  # mapped from disk, not held in memory


def test_decoded_files_are_shared_and_never_stale(tmp_path):
    root, cache = write_release(tmp_path / "corpus"), tmp_path / "cache"
    decode_splits(load_bursts("hume_vb", root, "two").splits, cache_dir=cache)
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}

    labels = (root / "labels" / "two_info.csv").read_text()
    (root / "labels" / "two_info.csv").write_text(labels.replace("0.2", "0.9"))
    decoded, _ = decode_splits(load_bursts("hume_vb", root, "two").splits, cache_dir=cache)
    np.testing.assert_allclose(decoded["train"][1]["labels"], 0.9, rtol=1e-6)  # a new label, no new decoding
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before

    write_clip(root / "audio" / "wav" / "00023.wav", seconds=0.2)
    splits = load_bursts("hume_vb", root, "two").splits
    assert decode_splits(splits, cache_dir=cache)[0]["train"][1]["num_samples"] == 3200
    assert len(list(cache.iterdir())) == 4
    quiet, _ = decode_splits(splits, AudioPreparation(peak_db=-20), cache_dir=cache)
    assert np.abs(quiet["train"][1]["input_values"]).max() == pytest.approx(0.1, abs=1e-4)
    assert len(list(cache.iterdir())) == 7


def test_bad_clips_are_left_out_and_reported(tmp_path):
    root, cache = write_release(tmp_path / "corpus"), tmp_path / "cache"
    bad_path = root / "audio" / "wav" / "00023.wav"
    bad_path.write_text("not audio")
    splits = load_bursts("hume_vb", root, "two").splits
    for _ in range(2):  # the second time from the file
        decoded, bad = decode_splits(splits, cache_dir=cache)
        assert decoded["train"]["id"][:] == ["[10119]", "[99999]"]
        np.testing.assert_allclose(decoded["train"][1]["labels"], [0, 0.01], atol=1e-7)
        assert decoded["train"][1]["input_values"].shape == (1600,)
        assert [(clip.split, clip.id, clip.path) for clip in bad] == [("train", "[00023]", str(bad_path))]
        assert "not audio but text" in bad[0].reason
        with pytest.raises(AudioError, match=r"00023\.wav: not audio but text"):
            decode_splits(splits, cache_dir=cache, strict=True)
    (root / "audio" / "wav" / "5.wav").write_text("")
    with pytest.raises(CorpusError, match=r"split 'test': none of its 1 clips can be decoded; the first: .*5\.wav"):
        decode_splits(splits, cache_dir=cache)


def test_strict_leaves_nothing_behind(tmp_path):
    root, cache = write_release(tmp_path / "corpus"), tmp_path / "cache"
    (root / "audio" / "wav" / "00023.wav").write_text("not audio")
    with pytest.raises(AudioError):
        decode_splits(load_bursts("hume_vb", root, "two").splits, cache_dir=cache, strict=True)
    assert not list(cache.iterdir())


def test_decoding_in_processes(tmp_path):
    splits = load_bursts("hume_vb", write_release(tmp_path / "corpus"), "two").splits
    alone, _ = decode_splits(splits, cache_dir=tmp_path / "one")
    together, _ = decode_splits(splits, cache_dir=tmp_path / "two", num_proc=2)
    for split in alone:
        for a, b in zip(alone[split], together[split], strict=True):
            np.testing.assert_array_equal(a["input_values"], b["input_values"])


def die(preparation, source):
    os._exit(1)


def test_a_killed_process_is_reported(tmp_path, monkeypatch):
    splits = load_bursts("hume_vb", write_release(tmp_path / "corpus"), "two").splits
    monkeypatch.setattr(decode, "_decode", die)
    with pytest.raises(CorpusError, match="a decoding process was killed"):
        decode_splits(splits, cache_dir=tmp_path / "cache", num_proc=2)


def test_unwritable_cache(tmp_path):
    splits = load_bursts("hume_vb", write_release(tmp_path / "corpus"), "two").splits
    (tmp_path / "file").touch()
    with pytest.raises(AvbError, match="cannot be written .* give a --cache_dir that has space and is writable"):
        decode_splits(splits, cache_dir=tmp_path / "file" / "cache")
