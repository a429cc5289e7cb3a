"""The options that select a corpus and say how to read it: shared by training, pre-training, prediction and `prepare`.

A corpus is a module of `avb/corpora/` with a function `load`, and its entry in `CORPORA`.

Imports are light: `predict_avb.py --help` answers without loading datasets and torch.
"""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from avb.recipes import true_or_false

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")  # for label tables, see avb.corpora.tables
SPREADSHEET_SUFFIXES = (".xlsx", ".xls", ".ods")  # not supported
PRIVATE = {"changes_result": False, "private": True}  # see avb.arguments.PROPERTIES


@dataclass(frozen=True)
class KnownCorpus:
    """Facts about a corpus, besides its clips.

    Attributes:
        title: its name on a card.
        about: its description in `--help`.
        licence: of a model trained on it, as in the Hub's metadata; None if the corpus's owner has to decide.
    """

    title: str
    about: str
    licence: Mapping[str, Any] | None = None


# The keys are the names of the modules in `avb/corpora/`.
CORPORA = {
    "hume_vb": KnownCorpus(
        "HUME-VB (A-VB 2022)", "the A-VB release", {"license": "other", "license_name": "hume-vb-agreement"}
    ),
    "emogator": KnownCorpus("EmoGator", "its repository", {"license": "apache-2.0"}),
    "folder": KnownCorpus("own clips", "your own table or folder"),
}


@dataclass
class CorpusArguments:
    """A corpus, its task, and the options of its `load` function (`avb.corpora`)."""

    _argument_group_name = "corpus"  # of --help
    corpus: str = field(
        default="folder",
        metadata={"help": f"One of {', '.join(f'{name} ({known.about})' for name, known in CORPORA.items())}."},
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the corpus; for 'folder' a CSV, TSV or Parquet table, or a folder with one sub-folder "
            "per class.",
            **PRIVATE,
        },
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "high, two, culture or type for hume_vb; emotion or two for emogator; for folder it follows from "
            "the columns. Join several tasks with +: high+two."
        },
    )
    label_columns: list[str] | None = field(
        default=None, metadata={"help": "folder: the columns to predict. Default: all remaining columns."}
    )
    label_range: list[float] | None = field(
        default=None, metadata={"help": "folder: lowest and highest score of the labels, e.g. 1 7. Default: 0 1."}
    )
    path_column: str | None = field(
        default=None,
        metadata={
            "help": "folder: the column of audio paths. Default: the one called file, path, filename, audio, wav, ..."
        },
    )
    split_column: str | None = field(
        default=None,
        metadata={
            "help": "folder: the column with train / validation / test. Default: split; without one, splits are made."
        },
    )
    speaker_column: str | None = field(
        default=None,
        metadata={
            "help": "folder: the column of speakers, used for splits and intervals. Default: speaker, subject, ..."
        },
    )
    speaker_pattern: str | None = field(
        default=None,
        metadata={
            "help": "folder: read speakers from file names with a regular expression with one group ('^([^/]+)/': the "
            "first folder) or with the pattern of a corpus: asvp-esd, crema-d, emodb, emogator, ravdess, savee, "
            "tess, vivae, vocalsound."
        },
    )
    label_pattern: str | None = field(
        default=None, metadata={"help": "folder: read classes from file names; same values as speaker_pattern."}
    )
    group_pattern: str | None = field(
        default=None,
        metadata={
            "help": "folder: regular expression with one group; clips with the same value stay together in splits and "
            r"folds, e.g. segments of one recording: '^(.+?)_\d+$' keeps laugh_0 and laugh_1 together."
        },
    )
    rater_column: str | None = field(
        default=None,
        metadata={
            "help": "folder: the column of raters, if the table has one row per rater and clip. A clip's label is the "
            "mean or the majority vote, and training uses all ratings."
        },
    )
    rater_targets: str | None = field(
        default=None,
        metadata={
            "help": "folder: training targets from several raters. spread: also the spread of each score, as the label "
            "NAME_spread; majority: the majority vote of a class, not the shares. Default: mean and shares."
        },
    )
    kind: str | None = field(
        default=None,
        metadata={"help": "folder: regression or classification. Default: by the type of the label columns."},
    )
    audio_root: str | None = field(
        default=None,
        metadata={"help": "folder: the folder that paths are relative to. Default: the table's own folder.", **PRIVATE},
    )
    audio_dir: str | None = field(
        default=None, metadata={"help": "hume_vb: folder of the WAV files. Default: audio/wav.", **PRIVATE}
    )
    skip_missing: bool = field(
        default=False, metadata={"help": "Skip rows without an audio file, and report how many."}
    )
    norms: str | None = field(
        default=None, metadata={"help": "emogator, task two: table of valence and arousal norms.", "private": True}
    )
    instances: list[int] | None = field(default=None, metadata={"help": "emogator: which takes to use, of 1, 2 and 3."})

    def corpus_options(self) -> dict[str, Any]:
        """The options that were given, for `avb.corpora.load_bursts`, beyond corpus, root and task."""
        return {name: getattr(self, name) for name in OPTIONS if getattr(self, name) not in (None, False)}


OPTIONS = tuple(f.name for f in fields(CorpusArguments) if f.name not in ("corpus", "data_dir", "task"))
PATH_OPTIONS = ("audio_root", "norms")  # relative to the current folder


def add_arguments(parser: argparse._ActionsContainer, names: Iterable[str]):
    """Adds fields of `CorpusArguments` to the parser of a command without recipes; None means not given."""
    hints = get_type_hints(CorpusArguments)
    for f in fields(CorpusArguments):
        if f.name not in names:
            continue
        kind = next((part for part in get_args(hints[f.name]) if part is not NoneType), hints[f.name])
        settings: dict[str, Any] = {"default": None, "help": f.metadata["help"]}
        if kind is bool:
            settings |= {"nargs": "?", "const": True, "type": true_or_false, "metavar": "true|false"}
        elif get_origin(kind) is list:
            (item,) = get_args(kind)
            settings |= {"nargs": "+", "type": item, "metavar": {int: "N", float: "X"}.get(item, "VALUE")}
        else:
            settings |= {"type": kind, "metavar": "VALUE"}
        parser.add_argument(f"--{f.name}", **settings)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given; `--skip_missing false` is one, because it overrides a run's recipe."""
    return {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
