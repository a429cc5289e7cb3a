"""Loads the corpus that a command's arguments describe, and decodes its clips."""

from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, DatasetDict, concatenate_datasets

from avb.arguments import AvbTrainingArguments, DataArguments
from avb.corpora import load_bursts
from avb.corpora.decode import BadClip, decode_splits
from avb.corpora.folds import hold_out_fold
from avb.corpora.rows import Corpus, as_in_run, require_split, write_run_splits
from avb.errors import AvbError
from avb.run_files import SPLITS
from avb.tasks import MultiTask, Task, refuse_own_columns


class Clips(NamedTuple):
    """The clips for training and scoring.

    Attributes:
        task: the meaning of the labels.
        splits: `train`, and `validation` and `test` if they exist; see `avb.corpora.decode.decode_splits`.
        bad: the clips that cannot be read.
        has_made_splits: whether the corpus itself has no splits.
        pool: the clips from which folds are taken, see `avb.training.frozen.number_rows`; None without folds.
    """

    task: Task | MultiTask
    splits: DatasetDict
    bad: list[BadClip]
    has_made_splits: bool = False
    pool: Dataset | None = None


def load_clips(data_args: DataArguments, args: AvbTrainingArguments, reads_labels: bool = True) -> Clips:
    """Loads the corpus, decoded once for all processes, with training and validation clips.

    Args:
        data_args: which corpus, and how it is read.
        args: of the run.
        reads_labels: whether they are learned; then none may be called like a column of the tables that are written.

    Raises:
        AvbError: data_dir is missing, a label's name is taken, only one of fold_file and fold is given, or an error of
            the corpus or the folds.
    """
    if (data_args.fold_file is None) != (data_args.fold is None):
        raise AvbError("--fold_file assigns speakers to folds, --fold selects the one that is held out: give both")
    with args.main_process_first(desc="decoding audio"):
        corpus = _load_corpus(data_args, reads_labels)
        splits = corpus.splits
        for split in ("train", "validation") if data_args.fold is None else ("train",):
            require_split(splits, split)
        run_splits = Path(str(args.output_dir)) / SPLITS
        if args.resume and data_args.corpus == "folder" and run_splits.is_file():
            splits = as_in_run(splits, run_splits, str(data_args.data_dir), is_same=True)
        elif args.process_index == 0:
            write_run_splits(run_splits, splits)
        splits, bad = _decode(data_args, splits)
    if data_args.fold_file is not None and data_args.fold is not None:
        splits = hold_out_fold(splits, data_args.fold_file, data_args.fold)  # decoded: all folds share one file
    return Clips(corpus.task, splits, bad, corpus.has_made_splits)


def load_pool(data_args: DataArguments, args: AvbTrainingArguments, reads_others: bool) -> tuple[Clips, Dataset]:
    """Loads the clips of a cross-validation: those of the train split or, if a corpus has no splits, all clips.

    Args:
        data_args: which corpus, and how it is read.
        args: of the run.
        reads_others: whether the corpus's own validation and test splits are needed too.

    Returns:
        The corpus, with these splits where it has its own, and none where it has not; and the pool.

    Raises:
        AvbError: as `load_clips`.
    """
    with args.main_process_first(desc="decoding audio"):
        corpus = _load_corpus(data_args, reads_labels=True)
        splits = corpus.splits
        if not corpus.has_made_splits:
            train = require_split(splits, "train")
            splits = splits if reads_others else DatasetDict(train=train)
        splits, bad = _decode(data_args, splits)
    if not corpus.has_made_splits:
        return Clips(corpus.task, splits, bad), splits["train"]
    pool = concatenate_datasets(list(splits.values()))
    pool = pool.with_format("numpy", columns=["input_values"], output_all_columns=True)
    return Clips(corpus.task, DatasetDict(), bad, has_made_splits=True), pool


def limit_clips(train: Dataset, data_args: DataArguments, seed: int) -> Dataset:
    """`--max_train_clips` of them, drawn by the seed."""
    if data_args.max_train_clips is None:
        return train
    return train.shuffle(seed=seed).select(range(min(data_args.max_train_clips, len(train))))


def _load_corpus(data_args: DataArguments, reads_labels: bool) -> Corpus:
    if data_args.data_dir is None:
        raise AvbError("--data_dir is missing: the folder of the corpus, or your table of clips")
    corpus = load_bursts(data_args.corpus, data_args.data_dir, data_args.task, **data_args.corpus_options())
    if reads_labels:
        refuse_own_columns(corpus.task)
    return corpus


def _decode(data_args: DataArguments, splits: DatasetDict) -> tuple[DatasetDict, list[BadClip]]:
    return decode_splits(
        splits,
        data_args.preparation(),
        cache_dir=data_args.cache_dir,
        num_proc=data_args.num_decode_workers,
        strict=data_args.strict,
    )
