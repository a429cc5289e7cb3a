"""Scores the windows of a recording of any length, in constant memory."""

from collections.abc import Iterable, Iterator

import numpy as np

from audio_avb import SAMPLING_RATE
from avb.errors import AvbError
from avb.events.finding import score_stretches
from avb.inference.scorer import Scorer
from pipeline_avb import is_duration

WINDOWS_AT_ONCE = 32
WINDOW_SECONDS, HOP_SECONDS = 2.0, 1.0


def score_windows(
    scorer: Scorer, blocks: Iterable[np.ndarray], window_seconds: float, hop_seconds: float | None
) -> Iterator[tuple[float, float, np.ndarray]]:
    """Start and end in seconds and scores (labels,) of each window; the last, of full length, ends with the recording.

    Args:
        scorer: scores the windows.
        blocks: the recording, float32 samples (samples,) at 16 kHz.
        window_seconds: length of a window.
        hop_seconds: time from the start of one window to the next; None: `window_seconds`.

    Raises:
        AvbError: the length or the hop is invalid.
    """
    seconds = (window_seconds, window_seconds if hop_seconds is None else hop_seconds)
    is_legal = all(is_duration(value) and np.isfinite(value) for value in seconds)
    window, hop = (round(value * SAMPLING_RATE) for value in seconds) if is_legal else (0, 0)
    if not 1 <= hop <= window:
        raise AvbError(
            f"window_seconds={window_seconds!r}, hop_seconds={hop_seconds!r}: the hop must be positive, and at most "
            "the window, so that no audio falls between two"
        )
    waiting: list[tuple[int, np.ndarray]] = []  # start and audio of windows that are not scored yet
    buffer, begin = np.zeros(0, np.float32), 0
    start, end = 0, 0  # start of the next window; end of what was read

    def scored() -> Iterator[tuple[float, float, np.ndarray]]:
        if waiting:
            scores = score_stretches(scorer, [audio for _, audio in waiting])
            for (first, audio), row in zip(waiting, scores, strict=True):
                yield first / SAMPLING_RATE, (first + len(audio)) / SAMPLING_RATE, row
            waiting.clear()

    for block in blocks:
        buffer, end = np.concatenate([buffer, block]), end + len(block)
        while start + window <= end:
            waiting.append((start, buffer[start - begin : start - begin + window]))
            start += hop
            if len(waiting) == WINDOWS_AT_ONCE:
                yield from scored()
        keep = max(begin, min(start, end - window))  # the last window may begin before the next one would
        buffer, begin = buffer[keep - begin :].copy(), keep
    last = max(0, end - window)
    if start == 0 or start - hop < last:
        waiting.append((last, buffer[last - begin :]))
    yield from scored()
