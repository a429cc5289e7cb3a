"""Folds of speakers from a table; the committed one of EmoGator's train speakers."""

import csv

import pytest
from conftest import ROOT
from datasets import Dataset, DatasetDict

from avb.arguments import AvbTrainingArguments, DataArguments
from avb.corpora import load_bursts
from avb.corpora.folds import hold_out_fold, read_folds
from avb.corpora.splits import stratified_folds
from avb.errors import AvbError, CorpusError
from avb.training.loading import load_clips

FOLDS = ROOT / "recipes" / "emogator" / "folds.csv"


def write(path, *rows: str):
    path.write_text("\n".join(["speaker,fold", *rows]) + "\n")
    return path


def split(*speakers: str) -> Dataset:
    return Dataset.from_dict({"id": [f"{number}" for number in range(len(speakers))], "speaker": list(speakers)})


def test_a_fold_becomes_validation_and_nothing_else_is_left(tmp_path):
    path = write(tmp_path / "folds.csv", "001,0", "002,1", "003,1", "004,2")
    splits = DatasetDict(train=split("001", "003", "002", "001"), validation=split("9"), test=split("8"))
    held_out = hold_out_fold(splits, path, 1)
    assert {name: rows["id"][:] for name, rows in held_out.items()} == {"train": ["0", "3"], "validation": ["1", "2"]}


@pytest.mark.parametrize(
    ("rows", "fold", "words"),
    [
        (["001,0"], 0, "1 speakers of the train split have no fold, such as '002'"),
        (["001,0", "002,1"], 2, "no train speaker is in fold 2; the folds are 0, 1"),
        (["001,0", "002,0"], 0, "every train speaker is in fold 0"),
        (["001,0", "002,b"], 0, "line 3: fold 'b' is not a number"),
        (["001,0", "002,1", "001,1"], 0, "line 4: speaker '001' appears twice"),
    ],
)
def test_mistakes_are_named(rows, fold, words, tmp_path):
    with pytest.raises(CorpusError, match=words):
        hold_out_fold(DatasetDict(train=split("001", "002")), write(tmp_path / "folds.csv", *rows), fold)


def test_speakers_are_needed_and_both_arguments(tmp_path):
    path = write(tmp_path / "folds.csv", "001,0")
    with pytest.raises(CorpusError, match="have no speakers"):
        hold_out_fold(DatasetDict(train=split("001").remove_columns("speaker")), path, 0)
    with pytest.raises(AvbError, match="give both"):
        load_clips(DataArguments(data_dir="here", fold=0), AvbTrainingArguments(output_dir=str(tmp_path)))


def test_the_committed_folds_are_of_like_size():
    fold_of = read_folds(FOLDS)
    sizes = [list(fold_of.values()).count(fold) for fold in range(5)]
    assert len(fold_of) == 267 and sum(sizes) == 267 and max(sizes) - min(sizes) <= 1


def test_the_committed_folds_are_those_of_the_corpus(emogator, tmp_path):
    """Made by `stratified_folds` of speakers and emotions; the validation speakers are in none."""
    splits = load_bursts("emogator", emogator, cache_dir=str(tmp_path)).splits
    speakers = splits["train"]["speaker"][:]
    folds = stratified_folds(speakers, splits["train"]["labels"][:], 5, "emogator")
    with open(FOLDS, newline="", encoding="utf-8") as file:
        rows = [(row["speaker"], int(row["fold"])) for row in csv.DictReader(file)]
    assert rows == sorted(set(zip(speakers, folds, strict=True)))
    assert not set(splits["validation"]["speaker"][:]) & {speaker for speaker, _ in rows}
