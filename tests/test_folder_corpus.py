"""Label tables and folders of clips: what loads, in which order and type, and what each mistake prints."""

import os

import numpy as np
import pandas as pd
import pytest
from small_corpora import message, write_clip, write_table

from avb.corpora import load_bursts
from avb.errors import CorpusError
from avb.inference.clips import find_paths
from avb.tasks import TASKS

# ---------------------------------------------------------------------------------------------------- tables


def test_broken_tables(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"file,label\n" + 2000 * b"x.wav,0.5\n" + b"x\xe9.wav,0.5\n")  # beyond a reader's first block
    assert "labels.csv, line 2002: not UTF-8 text; save it as 'CSV UTF-8'" in message("folder", path)
    path.write_text("")
    assert "labels.csv: the file is empty" in message("folder", path)
    path.write_text("file,label\n\n,,\n")
    assert "labels.csv: the table has a header but no rows; 0 clips" in message("folder", path)
    path.write_text("file,label\na.wav,0.5\n\nb.wav,0,5\n")
    assert "labels.csv, line 4: 3 fields, but the header has 2" in message("folder", path)
    path.with_suffix(".parquet").write_bytes(b"PAR1 no more")
    assert "labels.parquet: cannot be read as a table" in message("folder", path.with_suffix(".parquet"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_encodings(tmp_path, separator, encoding):
    names = ["a b.wav", "ä,ö;ü.wav", "c.wav"]
    for name in names:
        write_clip(tmp_path / name)
    joy = ["0,5", "0,25", ""] if separator == ";" else [0.5, 0.25, ""]  # a decimal comma of a European spreadsheet
    table = pd.DataFrame({"file": names, "joy": joy, "split": ["train", "dev", "test"]})
    table.to_csv(tmp_path / "t.csv", sep=separator, encoding=encoding)  # with pandas' unnamed index
    task, splits = load_bursts("folder", tmp_path)
    assert task.labels == ("joy",) and task.name == "t" and task.kind == "regression"
    assert splits["validation"][0]["id"] == "ä,ö;ü.wav" and splits["validation"][0]["labels"] == [0.25]
    assert np.isnan(splits["test"][0]["labels"]).all()


# ---------------------------------------------------------------------------------------------------- folder


@pytest.mark.parametrize("name", ["clips.csv", "clips.tsv", "clips.parquet"])
def test_regression_table(tmp_path, name):
    path = write_table(tmp_path, name, valence=np.arange(10) / 10, arousal=[0.5] * 9 + [None])
    for root in (path, tmp_path):
        task, splits = load_bursts("folder", root)
        assert (task.kind, task.labels, task.label_range) == ("regression", ("valence", "arousal"), (0, 1))
        rows = {row["id"]: row for split in splits.values() for row in split}
        assert splits.num_rows == {"train": 8, "validation": 1, "test": 1} and len(rows) == 10
        np.testing.assert_allclose(rows["c3.wav"]["labels"], [0.3, 0.5], rtol=1e-6)
        assert np.isnan(rows["c9.wav"]["labels"][1])


def test_classification_table(tmp_path):
    path = write_table(tmp_path, emotion=["joy", "fear"] * 4 + ["", "joy"], split=["train"] * 8 + ["test"] * 2)
    task, splits = load_bursts("folder", path)
    assert (task.kind, task.labels) == ("classification", ("fear", "joy"))
    assert splits["test"]["labels"][:] == [-100, 1] and list(splits) == ["train", "test"]


def test_numbers_can_be_classes(tmp_path):
    path = write_table(tmp_path, label=[0, 1, 2, 3, 4] * 2)
    text = message("folder", path)
    assert "line 4, clip 'c2.wav', column 'label': '2' (and 5 more) is outside the label range 0 to 1" in text
    assert "label_range=(0, 4) (--label_range 0 4)" in text and "kind='classification'" in text
    assert load_bursts("folder", path, kind="classification").task.labels == ("0", "1", "2", "3", "4")
    task, splits = load_bursts("folder", path, label_range=[0, 4])
    assert task.label_range == (0, 4) and max(row["labels"][0] for row in splits["train"]) == 4
    with pytest.raises(ValueError, match="label_range must be two numbers"):
        load_bursts("folder", path, label_range=[4, 0])


def test_ambiguous_labels(tmp_path):
    path = write_table(tmp_path, joy=[0.5] * 10, note=["x", "y"] * 5)
    text = message("folder", path)
    assert "which columns are the labels? numeric: joy; text: note; give label_columns=[...]" in text
    assert load_bursts("folder", path, label_columns=["joy"]).task.kind == "regression"
    assert load_bursts("folder", path, label_columns="note").task.labels == ("x", "y")
    assert "no column 'jov' (label_columns); did you mean 'joy'?" in message("folder", path, label_columns=["jov"])
    assert "no label columns" in message("folder", write_table(tmp_path, "bare.csv"))


@pytest.mark.parametrize(
    ("columns", "proposed"),
    [
        ({"Joy (0-1)": [0.5] * 10, "note": [*"abcdefghij"]}, "(--label_columns 'Joy (0-1)')"),
        ({"joy": [0.5] * 10, "kind": ["x", "y"] * 5}, "kind for classes, --label_columns joy for scores)"),
        # A running number, ages and seconds are no labels because they are numbers, nor are remarks on some clips.
        ({"No": range(1, 11), "emotion": ["x", "y"] * 5, "note": ["", "loud"] * 5}, "(--label_columns emotion)"),
        ({"age": [30, 41] * 5, "length": [0.5] * 10, "note": [*"abcdefghij"]}, "(--label_columns COLUMN ...)"),
        ({"mood": ["x", "y"] * 5, "place": ["home", "lab"] * 5}, "(--label_columns COLUMN ...)"),
        # An empty cell leaves a column of classes one, and the name counts; who speaks is no class.
        ({"emotion": ["x", "y"] * 4 + ["", "x"], "place": ["home", "lab"] * 5}, "(--label_columns emotion)"),
        ({"mood": ["x", "y"] * 5, "Geschlecht": ["m", "w"] * 5}, "(--label_columns mood)"),
    ],
)
def test_labels_are_proposed_where_the_cells_speak_for_them(columns, proposed, tmp_path):
    text = message("folder", write_table(tmp_path, **columns))
    assert f"{proposed}. Also: who speaks?" in text
    assert "who speaks" not in message("folder", tmp_path / "clips.csv", speaker_column="")


def test_all_that_a_table_leaves_open_is_asked_at_once(tmp_path):
    path = write_table(tmp_path, voice=["1", "2"] * 5, emotion=["x", "y"] * 5)
    path.write_text(path.read_text().replace("file", "Clip name", 1))
    text = message("folder", path)
    for question in ("(--path_column 'Clip name')", "(--label_columns emotion)", "(--speaker_column)"):
        assert question in text
    options = {"path_column": "Clip name", "label_columns": ["emotion"], "speaker_column": "voice"}
    with pytest.raises(CorpusError, match="at least 3 speakers"):  # there is no more to ask
        load_bursts("folder", path, **options)
    assert "choose one: label_columns=[...] (--label_columns emotion)" in message(
        "folder", path, path_column="Clip name", kind="classification"
    )


def test_task_of_the_challenge_in_a_table(tmp_path):
    path = write_table(tmp_path, note=["x"] * 10, Arousal=[0.25] * 10, valence=[0.5] * 10)
    task, splits = load_bursts("folder", path, "two")
    assert task is TASKS["two"] and splits["train"][0]["labels"] == [0.5, 0.25]
    assert "no column 'Awe'" in message("folder", path, "high")


def test_bad_classes(tmp_path):
    text = message("folder", write_table(tmp_path, emotion=["joy", "Joy"] * 5))
    assert "column 'emotion': 'Joy' and 'joy' are one class in two spellings" in text
    assert "every row has its own class" in message("folder", write_table(tmp_path, emotion=list("abcdefghij")))
    assert "1 class (['joy'])" in message("folder", write_table(tmp_path, emotion=["joy"] * 10))


def test_zeros_and_ones_may_be_classes_or_scores(tmp_path):
    path = write_table(tmp_path, laugh=["0", "1"] * 5)
    assert "column 'laugh': it has only 0 and 1: if these are two classes" in message("folder", path)
    assert load_bursts("folder", path, kind="classification").task.labels == ("0", "1")
    assert load_bursts("folder", path, kind="regression").task.metric == "ccc"
    path = write_table(tmp_path, laugh=["0", "1"] * 5, cry=["1", "0"] * 5)  # several may apply to a clip: scores
    assert load_bursts("folder", path).task.labels == ("laugh", "cry")


def test_scores_on_two_scales_are_told(tmp_path, caplog):
    path = write_table(tmp_path, valence=[-80, 90] * 5, arousal=[1, 9] * 5)
    text = message("folder", path)
    assert "the column spans -80 to 90 (the other label columns 1 to 9)" in text
    load_bursts("folder", path, label_range=(-80, 90))
    assert "the label range is -80 to 90, but arousal spans 1 to 9: such a column is hardly learned" in caplog.text
    caplog.clear()
    load_bursts("folder", write_table(tmp_path, valence=[-80, 90] * 5, arousal=[-9, 60] * 5), label_range=(-80, 90))
    assert "hardly learned" not in caplog.text


def test_rows_that_repeat_a_clip_are_counted(tmp_path):
    path = write_table(tmp_path, joy=[0.5] * 10)
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows + rows[1:4]) + "\n")
    text = message("folder", path)
    assert "line 12: the clip 'c0.wav' was already in line 2; so are 2 more rows. Keep one row per clip" in text
    assert "(--rater_column)" in text


def test_paths_of_a_windows_computer(tmp_path, caplog):
    path = write_table(tmp_path, joy=[0.1 * n for n in range(10)])
    table, there = path.read_text(), r"C:\Users\Jürgen Groß\Versuch 3"
    path.write_text(table.replace("\nc", f"\n{there}\\c"))
    splits = load_bursts("folder", path, speaker_column="").splits
    assert sorted(
        os.path.basename(path)
        for rows in splits.values()
        for path in rows.data["audio"].combine_chunks().field("path").to_pylist()
    ) == [f"c{n}.wav" for n in range(10)]
    (tmp_path / "m").mkdir()
    (tmp_path / "c0.wav").rename(tmp_path / "m" / "c0.wav")
    path.write_text(table.replace("\nc0", f"\n{there}\\m\\c0").replace("\nc", f"\n{there.lower()}\\c"))
    splits = load_bursts("folder", path, speaker_pattern="^(m|c.)").splits  # m/c0, c1, …
    assert sorted({name for rows in splits.values() for name in rows["speaker"][:]}) == [
        *(f"c{n}" for n in range(1, 10)),
        "m",
    ]
    text = message("folder", path, audio_root=tmp_path / "m")
    assert (
        "10 of 10 audio files are not in" in text
        and f"they are paths of another computer: audio_root takes the place of {there}" in text
    )
    path.write_text(table.replace("\nc", "\nC:\\a\\..\\..\\c", 1).replace("\nc", "\nC:\\a\\c"))
    assert "is outside" in message("folder", path)


def test_an_empty_cell_is_a_missing_file(tmp_path, caplog):
    path = write_table(tmp_path, joy=[0.5] * 10)
    path.write_text(path.read_text().replace("c4.wav", ""))
    assert "line 6, column 'file': no path; remove the row or fill it in" in message("folder", path)
    assert sum(load_bursts("folder", path, skip_missing=True).splits.num_rows.values()) == 9
    assert "1 of 10 audio files are not in" in caplog.text and "line 6 (an empty cell)" in caplog.text


def test_a_stray_word_among_numbers(tmp_path):
    path = write_table(tmp_path, joy=[0.5] * 9 + ["lots"])
    assert "clips.csv, line 11, clip 'c9.wav', column 'joy': 'lots' is not a number" in message("folder", path)


def test_path_column(tmp_path):
    path = write_table(tmp_path, joy=[0.5] * 10)
    path.write_text(path.read_text().replace("file", "recording"))
    text = message("folder", path)
    assert "which column holds the audio paths?" in text and "['recording', 'joy']" in text
    assert load_bursts("folder", path, path_column="Recording").task.labels == ("joy",)
    path.write_text(path.read_text().replace("recording", "File_ID").replace(".wav", ""))
    assert load_bursts("folder", path).splits["train"][0]["audio"]["path"].endswith(".wav")  # found without a suffix


def test_ids_come_from_their_own_column(tmp_path):
    path = write_table(tmp_path, id=[f"burst-{i:02d}" for i in range(10)], joy=[0.5] * 10, split=["train"] * 10)
    assert load_bursts("folder", path).splits["train"][7]["id"] == "burst-07"


def test_missing_files(tmp_path, caplog):
    path = write_table(tmp_path, joy=[0.5] * 10)
    for i in range(4):
        (tmp_path / f"c{i}.wav").unlink()
    text = message("folder", path)
    assert "4 of 10 audio files are not in" in text and "line 2 (c0.wav), line 3 (c1.wav), line 4 (c2.wav)" in text
    assert "audio_root=..." in text and "skip_missing=True" in text
    assert sum(load_bursts("folder", path, skip_missing=True).splits.num_rows.values()) == 6
    assert "4 of 10" in caplog.text
    assert "0 clips: none of its 10 files" in message("folder", path, skip_missing=True, audio_root=tmp_path / "x")


@pytest.mark.parametrize(
    ("written", "on_disk"),
    [
        ("Rec 1.wav", "REC 1.WAV"),
        ("Rec 1", "rec 1.Wav"),
        ("caf\u00e9.wav", "cafe\u0301.wav"),  # one character, and e with an accent that follows
        ("cafe\u0301", "CAF\u00c9.WAV"),
    ],
)
def test_a_file_is_found_in_another_spelling(tmp_path, written, on_disk):
    """Tables and clips come from systems that tell names apart otherwise."""
    path = write_table(tmp_path, joy=[0.5] * 10, split=["train"] * 10)
    (tmp_path / "c3.wav").rename(tmp_path / on_disk)
    path.write_text(path.read_text().replace("c3.wav", written))
    assert load_bursts("folder", path).splits["train"][3]["audio"]["path"] == str(tmp_path / on_disk)

    # Never a guess between two, and never one file for two rows.
    path.write_text(path.read_text().replace("c4.wav", written.swapcase()))
    assert "line 6" in message("folder", path) and "was already in line 5" in message("folder", path)
    path.write_text(path.read_text().replace(written.swapcase(), "c4.wav"))
    write_clip(tmp_path / on_disk.title().swapcase())
    assert "1 of 10 audio files are not in" in message("folder", path)


def test_paths_stay_inside(tmp_path):
    (tmp_path / "inner").mkdir()
    write_clip(tmp_path / "outside.wav")
    path = write_table(tmp_path / "inner", joy=[0.5] * 10)
    good = path.read_text()
    for escape in ("../outside.wav", str(tmp_path / "outside.wav"), "x/../../outside.wav", "..\\outside.wav"):
        path.write_text(good.replace("c5.wav", escape))
        text = message("folder", path)
        assert f"line 7, column 'file': {escape!r} is outside" in text and "audio_root" in text
    path.write_text(good.replace("c5.wav", str(tmp_path / "inner" / "c5.wav")))
    load_bursts("folder", path)  # absolute, and inside
    path.write_text(good.replace("c5.wav", str(tmp_path / "outside.wav")))
    assert "line 2 (c0.wav)" in message("folder", path, audio_root="/")  # the others start from there too
    path.write_text(good.replace("c5.wav", ""))
    assert "line 7, column 'file': no path" in message("folder", path)


def test_one_clip_twice(tmp_path):
    path = write_table(tmp_path, joy=[0.5] * 10)
    path.write_text(path.read_text().replace("c7.wav", "c2.wav"))
    assert "line 9: the clip 'c2.wav' was already in line 4" in message("folder", path)
    path.write_text(path.read_text().replace("c2.wav", "./c2.wav", 1))
    assert "c2.wav' was already in line 4" in message("folder", path)


def test_splits_by_column(tmp_path):
    path = write_table(tmp_path, joy=[0.5] * 10, Partition=["Train"] * 7 + ["devel", "VAL", " test"])
    assert load_bursts("folder", path).splits.num_rows == {"train": 7, "validation": 2, "test": 1}
    path = write_table(tmp_path, joy=[0.5] * 10, Partition=["Train"] * 9 + ["holdout"])
    assert (
        "line 11, column 'Partition': 'holdout' is not a split; valid: train, validation (val, dev), test"
        in message("folder", path)
    )
    assert "no column 'fold' (split_column)" in message("folder", path, split_column="fold")


@pytest.mark.parametrize("name", ["Speaker_ID", "Participant", "actor"])
def test_made_splits_keep_speakers_apart(tmp_path, name):
    speakers = [f"s{i // 4}" for i in range(40)]
    path = write_table(tmp_path, clips=40, joy=[0.5] * 40, **{name: speakers})
    splits = load_bursts("folder", path).splits
    again = load_bursts("folder", path).splits
    assert all(splits[name]["id"][:] == again[name]["id"][:] for name in splits)
    of_split = [set(splits[name]["speaker"][:]) for name in ("train", "validation", "test")]
    assert sum(len(s) for s in of_split) == 10 and len(set.union(*of_split)) == 10
    assert splits.num_rows == {"train": 32, "validation": 4, "test": 4}
    by_clip = load_bursts("folder", path, speaker_column="", label_columns=["joy"]).splits
    assert "speaker" not in by_clip["train"].column_names
    two = write_table(tmp_path, "two.csv", joy=[0.5] * 10, speaker=["a", "b"] * 5)
    assert "two.csv: splits cannot be made: at least 3 speakers (or clips) are needed, but there are 2" in message(
        "folder", two
    )


def test_splits_made_clip_by_clip_are_told(tmp_path, caplog):
    path = write_table(tmp_path, clips=40, joy=[0.5] * 40, Sprecher=[f"s{i // 4}" for i in range(40)])
    load_bursts("folder", path, label_columns=["joy"])
    assert "no speakers are known" in caplog.text and "--speaker_column names their column" in caplog.text
    caplog.clear()
    for column in ("Sprecher", ""):
        load_bursts("folder", path, label_columns=["joy"], speaker_column=column)
    assert not caplog.text


def test_first_line_of_a_spreadsheet(tmp_path):
    path = write_table(tmp_path, joy=[0.5] * 10)
    lines = ["sep=;", "file;joy", *(f"c{i}.wav;0,{i}" for i in range(10))]
    path.write_text("\r\n".join(lines), encoding="utf-8-sig")
    task, splits = load_bursts("folder", path)
    assert task.labels == ("joy",) and sum(splits.num_rows.values()) == 10
    path.write_text("\n".join([*lines, "c1.wav;0,5;7"]))
    assert "line 13: 3 fields, but the header has 2" in message("folder", path)


def test_roots(tmp_path):
    assert "nowhere: no such file or folder" in message("folder", tmp_path / "nowhere")
    write_table(tmp_path, joy=[0.5] * 10)
    write_table(tmp_path, "more.csv", joy=[0.5] * 10)
    assert "2 tables (clips.csv, more.csv); give the path of one" in message("folder", tmp_path)
    assert "must be one of .csv, .tsv, .parquet" in message("folder", tmp_path / "c0.wav")


@pytest.mark.parametrize("with_splits", [False, True])
def test_audiofolder(tmp_path, with_splits):
    for split in ("train", "val", "test") if with_splits else ("",):
        for i in range(6):
            write_clip(tmp_path / split / "laugh" / f"{i}.wav")
            write_clip(tmp_path / split / "cry" / "deeper" / f"{i}.wav")
    (tmp_path / "._junk").touch()
    task, splits = load_bursts("folder", tmp_path)
    assert (task.name, task.kind, task.labels) == (tmp_path.name, "classification", ("cry", "laugh"))
    assert set(splits) == {"train", "validation", "test"}
    assert sum(splits.num_rows.values()) == (36 if with_splits else 12)
    for row in splits["train"]:
        assert task.labels[row["labels"]] in row["id"].split("/")
    assert os.path.isfile(splits["test"][0]["audio"]["path"])


def test_training_and_prediction_find_the_same_clips_behind_links(tmp_path):
    """Clips often lie on another disk: a class folder is a link, or has some."""
    for name in ("disk/laugh/1.wav", "disk/laugh/deep/2.wav", "disk/more/3.wav", "clips/cry/4.wav", "clips/cry/5.wav"):
        write_clip(tmp_path / name)
    for number in range(6, 12):
        write_clip(tmp_path / "disk" / "more" / f"{number}.wav")
    (tmp_path / "clips" / "laugh").symlink_to(tmp_path / "disk" / "laugh")
    (tmp_path / "clips" / "cry" / "more").symlink_to("../../disk/more")
    (tmp_path / "clips" / "cry" / "round").symlink_to("..")
    _, splits = load_bursts("folder", tmp_path / "clips")
    found = sorted(row["id"] for split in splits.values() for row in split)
    predicted = [os.path.relpath(path, tmp_path / "clips") for path in find_paths([str(tmp_path / "clips")])]
    assert found == sorted(predicted) and len(found) == 11 and "cry/more/3.wav" in found


@pytest.mark.parametrize(
    "options", [{"task": "high"}, {"label_columns": ["joy"]}, {"label_range": (1, 7)}, {"speaker_column": "who"}]
)
def test_audiofolder_has_no_columns(tmp_path, options):
    for name in ("laugh", "cry"):
        write_clip(tmp_path / name / "1.wav")
    assert f"leave out --{next(iter(options))}" in message("folder", tmp_path, **options)


def test_folder_of_nothing(tmp_path):
    assert "neither one label table" in message("folder", tmp_path)
    write_clip(tmp_path / "laugh" / "1.wav")
    assert "classes found: ['laugh']" in message("folder", tmp_path)
