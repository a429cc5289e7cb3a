"""A run's splits and options in later commands on the same table, and the corpus options of each command."""

import csv
from dataclasses import fields

import numpy as np
import pytest
import soundfile as sf
import yaml

import predict_avb
from avb.arguments import AvbTrainingArguments, DataArguments
from avb.corpora import load_bursts
from avb.corpora.rows import as_in_run, read_run_splits, write_run_splits
from avb.corpus_arguments import OPTIONS, CorpusArguments
from avb.errors import AvbError, CorpusError
from avb.inference.run_corpus import corpus_of_run
from avb.training.loading import load_clips


def write_table(path, clips=24, first=0):
    """Clips of eight people, in a column that no default finds; scores from 1 to 7."""
    rows = ["clip_path,who,arousal"]
    for number in range(first, first + clips):
        wav = path.parent / "audio" / f"c{number:02d}.wav"
        wav.parent.mkdir(exist_ok=True, parents=True)
        sf.write(wav, 0.5 * np.sin(np.arange(800) * 0.01 * (number + 1)), 16_000)
        rows.append(f"{wav.name},p{number % 8},{1 + number % 7}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def run(tmp_path):
    """A table, and the folder of a run on it as training leaves it: recipe and splits."""
    table = write_table(tmp_path / "table.csv")
    options = {
        "path_column": "clip_path", "speaker_column": "who", "label_columns": ["arousal"], "label_range": [1.0, 7.0],
        "audio_root": str(tmp_path / "audio"),
    }  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    data_args = DataArguments(corpus="folder", data_dir=str(table), cache_dir=str(tmp_path / "cache"), **options)
    args = AvbTrainingArguments(output_dir=str(folder), report_to="none")
    splits = load_clips(data_args, args).splits
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"corpus": "folder", "data_dir": str(table), **options}))
    return folder, table, options, {name: split["id"][:] for name, split in splits.items()}, (data_args, args)


def test_training_writes_its_splits_and_prediction_has_the_same(run):
    folder, table, _, trained, _ = run
    with open(folder / "splits.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "split"] and len(rows) == 24
    assert read_run_splits(folder / "splits.csv") == trained and set(trained) == {"train", "validation", "test"}
    for split, ids in trained.items():
        clips = corpus_of_run(str(folder), "folder", str(table), None, split, {})
        assert list(clips.ids()) == ids
        assert list(clips.part(0, 1).ids()) == ids[:1]  # what a Ray worker gets
        assert next(clips.clips()).read()["bytes"] or next(clips.clips()).read()["path"]


def test_a_resumed_run_keeps_its_splits(run):
    folder, _, _, trained, (data_args, args) = run
    args.resume, data_args.speaker_column = True, ""
    splits = load_clips(data_args, args).splits
    assert {name: split["id"][:] for name, split in splits.items()} == trained


def test_other_options_do_not_move_a_clip_to_another_split(run):
    folder, table, _, trained, _ = run
    by_clip = corpus_of_run(str(folder), "folder", str(table), None, "test", {"speaker_column": ""})
    assert list(by_clip.ids()) == trained["test"]
    plain = load_bursts("folder", table, None, **dict(by_clip.options)).splits
    assert plain["test"]["id"][:] != trained["test"]  # what it would have been without the run's splits


@pytest.mark.parametrize("change", ["row added", "row removed"])
def test_a_table_that_changed_is_refused(run, change, capsys, tmp_path):
    folder, table, _, _, (data_args, args) = run
    lines = table.read_text().splitlines(keepends=True)
    write_table(table, clips=25)
    if change == "row removed":
        table.write_text("".join(lines[:-1]))
    message = "1 new, such as 'c24.wav'" if change == "row added" else "1 gone, such as 'c23.wav'"
    argv = [str(folder), "--corpus", "folder", "--data_dir", str(table), "--output", str(tmp_path / "scores.csv")]
    assert predict_avb.main(argv) == 1
    printed = capsys.readouterr().err
    assert message in printed and "--split_column" in printed and printed.count("error: ") == 1
    args.resume = True
    with pytest.raises(CorpusError, match="its clips have changed since the model was trained"):
        load_clips(data_args, args)


def test_another_table_has_its_own_splits(run, tmp_path, caplog):
    folder, _, options, _, _ = run
    other = write_table(tmp_path / "other.csv", clips=24, first=40)
    clips = corpus_of_run(str(folder), "folder", str(other), None, "test", options)
    assert dict(corpus_of_run(str(folder), "folder", str(other), None, "test", {}).options) == {}
    assert set(clips.ids()) <= {f"c{number}.wav" for number in range(40, 64)} and not caplog.records
    mixed = write_table(tmp_path / "mixed.csv", clips=24, first=20)
    list(corpus_of_run(str(folder), "folder", str(mixed), None, "test", options).ids())
    assert "shares clips with the table of the model's training" in caplog.text


def test_a_damaged_file_of_splits_is_an_error(run):
    folder, table, options, _, _ = run
    splits = load_bursts("folder", table, None, **options).splits
    (folder / "splits.csv").write_text("clip,part\na,b\n")
    with pytest.raises(CorpusError, match="not written by a run"):
        as_in_run(splits, folder / "splits.csv", str(table), is_same=True)
    write_run_splits(folder / "splits.csv", splits)
    assert as_in_run(splits, folder / "splits.csv", str(table), is_same=True) is splits


def test_predict_takes_the_options_that_training_has():
    actions = {action.dest: action for action in predict_avb.make_parser()._actions}
    for field in fields(CorpusArguments):
        assert actions[field.name].help == field.metadata["help"]
    argv = ["M", "--corpus", "folder", "--data_dir", "t.csv", "--output", "s.csv", "--label_range", "1", "7"]
    args = predict_avb.parse_arguments([*argv, "--label_columns", "a", "b", "--skip_missing", "--speaker_column", ""])
    assert args.label_range == [1.0, 7.0] and args.label_columns == ["a", "b"]
    assert args.skip_missing is True and args.speaker_column == "" and args.path_column is None


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_corpus_need_one(name, capsys):
    value = {"label_range": "1", "instances": "1", "skip_missing": "true"}.get(name, "x")
    with pytest.raises(SystemExit):
        predict_avb.parse_arguments(["M", "clip.wav", "--output", "s.csv", f"--{name}", value])
    assert f"--{name} is for --corpus" in capsys.readouterr().err


def test_a_label_called_like_a_column_is_refused_before_audio_is_read(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("file,speaker,confidence\n" + "".join(f"{number}.wav,s{number},0.5\n" for number in range(4)))
    for number in range(4):
        (tmp_path / f"{number}.wav").touch()
    data_args = DataArguments(data_dir=str(table), cache_dir=str(tmp_path / "cache"))
    args = AvbTrainingArguments(output_dir=str(tmp_path / "run"), report_to="none")
    with pytest.raises(AvbError, match="cannot be called 'confidence'.*rename the column"):
        load_clips(data_args, args)
