"""Submissions both ways: what is written validates, and what is broken is refused with the right reason."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avb.corpora import submission
from avb.errors import AvbError, CorpusError
from avb.tasks import TASKS

IDS = [f"[{number}]" for number in (10119, 10020, 10457, 10300)]
SCORES = {name: np.random.default_rng(0).random((len(IDS), task.num_labels)) for name, task in TASKS.items()}


@pytest.fixture
def release(tmp_path):
    """A release whose Test split is IDS, in that order, among clips of the other splits."""
    root = tmp_path / "release"
    (root / "labels").mkdir(parents=True)
    for name, task in TASKS.items():
        labels = list(task.labels) if task.kind == "regression" else ["Voc_Type"]
        value = "0.5" if task.kind == "regression" else "Cry"
        lines = [",".join(["File_ID", "Split", *labels])]
        lines += [
            ",".join([clip_id, split, *[value] * len(labels)]) for clip_id, split in (("[1]", "Train"), ("[2]", "Val"))
        ]
        lines += [",".join([clip_id, "Test", *[""] * len(labels)]) for clip_id in IDS]
        (root / "labels" / f"{name}_info.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def high(tmp_path):
    """A valid submission of task high, its path and its lines."""
    path = submission.write(tmp_path, "high", IDS, SCORES["high"], "ours", 1)
    return path, path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("task", TASKS)
def test_written_validates(task, release, tmp_path, capsys):
    expected = submission.read_test_ids(release, task)
    assert expected == IDS
    path = submission.write(tmp_path / "new", task, IDS, SCORES[task], "our-team", 3, expected)
    assert path == tmp_path / "new" / f"A-VB-{task.title()}_our-team_3.csv"
    assert list(path.parent.iterdir()) == [path]
    assert submission.validate(path, task, expected) == []
    assert submission.main([str(path), "--task", task, "--data_dir", str(release)]) == 0
    assert "valid submission; 4 clips" in capsys.readouterr().out


def test_content_of_scores(high):
    path, lines = high
    assert lines[0] == "File_ID," + ",".join(TASKS["high"].labels)
    assert [line.split(",")[0] for line in lines[1:]] == IDS
    read_back = np.array([line.split(",")[1:] for line in lines[1:]], dtype=float)
    np.testing.assert_array_equal(read_back, SCORES["high"])
    assert path.read_bytes().endswith(b"\n") and b"\r" not in path.read_bytes()


def test_content_of_classes(tmp_path):
    path = submission.write(
        tmp_path, "type", IDS[:2], [[0, 9, 1, 0, 0, 0, 0, 0], [-1, -2, -3, -4, -5, -6, 2, 0]], "ours", 1
    )
    assert path.read_text() == "File_ID,Voc_Type\n[10119],Laugh\n[10020],Pant\n"
    submission.write(path, "type", IDS[:1], ["Gasp"], "ours", 1)  # the file's own path
    assert path.read_text() == "File_ID,Voc_Type\n[10119],Gasp\n"


def test_small_and_single_precision_numbers_have_no_exponent(tmp_path):
    scores = np.array([[1e-7, 0.62], [1.0, 0.0]], dtype=np.float32)
    path = submission.write(tmp_path, "two", IDS[:2], scores, "ours", 1)
    assert path.read_text().splitlines()[1:] == ["[10119],0.0000001,0.62", "[10020],1.0,0.0"]


def edit(line: int, old: str, new: str):
    """A change of one line, counted from 1."""

    def change(lines: list[str]) -> bytes:
        assert old in lines[line - 1]
        changed = [*lines[: line - 1], lines[line - 1].replace(old, new, 1), *lines[line:]]
        return ("\n".join(changed) + "\n").encode()

    return change


def first_score(lines: list[str]) -> str:
    return lines[1].split(",")[1]


BROKEN = {
    "missing column": (edit(1, ",Surprise", ""), "header", 1, "column 'Surprise' is missing"),
    "misspelt column": (edit(1, "Awe", "Aww"), "header", 1, "call it 'Awe'"),
    "training column": (edit(1, "File_ID", "File_ID,Split"), "header", 1, "column 'Split' is not part of a submission"),
    "order of columns": (edit(1, "Awe,Excitement", "Excitement,Awe"), "header-order", 1, "should be 'Awe'"),
    "form of ids": (edit(3, "[10020]", "10020.wav"), "file-id", 3, "write it as in the release, [10119]"),
    "duplicate": (edit(4, "[10457]", "[10020]"), "duplicate", 4, "already in line 3"),
    "unknown id": (edit(4, "[10457]", "[99999]"), "unknown-id", 4, "not a clip of the Test split"),
    "missing id": (lambda lines: "\n".join(lines[:-1]).encode(), "missing-ids", None, "1 of 4 clips"),
    "text": (lambda lines: edit(2, first_score(lines), "high")(lines), "not-a-number", 2, "Awe is 'high'"),
    "empty cell": (lambda lines: edit(2, first_score(lines), "")(lines), "not-a-number", 2, "Awe is ''"),
    "NaN": (lambda lines: edit(2, first_score(lines), "nan")(lines), "nan", 2, "score it again"),
    "above 1": (lambda lines: edit(2, first_score(lines), "1.5")(lines), "range", 2, "outside [0, 1]"),
    "infinite": (lambda lines: edit(2, first_score(lines), "-inf")(lines), "range", 2, "scores, not logits"),
    "decimal comma": (lambda lines: edit(2, first_score(lines), "0,5")(lines), "column-count", 2, "point, not a comma"),
    "short line": (
        lambda lines: edit(2, f",{first_score(lines)}", "")(lines),
        "column-count",
        2,
        "10 columns instead of 11",
    ),
    "blank line": (lambda lines: "\n".join([*lines, "", ""]).encode(), "column-count", 6, "an empty line"),
    "nothing": (lambda lines: b"\n", "empty", None, "the file is empty"),
    "header only": (lambda lines: lines[0].encode(), "no-rows", None, "a header but no lines"),
    "byte-order mark": (lambda lines: "\n".join(lines).encode("utf-8-sig"), "byte-order-mark", 1, "UTF-8 without BOM"),
    "spreadsheet": (lambda lines: "\n".join(lines).encode("utf-16"), "encoding", 1, "plain UTF-8 CSV"),
    "semicolons": (lambda lines: "\n".join(lines).replace(",", ";").encode(), "separator", 1, "by semicolons"),
    "quotes": (edit(3, "[10020]", '"[10020]"x'), "csv", 3, "without quotation marks"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_is_refused(name, high, release, capsys):
    change, kind, line, words = BROKEN[name]
    path, lines = high
    path.write_bytes(change(lines))
    problems = submission.validate(path, "high", IDS)
    assert (kind, line) in [(problem.kind, problem.line) for problem in problems]
    reason = next(problem for problem in problems if problem.kind == kind)
    assert words in str(reason)
    # Nothing else is the matter, but for what follows from it.
    follows = (
        {"duplicate", "missing-ids", "unknown-id"}
        if kind in ("file-id", "duplicate", "unknown-id", "no-rows")
        else set()
    )
    follows |= {"missing-ids"} if kind == "column-count" else set()
    assert {problem.kind for problem in problems} <= {kind} | follows
    assert submission.main([str(path), "--task", "high", "--data_dir", str(release)]) == 1
    out = capsys.readouterr().out
    assert "refused" in out and words in out


def test_unknown_class(tmp_path):
    path = submission.write(tmp_path, "type", IDS, SCORES["type"], "ours", 1)
    path.write_text("File_ID,Voc_Type\n[10119],gasp\n[10020],Sneeze\n")
    near, far = submission.validate(path, "type")
    assert near.kind == far.kind == "class" and (near.line, far.line) == (2, 3)
    assert "did you mean 'Gasp'?" in str(near) and "Legal: Gasp, Laugh" in str(far)


@pytest.mark.parametrize("name", ["high.csv", "A-VB-high_ours_1.csv", "A-VB-Two_ours_1.csv", "A-VB-High_ours_0.csv"])
def test_file_name(name, high):
    path, _ = high
    path = path.rename(path.with_name(name))
    (problem,) = submission.validate(path, "high", IDS)
    assert problem.kind == "file-name" and "A-VB-High_<team>_<number>.csv" in str(problem)


def test_no_file(tmp_path):
    (problem,) = submission.validate(tmp_path / "A-VB-High_ours_1.csv", "high")
    assert problem.kind == "unreadable"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": ["10119", *IDS[1:]]}, "not a File_ID"),
        ({"ids": [IDS[0], *IDS[:3]]}, "already in line 2"),
        ({"predictions": SCORES["high"] + 1}, "scores, not logits"),
        ({"predictions": SCORES["high"] * np.nan}, "Awe is NaN"),
        ({"predictions": SCORES["two"]}, r"must be \(clips, 10\)"),
        ({"predictions": SCORES["high"][:2]}, "for 4 ids"),
        ({"predictions": SCORES["high"].astype(str)}, "must be"),
        ({"team": "our_team"}, "letters, digits and hyphens"),
        ({"number": 0}, "the first is 1"),
        ({"expected_ids": [*IDS, "[7]"]}, r"1 of 5 clips of the Test split are missing \(\[7\]\)"),
        ({"folder": "scores.csv"}, "must be called A-VB-High_ours_1.csv"),
    ],
)
def test_nothing_broken_is_written(change, words, tmp_path):
    given = {
        "folder": "",
        "task": "high",
        "ids": IDS,
        "predictions": SCORES["high"],
        "team": "ours",
        "number": 1,
        **change,
    }
    with pytest.raises(AvbError, match=words):
        submission.write(**{**given, "folder": tmp_path / given["folder"]})
    assert list(tmp_path.iterdir()) == []


def test_a_better_file_outlives_a_broken_one(high):
    path, lines = high
    with pytest.raises(AvbError):
        submission.write(path.parent, "high", IDS, SCORES["high"] - 2, "ours", 1)
    assert path.read_text().splitlines() == lines


def test_nan_class_scores(tmp_path):
    with pytest.raises(AvbError, match="NaN"):
        submission.write(tmp_path, "type", IDS, SCORES["type"] * np.nan, "ours", 1)


def test_test_ids(release, tmp_path):
    with pytest.raises(CorpusError, match="high_info.csv"):
        submission.read_test_ids(tmp_path, "high")
    table = release / "labels" / "two_info.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if ",Test" not in line))
    with pytest.raises(AvbError, match="no clip of the Test split"):
        submission.read_test_ids(release, "two")
    assert submission.main(["x.csv", "--task", "two", "--data_dir", str(release)]) == 1


def test_test_ids_of_prepared_shards(tmp_path):
    (tmp_path / "prepare.json").write_text('{"finished": true}')
    for number, ids in enumerate((IDS[:3], IDS[3:])):
        pq.write_table(pa.table({"id": ids}), tmp_path / f"test-{number:05d}.parquet")
    pq.write_table(pa.table({"id": ["[1]"]}), tmp_path / "train-00000.parquet")
    assert submission.read_test_ids(tmp_path, "culture") == IDS


def test_without_ids_the_verdict_says_so(high, capsys):
    assert submission.main([str(high[0]), "--task", "high"]) == 0
    assert "not compared" in capsys.readouterr().out
