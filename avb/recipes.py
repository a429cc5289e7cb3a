"""Recipes: YAML files of arguments that extend one another, so that each states only what makes it different.

`extends: other.yaml` (or a list of files) is read first; a null value takes a key back out. That file, and an `encoder`
that is a YAML file, are found from the recipe's own folder.
A recipe becomes a command line, which the real one follows: types and names are checked in one place, and an argument
typed by hand wins.
"""

import difflib
import json
from pathlib import Path

import yaml

from avb.errors import RecipeError


def nearest(name: str, known) -> str:
    """Words for an error message: the closest known name if there is one, else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}"


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file.

    Raises:
        RecipeError: the file is missing, is no YAML, or holds something else than a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}); a recipe is a YAML file such as recipes/sample.yaml"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of `argument: value` lines, not a {type(content).__name__}")
    return content


def read_recipe(path: str | Path, _reading: tuple[Path, ...] = ()) -> dict:
    """All arguments of a recipe, those it extends included.

    Raises:
        RecipeError: as `read_yaml`, or recipes that extend each other in a circle.
    """
    path = Path(path).resolve()
    if path in _reading:
        raise RecipeError(f"{path}: extends itself, through {' → '.join(p.name for p in (*_reading, path))}")
    own = read_yaml(path)
    parents = own.pop("extends", [])
    merged: dict = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        merged |= read_recipe(path.parent / parent, (*_reading, path))
    if Path(str(own.get("encoder"))).suffix in (".yaml", ".yml"):
        own["encoder"] = str(path.parent / own["encoder"])
    merged |= own
    return merged


def recipe_arguments(recipe: dict, known) -> list[str]:
    """A recipe as command-line arguments.

    Raises:
        RecipeError: a key that is no argument; the message names the nearest one.
    """
    arguments = []
    for key, value in recipe.items():
        if key not in known:
            raise RecipeError(f"unknown argument {key!r} in the recipe; {nearest(key, known)}")
        if value is None:  # takes the key of a recipe before it back out
            continue
        arguments.append(f"--{key}")
        if isinstance(value, list):
            arguments += [str(item) for item in value]
        else:
            arguments.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return arguments
