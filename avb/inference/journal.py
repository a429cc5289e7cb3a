"""Stores scores as they are computed, one line of JSON each, so that an interrupted run can continue."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from avb.files import write_skipped, write_table, writing
from avb.inference.clips import Clips
from avb.inference.scorer import Scorer, is_unreadable


def score_to_journal(journal: Path, key: str, clips: Clips, scorer: Scorer, strict: bool):
    """Scores the clips that are not in the journal yet; an unreadable clip becomes a line with its error.

    Args:
        journal: file to start, or to continue.
        key: of model and clips; a journal with another key is replaced.
        clips: to score, in order.
        scorer: the model.
        strict: raise at the first clip that cannot be read.

    Raises:
        AudioError: `strict`, and a clip cannot be read.
        AvbError: the journal cannot be written.
    """
    with writing(journal):
        _score_rest(journal, key, clips, scorer, strict)


def _score_rest(journal: Path, key: str, clips: Clips, scorer: Scorer, strict: bool):
    done = resume_journal(journal, key)
    total = clips.count()
    if done:
        print(f"{done} of {total} clips are scored already, in {journal}")
    rest = clips.part(done, total)
    with (
        open(journal, "a", encoding="utf-8") as file,
        tqdm(total=total, initial=done, unit="clip", desc="scoring", disable=None) as progress,
    ):
        for row in scorer.rows(rest, strict):
            file.write(json.dumps(row) + "\n")
            progress.update()


def resume_journal(journal: Path, key: str) -> int:
    """Starts the journal, or counts its rows if it is by the same model on the same clips."""
    if journal.exists():
        with open(journal, "rb+") as file:
            lines = file.readlines()
            if lines and lines[0] == json.dumps({"fingerprint": key}).encode() + b"\n":
                whole = [line for line in lines if line.endswith(b"\n")]  # a crash may leave half a line
                file.truncate(sum(len(line) for line in whole))
                return len(whole) - 1
    journal.write_text(json.dumps({"fingerprint": key}) + "\n", encoding="utf-8")
    return 0


def read_journal(journal: Path) -> Iterator[dict]:
    with open(journal, encoding="utf-8") as file:
        next(file)  # the fingerprint
        yield from map(json.loads, file)


def finish(journal: Path, output: Path, columns: Iterable[str]) -> int:
    """Converts the finished journal to the requested table and, if clips were skipped, a report beside it.

    Args:
        journal: the file to convert.
        output: table to write.
        columns: of the scores.

    Returns:
        How many clips were skipped.
    """
    bad = [row for row in read_journal(journal) if is_unreadable(row)]
    good = (row for row in read_journal(journal) if not is_unreadable(row))
    write_table(output, good, ["id", *columns])
    report = write_skipped(output, bad)
    with open(journal, encoding="utf-8") as file:
        scored = sum(1 for _ in file) - 1 - len(bad)
    print(f"{scored} clip{'s' * (scored != 1)} scored: {output}")
    if bad:
        print(f"{len(bad)} clip{'s' * (len(bad) != 1)} skipped: {report}", file=sys.stderr)
    return len(bad)
