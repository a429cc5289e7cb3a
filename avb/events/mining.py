"""Finds recordings without bursts that a detector takes for bursts, so that the next training draws them more often.

Most speech is easy, and a trained detector learns nothing from it: false alarms are a word here and there.
"""

from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from audio_avb import SAMPLING_RATE
from avb.events.evaluation import PAUSE_SECONDS, detections, frame_probabilities, joined, recordings
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
    recorded = [rows for kind, _, rows in recordings(pool) if kind in KINDS]
    for tempo in TEMPOS:
        for rows in tqdm(recorded, desc=f"tempo {tempo:g}", disable=None):
            alarms[rows] += _alarms(model, [stretch(pool.audio(row), tempo) for row in rows]) / len(TEMPOS)
    path = Path(folder) / f"pool_{side}.csv"
    table = pool.pieces.assign(**{ALARMS: alarms.round(4)})
    write_table(path, table.to_dict("records"), list(table.columns))
    return path


def _alarms(model: BurstEventsModel, waveforms: list[np.ndarray]) -> np.ndarray:
    """(waveforms,): the sum of the median probabilities of the events in each, when they are joined with pauses."""
    recording = joined(waveforms)
    ends = np.cumsum([len(waveform) + round(PAUSE_SECONDS * SAMPLING_RATE) for waveform in waveforms])
    found = np.zeros(len(waveforms))
    for event in detections(frame_probabilities(model, recording), LEAST_MEDIAN):
        middle = min((event.start + event.stop) // 2, len(recording) - 1)
        found[np.searchsorted(ends, middle, "right")] += event.probability
    return found
