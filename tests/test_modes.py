"""Options of `predict_avb.py` that would be without effect are refused, whatever it writes."""

import os

import pytest

import predict_avb
from avb.errors import AvbError
from avb.files import make_folder, write_json
from avb.inference.modes import EVENTS, MODES, OF_A_CORPUS, PICTURE, SAID, SHARDS, TABLE, WINDOWS

OF_ALL = {"output", "corpus", "device", "overwrite", "views", "events", "window_seconds"}
SELECT = {
    TABLE: ["--output", "a.csv"],
    SHARDS: ["--output", "shards"],
    EVENTS: ["--output", "a.csv", "--events"],
    WINDOWS: ["--output", "a.csv", "--window_seconds", "2"],
    PICTURE: ["--output", "a.png"],
}
VALUES = {  # where 1, the value of most options, is none of this one
    "detector": ["x"], "dtype": ["float32"], "events_format": ["rttm"], "labels": ["Awe"], "ray": ["h:1"],
    "strict": [], "submission": ["TEAM", "1"], "ray_workers": ["1", "--ray", "h:1"],
}  # fmt: skip


def error(argv: list[str], capsys) -> str:
    with pytest.raises(SystemExit, match="2"):
        predict_avb.parse_arguments(["M", *argv])
    return capsys.readouterr().err.splitlines()[-1]


def test_every_option_has_its_modes():
    options = {action.dest for action in predict_avb.make_parser()._actions if action.option_strings} - {"help"}
    assert options == OF_ALL | MODES.keys() | set(OF_A_CORPUS)


@pytest.mark.parametrize("name", MODES)
def test_an_option_is_taken_in_its_modes_and_refused_in_all_others(name, capsys):
    """Also with the value of its default, `--dtype float32`: whoever types it expects that it does something."""
    typed = [f"--{name}", *VALUES.get(name, ["1"])]
    for mode, selected in SELECT.items():
        corpus = ["--corpus", "hume_vb", "--data_dir", "d", "--task", "two"] if name == "submission" else ["clip.wav"]
        argv = [*corpus, *selected, *typed]
        if mode in MODES[name]:
            predict_avb.parse_arguments(["M", *argv])
        else:
            said = error(argv, capsys)
            assert " error: --" in said and said.endswith(f", not for {SAID[mode]}"), said
            assert " is for " in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--max_seconds", "600", "--events", "--output", "a.csv"], "--max_seconds is for a table of clips"),
        (["--split", "test", "--output", "a.csv"], "--split is for --corpus, not for PATHs"),
        (["--task", "high", "--output", "a.csv"], "--task is for --corpus, not for PATHs"),
        (["--ray_workers", "2", "--output", "shards"], "--ray_workers needs --ray"),
        (["--events", "--output", "shards"], "write a table: end --output shards with .csv"),
        (["--output", "-"], "scores are not written to standard output"),
        (["--output", "/dev/stdout"], "scores are not written to standard output"),
        (["--output", "SCORES"], "is a file: name a table .csv, .jsonl, .parquet, or another folder for shards"),
    ],
)
def test_what_is_said_of_options_and_outputs_that_do_not_fit(argv, said, tmp_path, capsys):
    (tmp_path / "scores").touch()
    assert said in error(
        ["clip.wav", *(str(tmp_path / "scores") if word == "SCORES" else word for word in argv)], capsys
    )


def test_a_pipe_is_not_replaced_by_a_file_and_a_file_not_taken_for_a_folder(tmp_path):
    """`os.replace` onto /dev/stdout would succeed for root, and take standard output from every other program."""
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", "/dev/stdout"):
        with pytest.raises(AvbError, match="results are written to files, and not to standard output"):
            write_json(path, {})
    assert (tmp_path / "pipe.json").is_fifo()
    (tmp_path / "notes").touch()
    with pytest.raises(AvbError, match="notes is a file, and a folder is to be written there: choose another name"):
        make_folder(tmp_path / "notes")
