"""Facts about the release of HUME-VB, the paper's corpus: its columns, and how to tell it from a part or a sample.

Source: Baird et al. (2022), arXiv:2207.03572.
"""

from collections.abc import Mapping
from pathlib import Path

from avb.tasks import Task

CORPUS = "hume_vb"
RELEASE_CLIPS = {"train": 19_990, "validation": 19_396, "test": 19_815}
ID_COLUMN, SPLIT_COLUMN = "File_ID", "Split"
CLASS_COLUMN = "Voc_Type"  # in type_info.csv


def columns_of(task: Task) -> list[str]:
    """A task's label columns, in the release's order."""
    return list(task.labels) if task.kind == "regression" else [CLASS_COLUMN]


def is_release(corpus: str | None, clips: Mapping[str, int | None]) -> bool:
    """Whether a run saw every clip of the release.

    Args:
        corpus: name of the corpus.
        clips: number of clips in each split that counts: train, and the splits that were scored.
    """
    return corpus == CORPUS and all(RELEASE_CLIPS.get(split) == count for split, count in clips.items())


def corpus_name(corpus: str, data_dir: str | Path | None) -> str:
    """The corpus's name; `sample` for the synthetic one: hume_vb's layout plus a file that identifies it."""
    return "sample" if data_dir is not None and (Path(data_dir) / "SYNTHETIC.txt").is_file() else corpus
