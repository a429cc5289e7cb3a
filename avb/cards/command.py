"""The command that writes cards, pushes models and ships them.

python -m avb.cards write runs/high [--results results/runs.csv]    # runs/high/README.md
python -m avb.cards push runs/high org/avb-high                     # the model with its card, private
python -m avb.cards ship runs/mine mine                             # into the project: avb.load("mine")
"""

import argparse
import sys

from avb.cards import shipping
from avb.cards.card import write_card
from avb.cards.push import push_folder
from avb.errors import AvbError


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.cards", description="Model cards: written from a run, pushed with it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write DIR/README.md")
    write.add_argument("folder", metavar="DIR", help="folder written by train_avb.py")
    write.add_argument("--name", help="the model's name; default: the folder's")
    write.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="FILE",
        help="tables with this run's rows (train_avb.py --results); the card then shows the recipe's other seeds",
    )
    write.add_argument(
        "--watts",
        type=float,
        help="mean power of the machine while it trained, W, if you know it; with it the card states energy",
    )
    write.add_argument("--grams_per_kwh", type=float, help="carbon intensity of its electricity, g CO2e per kWh")
    write.add_argument(
        "--example", nargs="+", default=[], metavar="CLIP", help="clips to show with their scores; you publish them"
    )
    push = commands.add_parser("push", help="upload a finished folder to the Hub, in one commit")
    push.add_argument("folder", metavar="DIR", help="folder written by train_avb.py")
    push.add_argument("repo", metavar="REPO", help="ORG/NAME; made if it is not there, private")
    push.add_argument("--public", action="store_true", help="for everyone to see; default: private")
    push.add_argument("--yes", action="store_true", help="do not ask before uploading")
    push.add_argument("--dry_run", action="store_true", help="only list what would be uploaded")
    ship = commands.add_parser("ship", help="make it one of the models that come with the project, in half precision")
    ship.add_argument("folder", metavar="DIR", help="folder that train_avb.py has finished")
    ship.add_argument("name", metavar="NAME", help="name of the shipped model: avb.load(NAME)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        if args.command == "write":
            print(write_card(args.folder, args.name, args.results, args.watts, args.grams_per_kwh, args.example))
        elif args.command == "ship":
            print(shipping.ship(args.folder, args.name))
        else:
            push_folder(args.folder, args.repo, private=not args.public, dry_run=args.dry_run, ask=not args.yes)
    except AvbError as error:
        print(f"avb.cards: error: {error}", file=sys.stderr)
        return 1
    return 0
