"""Parses recipes and command lines of `train_avb.py` and `pretrain_avb.py` into the dataclasses of `avb.arguments`."""

import argparse
import copy
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from avb import recipes
from avb.arguments import PROPERTIES, AvbTrainingArguments, DataArguments, ModelArguments, names_with
from avb.corpus_arguments import SPREADSHEET_SUFFIXES, TABLE_SUFFIXES
from avb.encoders.names import resolve
from avb.errors import AvbError, RecipeError, did_you_mean
from avb.recipes import ELSEWHERE, SUFFIXES, read_recipe, recipe_arguments
from avb.registration import register_now, registering_later

with registering_later():
    from transformers import HfArgumentParser
    from transformers.hf_argparser import string_to_bool


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows one spelling and one default per argument, not `--a_b A_B, --a-b A_B` and `(default: None)`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        values = "" if action.nargs == 0 else f" {self._format_args(action, '')}"
        return f"{action.option_strings[0]}{values}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        kind = action.type.kind if isinstance(action.type, _OrNone) else action.type
        value = {int: "N", float: "X", string_to_bool: "true|false"}.get(kind, "VALUE")
        return f"{value} ..." if action.nargs in ("+", "*") else value

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_said = action.default is None or "Default:" in (action.help or "")
        return action.help if is_said else super()._get_help_string(action)


OFF = "none"  # value of an argument that may be None: `--peak_db none`, and in a recipe `peak_db: none`
NOT_GIVEN = "null"  # `--peak_db null` removes the key from the recipes, like a null in a recipe


class _OrNone:
    """An argument type that also accepts `none`, as None."""

    def __init__(self, kind: Callable[[str], Any]):
        self.kind = kind
        self.__name__ = kind.__name__  # in argparse's errors

    def __call__(self, text: str) -> Any:
        return None if text.lower() == OFF else self.kind(text)


def _names_that_may_be_none(dataclass_type: type) -> set[str]:
    return {name for name, hint in get_type_hints(dataclass_type).items() if NoneType in get_args(hint)}


class AvbArgumentParser(HfArgumentParser):
    """A parser with one-line errors, whose help lists our arguments before the hundred of the stock Trainer."""

    def __init__(self, dataclass_types, **kwargs):
        # Before the stock parser, which rewrites the types of fields.
        may_be_none = set().union(*map(_names_that_may_be_none, dataclass_types))
        super().__init__(dataclass_types, formatter_class=_HelpFormatter, **kwargs)
        for action in self._actions:
            if action.dest in may_be_none and action.default != OFF:  # for report_to, it is an ordinary value
                action.type = _OrNone(action.type or str)
        for action in self._actions:
            if action.option_strings[0].startswith("--no_"):  # added for switches that are on
                action.help = argparse.SUPPRESS
        training = next(group for group in self._action_groups if group.title == "training")
        stock = self.add_argument_group("stock Trainer", "see transformers.TrainingArguments")
        ours = [name for name in AvbTrainingArguments.__annotations__ if name not in names_with("left_alone")]
        ours += names_with("often_typed")
        stock._group_actions = [action for action in training._group_actions if action.dest not in ours]
        training._group_actions = [action for action in training._group_actions if action.dest in ours]
        training._group_actions.sort(key=lambda action: ours.index(action.dest))

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: dataclasses.Field):
        # The stock method passes all metadata to argparse, which does not know ours.
        plain = copy.copy(field)
        plain.metadata = {key: value for key, value in field.metadata.items() if key not in PROPERTIES}  # type: ignore
        HfArgumentParser._parse_dataclass_field(parser, plain)

    exits = True  # on an error; otherwise it is raised

    def error(self, message: str):
        if message.endswith("expected one argument"):
            message += "; write a value that begins with - as --NAME=VALUE"
        if message.startswith("argument --ddp_backend"):
            message += "; if it is left out, the device's own is used"
        if not self.exits:
            raise AvbError(" ".join(message.split()))
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def make_parser(model_arguments: type = ModelArguments) -> AvbArgumentParser:
    """Builds the parser of `train_avb.py` or, with `PretrainingArguments`, of `pretrain_avb.py`."""
    parser = AvbArgumentParser(
        (model_arguments, DataArguments, AvbTrainingArguments),
        usage="%(prog)s [RECIPE ...] [--argument value ...]",
        description="A recipe is a YAML file of these arguments, or the name of one shipped with the project, such as "
        "paper/high-lv60k. Later recipes override earlier ones, and command-line arguments override all recipes.",
        allow_abbrev=False,
    )
    help = "Print the names of the recipes shipped with the project."
    parser.add_argument("--list_recipes", action=_ListRecipes, nargs=0, default=argparse.SUPPRESS, help=help)
    return parser


class _ListRecipes(argparse.Action):
    def __call__(self, parser, *_):
        print(*recipes.names(), sep="\n")
        parser.exit()


@dataclass(frozen=True)
class Command:
    """What a command line requested, besides the values of the arguments.

    Attributes:
        recipe: the recipe merged with the typed arguments, ready to be written beside the model.
        name: the recipe's name, `paper/high-lv60k`; several are joined by `+`; empty without a recipe.
        changes: the typed arguments that affect results, as in `Result.changes`.
    """

    recipe: dict[str, Any]
    name: str
    changes: str


def typed_changes(argv: Sequence[str]) -> str:
    """The typed arguments that may change a result, sorted by name; paths are shortened to their last part.

    >>> typed_changes(["--seed", "1", "--data_dir", "/data", "--pooling", "avg", "--max_steps=5"])
    '--max_steps 5 --pooling avg'
    """
    groups: list[list[str]] = []
    for token in argv:
        if token.startswith("--"):
            name, equals, value = token.removeprefix("--").partition("=")
            groups.append([name.replace("-", "_"), *([value] if equals else [])])
        elif groups:
            groups[-1].append(Path(token).name if Path(token).is_absolute() else token)
    last = {name: values for name, *values in groups}  # the last value of a repeated argument counts
    for name in names_with("changes_result", False):
        last.pop(name, None)
    return " ".join(shlex.join([f"--{name}", *values]) for name, values in sorted(last.items()))


def take_out_nulls(argv: Sequence[str], recipe: dict[str, Any], known: set[str]) -> tuple[list[str], dict[str, Any]]:
    """The typed arguments and the recipe, without the arguments that a later `--name null` removes.

    >>> take_out_nulls(["--seed", "1", "--seed=null"], {"seed": 3, "loss": "mse"}, {"seed", "loss"})
    ([], {'loss': 'mse'})
    """
    groups: list[list[str]] = [[]]  # one per argument, with its values; the first has what precedes them all
    for token in argv:
        groups += [[token]] if token.startswith("--") else []
        groups[-1] += [] if token.startswith("--") else [token]
    kept: list[tuple[str, list[str]]] = []
    for group in groups:
        name, _, value = group[0].removeprefix("--").partition("=") if group else ("", "", "")
        name = name.replace("-", "_")
        if name in known and [*([value] if value else []), *group[1:]] == [NOT_GIVEN]:
            recipe = {key: value for key, value in recipe.items() if key != name}
            kept = [(other, tokens) for other, tokens in kept if other != name]
        else:
            kept.append((name, group))
    return [token for _, tokens in kept for token in tokens], recipe


_ONE_OF_TRAINING = "; only train_avb.py has it: leave it out"


def _is_of_clips(name: str) -> bool:
    """Whether the value given as a recipe is a table or a folder of clips."""
    is_table = Path(name).suffix.lower() in (*TABLE_SUFFIXES, *SPREADSHEET_SUFFIXES)
    return is_table or (os.path.isdir(name) and name not in recipes.names())


def _training_names() -> set[str]:
    return {field.name for field in dataclasses.fields(ModelArguments)}


def parse_arguments(argv: list[str] | None = None, model_arguments: type = ModelArguments, exits: bool = True) -> tuple:
    """Parses `[RECIPE ...] [--argument value ...]`; later recipes override earlier ones, typed arguments all of them.

    Args:
        argv: the arguments; None means those of the command line.
        model_arguments: the dataclass of the model's arguments: `ModelArguments` or `PretrainingArguments`.
        exits: whether an error ends the program with one line and exit code 2, instead of being raised.

    Returns:
        The dataclasses (model, data, training), and the `Command`.

    Raises:
        AvbError: with `exits` False, an argument is unknown or invalid.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser(model_arguments)
    parser.exits = exits
    known = {action.dest for action in parser._actions} - {"help", "list_recipes"}
    recipe: dict[str, Any] = {}
    paths: list[Path] = []
    try:
        while argv and not argv[0].startswith("-"):
            if _is_of_clips(argv[0]):
                parser.error(f"{argv[0]} is not a recipe; to train on these clips, use --data_dir {argv[0]}")
            paths.append(recipes.find_recipe(argv.pop(0)))
            recipe |= read_recipe(paths[-1])
        typed = argv
        argv, recipe = take_out_nulls(argv, recipe, known)
        argv = recipe_arguments(recipe, known) + argv
    except RecipeError as error:
        parser.error(str(error))

    namespace, rest = parser.parse_known_args(argv)
    if rest and (Path(rest[0]).suffix in SUFFIXES or rest[0] in recipes.names()):
        parser.error(f"unknown argument {rest[0]!r}; if it is a recipe, put it before the arguments that begin with --")
    if rest and not rest[0].startswith("-"):
        parser.error(
            f"unknown argument {rest[0]!r}; the argument before it does not accept this value, or no further value"
        )
    if rest:
        unknown = rest[0].lstrip("-").split("=")[0]
        name = unknown.replace("-", "_")
        end = ELSEWHERE.get(name) or (_ONE_OF_TRAINING if name in _training_names() else did_you_mean(unknown, known))
        parser.error(f"unknown argument {rest[0]!r}{end}")
    for name, value in vars(namespace).items():
        if value == [None]:  # `none` for a list
            setattr(namespace, name, None)
    if namespace.output_dir is None:
        namespace.output_dir = f"runs/{'-'.join(path.stem for path in paths) or 'run'}"
    given = {item.lstrip("-").split("=")[0].replace("-", "_") for item in argv if item.startswith("--")}
    resolved = {
        key: OFF if value is None and key != "output_dir" else value  # null would mean "not given"
        for key, value in vars(namespace).items()
        if key in given | {key for key, value in recipe.items() if value is not None} | {"output_dir"}
    }
    try:
        parts = []
        for dataclass_type in parser.dataclass_types:
            own = {f.name for f in dataclass_type.__dataclass_fields__.values() if f.init}
            parts.append(dataclass_type(**{key: value for key, value in vars(namespace).items() if key in own}))
        if vars(namespace).get("model", "wav2vec2") == "wav2vec2" and "/" not in namespace.encoder:
            resolve(namespace.encoder)  # reports a misspelled name now, not after the clips have been read
    except (AvbError, ValueError, ImportError) as error:
        parser.error(str(error))
    register_now()  # models are built from here on
    return (*parts, Command(resolved, "+".join(map(recipes.recipe_name, paths)), typed_changes(typed)))
