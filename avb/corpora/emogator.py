"""EmoGator: 30 intended emotions, each recorded three times by each contributor (arXiv:2301.00508; Apache-2.0).

Two formats can be loaded:

- the mp3 tree as published, `.../data/mp3/NNNNNN-EE-I.mp3`: contributor, emotion (01 to 30, in alphabetical order) and
  instance (take) are read from the names. Splits are made by speaker, from a hash of the contributor's number: 80 % of
  speakers train, 10 % validation, 10 % test, independent of which files exist;
- Parquet shards, `train-*.parquet`, `validation-*.parquet` and optionally `test-*.parquet`, with the columns `audio`
  {bytes, path}, `speaker`, `category`, `instance`, `duration` (seconds). Their names give the splits. `python -m
  avb.corpora.prepare emogator` writes this format; if both formats exist, this one is read.

The labels are the emotions that contributors were asked to express, not ratings of listeners. Valence and arousal (task
"two") are *pseudo-targets*: ratings of the emotion's word (Warriner et al. 2013), the same for all clips of a category.
They can be used to try a regression, but say nothing about an individual clip.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import DatasetDict

from avb.corpora import shards
from avb.corpora.cells import regression_labels
from avb.corpora.rows import Corpus, add_labels, build_splits
from avb.corpora.splits import hashed_split
from avb.corpora.tables import read_table, require_column
from avb.errors import CorpusError, did_you_mean
from avb.tasks import Task, get_task

# fmt: off
CATEGORIES = (
    "Adoration", "Amusement", "Anger", "Awe", "Confusion", "Contempt", "Contentment", "Desire", "Disappointment",
    "Disgust", "Distress", "Ecstasy", "Elation", "Embarrassment", "Fear", "Guilt", "Interest", "Neutral", "Pain",
    "Pride", "Realization", "Relief", "Romantic Love", "Sadness", "Serenity", "Shame", "Surprise (Negative)",
    "Surprise (Positive)", "Sympathy", "Triumph",
)
# fmt: on
EMOTION = Task("emotion", "classification", CATEGORIES)
NORMS_FILE = "category_norms.csv"
NORMS_RANGE = (1.0, 9.0)  # Warriner et al. (2013)

_FILE_NAME = re.compile(r"(\d+)-(\d\d)-(\d)\.mp3", re.IGNORECASE)
_FOLDERS = ("", "data/mp3", "mp3")


def load(
    root: str | Path,
    task: str | None = None,
    *,
    instances: Sequence[int] = (1, 2, 3),
    norms: str | Path | None = None,
    cache_dir: str | None = None,
) -> Corpus:
    """Load the mp3 tree or the shards.

    Args:
        root: folder of the shards; or the published repository, or its folder `data` or `data/mp3`.
        task: "emotion" (the default): 30 classes; "two": pseudo-targets of valence and arousal in [0, 1].
        instances: the takes to load of each emotion.
        norms: table with the columns category, valence, arousal (ratings 1 to 9) for "two"; by default
            `category_norms.csv` in root.
        cache_dir: where datasets puts its copy of the shards; None means its default.

    Returns:
        Task and splits; rows have `id` (NNNNNN-EE-I), `audio`, `labels`, `speaker`, `category`, `instance`.

    Raises:
        CorpusError: nothing to load at root, an unknown task, category, take or file name, or missing norms.
    """
    root = Path(root)
    task = task or EMOTION.name
    if task not in (EMOTION.name, "two"):
        raise CorpusError(f"emogator has no task {task!r}{did_you_mean(task, ('emotion', 'two'), 'Tasks')}")
    takes = _parse_instances(instances)
    if not root.is_dir():
        raise CorpusError(f"{root}: no such folder; give the folder of the shards or of the published repository")
    # Read before the clips, so that an error shows up early.
    targets = _targets(Path(norms) if norms else root / NORMS_FILE) if task == "two" else np.arange(len(CATEGORIES))
    the_task = get_task("two") if task == "two" else EMOTION
    files = shards.find_shards(root)
    splits = _from_shards(files, cache_dir) if files else _from_tree(root)

    for split, rows in splits.items():
        category_of = _category_indices(rows["category"][:], f"{root}, {split}")
        is_taken = np.isin(rows["instance"][:], takes)
        if not is_taken.any():
            raise CorpusError(f"{root}: 0 clips in split {split!r} of the instances {takes}")
        rows = add_labels(rows, targets[category_of])
        splits[split] = rows if is_taken.all() else rows.select(np.flatnonzero(is_taken))
    return Corpus(the_task, splits)


def clip_id(speaker: str, category: str, instance: int) -> str:
    """The published name of a clip, without its suffix."""
    return f"{speaker}-{CATEGORIES.index(category) + 1:02d}-{instance}"


def _parse_instances(instances: Sequence[int]) -> list[int]:
    try:
        takes = sorted({int(take) for take in ([instances] if isinstance(instances, int) else instances)})
    except (TypeError, ValueError):
        takes = []
    if not takes or not set(takes) <= {1, 2, 3}:
        raise CorpusError(f"instances must be some of 1, 2, 3 (the takes of each emotion), got {instances!r}")
    return takes


def _from_shards(files: dict[str, list[Path]], cache_dir: str | None) -> DatasetDict:
    splits = shards.read_shards(files, ("speaker", "category", "instance"), cache_dir)
    for split, rows in splits.items():
        if "id" not in rows.column_names:
            _category_indices(rows["category"][:], f"{files[split][0].parent}, {split}")
            keys = zip(rows["speaker"][:], rows["category"][:], rows["instance"][:], strict=True)
            splits[split] = rows.add_column("id", [clip_id(*key) for key in keys])
        ids = pd.Index(splits[split]["id"][:])
        if ids.has_duplicates:
            folder, clip = files[split][0].parent, ids[ids.duplicated()][0]
            raise CorpusError(f"{folder}: clip {clip!r} is in split {split!r} twice; remove one of the rows")
    return splits


def _from_tree(root: Path) -> DatasetDict:
    folder = next((root / sub for sub in _FOLDERS if any((root / sub).glob("*.mp3"))), None)
    if folder is None:
        raise CorpusError(
            f"{root}: neither Parquet shards (train-*.parquet) nor clips (data/mp3/NNNNNN-EE-I.mp3); give the folder "
            "of the shards or of the published repository"
        )
    rows, misnamed = [], []
    for path in sorted(folder.glob("*.mp3")):
        match = _FILE_NAME.fullmatch(path.name)
        if match and 1 <= int(match[2]) <= len(CATEGORIES) and match[3] in "123":
            rows.append((path, match[1], CATEGORIES[int(match[2]) - 1], int(match[3])))
        elif not path.name.startswith("."):  # "._name.mp3", left behind by macOS
            misnamed.append(path.name)
    if misnamed:
        raise CorpusError(
            f"{folder}: {len(misnamed)} files are not named NNNNNN-EE-I.mp3 (EE 01 to 30, I 1 to 3): "
            f"{', '.join(misnamed[:3])}; move them away"
        )
    if not rows:
        raise CorpusError(f"{folder}: 0 clips")
    paths, speakers, categories, takes = zip(*rows, strict=True)
    ids = [path.stem for path in paths]
    placeholder = np.zeros(len(rows), np.int64)  # the caller adds the labels
    split_of = [hashed_split(speaker) for speaker in speakers]
    splits = build_splits(ids, paths, placeholder, split_of, speaker=speakers, category=categories)
    splits = splits.remove_columns("labels")
    take_of = dict(zip(ids, takes, strict=True))
    for split, rows in splits.items():
        splits[split] = rows.add_column("instance", np.array([take_of[i] for i in rows["id"][:]], np.int32))
    return splits


def _category_indices(categories: Sequence[str], where: str) -> np.ndarray:
    index_of = {category: index for index, category in enumerate(CATEGORIES)}
    unknown = [category for category in categories if category not in index_of]
    if unknown:
        raise CorpusError(
            f"{where}: {len(unknown)} rows have an unknown category, such as {unknown[0]!r}"
            f"{did_you_mean(unknown[0], CATEGORIES)} Valid are the 30 in avb.corpora.emogator.CATEGORIES"
        )
    return np.array([index_of[category] for category in categories])


def _targets(path: Path) -> np.ndarray:
    """Valence and arousal of each category's word: float32 of shape (30, 2), in [0, 1]."""
    if not path.is_file():
        raise CorpusError(
            f"{path}: no such file; task 'two' needs the ratings of the category words (columns category, valence, "
            "arousal, 1 to 9; Warriner et al. 2013) there or in norms=..., task 'emotion' does not"
        )
    table = read_table(path)
    words = list(table.cells[require_column(table, "category")])
    missing = [category for category in CATEGORIES if category not in words]
    if missing:
        raise CorpusError(f"{path}: no row for {', '.join(missing[:3])}; it needs one for each of the 30 categories")
    columns = [require_column(table, name) for name in ("valence", "arousal")]
    ratings = Task("norms", "regression", ("valence", "arousal"), NORMS_RANGE)
    low, high = NORMS_RANGE
    targets = (regression_labels(table, columns, ratings, words) - low) / (high - low)
    return targets[[words.index(category) for category in CATEGORIES]]
