"""Trains, evaluates and exports the detector of vocal bursts in recordings.

python -m avb.events fetch build/negatives                   # free recordings, from Debian's packages
python -m avb.events prepare build/pool --data_dir EMOGATOR --negatives build/negatives
python -m avb.events train recipes/events/events.yaml --pool build/pool --output_dir runs/events
python -m avb.events evaluate runs/events --pool build/pool --output runs/events/evaluation.json
python -m avb.events mine runs/events --pool build/pool      # before a further training, with --start_from runs/events
python -m avb.events scenes build/scenes --pool build/pool --side test --scenes 10
python -m avb.events export runs/events build/events.onnx
"""

import argparse
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import cast

from avb.commands import as_command
from avb.recipes import true_or_false


@as_command("avb.events")
def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    args.run(args)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m avb.events", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    fetch = commands.add_parser("fetch", help="download the free recordings listed in recipes/events/sources.csv")
    fetch.add_argument(
        "folder", metavar="DIR", help="folder to write, with one sub-folder per package; existing ones are kept"
    )
    fetch.set_defaults(run=run_fetch)

    prepare = commands.add_parser("prepare", help="decode bursts and recordings into the pools of both splits")
    prepare.add_argument("output", metavar="POOL", help="folder of the pools to write")
    prepare.add_argument("--data_dir", required=True, help="EmoGator's shards")
    prepare.add_argument("--negatives", required=True, help="folder written by fetch")
    prepare.add_argument(
        "--instances", type=int, nargs="+", default=[1, 2], help="takes of each emotion (default: 1 2)"
    )
    prepare.set_defaults(run=run_prepare)

    scenes = commands.add_parser("scenes", help="write scenes: SCENE.wav, and the bursts of all scenes in events.csv")
    scenes.add_argument("output", metavar="DIR", help="folder to write")
    scenes.add_argument("--pool", required=True, help="folder written by prepare")
    scenes.add_argument("--side", default="test", choices=("train", "test"), help="split to draw from (default: test)")
    scenes.add_argument("--scenes", type=int, default=10, help="number of scenes (default: 10)")
    scenes.add_argument("--seconds", type=float, default=60.0, help="length of each scene, s (default: 60)")
    scenes.add_argument("--seed", type=int, default=1000, help="random seed (default: 1000)")
    scenes.set_defaults(run=run_scenes)

    mine = commands.add_parser("mine", help="find what a detector takes for bursts; train then draws it more often")
    mine.add_argument("model", metavar="MODEL", help="a detector")
    mine.add_argument("--pool", required=True, help="folder written by prepare; its pool_train.csv is extended")
    mine.set_defaults(run=run_mine)

    train = commands.add_parser("train", help="train a detector and set its threshold")
    train.add_argument("recipe", metavar="RECIPE", nargs="?", help="YAML file of the arguments below")
    from avb.events.arguments import TrainingArguments

    for known in fields(TrainingArguments):
        kind = true_or_false if known.type is bool else known.type
        train.add_argument(
            f"--{known.name}", type=cast(Callable, kind), help=f"{known.metadata['help']}{_default(known.default)}"
        )
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser("evaluate", help="score a detector on unseen speakers, languages and packages")
    evaluate.add_argument("model", metavar="MODEL", help="a detector")
    evaluate.add_argument("--pool", required=True, help="folder written by prepare")
    evaluate.add_argument("--scenes", type=int, default=120, help="number of one-minute scenes (default: 120)")
    evaluate.add_argument("--noise_minutes", type=float, default=60.0, help="minutes of generated noise (default: 60)")
    evaluate.add_argument("--output", help="JSON file to write")
    evaluate.set_defaults(run=run_evaluate)

    reject = commands.add_parser("reject", help="fit an emotion model's rejection of sounds that are not bursts")
    reject.add_argument("model", metavar="MODEL", help="folder of an emotion model; calibration.json goes there")
    reject.add_argument("--pool", required=True, help="folder written by prepare")
    reject.add_argument("--data_dir", required=True, help="EmoGator's shards")
    reject.add_argument("--windows", type=int, default=1200, help="windows of each split (default: 1200)")
    reject.add_argument("--clips", type=int, default=2700, help="burst clips (default: 2700)")
    reject.set_defaults(run=run_reject)

    ship = commands.add_parser("ship", help="turn an evaluated run into the detector shipped with the project")
    ship.add_argument("run_folder", metavar="RUN", help="folder written by train, with evaluation.json")
    ship.set_defaults(run=run_ship)

    export = commands.add_parser("export", help="export a detector to ONNX and check it against the original")
    export.add_argument("model", metavar="MODEL", help="a detector")
    export.add_argument("output", metavar="FILE", help=".onnx file to write")
    export.set_defaults(run=run_export)
    return parser


def _default(value: object) -> str:
    return "" if value in (MISSING, "") else f" (default: {str(value).lower() if value in (True, False) else value})"


def run_fetch(args: argparse.Namespace):
    from avb.events.sources import fetch

    print(fetch(args.folder))


def run_prepare(args: argparse.Namespace):
    from avb.events.pool import build_pool

    for path in build_pool(args.data_dir, args.negatives, args.output, tuple(args.instances)):
        print(path)


def run_scenes(args: argparse.Namespace):
    from avb.events.pool import Pool
    from avb.events.scenes import Scenes, SceneSettings, write_scenes

    scenes = Scenes(Pool.load(args.pool, args.side), SceneSettings(args.seconds), args.seed)
    print(write_scenes(scenes, args.scenes, Path(args.output)))


def run_mine(args: argparse.Namespace):
    from avb.events.detection import load_detector
    from avb.events.mining import mine

    print(mine(load_detector(args.model), args.pool))


def run_train(args: argparse.Namespace):
    from avb.events.arguments import TrainingArguments, read_arguments
    from avb.events.training import train

    given = {known.name: getattr(args, known.name) for known in fields(TrainingArguments)}
    print(train(read_arguments(args.recipe, {name: value for name, value in given.items() if value is not None})))


def run_evaluate(args: argparse.Namespace):
    import json

    from avb.events.detection import load_detector
    from avb.events.evaluation import evaluate
    from avb.events.pool import Pool
    from avb.files import write_json

    report = evaluate(load_detector(args.model), Pool.load(args.pool, "test"), args.scenes, args.noise_minutes)
    if args.output:
        write_json(args.output, report)
    print(json.dumps(report, indent=1))


def run_reject(args: argparse.Namespace):
    from avb.events.rejection import fit_rejection

    check = fit_rejection(args.model, args.data_dir, args.pool, args.windows, args.clips)
    print(", ".join(f"{name} {value:g}" for name, value in check.measured.items()))


def run_ship(args: argparse.Namespace):
    from avb.events.shipping import ship

    print(ship(args.run_folder))


def run_export(args: argparse.Namespace):
    from avb.events.detection import load_detector
    from avb.events.export import export

    print(export(load_detector(args.model), args.output))
