"""Finds recordings without bursts that a detector takes for bursts, so that the next training draws them more often.

Most speech is easy, and a trained detector learns nothing from it: false alarms are a word here and there.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from audio_avb import SAMPLING_RATE
from avb.events.detection import Segmenter
from avb.events.evaluation import PAUSE_SECONDS, RECORDING_SECONDS, frame_probabilities
from avb.events.pool import ALARMS, Pool
from avb.events.scenes import stretch
from avb.files import write_table
from modeling_events_avb import BurstEventsModel

KINDS = ("speech", "sound")  # music is long, and drawn in parts
TEMPOS = (0.8, 1.0, 1.25)  # training scenes vary it too
LEAST_MEDIAN = 0.5  # of an event's probabilities


def mine(model: BurstEventsModel, folder: str | Path, side: str = "train") -> Path:
    """Adds the column `alarms` to a pool's table: the expected number of false alarms in a piece.

    It is the sum of the `detection` of the events that the detector finds in the piece, averaged over `TEMPOS`;
    0 for bursts and music.

    Args:
        model: the detector.
        folder: written by `avb.events.pool.build_pool`.
        side: of the pool.

    Returns:
        The path of the table.
    """
    pool = Pool.load(folder, side)
    alarms = np.zeros(len(pool.pieces))
    for tempo in TEMPOS:
        for rows in tqdm(list(_recordings(pool)), desc=f"tempo {tempo:g}", disable=None):
            alarms[rows] += _alarms(model, [stretch(pool.audio(row), tempo) for row in rows]) / len(TEMPOS)
    path = Path(folder) / f"pool_{side}.csv"
    table = pool.pieces.assign(**{ALARMS: alarms.round(4)})
    write_table(path, table.to_dict("records"), list(table.columns))
    return path


def _recordings(pool: Pool) -> Iterator[list[int]]:
    """Numbers of the pieces of each group, in parts of at least `RECORDING_SECONDS`, as in an evaluation."""
    for (kind, _), rows in pool.pieces.groupby(["kind", "group"]).indices.items():
        if kind not in KINDS:
            continue
        part, held = [], 0
        for row in rows:
            part.append(int(row))
            held += pool.length(int(row))
            if held >= RECORDING_SECONDS * SAMPLING_RATE:
                yield part
                part, held = [], 0
        if part:
            yield part


def _alarms(model: BurstEventsModel, waveforms: list[np.ndarray]) -> np.ndarray:
    """(waveforms,): the sum of the median probabilities of the events in each, when they are joined with pauses."""
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLING_RATE), np.float32)
    joined = np.concatenate([part for waveform in waveforms for part in (waveform, pause)])
    ends = np.cumsum([len(waveform) + len(pause) for waveform in waveforms])
    segmenter = Segmenter(LEAST_MEDIAN)
    found = np.zeros(len(waveforms))
    for event in [*segmenter.push(frame_probabilities(model, joined)), *segmenter.finish()]:
        middle = min((event.start + event.stop) // 2, ends[-1] - 1)
        found[np.searchsorted(ends, middle, "right")] += event.probability
    return found
