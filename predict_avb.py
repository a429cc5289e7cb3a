"""Scores clips with a trained model: files, folders, globs, a list on standard input, or a split of a corpus.

    python predict_avb.py MODEL PATH... --output scores.csv
    python predict_avb.py MODEL --corpus hume_vb --data_dir data/sample --task high --split test --output scores.parquet
    python predict_avb.py MODEL PATH... --output scores/ --ray

The table has one column per label. Unreadable clips are skipped, counted and listed in OUTPUT.errors.csv, and the exit
code is then 3 (`--strict` stops at the first one instead). Scores are saved in OUTPUT.partial as they are computed:
after an interruption, the same command continues from there.

    python predict_avb.py MODEL RECORDING... --events --output events.csv
    python predict_avb.py MODEL RECORDING... --window_seconds 2 --hop_seconds 1 --output windows.csv

These commands score recordings of any length: one row per detected burst, or per window, with its start and end.

    python predict_avb.py MODEL RECORDING --output recording.png

This one draws a recording instead (.png or .svg): its events, and its scores over time.

For many clips, an output without a suffix is a folder of Parquet shards, `part-00000.parquet` and so on, with the same
rows in the same order. Here, too, the same command continues after an interruption and adds the missing shards. With
`--ray`, the workers of a Ray cluster, or of one started on this machine, write the same shards.
"""

import argparse
import math
import os
import sys
from pathlib import Path

from audio_avb import MAX_SECONDS, check_views
from avb.commands import ENDING_SIGNALS, as_command
from avb.corpus_arguments import OPTIONS, add_arguments, given_options
from avb.errors import AvbError
from avb.files import PICTURES, SUFFIXES, check_output, is_folder, is_stream, locked
from avb.inference.clips import Clips, PathClips, find_paths, scores_key
from avb.inference.modes import EVENTS, PICTURE, SHARDS, WINDOWS, find_given, find_mode, misplaced
from avb.models import DETECTOR, locate
from avb.tasks import TASKS, get_task

EXIT_SKIPPED = 3


@as_command("predict_avb.py", resume="the same command continues where it stopped", signals=ENDING_SIGNALS)
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    locate(args.model)
    return EXIT_SKIPPED if predict(args) else 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        # On one line, because it is printed above every error.
        usage="%(prog)s MODEL (PATH ... | --corpus CORPUS --data_dir DIR) --output OUTPUT [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="folder written by train_avb.py, or a model on the Hub")
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="audio files, folders, globs; - reads paths from stdin"
    )
    parser.add_argument(
        "--output",
        help="table to write (.csv, .jsonl or .parquet); without a suffix, a folder of shards; .png or .svg draws a "
        "recording",
    )
    parser.add_argument(
        "--submission",
        nargs=2,
        metavar=("TEAM", "N"),
        help="with --corpus hume_vb: also write the challenge's CSV, beside OUTPUT or in the current folder",
    )
    corpus = parser.add_argument_group(
        "a split of a corpus instead of PATHs",
        "On the corpus that MODEL was trained on, options left out are those of its training, and the splits too.",
    )
    add_arguments(corpus, ("corpus", "data_dir", "task"))
    corpus.add_argument("--split", default="test", help="split of the corpus (default: test)")
    add_arguments(corpus, OPTIONS)
    parser.add_argument(
        "--batch_seconds", type=float, help="seconds of audio per batch (default: 24 on a CPU, otherwise 64)"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="bfloat16: about 1.4 times as fast on a GPU or a CPU with avx512_bf16; scores differ by a few thousandths",
    )
    parser.add_argument(
        "--max_seconds",
        type=float,
        default=MAX_SECONDS,
        help="longest clip to score, in seconds (default: 600); not for recordings, which may have any length",
    )
    parser.add_argument(
        "--false_alarms_per_hour",
        type=float,
        metavar="RATE",
        help="add burst_score and is_burst; RATE false alarms per hour of audio without bursts: 5, 10, 20, 60, "
        "180 or 360",
    )
    parser.add_argument(
        "--coverage",
        type=float,
        metavar="SHARE",
        help="with a calibrated model: add label sets or score intervals that contain the truth for this share of "
        "clips; 0.9 is 90 %%. See python -m avb.calibration",
    )
    parser.add_argument(
        "--views",
        type=int,
        default=1,
        help="average scores over this many speeds, 0.88 to 1.14; takes that many times as long (default: 1)",
    )
    recordings = parser.add_argument_group("recordings of any length: one row per event or window, or a picture")
    recordings.add_argument("--events", action="store_true", help="find the bursts: columns start, end, detection")
    recordings.add_argument("--detector", metavar="NAME", help=f"detector for --events (default: {DETECTOR})")
    recordings.add_argument(
        "--threshold",
        type=float,
        help="for --events: least median probability of an event (default: the detector's)",
    )
    recordings.add_argument(
        "--events_format",
        choices=("rttm", "audacity", "textgrid", "json"),
        help="also write one file per recording to OUTPUT.FORMAT/",
    )
    recordings.add_argument(
        "--window_seconds",
        type=float,
        help="score windows of this many seconds; adds columns start, end (default in a picture: 2)",
    )
    recordings.add_argument(
        "--hop_seconds",
        type=float,
        help="seconds from one window to the next (default: no overlap; in a picture, half a window)",
    )
    recordings.add_argument("--labels", nargs="+", metavar="LABEL", help="rows of a picture (default: the highest 8)")
    parser.add_argument("--num_workers", type=int, help="threads that decode audio (default: 2; up to 8 with a GPU)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--strict", action="store_true", help="stop at the first clip that cannot be read")
    shards = parser.add_argument_group("folder of shards")
    shards.add_argument("--shard_clips", type=int, default=1000, help="clips per shard, at most (default: 1000)")
    shards.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="score on the Ray cluster at HOST:PORT; without ADDRESS, at RAY_ADDRESS or on this machine",
    )
    shards.add_argument("--ray_workers", type=int, help="processes of --ray (default: one per GPU, or per CPU)")
    return parser


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.ray and (os.path.exists(args.ray) or args.ray == "-"):
        parser.error(f"--ray takes an address, but {args.ray} is a path: put --ray after the PATHs")
    if bool(args.paths) == bool(args.corpus):
        parser.error("give either PATHs or --corpus")
    if args.corpus and not args.data_dir:
        parser.error("--corpus needs --data_dir")
    if args.submission and (args.corpus != "hume_vb" or args.task not in TASKS or not args.submission[1].isdigit()):
        parser.error("--submission TEAM N needs --corpus hume_vb --task TASK, and N must be a number")
    if args.submission and not args.output:
        args.output = f"{args.task}_{args.split}.csv"
    if not args.output:
        parser.error("--output is missing: the table to write, or a folder for shards")
    if args.events and args.window_seconds is not None:
        parser.error("give either --events or --window_seconds")
    if (args.events or args.window_seconds is not None) and is_folder(args.output):
        parser.error(f"--events and --window_seconds write a table: end --output {args.output} with .csv or the like")
    said = misplaced(find_mode(args), find_given(parser, argv), bool(args.corpus)) or check_name_of_output(args.output)
    if said:
        parser.error(said)
    counts, seconds = (args.num_workers, args.shard_clips, args.ray_workers), args.batch_seconds
    if min(1 if count is None else count for count in counts) < 1 or not (seconds is None or 0 < seconds < math.inf):
        parser.error("--num_workers, --batch_seconds, --shard_clips and --ray_workers must be positive")
    if not args.max_seconds > 0:
        parser.error("--max_seconds must be positive")
    try:
        check_views(args.views, "--views")
    except AvbError as error:
        parser.error(str(error))
    if args.ray is not None and args.device not in ("auto", "cpu", "cuda"):
        parser.error(f"--device {args.device}: Ray selects the device of each worker; use auto, cpu or cuda")
    return args


def check_name_of_output(output: str) -> str | None:
    """What is wrong with the name of an output, before anything is scored."""
    if output == "-" or is_stream(output):
        return f"--output {output} : scores are not written to standard output; give a file or a folder"
    if os.path.isfile(output) and not Path(output).suffix:
        return f"--output {output} is a file: name a table {', '.join(SUFFIXES)}, or another folder for shards"
    if Path(output).suffix.lower() in (".jpg", ".jpeg", ".pdf", ".webp"):
        return f"{output}: a picture is written as {' or '.join(PICTURES)}"
    return None


def predict(args: argparse.Namespace) -> int:
    """Returns how many clips or recordings were skipped."""
    commands = {
        PICTURE: draw_recording,
        EVENTS: predict_recordings,
        WINDOWS: predict_recordings,
        SHARDS: predict_shards,
    }
    return commands.get(find_mode(args), predict_table)(args)


def draw_recording(args: argparse.Namespace) -> int:
    """Draws the given recording. Returns 0: none is skipped."""
    output = check_output(args.output, args.overwrite, PICTURES)
    clips = find_clips(args)
    if clips.count() != 1:
        raise AvbError(f"{output}: a picture shows one recording, and {clips.count()} were given")
    import avb

    pipe = avb.load(args.model, args.device, **({"views": args.views} if args.views > 1 else {}))
    names = ("window_seconds", "hop_seconds", "labels", "detector", "threshold")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    avb.plot(next(iter(clips.clips())).read(), output, pipe, **settings)
    print(f"drawn: {output}")
    return 0


def predict_recordings(args: argparse.Namespace) -> int:
    """Writes a table with one row per event or window of each recording. Returns how many recordings were skipped."""
    output = check_output(args.output, args.overwrite)
    clips = find_clips(args)
    from avb.events import tables
    from avb.events.detection import load_detector
    from avb.events.finding import Finder
    from avb.inference.scorer import Scorer

    sure = {"coverage": args.coverage, "false_alarms_per_hour": args.false_alarms_per_hour, "views": args.views}
    scorer = Scorer.load(args.model, args.device, args.dtype, args.batch_seconds, **sure)
    maker: tables.EventRows | tables.WindowRows
    if args.events:
        maker = tables.EventRows(Finder(load_detector(args.detector or DETECTOR), scorer, args.threshold))
    else:
        maker = tables.WindowRows(scorer, args.window_seconds, args.hop_seconds)
    partial = output.with_name(output.name + ".partial")
    with locked(partial):
        tables.score_recordings(partial, scores_key(args.model + maker.key, clips.ids()), clips, maker, args.strict)
        skipped = tables.finish(partial, output, maker.columns, args.events_format)
        partial.unlink()
    return skipped


def predict_table(args: argparse.Namespace) -> int:
    """Writes scores to one table. Returns how many clips were skipped."""
    output = check_output(args.output, args.overwrite)
    clips = find_clips(args)
    from transformers.utils import logging

    from avb.inference import journal
    from avb.inference.scorer import Scorer

    logging.disable_progress_bar()
    scorer = Scorer.load(
        args.model,
        args.device,
        args.dtype,
        args.batch_seconds,
        args.num_workers,
        args.max_seconds,
        args.coverage,
        args.false_alarms_per_hour,
        args.views,
    )
    if args.submission:
        check_submission(args, scorer.config)

    partial = output.with_name(output.name + ".partial")
    key = scores_key(args.model + scorer.key, clips.ids())
    with locked(partial):
        journal.score_to_journal(partial, key, clips, scorer, args.strict)
        skipped = journal.finish(partial, output, scorer.columns)
        if args.submission:
            write_submission(partial, output.parent, args, list(clips.ids()))
        partial.unlink()
    return skipped


def predict_shards(args: argparse.Namespace) -> int:
    """Writes scores to a folder of shards, here or on a Ray cluster. Returns how many clips were skipped."""
    from tqdm import tqdm
    from transformers.utils import logging

    from avb.inference import shards
    from avb.inference.scorer import Scorer

    on_ray = args.ray is not None
    if on_ray:
        from avb.inference import cluster  # ray is optional, and takes a second to load

        cluster.import_ray()
    folder = shards.check_folder(args.output)
    # Absolute, because workers have another current folder.
    clips = find_clips(args, os.getcwd())
    settings = {
        "name": os.path.abspath(args.model) if os.path.isdir(args.model) else args.model,
        "dtype": args.dtype,
        "batch_seconds": args.batch_seconds,
        "num_workers": args.num_workers,
        "max_seconds": args.max_seconds,
        "coverage": args.coverage,
        "false_alarms_per_hour": args.false_alarms_per_hour,
        "views": args.views,
    }
    logging.disable_progress_bar()
    scorer = Scorer.load(device="cpu" if on_ray else args.device, **settings)
    planned = shards.plan(folder, clips, scorer.key, args.shard_clips)
    lock = folder / ".lock"  # readers of the folder ignore it, as all names with a dot
    with locked(lock):
        todo = shards.find_unfinished(folder, planned, args.overwrite)
        total, left = clips.count(), sum(shard.stop - shard.start for shard in todo)
        if left < total:
            print(f"{total - left} of {total} clips are scored already, in {len(planned) - len(todo)} shards")
        try:
            with tqdm(total=total, initial=total - left, unit="clip", desc="scoring", disable=None) as progress:
                if todo and on_ray:
                    del scorer  # the workers have their own
                    with cluster.connect(args.ray):
                        for scored in cluster.score_on_ray(
                            todo, clips, args.ray_workers, device=args.device, **settings
                        ):
                            progress.update(scored)
                else:
                    for shard in todo:
                        shards.score_shard(scorer, shard, clips.part(shard.start, shard.stop), progress.update)
        except (KeyboardInterrupt, SystemExit) as stop:
            whole = sum(shards.read_note(shard.path) is not None for shard in planned)
            stop.add_note(f"{whole} of {len(planned)} shards are kept in {folder}")
            raise
        skipped = shards.finish(folder, planned)
        lock.unlink()
    return skipped


def find_clips(args: argparse.Namespace, folder: str = "") -> Clips:
    """The clips to score; relative paths are relative to `folder`."""
    if args.corpus:
        from avb.inference.run_corpus import corpus_of_run

        given = given_options(args)
        clips: Clips = corpus_of_run(args.model, args.corpus, args.data_dir, args.task, args.split, given)
    else:
        clips = PathClips(find_paths(args.paths), folder)
    if not clips.count():
        raise AvbError(
            f"no audio files found in {' '.join(args.paths) or args.data_dir}: check the path, or name files with an "
            "unusual suffix one by one"
        )
    return clips


def check_submission(args: argparse.Namespace, config):
    """Raises if the model's labels are not those of the task, before hours of scoring rather than after."""
    from configuration_avb import VocalBurstConfig

    predicted, wanted = config.id2label.values(), get_task(args.task).labels
    if not set(wanted) <= set(predicted):
        raise AvbError(f"--submission: {args.model} predicts {', '.join(predicted)}, which is not task {args.task!r}")
    if isinstance(config, VocalBurstConfig) and config.batch_dependence:
        print(
            f"predict_avb.py: {args.model}: {config.batch_dependence}: its scores depend on which clips share a batch, "
            "here those of like length. Training wrote those of batches in the corpus's order: predictions_test.csv",
            file=sys.stderr,
        )


def write_submission(partial: Path, folder: Path, args: argparse.Namespace, clip_ids: list[str]):
    """Writes the scores as the challenge's CSV. A clip without a score makes it incomplete, which is an error."""
    from avb.corpora import submission
    from avb.inference import journal
    from avb.inference.scorer import is_unreadable

    team, number = args.submission
    labels = get_task(args.task).labels
    rows = [row for row in journal.read_journal(partial) if not is_unreadable(row)]
    predictions = [[row[label] for label in labels] for row in rows]
    path = submission.write(
        folder, args.task, [row["id"] for row in rows], predictions, team, int(number), expected_ids=clip_ids
    )
    print(f"submission: {path}")


if __name__ == "__main__":
    sys.exit(main())
