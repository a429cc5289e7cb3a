"""Decodes clips in threads while others are scored, bounded by the number of clips and by seconds of audio.

Unusual: how long a clip is, is known only once it is decoded. So a thread that is about to decode one waits while the
clips ahead have `CHUNK_SECONDS` already: 128 clips of ten minutes would take 5 GB, and twice that with those ahead.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Condition
from typing import TypeVar

import numpy as np

from avb.errors import AudioError

# A chunk, from which batches of similar length are made, ends at whichever comes first. As much is decoded ahead.
CHUNK_CLIPS, CHUNK_SECONDS = 128, 600.0
_Clip = TypeVar("_Clip")


def decoded_chunks(
    clips: Iterable[_Clip],
    decode: Callable[[_Clip], np.ndarray | AudioError],
    num_workers: int,
    sampling_rate: int,
) -> Iterator[list[tuple[_Clip, np.ndarray | AudioError]]]:
    """Yields the clips with their waveforms, in order and in chunks.

    Args:
        clips: whatever `decode` takes.
        decode: returns a clip's waveform (samples,), or why it cannot be read; what it raises is raised here.
        num_workers: threads; each may hold one clip more than the limits say.
        sampling_rate: of the waveforms, in Hz.
    """
    limit = int(CHUNK_SECONDS * sampling_rate)
    clips = iter(clips)
    waiting: deque[tuple[_Clip, Future]] = deque()
    room = Condition()
    submitted = taken = 0  # clips
    ahead = 0  # samples that are decoded and not taken

    def decode_in_turn(turn: int, clip: _Clip) -> np.ndarray | AudioError:
        nonlocal ahead
        with room:
            room.wait_for(lambda: ahead < limit or turn <= taken)  # the one to be taken next never waits
        waveform = decode(clip)
        with room:
            ahead += _length(waveform)
        return waveform

    with ThreadPoolExecutor(num_workers) as pool:
        try:
            while True:
                chunk: list[tuple[_Clip, np.ndarray | AudioError]] = []
                length = 0
                while len(chunk) < CHUNK_CLIPS and length < limit:
                    for clip in islice(clips, 2 * CHUNK_CLIPS - len(chunk) - len(waiting)):
                        waiting.append((clip, pool.submit(decode_in_turn, submitted, clip)))
                        submitted += 1
                    if not waiting:
                        break
                    clip, future = waiting.popleft()
                    waveform = future.result()
                    with room:
                        taken, ahead = taken + 1, ahead - _length(waveform)
                        room.notify_all()
                    length += _length(waveform)
                    chunk.append((clip, waveform))
                if not chunk:
                    return
                yield chunk
        finally:
            with room:
                limit = sys.maxsize  # nobody waits any longer
                room.notify_all()
            pool.shutdown(cancel_futures=True)


def _length(waveform: np.ndarray | AudioError) -> int:
    return 0 if isinstance(waveform, AudioError) else len(waveform)
