"""The command that writes model cards, pushes models and ships them.

python -m avb.cards write runs/high [--results results/runs.csv]    # runs/high/README.md
python -m avb.cards push runs/high org/avb-high                     # the model with its card, private
python -m avb.cards check runs/high                                 # what the release still lacks
python -m avb.cards ship runs/mine mine                             # into the project: avb.load("mine")
"""

import argparse

from avb.commands import as_command


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.cards", description="Writes model cards from runs, and pushes the models."
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
        help="tables with this run's rows (train_avb.py --results); adds the recipe's other seeds to the card",
    )
    write.add_argument(
        "--watts",
        type=float,
        help="mean power of the machine during training, in W; adds the energy to the card",
    )
    write.add_argument("--grams_per_kwh", type=float, help="carbon intensity of the electricity, g CO2e per kWh")
    write.add_argument(
        "--example", nargs="+", default=[], metavar="CLIP", help="clips to show with their scores; they are published"
    )
    write.add_argument(
        "--dataset", nargs="+", default=[], metavar="ORG/NAME", help="the training data on the Hub, if it is there"
    )
    write.add_argument(
        "--benchmark",
        metavar="ORG/DATASET:TASK",
        help="benchmark registered on the Hub; the test score goes to .eval_results/",
    )
    check = commands.add_parser(
        "check", help="list what a release of DIR still lacks; exit code 1 if it must not be published"
    )
    check.add_argument("folder", metavar="DIR", help="folder written by train_avb.py")
    push = commands.add_parser("push", help="upload a finished folder to the Hub, in one commit")
    push.add_argument("folder", metavar="DIR", help="folder written by train_avb.py")
    push.add_argument("repo", metavar="REPO", help="ORG/NAME; created as private if it does not exist")
    push.add_argument("--public", action="store_true", help="create it as public; default: private")
    push.add_argument("--yes", action="store_true", help="do not ask before uploading")
    push.add_argument("--dry_run", action="store_true", help="only list what would be uploaded")
    push.add_argument(
        "--web_space", metavar="ORG/NAME", help="also push a static Space that runs the model in the browser"
    )
    push.add_argument("--ort_dir", help="folder with that page's runtime; default: npm downloads it")
    ship = commands.add_parser("ship", help="add a run's model to those shipped with the project, in half precision")
    ship.add_argument("folder", metavar="DIR", help="folder of a finished train_avb.py run")
    ship.add_argument("name", metavar="NAME", help="name of the shipped model: avb.load(NAME)")
    return parser.parse_args(argv)


@as_command("avb.cards")
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    # Imported here, so that --help does not import torch.
    from avb.cards.card import write_card
    from avb.cards.checking import check_release
    from avb.cards.push import push_folder
    from avb.cards.shipping import ship

    if args.command == "write":
        energy = {"watts": args.watts, "grams_per_kwh": args.grams_per_kwh}
        further = {"examples": args.example, "datasets": args.dataset, "benchmark": args.benchmark}
        print(write_card(args.folder, args.name, args.results, **energy, **further))
    elif args.command == "check":
        points = check_release(args.folder)
        print("\n".join(point.line for point in points))
        return int(any(point.must and not point.is_met for point in points))
    elif args.command == "ship":
        print(ship(args.folder, args.name))
    else:
        how = {"private": not args.public, "dry_run": args.dry_run, "ask": not args.yes}
        push_folder(args.folder, args.repo, **how, web_space=args.web_space, ort_dir=args.ort_dir)
    return 0
