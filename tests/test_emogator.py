"""EmoGator in both its forms, a generated tree and generated shards; real recordings where AVB_EMOGATOR names them."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from datasets import DatasetDict

from avb.corpora import load_bursts
from avb.corpora.decode import decode_splits
from avb.corpora.emogator import CATEGORIES, clip_id
from avb.corpora.splits import hashed_split
from avb.errors import CorpusError

REAL = Path(os.environ.get("AVB_EMOGATOR", "absent"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="AVB_EMOGATOR names no folder of EmoGator's recordings")

# By hashed_split: train, train, validation, test.
SPEAKERS = ["000001", "000160", "000005", "000010"]


@pytest.fixture(scope="module")
def mp3(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("mp3") / "clip.mp3"
    sf.write(path, 0.3 * np.sin(np.arange(24_000) / 9), 48_000)
    return path.read_bytes()


def write_tree(root, mp3, categories=3):
    folder = root / "data" / "mp3"
    folder.mkdir(parents=True)
    for speaker in SPEAKERS:
        for number in range(1, categories + 1):
            for instance in (1, 2, 3):
                (folder / f"{speaker}-{number:02d}-{instance}.mp3").write_bytes(mp3)
    return root


def write_shard(path, mp3, speakers, metadata=None, **columns):
    rows = [(speaker, category, instance) for speaker in speakers for category in CATEGORIES[:2] for instance in (1, 2)]
    audio = [{"bytes": mp3, "path": f"{clip_id(*row)}.mp3"} for row in rows]
    table = {
        "audio": pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "speaker": [row[0] for row in rows],
        "category": [row[1] for row in rows],
        "instance": pa.array([row[2] for row in rows], pa.int32()),
        "duration": pa.array([0.5] * len(rows), pa.float32()),
    } | columns
    pq.write_table(pa.table({k: v for k, v in table.items() if v is not None}).replace_schema_metadata(metadata), path)


def write_norms(root):
    table = {"category": CATEGORIES, "valence": np.linspace(1, 9, 30), "arousal": np.linspace(9, 1, 30)}
    pd.DataFrame(table).to_csv(root / "category_norms.csv", index=False)


def ids(splits: DatasetDict) -> set[str]:
    return {clip for split in splits.values() for clip in split["id"][:]}


def message(*args, **options) -> str:
    with pytest.raises(CorpusError) as caught:
        load_bursts("emogator", *args, **options)
    return str(caught.value)


def test_categories():
    assert len(CATEGORIES) == 30 and list(CATEGORIES) == sorted(CATEGORIES)


@pytest.mark.parametrize("below", ["", "data", "data/mp3"])
def test_tree(tmp_path, mp3, below):
    task, splits = load_bursts("emogator", write_tree(tmp_path, mp3) / below)
    assert (task.name, task.kind, task.labels) == ("emotion", "classification", CATEGORIES)
    assert splits.num_rows == {"train": 18, "validation": 9, "test": 9}
    row = splits["validation"][4]
    assert row["audio"]["path"].endswith("data/mp3/000005-02-2.mp3") and row["audio"]["bytes"] is None
    assert {name: row[name] for name in row if name != "audio"} == {
        "id": "000005-02-2",
        "labels": 1,
        "speaker": "000005",
        "category": "Amusement",
        "instance": 2,
    }


def test_splits_of_the_tree_do_not_depend_on_the_files(tmp_path, mp3):
    write_tree(tmp_path, mp3)
    before = {row["id"]: name for name, split in load_bursts("emogator", tmp_path).splits.items() for row in split}
    for path in (tmp_path / "data" / "mp3").glob("000001-*"):
        path.unlink()
    after = {row["id"]: name for name, split in load_bursts("emogator", tmp_path).splits.items() for row in split}
    assert len(after) == 27 and after.items() <= before.items()
    assert {clip[:6]: name for clip, name in before.items()} == {s: hashed_split(s) for s in SPEAKERS}


def test_instances(tmp_path, mp3):
    write_tree(tmp_path, mp3)
    splits = load_bursts("emogator", tmp_path, instances=[1, 3]).splits
    assert {clip[-1] for clip in ids(splits)} == {"1", "3"}
    assert {clip[-1] for clip in ids(load_bursts("emogator", tmp_path, instances=2).splits)} == {"2"}
    for wrong in ([], [0], [1, 4], ["a"], None):
        assert "instances must be some of 1, 2, 3" in message(tmp_path, instances=wrong)


def test_shards(tmp_path, mp3):
    # The metadata that datasets writes; taken at its word, it needs torchcodec.
    metadata = {"huggingface": '{"info": {"features": {"audio": {"_type": "Audio"}}}}'}
    write_shard(tmp_path / "train-1.parquet", mp3, ["000001", "000002"], metadata)
    write_shard(tmp_path / "validation-1.parquet", mp3, ["000003"])
    task, splits = load_bursts("emogator", tmp_path, cache_dir=str(tmp_path / "cache"))
    assert splits.num_rows == {"train": 8, "validation": 4}
    row = splits["train"][6]
    assert (row["id"], row["labels"], row["speaker"]) == ("000002-02-1", 1, "000002")
    assert row["audio"] == {"bytes": mp3, "path": "000002-02-1.mp3"}
    assert splits["train"].cache_files  # mapped from disk
    first = load_bursts("emogator", tmp_path, instances=[1], cache_dir=str(tmp_path / "cache")).splits
    assert first["train"]["id"][:] == ["000001-01-1", "000001-02-1", "000002-01-1", "000002-02-1"]
    decoded, bad = decode_splits(first, cache_dir=tmp_path / "decoded")
    assert not bad and decoded["train"]["labels"][:] == [0, 1, 0, 1]
    assert abs(decoded["train"][0]["num_samples"] - 8000) < 1000


def test_changed_shards_are_read_again(tmp_path, mp3):
    cache = str(tmp_path / "cache")
    write_shard(tmp_path / "train-1.parquet", mp3, ["000001"])
    load_bursts("emogator", tmp_path, cache_dir=cache)
    write_shard(tmp_path / "train-1.parquet", mp3, ["000009"])
    assert load_bursts("emogator", tmp_path, cache_dir=cache).splits["train"]["speaker"][0] == "000009"


def test_pseudo_targets(tmp_path, mp3):
    write_tree(tmp_path, mp3)
    text = message(tmp_path, "two")
    assert "category_norms.csv: no such file; task 'two' needs the ratings" in text and "'emotion' does not" in text
    write_norms(tmp_path)
    task, splits = load_bursts("emogator", tmp_path, "two")
    assert task.name == "two" and task.labels == ("Valence", "Arousal")
    np.testing.assert_allclose(splits["train"][0]["labels"], [0, 1])
    np.testing.assert_allclose(splits["train"][8]["labels"], [2 / 29, 27 / 29], rtol=1e-5)
    norms = (tmp_path / "category_norms.csv").rename(tmp_path / "elsewhere.csv")
    assert load_bursts("emogator", tmp_path, "two", norms=norms).task is task
    norms.write_text(norms.read_text().replace("Awe", "Aw"))
    assert "elsewhere.csv: no row for Awe" in message(tmp_path, "two", norms=norms)
    norms.write_text(norms.read_text().replace("Aw,", "Awe,1").replace("9.0\n", "19.0\n", 1))
    assert "outside the label range 1 to 9" in message(tmp_path, "two", norms=norms)


def test_bad_roots_and_names(tmp_path, mp3):
    assert "nowhere: no such folder" in message(tmp_path / "nowhere")
    assert "neither Parquet shards (train-*.parquet) nor clips (data/mp3/NNNNNN-EE-I.mp3)" in message(tmp_path)
    assert "no task 'emotions'; did you mean 'emotion'?" in message(tmp_path, "emotions")
    folder = write_tree(tmp_path, mp3) / "data" / "mp3"
    (folder / "._000001-01-1.mp3").touch()
    load_bursts("emogator", tmp_path)
    for name in ("000001-31-1.mp3", "000001-00-1.mp3", "000001-01-4.mp3", "laugh.mp3"):
        (folder / name).touch()
        assert f"1 files are not named NNNNNN-EE-I.mp3 (EE 01 to 30, I 1 to 3): {name}" in message(tmp_path)
        (folder / name).unlink()


def test_bad_shards(tmp_path, mp3):
    cache = str(tmp_path / "cache")
    path = tmp_path / "train-1.parquet"
    write_shard(path, mp3, ["000001"], category=["Adoration", "Amusment"] * 2)
    text = message(tmp_path, cache_dir=cache)
    assert "2 rows have an unknown category, such as 'Amusment'; did you mean 'Amusement'?" in text
    write_shard(path, mp3, ["000001"], speaker=None)
    assert "train-1.parquet: no column 'speaker'" in message(tmp_path, cache_dir=cache)
    write_shard(path, mp3, ["000001"], audio=["a.mp3"] * 4)
    assert "column 'audio' is not {bytes, path} but" in message(tmp_path, cache_dir=cache)
    write_shard(path, mp3, ["000001", "000001"])
    assert "clip '000001-01-1' is in split 'train' twice" in message(tmp_path, cache_dir=cache)
    write_shard(path, mp3, ["000001"])
    write_shard(tmp_path / "train-2.parquet", mp3, ["000002"], extra=["x"] * 4)
    assert "train-2.parquet: its columns or their types differ from those of train-1.parquet" in message(
        tmp_path, cache_dir=cache
    )
    (tmp_path / "train-2.parquet").unlink()
    path.write_bytes(path.read_bytes()[:-20])
    assert "train-1.parquet: not a Parquet file, or truncated" in message(tmp_path, cache_dir=cache)


# ---------------------------------------------------------------------------------------------------- real recordings


@needs_real
def test_real_shards(tmp_path):
    cache = str(tmp_path / "cache")
    (tmp_path / "validation-1.parquet").symlink_to(REAL / "validation-1.parquet")
    splits = load_bursts("emogator", tmp_path, cache_dir=cache).splits
    rows = splits["validation"]
    assert len(rows) == 900 and set(rows["category"][:]) == set(CATEGORIES)
    assert rows["id"][:] == [Path(audio["path"]).stem for audio in rows["audio"]]
    few = DatasetDict(validation=rows.select(range(0, 900, 30)))
    decoded, bad = decode_splits(few, cache_dir=tmp_path / "decoded")
    assert not bad
    seconds = np.array(few["validation"]["duration"][:])
    np.testing.assert_allclose(np.array(decoded["validation"]["num_samples"][:]) / 16_000, seconds, atol=0.05)


@needs_real
def test_real_tree(tmp_path):
    tree = REAL / "original"
    if not tree.is_dir():
        pytest.skip("AVB_EMOGATOR has no folder `original` with files as published")
    splits = load_bursts("emogator", tree, instances=[1]).splits
    assert splits.num_rows == {"train": 30, "test": 30}
    decoded, bad = decode_splits(splits, cache_dir=tmp_path)
    assert not bad
    for split in decoded.values():  # contributor 000160 is near-silent: levelled all the same
        peaks = [np.abs(row["input_values"]).max() for row in split]
        np.testing.assert_allclose(peaks, 10 ** (-3 / 20), rtol=1e-4)


@needs_real
def test_real_pseudo_targets():
    if not (REAL / "original").is_dir():
        pytest.skip("AVB_EMOGATOR has no folder `original` with files as published")
    splits = load_bursts("emogator", REAL / "original", "two", norms=REAL / "category_norms.csv").splits
    sadness = next(row for row in splits["train"] if row["category"] == "Sadness")
    np.testing.assert_allclose(sadness["labels"], [(2.40 - 1) / 8, (2.81 - 1) / 8], rtol=1e-6)
