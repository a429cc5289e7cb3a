"""Example sounds for the demo, from the generator of the sample corpus: they are not recordings of people."""

from pathlib import Path

import numpy as np
import soundfile as sf

from data.make_sample import CALL_TYPES, SAMPLING_RATE, synthesize

BASE_PITCH, TRACT = 190.0, 1.0  # Hz; length of the vocal tract, 1 = average
SHOWN = ("Laugh", "Cry", "Scream", "Gasp")
IN_A_ROW = ("Laugh", "Laugh", "Gasp", "Cry", "Scream")  # longer than a window, so scores over time are shown
PAUSE_SECONDS = 1.2


def write_examples(folder: Path) -> dict[str, Path]:
    """Writes a WAV file per call type, and one of several in a row.

    Args:
        folder: exists already.

    Returns:
        What each is, with its file; 16 kHz mono, the same samples each time.
    """
    clips = {name.lower(): burst(name, seed) for seed, name in enumerate(SHOWN)}
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLING_RATE))
    clips["several in a row"] = np.concatenate(
        [part for seed, name in enumerate(IN_A_ROW) for part in (pause, burst(name, 10 + seed))]
    )
    paths = {name: folder / f"synthetic {name}.wav" for name in clips}
    for name, path in paths.items():
        sf.write(path, clips[name], SAMPLING_RATE, subtype="PCM_16")
    return paths


def burst(call_type: str, seed: int) -> np.ndarray:
    """A typical burst of this type, (samples,) at 16 kHz."""
    return synthesize(np.array(CALL_TYPES[call_type]), BASE_PITCH, TRACT, np.random.default_rng(seed))
