"""Label tables: what spreadsheets, other systems and typing do to them, and ids that are paths."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from bad_input.case import Case

CLIPS = [f"c{number}.wav" for number in range(10)]
ROWS = [(name, f"0.{number}", f"0.{9 - number}") for number, name in enumerate(CLIPS)]
HEADER = ("file", "joy", "fear")


def text(rows=ROWS, header=HEADER, separator: str = ",", end: str = "\n") -> str:
    return "".join(separator.join(map(str, row)) + end for row in (header, *rows))


def clips(folder: Path, names=CLIPS) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        sf.write(folder / name, np.zeros(16), 16_000)
    return folder


def table(content: str | bytes, name: str = "clips.csv", **options) -> Callable[[Path], tuple]:
    """A table of ten clips beside them; returns what `load_bursts` is given."""

    def build(folder: Path) -> tuple:
        path = clips(folder) / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ("folder", path, None), options

    return build


def cell(row: int, column: int, value: str) -> str:
    rows = [list(row) for row in ROWS]
    rows[row][column] = value
    return text(rows)


def path_cell(name: str) -> str:
    return cell(5, 0, name)


def release(rows: list[str], clip_names=("00001", "00002", "00003"), audio_dir: str = "audio/wav"):
    """A folder of HUME-VB's layout, task two."""

    def build(folder: Path) -> tuple:
        (folder / "labels").mkdir()
        content = "\n".join(["File_ID,Split,Valence,Arousal", *rows]) + "\n"
        (folder / "labels" / "two_info.csv").write_text(content, encoding="utf-8")
        (folder / audio_dir).mkdir(parents=True)
        clips(folder / audio_dir, [f"{name}.wav" for name in clip_names])
        return ("hume_vb", folder, "two"), {}

    return build


GOOD = ["[00001],Train,0.1,0.2", "[00002],Val,0.3,0.4", "[00003],Test,,"]


def instead(row: int, line: str) -> list[str]:
    return [line if number == row else good for number, good in enumerate(GOOD)]


def parquet(columns: dict, name: str = "clips.parquet") -> Callable[[Path], tuple]:
    def build(folder: Path) -> tuple:
        path = clips(folder) / name
        pq.write_table(pa.table(columns), path)
        return ("folder", path, None), {}

    return build


def shards(audio: dict, tasks: str | None = None) -> Callable[[Path], tuple]:
    """Prepared shards of one clip."""

    def build(folder: Path) -> tuple:
        entry = {"name": "joy", "kind": "regression", "labels": ["joy"], "label_range": [0, 1], "columns": ["joy"]}
        (folder / "tasks.json").write_text(json.dumps([entry]) if tasks is None else tasks)
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        rows = {"id": ["a"], "audio": pa.array([audio], kind), "joy": pa.array([0.5], pa.float32())}
        pq.write_table(pa.table(rows), folder / "train-00000.parquet")
        return ("folder", folder, None), {"cache_dir": str(folder / "cache")}

    return build


def claim(folder: Path) -> tuple:
    """60 million rows of one value: a hundred kilobytes of Parquet."""
    path = clips(folder) / "clips.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000_000, np.int32)), pa.array(["c0.wav"]))
    with pq.ParquetWriter(path, pa.schema({"file": column.type})) as writer:
        for _ in range(30):
            writer.write_table(pa.table({"file": column}))
    return ("folder", path, None), {}


def class_folders(*names: str) -> Callable[[Path], tuple]:
    def build(folder: Path) -> tuple:
        for name in names:
            clips(folder / name, CLIPS[:3])
        return ("folder", folder, None), {}

    return build


def outside(folder: Path) -> tuple:
    """A clip above the table's folder, and a table that names it."""
    clips(folder, ["outside.wav"])
    inner = folder / "inner"
    (_, path, task), options = table(path_cell("../outside.wav"))(inner)
    return ("folder", path, task), options


def linked(folder: Path) -> tuple:
    clips(folder, ["outside.wav"])
    (name, path, task), options = table(text())(folder / "inner")
    (path.parent / "c5.wav").unlink()
    (path.parent / "c5.wav").symlink_to(folder / "outside.wav")
    return (name, path, task), options


def folder_loop(folder: Path) -> tuple:
    given = class_folders("laugh", "cry")(folder)
    (folder / "laugh" / "again").symlink_to(folder, target_is_directory=True)
    return given


def own_absolute(folder: Path) -> tuple:
    path = clips(folder) / "clips.csv"
    path.write_text(text([(folder / name, joy, fear) for name, joy, fear in ROWS]))
    return ("folder", path, None), {"audio_root": "/"}


def segments(*rows: tuple, header: tuple = ("file", "start", "end", "joy")) -> Callable[[Path], tuple]:
    """A table of parts of two-second recordings."""

    def build(folder: Path) -> tuple:
        for name in CLIPS[:6]:
            sf.write(folder / name, np.random.default_rng(0).normal(size=32_000) * 0.1, 16_000)
        path = folder / "segments.csv"
        path.write_text(text(rows, header))
        return ("folder", path, None), {}

    return build


def table_of_folders(*folders: str) -> Callable[[Path], tuple]:
    """One table above the folders that its paths begin with."""

    def build(root: Path) -> tuple:
        rows = []
        for folder in folders:
            clips(root / folder, [f"{number}.wav" for number in range(4)])
            rows += [[f"{folder}/{number}.wav", "ab"[number % 2]] for number in range(4)]
        (root / "metadata.csv").write_text(text(rows, ["file_name", "emotion"]))
        return ("folder", root, None), {}

    return build


def tables_of_splits(*names: str, **files: str) -> Callable[[Path], tuple]:
    """A folder per split, with clips and a table of the given name."""

    def build(folder: Path) -> tuple:
        for split, name in zip(("train", "validation", "test"), names, strict=True):
            clips(folder / split, [f"{split}{number}.wav" for number in range(2)])
            rows = [{"file_name": f"{split}{number}.wav", "emotion": "ab"[number]} for number in range(2)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            cells = text([list(row.values()) for row in rows], list(rows[0]))
            (folder / split / name).write_text(files.get(split) or (lines if name.endswith("l") else cells))
        return ("folder", folder, None), {}

    return build


def two_tables(folder: Path) -> tuple:
    (name, path, task), options = table(text())(folder)
    shutil.copy(path, folder / "more.csv")
    return (name, folder, task), options


def withheld_in_test(cell: str) -> str:
    splits = ["train"] * 6 + ["dev"] * 2 + ["test"] * 2
    rows = [(n, j if split != "test" else cell, split) for (n, j, _), split in zip(ROWS, splits, strict=True)]
    return text(rows, ("file", "joy", "split"))


HALVES = [(name, start, start + 1, 0.5 * start) for name in CLIPS[:6] for start in (0, 1)]
BOM = "\ufeff".encode()
CASES = [
    Case("byte-order mark", table(BOM + text().encode()), "loaded: 8 train"),
    Case("UTF-16", table(text().encode("utf-16")), "loaded: 8 train"),
    Case("UTF-16 cut in a letter", table(text().encode("utf-16")[:-1]), "error: not UTF-8 text"),
    Case("Latin-1", table(text().replace("joy", "fröhlich").encode("latin-1")), "error: line 1: not UTF-8 text"),
    Case("CRLF", table(text(end="\r\n")), "loaded: 8 train"),
    Case("CR alone", table(text(end="\r")), "loaded: 8 train"),
    Case(
        "semicolons and decimal commas",
        table(text([(n, j.replace(".", ","), 1) for n, j, _ in ROWS], separator=";")),
        "loaded: 8 train",
    ),
    Case("tabs", table(text(separator="\t")), "loaded: 8 train"),
    Case("every cell quoted", table(text([[f'"{c}"' for c in row] for row in ROWS])), "loaded: 8 train"),
    Case("a quote that is never closed", table(cell(3, 1, '"0.3')), "error: line"),
    Case("cells of 200,000 signs", table(cell(3, 1, "1" * 200_000)), "error: field larger than field limit"),
    Case("a header of two million signs", table("x" * 2_000_000), "error: it is not a label table"),
    Case("zero bytes among the text", table(cell(3, 1, "0\0.3")), "error: line 5, clip 'c3.wav', column 'joy'"),
    Case("0 bytes", table(""), "error: the file is empty"),
    Case("a header alone", table(text([])), "error: a header but no rows"),
    Case("blank lines and spreadsheets' ,,,", table(text() + "\n,,\n \n"), "loaded: 8 train"),
    Case("a field too many", table(text() + "c1.wav,0,5,1\n"), "error: line 12: 4 fields, but the header has 3"),
    Case("a field too few", table(text() + "c1.wav\n"), "error: line 12: 1 fields, but the header has 3"),
    Case("the same clip twice", table(text([*ROWS, ROWS[2]])), "error: line 12: the clip 'c2.wav' was already in"),
    Case("one file under two names", table(text([*ROWS, ("./c2.wav", 0, 0)])), "error: line 12: the file"),
    Case("no column of paths", table(text(header=("recording", "joy", "fear"))), "error: which column holds the"),
    Case("no label column", table(text([row[:1] for row in ROWS], HEADER[:1])), "error: no label columns"),
    Case("a column twice", table(text(header=("file", "joy", "joy"))), "error: column 'joy' appears more than once"),
    Case(
        "a column of notes", table(text([(*row, "x") for row in ROWS], (*HEADER, "note"))), "error: which columns are"
    ),
    Case("a column that no task asks for", table(text(header=("FILE", " Joy ", "Fear"))), "loaded: 8 train"),
    Case("NaN in a label", table(cell(3, 1, "NaN")), "loaded: 8 train"),
    Case("infinity in a label", table(cell(3, 1, "inf")), "error: 'inf' is outside the label range 0 to 1"),
    Case("a label out of range", table(cell(3, 1, "7")), "error: '7' is outside the label range 0 to 1"),
    Case("a label of 300 digits", table(cell(3, 1, "9" * 300)), "error: is outside the label range 0 to 1"),
    Case("a word among numbers", table(cell(3, 1, "high")), "error: 'high' is not a number"),
    Case(
        "an unknown split",
        table(text([(*r, "Vall") for r in ROWS], (*HEADER, "split"))),
        "error: 'Vall' is not a split",
    ),
    Case("two clips", table(text(ROWS[:2])), "error: at least 3 speakers (or clips) are needed, but there are 2"),
    Case("a clip that is not there", table(path_cell("gone.wav")), "error: 1 of 10 audio files are not in"),
    Case("an empty path", table(path_cell("")), "error: line 7, column 'file': no path"),
    Case("a path that is a folder", table(path_cell(".")), "error: 1 of 10 audio files are not in"),
    Case("a path too long for a file", table(path_cell("x" * 5000)), "error: 1 of 10 audio files are not in"),
    Case("a path with a zero byte", table(path_cell("c5\0.wav")), "error: 1 of 10 audio files are not in"),
    Case("a path up and out (../)", outside, "error: line 7, column 'file': '../outside.wav' is outside"),
    Case("a path up and out (..\\)", table(path_cell("..\\outside.wav")), "error: is outside"),
    Case("an absolute path", table(path_cell("/etc/passwd")), "error: '/etc/passwd' is outside"),
    Case("absolute paths, --audio_root /", own_absolute, "loaded: 8 train"),
    Case("a link to a clip outside, put there by the user", linked, "loaded: 8 train"),
    Case("an unknown task", lambda folder: (("hume_vb", folder, "tow"), {}), "error: did you mean 'two'?"),
    Case("a label range upside down", table(text(), label_range=(1, 0)), "error: label_range must be two numbers"),
    Case("segments of six files", segments(*HALVES), "loaded: 8 train, 2 validation, 2 test"),
    Case(
        "segments as audformat writes times",
        segments(
            *[(name, "0 days 00:00:00.5", "0 days 00:00:01" if joy else "NaT", joy) for name, _, _, joy in HALVES]
        ),
        "loaded: 8 train, 2 validation, 2 test",
    ),
    Case(
        "a segment upside down", segments(*HALVES, ("c0.wav", 2, 1.5, 0)), "error: line 14: the segment from 2 to 1.5"
    ),
    Case("a segment of no length", segments(*HALVES, ("c0.wav", 1, 1, 0)), "error: line 14: the segment from 1 to 1 s"),
    Case("a segment before the start", segments(*HALVES, ("c0.wav", -1, 1, 0)), "error: line 14: the segment from -1"),
    Case(
        "a segment from a word",
        segments(*HALVES, ("c0.wav", "x", 1, 0)),
        "error: line 14, column 'start': 'x' is not a",
    ),
    Case("a segment twice", segments(*HALVES, HALVES[0]), "error: line 14: the clip 'c0.wav#0-1' was already in"),
    Case(
        "durations beside classes",
        table(
            text([(name, 2.0, "ab"[number % 2]) for number, name in enumerate(CLIPS)], ("file", "duration", "feeling"))
        ),
        "error: (--label_columns feeling)",
    ),
    *[
        Case(f"test labels {withheld}", table(withheld_in_test(withheld)), "loaded: 6 train, 2 validation, 2 test")
        for withheld in ("-1", "Unknown", "None")
    ],
    Case("a label -1 in train", table(cell(3, 1, "-1")), "error: if -1 means a missing label, leave its cell empty"),
    Case("labels of -1 alone", table(text([(n, -1, 0) for n in CLIPS])), "error: spans -1 to -1; if -1 means"),
    Case("$data_root in paths", table(text([(f"$data_root/{name}", *r) for name, *r in ROWS])), "loaded: 8 train"),
    Case(
        "$HOME in paths",
        table(text([(f"$HOME/{name}", *r) for name, *r in ROWS])),
        "error: the only variable replaced in paths is $data_root",
    ),
    Case(
        "JSONL",
        table("".join(json.dumps(dict(zip(HEADER, r, strict=True))) + "\n" for r in ROWS), "c.jsonl"),
        "loaded: 8",
    ),
    Case("JSONL of lists", table("[1]\n", "c.jsonl"), "error: line 1: not an object of columns and values"),
    Case("JSONL cut in a line", table('{"file": "c0.wav"', "c.jsonl"), "error: line 1: not JSON"),
    Case("JSONL with a list in a cell", table('{"file": "c0.wav", "joy": [1]}', "c.jsonl"), "error: 'joy' is a list"),
    Case(
        "metadata.csv in each split's folder", tables_of_splits(*["metadata.csv"] * 3), "loaded: 2 train, 2 validation"
    ),
    Case(
        "metadata.jsonl in each split's folder", tables_of_splits(*["metadata.jsonl"] * 3), "loaded: 2 train, 2 valid"
    ),
    Case("one metadata.csv of train/ and test/", table_of_folders("train", "test"), "loaded: 4 train, 4 test"),
    Case("one metadata.csv of train/ and more/", table_of_folders("train", "more"), "loaded: 4 train, 2 validation"),
    Case(
        "metadata.csv of another split with other columns",
        tables_of_splits(*["metadata.csv"] * 3, test="file_name,mood\ntest0.wav,a\n"),
        "error: its columns are file_name, mood",
    ),
    Case("Parquet cut short", table(b"PAR1 no more", "clips.parquet"), "error: cannot be read as a table"),
    Case("Parquet with lists", parquet({"file": CLIPS, "joy": [[1]] * 10}), "error: column 'joy' holds list"),
    Case("Parquet that claims 60 million rows", claim, "error: exceed the limit of a label table"),
    Case("another format", table(text(), "clips.xlsx"), "error: a label table must be one of .csv, .tsv, .parquet"),
    Case("two tables in a folder", two_tables, "error: 2 tables (clips.csv, more.csv)"),
    Case("class folders", class_folders("laugh", "cry"), "loaded: 2 train, 2 validation, 2 test"),
    Case("one class folder", class_folders("laugh"), "error: neither one label table"),
    Case(
        "a name that --speaker_pattern does not fit",
        table(text(), speaker_pattern="^c([0-8])$"),
        "error: --speaker_pattern ^c([0-8])$ does not match 1 of 10 names, such as c9;",
    ),
    Case(
        "a corpus's name, misspelled, as --label_pattern",
        table(text(), label_pattern="vivea"),
        "error: --label_pattern vivea: it needs one group",
    ),
    Case(
        "--group_pattern that is no expression",
        table(text(), group_pattern="("),
        "error: not a valid regular expression",
    ),
    Case("a class folder that holds a link to its parent", folder_loop, "loaded: 2 train, 2 validation, 2 test"),
    Case("HUME-VB as released", release(GOOD), "loaded: 1 train, 1 validation, 1 test"),
    *[
        Case(f"HUME-VB, File_ID as {spelled}", release(instead(0, f"{spelled},Train,0.1,0.2")), "loaded: 1 train")
        for spelled in ("00001.wav", "1.0", "['00001']", "1", '"[""00001""]"')
    ],
    *[
        Case(f"HUME-VB, test labels {cell}", release(instead(2, f"[00003],Test,{cell},{cell}")), "loaded: 1 train")
        for cell in ("-1", "Unknown", "None")
    ],
    Case("HUME-VB, a train label -1", release(instead(0, "[1],Train,-1,0")), "error: '-1' is outside the label range"),
    Case(
        "HUME-VB, File_ID with ../",
        release(instead(0, "[../00001],Train,0.1,0.2")),
        "error: '[../00001]' is not a File_ID",
    ),
    Case("HUME-VB, File_ID absolute", release(instead(0, "/etc/passwd,Train,0.1,0.2")), "error: is not a File_ID"),
    Case(
        "HUME-VB, File_ID twice",
        release([*GOOD, "[1],Train,0,0"]),
        "error: line 5: File_ID '[1]' was already in line 2",
    ),
    Case("HUME-VB, no clip of an id", release([*GOOD, "[9],Train,0,0"]), "error: 1 of 4 File_IDs have no audio file"),
    Case("HUME-VB, a label out of range", release(instead(0, "[1],Train,1.5,0")), "error: '1.5' is outside the label"),
    Case("HUME-VB, columns in another case", release(["[1],TRAIN,0,0", *GOOD[1:]]), "loaded: 1 train"),
    Case(
        "shards whose audio is a path", shards({"bytes": None, "path": "/etc/passwd"}), "error: which is not followed"
    ),
    Case(
        "shards, tasks.json damaged",
        shards({"bytes": b"x", "path": "a"}, '[{"name": 1}]'),
        "error: not written by prepare",
    ),
]
