"""Stores scores as they are computed, one line of JSON each, so that an interrupted run can continue.

Clips are computed in batches of like length, so the lines are not quite in order: each begins with its clip's number.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from tqdm import tqdm

from avb.files import write_skipped, write_table, writing
from avb.inference.clips import Clips
from avb.inference.score import in_order
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
    total = clips.count()
    with writing(journal):
        done = resume_journal(journal, key)
    kept = len(done)
    if kept:
        print(f"{kept} of {total} clips are scored already, in {journal}")
    first = next(number for number in count() if number not in done)
    rest = ((number, clip) for number, clip in enumerate(clips.part(first, total).clips(), first) if number not in done)
    try:
        with (
            writing(journal),
            open(journal, "a", encoding="utf-8", buffering=1) as file,  # each line at once
            tqdm(total=total, initial=kept, unit="clip", desc="scoring", disable=None) as progress,
        ):
            for number, row in scorer.numbered_rows(rest, strict):
                file.write(json.dumps([number, row]) + "\n")
                kept += 1
                progress.update()
    except (KeyboardInterrupt, SystemExit) as stop:
        stop.add_note(f"{kept} of {total} clips are kept in {journal}")
        raise


def _head(key: str) -> str:
    return json.dumps({"fingerprint": key, "lines": "number, row"}) + "\n"  # before, lines were rows alone


def resume_journal(journal: Path, key: str) -> set[int]:
    """Starts the journal, or finds the numbers of its clips if it is by the same model on the same clips."""
    if journal.exists():
        with open(journal, "rb+") as file:
            if file.readline() == _head(key).encode():
                done, whole = set(), file.tell()
                while (line := file.readline()).endswith(b"\n"):  # a crash may leave half a line
                    done.add(int(line[1 : line.index(b",")]))
                    whole += len(line)
                file.truncate(whole)
                return done
    journal.write_text(_head(key), encoding="utf-8")
    return set()


def read_journal(journal: Path) -> Iterator[dict]:
    """The rows of a finished journal, in the order of the clips."""
    with open(journal, encoding="utf-8") as file:
        next(file)  # the fingerprint
        yield from in_order(map(json.loads, file))


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
