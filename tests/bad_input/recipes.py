"""Recipes: mistakes of typing, YAML's corners, and files made to fill a memory."""

from collections.abc import Callable
from pathlib import Path

from bad_input.case import Case


def files(**recipes: str | bytes) -> Callable[[Path], list[str]]:
    """Recipes by name; the first is the one that is run."""

    def build(folder: Path) -> list[str]:
        for name, content in recipes.items():
            path = folder / f"{name}.yaml"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [str(folder / f"{next(iter(recipes))}.yaml")]

    return build


def recipe(content: str | bytes) -> Callable[[Path], list[str]]:
    return files(recipe=content)


def loop(folder: Path) -> list[str]:
    (folder / "recipe.yaml").symlink_to("recipe.yaml")
    return [str(folder / "recipe.yaml")]


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
TREE = {f"r{n}": f"extends: [r{n + 1}.yaml, r{n + 1}.yaml]\n" for n in range(40)} | {"r40": "seed: 1\n"}
CHAIN = {f"r{n}": f"extends: r{n + 1}.yaml\n" for n in range(200)} | {"r200": "seed: 1\n"}

CASES = [
    Case("a recipe", recipe("pooling: avg\nseed: 3\n"), "parsed"),
    Case("byte-order mark and CRLF", recipe(b"\xef\xbb\xbfpooling: avg\r\nseed: 3\r\n"), "parsed"),
    Case("anchors and aliases", recipe("seed: &s 3\ndata_seed: *s\n"), "parsed"),
    Case(
        "an unknown key",
        recipe("poolling: avg"),
        "error: unknown argument 'poolling' in the recipe; did you mean 'pooling'",
    ),
    Case("a key that is not a word", recipe("1: avg"), "error: 1 is not the name of an argument, but a int"),
    Case("a word for a number", recipe("rnn_layers: two"), "error: invalid int value: 'two'"),
    Case("a list for a number", recipe("rnn_layers: [1, 2]"), "error: unknown argument '2'"),
    Case("a mapping for a number", recipe("rnn_layers: {a: 1}"), "error: invalid int value"),
    Case(
        "lists in lists", recipe("label_columns: [[a], b]"), "error: label_columns in the recipe: ['a'] is not a word"
    ),
    Case("an illegal choice", recipe("lr_scheduler_type: sideways"), "error: sideways is not a valid"),
    Case("a token of the Hub", recipe("hub_token: hf_x"), "error: --hub_token would be written to recipe.yaml"),
    Case("a list, not a mapping", recipe("- pooling\n- avg"), "error: not a list"),
    Case("words, not a mapping", recipe("just words"), "error: not a str"),
    Case("0 bytes", recipe(""), "error: not a NoneType"),
    Case("a tab as indentation", recipe("a:\n\t- b"), "error: not a YAML file"),
    Case("an unclosed bracket", recipe("pooling: [avg\nloss: mse\n"), "error: not a YAML file"),
    Case("no UTF-8", recipe(b"\xff\xfe\x00"), "error: not a YAML file"),
    Case("an impossible date", recipe("seed: 2020-13-45"), "error: a value is not of its type"),
    Case("a tag on a value of another type", recipe("seed: !!bool maybe"), "error: a value is not of its type"),
    Case("a number of 5,000 digits", recipe("seed: " + "9" * 5000), "error: a value is not of its type"),
    Case("a Python object", recipe("seed: !!python/object/apply:os.system [id]"), "error: not a YAML file"),
    Case("billion laughs", recipe(LAUGHS), "error: more than 10,000 values with its anchors expanded"),
    Case("a list that holds itself", recipe("label_columns: &a [*a]"), "error: more than 10,000 values"),
    Case("20,000 brackets", recipe("seed: " + "[" * 20_000), "error: nested too deeply"),
    Case("a megabyte", recipe("# " + "x" * 2**20), "error: larger than 64 KiB"),
    Case("a device", lambda folder: ["/dev/zero"], "error: larger than 64 KiB"),
    Case("no such recipe", lambda folder: [str(folder / "gone.yaml")], "error: cannot be read (No such file"),
    Case("a folder", lambda folder: [str(folder)], "error: is not a recipe; to train on these clips, use --data_dir"),
    Case(
        "a table of clips",
        lambda folder: [str(folder / "clips.csv")],
        "error: is not a recipe; to train on these clips",
    ),
    Case("a link to itself", loop, "error: cannot be read"),
    Case("extends itself", recipe("extends: recipe.yaml"), "error: extends itself"),
    Case("extends in a circle", files(a="extends: b.yaml", b="extends: a.yaml"), "error: a.yaml → b.yaml → a.yaml"),
    Case("extends twice, 40 times over (2^40 ways)", files(**TREE), "parsed"),
    Case("extends, 200 deep", files(**CHAIN), "error: more than 100 recipes extend each other"),
    Case("extends nothing there", recipe("extends: gone.yaml"), "error: gone.yaml: cannot be read"),
    Case("extends a number", recipe("extends: 5"), "error: extends must be the name of a recipe"),
    Case("extends a file of the system", recipe("extends: /etc/passwd"), "error: extends '/etc/passwd': it must be a"),
    Case("extends a file that is no recipe", recipe("extends: ../../notes.txt"), "error: it must be a recipe (.yaml)"),
    Case("extends a name with a zero byte", recipe('extends: "a\\0.yaml"'), "error: cannot be read"),
]
