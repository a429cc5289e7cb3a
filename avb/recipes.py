"""Recipes: YAML files of arguments. A recipe can extend others, and then states only what is different.

Recipes shipped with the project are found by name from any folder, e.g. `paper/high-lv60k`. They are in `recipes/` in
the source tree and in `avb/recipe_files/` in an installed package (pyproject.toml). That folder is not a module:
`avb.recipes` is this file.

`extends: other.yaml` (or a list of files) is read first; a null value removes an inherited key. The extended file, and
an `encoder` that is a YAML file, are relative to the recipe's folder. A recipe is converted to command-line arguments,
which are placed before the typed ones. So types and names are checked in one place, and typed arguments override the
recipe.
"""

import argparse
import contextlib
import json
import os
from pathlib import Path

import yaml

from avb.errors import RecipeError, did_you_mean

SUFFIXES = (".yaml", ".yml")
_INSTALLED = Path(__file__).resolve().parent / "recipe_files"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "recipes"
_PARTS = ("accelerate", "encoders", "events", "parts")  # folders of files that are not recipes on their own
MAX_BYTES = 64 * 1024  # per recipe; those here have less than 1 KiB
MAX_VALUES = 10_000  # in a recipe, with anchors expanded
MAX_RECIPES = 100  # in a chain of `extends`
# Arguments of other programs, and what to do instead.
ELSEWHERE = {
    "device": "; all GPUs are used: --use_cpu true uses none, CUDA_VISIBLE_DEVICES=1 selects one",
    "no_cuda": "; --use_cpu true trains on the CPU",
}


def true_or_false(text: str) -> bool:
    """The `type` of an option of argparse that is true or false, as in a recipe.

    Raises:
        ArgumentTypeError: it is neither.
    """
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def read_yaml(path: Path) -> dict:
    """Reads the mapping in a YAML file, with the safe loader.

    Raises:
        RecipeError: the file is missing or not YAML, contains something other than a mapping of names to values, or
            more than `MAX_BYTES` or, with anchors expanded, `MAX_VALUES`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(
            f"{path}: cannot be read ({reason}); a recipe is a YAML file such as recipes/sample.yaml"
        ) from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path}: larger than {MAX_BYTES // 1024} KiB; is it the right file? A recipe is a page")
    try:
        content = yaml.safe_load(content.decode("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: not a recipe: its values are nested too deeply") from error
    # PyYAML's own bugs: `2020-13-45` is a ValueError, `!!bool maybe` a KeyError, `!!timestamp x` an AttributeError.
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RecipeError(f"{path}: not a YAML file: a value is not of its type ({error}); quote it") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of `argument: value` lines, not a {type(content).__name__}")
    for key in content:
        if not isinstance(key, str):
            raise RecipeError(f"{path}: {key!r} is not the name of an argument, but a {type(key).__name__}; quote it")
    _refuse_expansion(path, content)
    return content


def _refuse_expansion(path: Path, content: dict):
    """Refuses a file whose anchors expand to too many values, or to themselves: a few can stand for billions."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1 + (len(value) // 100 if isinstance(value, str) else 0)
        if count > MAX_VALUES:
            raise RecipeError(f"{path}: more than {MAX_VALUES:,} values with its anchors expanded; it is not a recipe")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, set, tuple)):
            waiting += value


def names() -> list[str]:
    """The sorted names of the recipes shipped with the project, such as `paper/high-lv60k`."""
    return [name for name in _files() if not set(name.split("/")) & set(_PARTS)]


def _files() -> list[str]:
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """Finds the file of a recipe, or of an encoder's fields: an existing file, or one of the project by its name.

    The name may also be the path in the source tree, `recipes/paper/high-lv60k.yaml`.

    Raises:
        RecipeError: there is none; the message names the most similar one, and the searched folders.
    """
    path = Path(name)
    if path.is_absolute() or "\0" in str(name) or path.is_file():
        return path
    known = path.relative_to("recipes") if path.parts[:1] == ("recipes",) else path
    known = known.with_suffix("") if known.suffix in SUFFIXES else known
    if known.as_posix() in _files():
        return FOLDER / f"{known}.yaml"
    if os.path.lexists(path):  # a folder or a device: read_yaml reports it
        return path
    raise RecipeError(
        f"{name}: no such recipe{did_you_mean(known.as_posix(), _files())} Looked for: that file in {Path.cwd()}, and "
        f"a recipe of that name in {FOLDER}; --list_recipes prints the names"
    )


def recipe_name(path: str | Path) -> str:
    """The name of a recipe in results: its path below the project's folder of recipes, or any folder with that name.

    >>> recipe_name("/home/me/avb/recipes/paper/high-lv60k.yaml")
    'paper/high-lv60k'
    >>> recipe_name("mine/calm.yaml")
    'calm'
    """
    path = Path(path).resolve().with_suffix("")
    if path.is_relative_to(FOLDER):
        return path.relative_to(FOLDER).as_posix()
    parts = path.parts
    if "recipes" not in parts:
        return parts[-1]
    return "/".join(parts[len(parts) - parts[::-1].index("recipes") :])


def read_recipe(path: str | Path) -> dict:
    """Reads all arguments of a recipe (a file or a name, see `find_recipe`), including those of the recipes it extends.

    A recipe is as powerful as a command line: it may name any folder of the machine. But it can only extend recipes
    given by the relative path of a YAML file; no other file is ever read as a recipe.

    Raises:
        RecipeError: errors of `find_recipe` and `read_yaml`; recipes extend each other in a circle or are more than
            `MAX_RECIPES`; `extends` is not a relative path of a YAML file, or a list of them.
    """
    return _read_recipe(find_recipe(path).absolute(), (), {})


def _read_recipe(path: Path, reading: tuple[Path, ...], known: dict[Path, dict]) -> dict:
    with contextlib.suppress(ValueError):  # a name with a zero byte: read_yaml reports it
        path = Path(os.path.realpath(path))  # not resolve(), which before Python 3.13 raises for a link to itself
    if path in reading:
        raise RecipeError(f"{path}: extends itself, through {' → '.join(p.name for p in (*reading, path))}")
    if path in known:
        return known[path]
    if len(known) + len(reading) >= MAX_RECIPES:
        raise RecipeError(f"{path}: more than {MAX_RECIPES} recipes extend each other")
    own = read_yaml(path)
    merged: dict = {}
    for parent in _parents(path, own.pop("extends", [])):
        merged |= _read_recipe(path.parent / parent, (*reading, path), known)
    if Path(str(own.get("encoder"))).suffix in SUFFIXES:
        own["encoder"] = str(path.parent / own["encoder"])
    known[path] = merged | own
    return known[path]


def _parents(path: Path, extends) -> list[str]:
    parents = [extends] if isinstance(extends, str) else extends
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise RecipeError(f"{path}: extends must be the name of a recipe or a list of names, not {extends!r:.60}")
    for parent in parents:
        if Path(parent).is_absolute() or Path(parent).suffix not in SUFFIXES:
            raise RecipeError(
                f"{path}: extends {parent!r}: it must be a recipe (.yaml), by its path from this recipe's folder"
            )
    return parents


def recipe_arguments(recipe: dict, known) -> list[str]:
    """Converts a recipe to command-line arguments.

    Raises:
        RecipeError: a key is not an argument (the message names the most similar one), or a list contains something
            other than words and numbers.
    """
    arguments = []
    for key, value in recipe.items():
        if key not in known:
            raise RecipeError(f"unknown argument {key!r} in the recipe{ELSEWHERE.get(key) or did_you_mean(key, known)}")
        if value is None:  # removes the key of an earlier recipe
            continue
        if isinstance(value, str) and value.startswith("-"):  # alone, it would be parsed as an argument
            arguments.append(f"--{key}={value}")
            continue
        arguments.append(f"--{key}")
        values = value if isinstance(value, list | tuple) else [value]
        for item in values:
            if isinstance(item, (list, set, tuple)) or (isinstance(item, dict) and item is not value):
                raise RecipeError(f"{key} in the recipe: {item!r:.60} is not a word or number; a list holds only these")
        try:
            arguments += [json.dumps(item) if isinstance(item, dict) else str(item) for item in values]
        except TypeError as error:
            raise RecipeError(f"{key} in the recipe: {error}; quote it") from error
    return arguments
