"""How many clips the release of HUME-VB has: what tells the paper's corpus from a part of it or a sample in its layout.

Source: Baird et al. (2022), arXiv:2207.03572, Table 1.
"""

from collections.abc import Mapping

CORPUS = "hume_vb"
RELEASE_CLIPS = {"train": 19_990, "validation": 19_396, "test": 19_815}


def is_release(corpus: str | None, clips: Mapping[str, int | None]) -> bool:
    """Whether a run saw every clip of the release.

    Args:
        corpus: name of the corpus.
        clips: number of clips by split, of the splits that count: train, and those that were scored.
    """
    return corpus == CORPUS and all(RELEASE_CLIPS.get(split) == count for split, count in clips.items())
