"""From a command's arguments to decoded clips."""

from pathlib import Path

from datasets import DatasetDict

from avb.arguments import AvbTrainingArguments, DataArguments
from avb.corpora import load_bursts, require_split
from avb.corpora.decode import BadClip, decode_splits
from avb.corpora.folds import hold_out_fold
from avb.corpora.run_splits import as_in_run, write_run_splits
from avb.errors import AvbError
from avb.run_files import SPLITS
from avb.tasks import MultiTask, Task, refuse_own_columns


def load_clips(
    data_args: DataArguments, args: AvbTrainingArguments, reads_labels: bool = True
) -> tuple[Task | MultiTask, DatasetDict, list[BadClip]]:
    """The corpus, decoded once for all processes; it has train and validation clips.

    Args:
        data_args: which corpus, and how it is read.
        args: of the run.
        reads_labels: whether they are learned; then none may be called like a column of the tables that are written.

    Returns:
        What its labels mean, its splits (see `avb.corpora.decode.decode_splits`), and the clips that cannot be read.

    Raises:
        AvbError: no data_dir, a label's name, one of fold_file and fold without the other, or what the corpus or the
            folds raise.
    """
    if data_args.data_dir is None:
        raise AvbError("--data_dir is missing: the folder of the corpus, or your table of clips")
    if (data_args.fold_file is None) != (data_args.fold is None):
        raise AvbError("--fold_file says which speakers are in which fold, --fold which one is held out: give both")
    with args.main_process_first(desc="decoding audio"):
        corpus = load_bursts(data_args.corpus, data_args.data_dir, data_args.task, **data_args.corpus_options())
        if reads_labels:
            refuse_own_columns(corpus.task)
        for split in ("train", "validation") if data_args.fold is None else ("train",):
            require_split(corpus.splits, split)
        run_splits = Path(str(args.output_dir)) / SPLITS
        if args.resume and data_args.corpus == "folder" and run_splits.is_file():
            corpus = corpus._replace(splits=as_in_run(corpus.splits, run_splits, data_args.data_dir, is_same=True))
        elif args.process_index == 0:
            write_run_splits(run_splits, corpus.splits)
        splits, bad_clips = decode_splits(
            corpus.splits,
            trim_top_db=data_args.trim_top_db,
            peak_db=data_args.peak_db,
            max_seconds=data_args.max_seconds,
            cache_dir=data_args.cache_dir,
            num_proc=data_args.num_decode_workers,
            strict=data_args.strict,
        )
    if data_args.fold_file is not None and data_args.fold is not None:
        splits = hold_out_fold(splits, data_args.fold_file, data_args.fold)  # decoded: all folds share one file
    return corpus.task, splits, bad_clips
