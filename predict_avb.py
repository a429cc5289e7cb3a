"""Scores clips with a trained model: files, folders, globs, a list on standard input, or a split of a corpus.

    python predict_avb.py MODEL PATH... --output scores.csv
    python predict_avb.py MODEL --corpus hume_vb --data_dir data/sample --task high --split test --output scores.parquet

Every label gets a column. A clip that cannot be read is skipped, counted and listed in OUTPUT.errors.csv, and the exit
code is then 3 (`--strict` stops at the first one instead). Scores are kept in OUTPUT.partial as they are made: after an
interruption the same command goes on from there.
"""

import argparse
import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm
from transformers.utils import logging

from audio_avb import AUDIO_SUFFIXES
from avb import submission
from avb.errors import AudioError, AvbError
from avb.output import check_output, write_table
from avb.prediction import Clip, load_model, score_clips, score_columns, score_row
from avb.tasks import TASKS, get_task

EXIT_SKIPPED = 3


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        return predict(args)
    except AvbError as error:
        print(f"predict_avb.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("predict_avb.py: stopped; the same command goes on from what is scored", file=sys.stderr)
        return 130


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="folder written by train_avb.py, or a model on the Hub")
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="audio files, folders, globs; - reads paths from stdin"
    )
    parser.add_argument("--output", help="table to write: .csv, .jsonl or .parquet")
    parser.add_argument(
        "--submission",
        nargs=2,
        metavar=("TEAM", "N"),
        help="with --corpus hume_vb: also write the challenge's CSV, beside OUTPUT or in the current folder",
    )
    parser.add_argument("--corpus", help="score a corpus instead: hume_vb, emogator or folder")
    parser.add_argument("--data_dir", help="folder of the corpus; for 'folder' a table")
    parser.add_argument("--task", help="task of the corpus, where it has several")
    parser.add_argument("--split", default="test", help="split of the corpus (default: test)")
    parser.add_argument("--batch_seconds", type=float, default=64, help="audio a batch may hold, in s (default: 64)")
    parser.add_argument("--num_workers", type=int, default=2, help="threads that decode audio (default: 2)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--strict", action="store_true", help="stop at the first clip that cannot be read")
    args = parser.parse_args(argv)
    if bool(args.paths) == bool(args.corpus):
        parser.error("give either PATHs or --corpus")
    if args.corpus and not args.data_dir:
        parser.error("--corpus needs --data_dir")
    if args.submission and (args.corpus != "hume_vb" or args.task not in TASKS or not args.submission[1].isdigit()):
        parser.error("--submission TEAM N goes with --corpus hume_vb --task TASK, and N is a number")
    if args.submission and not args.output:
        args.output = f"{args.task}_{args.split}.csv"
    if not args.output:
        parser.error("--output is missing: the table to write")
    if args.num_workers < 1 or args.batch_seconds <= 0:
        parser.error("--num_workers and --batch_seconds must be positive")
    return args


def predict(args: argparse.Namespace) -> int:
    output = check_output(args.output, args.overwrite)
    clips = corpus_clips(args) if args.corpus else path_clips(args.paths)
    if not clips:
        raise AvbError(
            f"no audio among {' '.join(args.paths) or args.data_dir}: suffixes read are {' '.join(AUDIO_SUFFIXES)}"
        )
    logging.disable_progress_bar()
    model, feature_extractor = load_model(args.model, args.device)

    if args.submission:
        check_submission(args, model.config)

    journal = output.with_name(output.name + ".partial")
    done = resume_journal(journal, fingerprint(args.model, model, clips))
    if done:
        print(f"{done} of {len(clips)} clips are scored already, in {journal}")
    with open(journal, "a", encoding="utf-8") as file:
        progress = tqdm(total=len(clips), initial=done, unit="clip", desc="scoring", disable=None)
        for clip, scores in score_clips(model, feature_extractor, clips[done:], args.batch_seconds, args.num_workers):
            if isinstance(scores, AudioError):
                if args.strict:
                    raise scores
                row = {"id": clip.id, "error": str(scores)}
            else:
                row = {"id": clip.id, **score_row(scores, model.config)}
            file.write(json.dumps(row) + "\n")
            progress.update()
        progress.close()
    exit_code = finish(journal, output, score_columns(model.config))
    if args.submission:
        write_submission(journal, output.parent, args, [clip.id for clip in clips])
    journal.unlink()
    return exit_code


def check_submission(args: argparse.Namespace, config):
    """Raises where the model's labels are not the task's: before the hours of scoring, not after."""
    predicted, wanted = config.id2label.values(), get_task(args.task).labels
    if not set(wanted) <= set(predicted):
        raise AvbError(f"--submission: {args.model} predicts {', '.join(predicted)}, which is not task {args.task!r}")


def write_submission(journal: Path, folder: Path, args: argparse.Namespace, clip_ids: list[str]):
    """The challenge's CSV of what is scored. A clip without a score makes it incomplete, which is an error."""
    team, number = args.submission
    labels = get_task(args.task).labels
    rows = [row for row in read_journal(journal) if "error" not in row]
    predictions = [[row[label] for label in labels] for row in rows]
    path = submission.write(
        folder, args.task, [row["id"] for row in rows], predictions, team, int(number), expected_ids=clip_ids
    )
    print(f"submission: {path}")


def path_clips(patterns: list[str]) -> list[Clip]:
    """Clips of files, folders (searched through, sorted) and globs; `-` stands for paths on standard input.

    A path that does not exist is kept: it is reported as a bad clip, beside those that could be scored.
    """
    paths: list[str] = []
    for pattern in patterns:
        if pattern == "-":
            paths += [line.rstrip("\n") for line in sys.stdin if line.strip()]
        elif os.path.isdir(pattern):
            found = (str(path) for path in Path(pattern).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
            paths += sorted(found)
        elif not os.path.exists(pattern) and glob.has_magic(pattern):
            paths += sorted(glob.glob(pattern, recursive=True))
        else:
            paths.append(pattern)
    # A name that is no UTF-8 could not be written to a table: its bytes are spelled out in the id.
    return [Clip(os.fsencode(path).decode("utf-8", "backslashreplace"), partial(str, path)) for path in paths]


def corpus_clips(args: argparse.Namespace) -> list[Clip]:
    from avb.corpora import load_bursts  # files and folders are scored without the packages that corpora need

    corpus = load_bursts(args.corpus, args.data_dir, args.task)
    if args.split not in corpus.splits:
        raise AvbError(f"--split {args.split}: {args.data_dir} has {', '.join(corpus.splits)}")
    split = corpus.splits[args.split]
    # Read from the mapped table one by one, when they are decoded: a split need not fit into memory.
    return [Clip(clip_id, partial(read_row, split, index)) for index, clip_id in enumerate(split["id"])]


def read_row(split, index: int) -> dict:
    return split[index]["audio"]


def fingerprint(name: str, model, clips: list[Clip]) -> str:
    """What scores depend on: the model's configuration and a sample of its weights, and the clips in their order."""
    digest = hashlib.sha256(name.encode() + model.config.to_json_string().encode())
    for parameter in model.parameters():
        digest.update(parameter.detach().flatten()[:16].float().cpu().numpy().tobytes())
    for clip in clips:
        digest.update(clip.id.encode() + b"\0")
    return digest.hexdigest()


def resume_journal(journal: Path, key: str) -> int:
    """Starts the journal, or counts the rows it holds if it was made by the same model of the same clips."""
    if journal.exists():
        with open(journal, "rb+") as file:
            lines = file.readlines()
            if lines and lines[0] == json.dumps({"fingerprint": key}).encode() + b"\n":
                whole = [line for line in lines if line.endswith(b"\n")]  # a crash may leave half a line
                file.truncate(sum(len(line) for line in whole))
                return len(whole) - 1
    journal.write_text(json.dumps({"fingerprint": key}) + "\n", encoding="utf-8")
    return 0


def finish(journal: Path, output: Path, columns: list[str]) -> int:
    """Turns the finished journal into the table asked for and, where clips were skipped, a report beside it."""
    report = output.with_name(output.name + ".errors.csv")
    bad = [row for row in read_journal(journal) if "error" in row]
    good = (row for row in read_journal(journal) if "error" not in row)
    write_table(output, good, ["id", *columns])
    report.unlink(missing_ok=True)
    if bad:
        write_table(report, bad, ["id", "error"])
    with open(journal, encoding="utf-8") as file:
        scored = sum(1 for _ in file) - 1 - len(bad)
    print(f"{scored} clips scored: {output}")
    if not bad:
        return 0
    print(f"{len(bad)} clips skipped: {report}", file=sys.stderr)
    return EXIT_SKIPPED


def read_journal(journal: Path) -> Iterator[dict]:
    with open(journal, encoding="utf-8") as file:
        next(file)  # the fingerprint
        yield from map(json.loads, file)


if __name__ == "__main__":
    sys.exit(main())
