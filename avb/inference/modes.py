"""The modes of `predict_avb.py`, and the options of each: an option that would be without effect is refused."""

import argparse
from pathlib import Path

from avb.corpus_arguments import OPTIONS
from avb.files import PICTURES, is_folder

TABLE, SHARDS, EVENTS, WINDOWS, PICTURE = "table", "shards", "events", "windows", "picture"
SAID = {
    TABLE: "a table of clips (--output FILE.csv)",
    SHARDS: "a folder of shards (--output FOLDER)",
    EVENTS: "--events",
    WINDOWS: "--window_seconds",
    PICTURE: "a picture (--output FILE.png)",
}
_SCORES = (TABLE, SHARDS, EVENTS, WINDOWS)
_CLIPS = (TABLE, SHARDS)
# An option that is not here belongs to all modes.
MODES = {
    "batch_seconds": _SCORES,
    "coverage": _SCORES,
    "detector": (EVENTS, PICTURE),
    "dtype": _SCORES,
    "events_format": (EVENTS,),
    "false_alarms_per_hour": _SCORES,
    "hop_seconds": (WINDOWS, PICTURE),
    "labels": (PICTURE,),
    "max_seconds": _CLIPS,  # a recording has any length
    "num_workers": _CLIPS,  # a recording is decoded while it is scored, block by block
    "ray": (SHARDS,),
    "ray_workers": (SHARDS,),
    "shard_clips": (SHARDS,),
    "strict": (TABLE, EVENTS, WINDOWS),
    "submission": (TABLE,),
    "threshold": (EVENTS, PICTURE),
}
OF_A_CORPUS = ("data_dir", "task", "split", *OPTIONS)


def find_mode(args: argparse.Namespace) -> str:
    """The mode that the output and --events or --window_seconds select."""
    if Path(args.output).suffix in PICTURES:
        return PICTURE
    if args.events or args.window_seconds is not None:
        return EVENTS if args.events else WINDOWS
    return SHARDS if is_folder(args.output) else TABLE


def find_given(parser: argparse.ArgumentParser, argv: list[str] | None) -> set[str]:
    """The names of the options that were typed, also those with the value of their default."""
    not_given = object()
    names = {action.dest for action in parser._actions if action.option_strings and action.dest != "help"}
    typed = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names, not_given))))
    return {name for name in names if typed[name] is not not_given}


def misplaced(mode: str, given: set[str], has_corpus: bool) -> str | None:
    """What is wrong with an option that this mode, or a command without --corpus, would ignore."""
    for name in sorted(given):
        if name in OF_A_CORPUS and not has_corpus:
            return f"--{name} is for --corpus, not for PATHs"
        if mode not in MODES.get(name, (mode,)):
            *others, last = (SAID[one] for one in MODES[name])
            return f"--{name} is for {', '.join(others)}{' or ' if others else ''}{last}, not for {SAID[mode]}"
    if "ray_workers" in given and "ray" not in given:
        return "--ray_workers needs --ray"
    return None
