"""Tables of events or windows of many recordings of any length, written in constant memory and resumable by recording.

Rows are stored in OUTPUT.partial as they are computed, with a line at the end of each recording. After an interruption,
the rows of an unfinished recording are dropped and computed again.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from audio_avb import SAMPLING_RATE
from avb.errors import AudioError
from avb.events.finding import EVENT_COLUMNS, Finder
from avb.events.formats import FORMATS
from avb.events.reading import read_blocks
from avb.events.windows import score_windows
from avb.files import make_folder, write_skipped, write_table, write_text, writing
from avb.inference.clips import Clip, Clips
from avb.inference.scorer import Scorer
from calibration_avb import weights_fingerprint

END = "end_of"  # of a recording; no column has this name


@dataclass(frozen=True)
class EventRows:
    """Rows of a recording's events: start, end, detection, then the columns of a clip's scores."""

    finder: Finder

    @property
    def key(self) -> str:
        """What the rows depend on besides the recordings."""
        detector = self.finder.detector
        threshold = detector.config.threshold if self.finder.threshold is None else self.finder.threshold
        return f"{self.finder.scorer.key} {weights_fingerprint(detector.named_parameters())} {threshold:g}"

    @property
    def columns(self) -> list[str]:
        return [*EVENT_COLUMNS, *self.finder.scorer.columns]

    def rows(self, blocks: Iterator[np.ndarray]) -> Iterator[dict[str, Any]]:
        for detection, scores in self.finder.events(blocks):
            row = {"start": round(detection.start_seconds, 3), "end": round(detection.end_seconds, 3)}
            row["detection"] = round(detection.probability, 6)
            yield row | self.finder.scorer.row(scores)


@dataclass(frozen=True)
class WindowRows:
    """Rows of a recording's windows: start, end, then the columns of a clip's scores."""

    scorer: Scorer
    window_seconds: float
    hop_seconds: float | None

    @property
    def key(self) -> str:
        return f"{self.scorer.key} {self.window_seconds:g} {self.hop_seconds}"

    @property
    def columns(self) -> list[str]:
        return [*EVENT_COLUMNS[:2], *self.scorer.columns]

    def rows(self, blocks: Iterator[np.ndarray]) -> Iterator[dict[str, Any]]:
        for start, end, scores in score_windows(self.scorer, blocks, self.window_seconds, self.hop_seconds):
            yield {"start": round(start, 3), "end": round(end, 3)} | self.scorer.row(scores)


def score_recordings(journal: Path, key: str, clips: Clips, maker: EventRows | WindowRows, strict: bool):
    """Makes the rows of the recordings that the journal does not contain yet.

    Args:
        journal: file to start or to resume.
        key: identifies models and recordings; a journal with another key is started again.
        clips: the recordings, in order.
        maker: makes the rows.
        strict: raise at the first recording that cannot be read.

    Raises:
        AudioError: `strict`, and a recording cannot be read.
        AvbError: the journal cannot be written.
    """
    total = clips.count()
    with writing(journal):
        done = resume(journal, key)
    if done:
        print(f"{done} of {total} recordings are scored already, in {journal}")
    try:
        with writing(journal):
            for _ in _score_rest(journal, done, total, clips, maker, strict):
                done += 1
    except (KeyboardInterrupt, SystemExit) as stop:
        stop.add_note(f"{done} of {total} recordings are kept in {journal}")
        raise


def _score_rest(
    journal: Path, done: int, total: int, clips: Clips, maker: EventRows | WindowRows, strict: bool
) -> Iterator[None]:
    """Adds the recordings from number `done` on to the journal; yields after each."""
    with (
        open(journal, "r+", encoding="utf-8") as file,
        tqdm(total=total, initial=done, unit="recording", desc="scoring", disable=None) as progress,
    ):
        file.seek(0, 2)
        for clip in clips.part(done, total).clips():
            begin = file.tell()
            try:
                end: dict[str, Any] = {END: clip.id, "seconds": _write_rows(file, clip, maker)}
            except AudioError as error:
                if strict:
                    raise
                file.seek(begin)
                file.truncate()
                end = {END: clip.id, "error": str(error)}
            file.write(json.dumps(end) + "\n")
            file.flush()
            progress.update()
            yield


def _write_rows(file, clip: Clip, maker: EventRows | WindowRows) -> float:
    """Writes a recording's rows; returns its length in seconds."""
    samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in read_blocks(clip.read()):
            samples += len(block)
            yield block

    for row in maker.rows(counted()):
        file.write(json.dumps({"id": clip.id, **row}) + "\n")
    return samples / SAMPLING_RATE


def resume(journal: Path, key: str) -> int:
    """Starts the journal, or counts its recordings and cuts off what follows the last complete one."""
    head = json.dumps({"fingerprint": key}).encode() + b"\n"
    if journal.exists():
        with open(journal, "rb+") as file:
            if file.readline() == head:
                done, whole = 0, file.tell()
                while (line := file.readline()).endswith(b"\n"):
                    if END in json.loads(line):
                        done, whole = done + 1, file.tell()
                file.truncate(whole)
                return done
    journal.write_bytes(head)
    return 0


def read_rows(journal: Path) -> Iterator[dict[str, Any]]:
    """The journal's lines after the first, which contains its key."""
    with open(journal, encoding="utf-8") as file:
        next(file)
        yield from map(json.loads, file)


def finish(journal: Path, output: Path, columns: list[str], events_format: str | None = None) -> int:
    """Turns the finished journal into the table, a list of unreadable recordings, and annotations if requested.

    Args:
        journal: the finished journal.
        output: the table.
        columns: columns of the table after `id`.
        events_format: one of `FORMATS`; writes a file per recording in the folder OUTPUT.FORMAT.

    Returns:
        The number of recordings that were skipped.
    """
    write_table(output, (row for row in read_rows(journal) if END not in row), ["id", *columns])
    ends = [row for row in read_rows(journal) if END in row]
    bad = [{"id": row[END], "error": row["error"]} for row in ends if "error" in row]
    report = write_skipped(output, bad)
    if bad:
        print(f"{len(bad)} recording{'s' * (len(bad) != 1)} skipped: {report}", file=sys.stderr)
    if events_format:
        print(f"{events_format}: {write_annotations(journal, output, events_format)}")
    print(f"{len(ends) - len(bad)} recording{'s' * (len(ends) - len(bad) != 1)} scored: {output}")
    return len(bad)


def write_annotations(journal: Path, output: Path, events_format: str) -> Path:
    """Writes a file per recording in the folder OUTPUT.FORMAT, named after the recording; returns the folder."""
    write, suffix = FORMATS[events_format]
    folder = make_folder(output.with_name(f"{output.name}.{events_format}"))
    taken: set[str] = set()
    rows: list[dict[str, Any]] = []  # of one recording
    for row in read_rows(journal):
        if END not in row:
            rows.append(row)
            continue
        if "error" not in row:
            name = unused(Path(row[END]).stem or "recording", taken)
            write_text(folder / f"{name}{suffix}", write(name, rows, row["seconds"]))
        rows = []
    return folder


def unused(stem: str, taken: set[str]) -> str:
    """The stem, with a number if it is taken in any case; adds it to those taken."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    name = next(name for name in names if name.casefold() not in taken)
    taken.add(name.casefold())
    return name
