"""Chooses a few lengths to which batches are padded, with little padding.

On a GPU, every new length costs a cuDNN plan, a captured graph or a compilation; padding does not affect scores.
"""

from collections.abc import Sequence

import numpy as np

MAX_LENGTHS = 32
PADDING = 0.03  # padding that may be added, as a fraction of the audio
_STEP = 320  # samples: a frame of wav2vec 2.0
_CANDIDATES = 256


def choose_lengths(samples: Sequence[int], padding: float = PADDING, limit: int = MAX_LENGTHS) -> list[int]:
    """Chooses as few lengths as possible, at most `limit`, to which these clips are padded; ascending, in whole frames.

    For each number of lengths the set with the least padding is found exactly (a shortest path over the sorted clips,
    as in optimal histograms: Jagadish et al. 1998), among 256 candidates.

    Args:
        samples: number of samples of each clip.
        padding: allowed padding, as a fraction of all samples.
        limit: maximum number of lengths; if it is reached, padding may exceed the allowed fraction.
    """
    clips = np.sort(np.maximum(-(-np.asarray(samples, dtype=np.int64) // _STEP) * _STEP, _STEP))
    candidates = np.unique(np.quantile(clips, np.linspace(0, 1, _CANDIDATES), method="higher"))
    ends = np.searchsorted(clips, candidates, side="right")
    counts, sums = np.r_[0, ends], np.r_[0, np.cumsum(clips)[ends - 1]]
    # What clips after candidate i and up to candidate j cost if they are padded to j: (candidates + 1, candidates).
    cost = (counts[None, 1:] - counts[:, None]) * candidates - (sums[None, 1:] - sums[:, None])
    cost = np.where(np.arange(len(counts))[:, None] <= np.arange(len(candidates)), cost, np.inf)
    best, cuts = cost[0], list[np.ndarray]()
    while best[-1] > padding * sums[-1] and len(cuts) + 1 < min(limit, len(candidates)):
        reached = best[:, None] + cost[1:]  # (last cut, candidates)
        cuts.append(reached.argmin(0))
        best = reached.min(0)
    chosen, last = [], len(candidates) - 1
    for cut in (*reversed(cuts), None):
        chosen.append(int(candidates[last]))
        last = 0 if cut is None else int(cut[last])
    return sorted(set(chosen))
