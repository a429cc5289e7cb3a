"""hume_vb, and what all corpora share: what loads, in which order and type, and what each mistake in a table prints."""

from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from datasets import Value
from small_corpora import message, write_clip, write_release

from avb.corpora import load_bursts
from avb.corpora.rows import require_split
from avb.corpora.splits import hashed_split, parse_split
from avb.corpus_arguments import CORPORA
from avb.errors import CorpusError
from avb.tasks import TASKS

# ---------------------------------------------------------------------------------------------------- hume_vb


@pytest.mark.parametrize("name", TASKS)
def test_release(tmp_path, name):
    task, splits = load_bursts("hume_vb", write_release(tmp_path, name), name)
    assert task is TASKS[name]
    assert {split: rows["id"][:] for split, rows in splits.items()} == {
        "train": ["[10119]", "[00023]", "[99999]"],
        "validation": ["[40001]"],
        "test": ["[5]"],
    }
    row = splits["train"][1]
    assert row["audio"] == {"bytes": None, "path": str(tmp_path / "audio" / "wav" / "00023.wav")}
    withheld = splits["test"][0]["labels"]
    if task.kind == "regression":
        np.testing.assert_allclose(row["labels"], [0.2] * task.num_labels, rtol=1e-6)
        np.testing.assert_allclose(splits["train"][2]["labels"], 0.01 * np.arange(task.num_labels), atol=1e-7)
        assert len(withheld) == task.num_labels and np.isnan(withheld).all()
        assert splits["train"].features["labels"].feature == Value("float32")
    else:
        assert splits["train"]["labels"][:] == [0, 1, 7] and withheld == -100
        assert splits["train"].features["labels"] == Value("int64")


def test_columns_are_found_by_name(tmp_path):
    write_release(tmp_path)
    path = tmp_path / "labels" / "two_info.csv"
    table = pd.read_csv(path, dtype=str)[["Arousal", "Split", "Valence", "File_ID"]]
    table.insert(0, "Subject_ID", list("aabbc"))
    table.insert(0, "country", ["China", "China", "Venezuela", "Venezuela", "China"])
    table.columns = ["country", "Subject_ID", " AROUSAL", "split", "valence ", "file id"]
    table.to_csv(path, encoding="utf-8-sig", sep=";", index=False)
    splits = load_bursts("hume_vb", tmp_path, "two").splits
    np.testing.assert_allclose(splits["train"][2]["labels"], [0, 0.01], atol=1e-7)
    assert splits["train"]["speaker"][:] == ["a", "a", "c"]
    assert splits["validation"]["country"][:] == ["Venezuela"]


def test_ids_tolerate_padding_and_brackets(tmp_path):
    ids = ["10119", " [23]", "[40001 ]", "00005", "[99999]"]
    splits = load_bursts("hume_vb", write_release(tmp_path, File_ID=ids), "two").splits
    assert splits["train"]["id"][:] == ["10119", "[23]", "[99999]"]
    assert splits["train"][1]["audio"]["path"].endswith("00023.wav")
    assert splits["test"][0]["audio"]["path"].endswith("/5.wav")


def test_absent_splits_are_left_out(tmp_path):
    splits = load_bursts("hume_vb", write_release(tmp_path, Split=["Train"] * 5), "two").splits
    assert list(splits) == ["train"]
    assert require_split(splits, "train") is splits["train"]
    with pytest.raises(CorpusError, match="0 clips in split 'validation', only in train"):
        require_split(splits, "validation")


def test_missing_release_files(tmp_path):
    assert "nowhere: no such folder; give the folder that contains audio/ and labels/" in message(
        "hume_vb", tmp_path / "nowhere", "two"
    )
    write_release(tmp_path)
    text = message("hume_vb", tmp_path, "high")
    assert "labels/high_info.csv: no such label file. " in text and "contains: two_info.csv" in text
    (tmp_path / "labels" / "two_info.csv").rename(tmp_path / "labels" / "two_infos.csv")
    assert "did you mean 'two_infos.csv'?" in message("hume_vb", tmp_path, "two")
    assert "needs a task: high, two, culture, type" in message("hume_vb", tmp_path)
    with pytest.raises(ValueError, match="did you mean 'two'"):
        load_bursts("hume_vb", tmp_path, "tow")


def test_bad_columns(tmp_path):
    path = write_release(tmp_path) / "labels" / "two_info.csv"
    good = path.read_text()
    path.write_text(good.replace("Valence", "Valance"))
    text = message("hume_vb", tmp_path, "two")
    assert "two_info.csv: no column 'Valence'; did you mean 'Valance'?" in text
    assert "It has: File_ID, Split, Valance, Arousal" in text
    path.write_text(good.replace("Valence", "Arousal"))
    assert "column 'Arousal' appears more than once" in message("hume_vb", tmp_path, "two")
    path.write_text(good.replace("Valence", "arousal_"))
    assert "no column 'Valence'" in message("hume_vb", tmp_path, "two")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            {"Valence": [0.1, 1.5, 0.3, "", 2]},
            "line 3, clip '[00023]', column 'Valence': '1.5' (and 1 more) is outside the label range 0 to 1",
        ),
        ({"Valence": [0.1, "-inf", 0.3, "", 0]}, "line 3, clip '[00023]', column 'Valence': '-inf' is outside"),
        ({"Arousal": [0.1, 0.2, "high", "", 0]}, "line 4, clip '[40001]', column 'Arousal': 'high' is not a number"),
        ({"Split": ["Train", "Train", "Vall", "Test", "Train"]}, "line 4, column 'Split': 'Vall' is not a split"),
        (
            {"File_ID": ["[1]", "[5]", "[10119]", "[05]", "[99999]"]},
            "line 5: File_ID '[05]' was already in line 3 as '[5]'",
        ),
        ({"File_ID": ["[1]", "[2]", "[3]", "[5]", "[99999]"]}, "3 of 5 File_IDs have no audio file in"),
        (
            {"File_ID": ["[../5]", "[2]", "[3]", "[5]", "[99999]"]},
            "line 2, column 'File_ID': '[../5]' is not a File_ID",
        ),
        ({"File_ID": ["[]", "[2]", "[3]", "[5]", "[99999]"]}, "line 2, column 'File_ID': '[]' is not a File_ID"),
    ],
)
def test_bad_cells(tmp_path, cells, said):
    text = message("hume_vb", write_release(tmp_path, **cells), "two")
    assert "two_info.csv" in text and said in text


def test_unknown_class(tmp_path):
    text = message("hume_vb", write_release(tmp_path, "type", Voc_Type=["Gasp", "laugh", "Laughs", "", "Pant"]), "type")
    assert (
        "line 4, clip '[40001]', column 'Voc_Type': 'Laughs' is not a class of task 'type'; did you mean 'Laugh'?"
        in text
    )
    assert "Gasp, Laugh, Cry, Scream, Grunt, Groan, Pant, Other" in text


def test_missing_audio(tmp_path, caplog):
    write_release(tmp_path)
    for name in ("10119", "00023"):
        (tmp_path / "audio" / "wav" / f"{name}.wav").unlink()
    text = message("hume_vb", tmp_path, "two")
    assert "2 of 5 File_IDs have no audio file" in text and "such as [10119], [00023]" in text
    assert "skip_missing=True" in text
    splits = load_bursts("hume_vb", tmp_path, "two", skip_missing=True).splits
    assert splits.num_rows == {"train": 1, "validation": 1, "test": 1} and "2 of 5" in caplog.text
    np.testing.assert_allclose(splits["train"][0]["labels"], [0, 0.01], atol=1e-7)
    (tmp_path / "audio" / "wav").rename(tmp_path / "audio" / "wav48")
    assert "wav: no such folder; the release has its clips there" in message("hume_vb", tmp_path, "two")
    assert len(load_bursts("hume_vb", tmp_path, "two", skip_missing=True, audio_dir="audio/wav48").splits) == 3
    (tmp_path / "audio" / "wav48" / "40001.wav").unlink()
    text = message("hume_vb", tmp_path, "two", skip_missing=True, audio_dir="audio/wav48")
    assert "0 clips in split 'validation'" in text


def test_two_files_of_one_id(tmp_path):
    write_clip(write_release(tmp_path) / "audio" / "wav" / "010119.wav")
    assert "010119.wav and 10119.wav have the same File_ID" in message("hume_vb", tmp_path, "two")


# ---------------------------------------------------------------------------------------------------- by name


def test_corpora_and_options_by_name(tmp_path):
    assert {"hume_vb", "emogator", "folder"} <= CORPORA.keys()
    assert all(callable(import_module(f"avb.corpora.{name}").load) for name in CORPORA)
    assert "unknown corpus 'humevb'; did you mean 'hume_vb'?" in message("humevb", tmp_path)
    text = message("folder", tmp_path, label_colums=["joy"])
    assert "corpus 'folder' has no option 'label_colums'; did you mean 'label_columns'?" in text


def test_split_names():
    assert [parse_split(text) for text in ("Train", " VAL", "dev", "Test", "")] == [
        "train",
        "validation",
        "validation",
        "test",
        None,
    ]


def test_hashed_splits_are_fixed():
    """Stated in the documentation of the corpora: a change here moves speakers between published splits."""
    speakers = [f"{number:06d}" for number in range(1, 1001)]
    splits = [hashed_split(speaker) for speaker in speakers]
    assert [splits.count(name) for name in ("train", "validation", "test")] == [776, 108, 116]
    assert (hashed_split("000010"), hashed_split("000160")) == ("test", "train")
