"""Converts a corpus to 16 kHz Parquet shards, which load in the same way, but faster and from few files.

    python -m avb.corpora.prepare emogator path/to/EmoGator emogator-16k --num-workers 4
    python -m avb.corpora.prepare hume_vb path/to/release hume-vb-16k
    python -m avb.corpora.prepare folder clips.csv clips-16k --option 'label_range=[1, 7]'

Clips are converted to mono 16-bit FLAC at the given sampling rate and level: a 48 kHz release becomes the 16 kHz, -3 dB
version. The labels of all tasks are included; hume_vb's four tables share one copy of the audio. The columns are those
of `avb.corpora.shards`; `load_bursts("emogator", "emogator-16k")` reads the result.

A shard is written under a temporary name and moved into place, so the same command continues after an interruption;
a different command for the same folder is refused. Clips that cannot be decoded are left out, counted and listed in
`bad_clips.csv`.
"""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from audio_avb import AudioPreparation
from avb.commands import as_command
from avb.corpus_arguments import CORPORA, OPTIONS, add_arguments, given_options
from avb.errors import AvbError


@as_command("avb.corpora.prepare", resume="the finished shards are kept: run the same command again to continue")
def main(arguments: list[str] | None = None) -> int:
    """The command; `--help` lists its arguments."""
    args = _parse_arguments(arguments)
    given = {name: value for name, value in vars(args).items() if name not in (*OPTIONS, "option")}
    audio = {field.name: given.pop(field.name) for field in fields(AudioPreparation)}

    from avb.corpora.conversion import BAD_CLIPS_FILE, prepare

    try:
        bad_clips = prepare(preparation=AudioPreparation(**audio), **given | given_options(args) | dict(args.option))
    except OSError as error:
        raise AvbError(f"{error}; the finished shards are kept: run the same command again to continue") from error
    if bad_clips:
        report = args.out / BAD_CLIPS_FILE
        print(f"clips left out because they could not be decoded: {len(bad_clips)}, see {report}", file=sys.stderr)
    return 0


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.corpora.prepare",
        usage="%(prog)s {hume_vb,emogator,folder} ROOT OUT [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", choices=CORPORA, help="kind of corpus in ROOT; see data/README.md")
    parser.add_argument(
        "root",
        metavar="ROOT",
        type=Path,
        help="location of the corpus; for 'folder', a table or a folder of class folders",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--tasks", nargs="+", help="tasks whose labels are written (default: all)")
    parser.add_argument(
        "--sampling-rate",
        "--sampling_rate",
        type=int,
        default=AudioPreparation.sampling_rate,
        help="sampling rate of the clips written, in Hz (default: 16000)",
    )
    parser.add_argument(
        "--peak-db",
        "--peak_db",
        type=_number_or_none,
        default=AudioPreparation.peak_db,
        help="peak level in dBFS, or none (default: -3)",
    )
    parser.add_argument(
        "--trim-top-db",
        "--trim_top_db",
        type=_number_or_none,
        help="trim ends more than this many dB below the loudest frame",
    )
    parser.add_argument(
        "--max-seconds",
        "--max_seconds",
        type=float,
        default=AudioPreparation.max_seconds,
        help="longest clip to decode, in seconds (default: 600)",
    )
    parser.add_argument("--num-workers", "--num_workers", type=int, help="processes that decode audio (default: 1)")
    parser.add_argument(
        "--shard-rows", "--shard_rows", type=int, default=8000, help="maximum clips per shard (default: 8000)"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first clip that cannot be decoded")
    add_arguments(parser.add_argument_group("corpus"), OPTIONS)
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="an option of the corpus, with its value as JSON or text; can be repeated",
    )
    return parser.parse_args(arguments)


def _number_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


if __name__ == "__main__":
    sys.exit(main())
