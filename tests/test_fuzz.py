"""The first few hundred mutated files of tests/fuzz.py, and input drawn by hypothesis; its docstring has the commands
for the thousands."""

import json

import pytest
import yaml
from fuzz import CLIPS, TARGETS, fuzz
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from avb.corpora import load_bursts
from avb.errors import AvbError, RecipeError
from avb.recipes import MAX_VALUES, read_recipe, read_yaml, recipe_arguments

FAST = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_read_or_refused(name, capfd):
    outcome = fuzz(name, 1000 if name == "containers" else 150)
    assert not outcome.uncaught, "\n".join(outcome.uncaught)
    assert outcome.read >= 5 and outcome.refused >= 20, "the mutations are too mild or too wild to say anything"


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_more_mutated_files_and_no_growth_of_memory(name, capfd):
    outcome = fuzz(name, 2000, seed=1)
    assert not outcome.uncaught, "\n".join(outcome.uncaught)
    assert outcome.rss < outcome.warm_rss + 30


CELL = st.one_of(
    st.sampled_from([*CLIPS, "train", "0.5", "1e400", "nan", "../c0.wav", ""]),
    st.text(st.characters(codec="utf-8"), max_size=8),
)


@FAST
@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=8), st.tuples(CELL, CELL, CELL), st.sampled_from(",;\t"))
def test_tables_of_any_cells(tmp_path, rows, header, separator):
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    for names in (header, ("file", "joy", "fear")):
        path = tmp_path / "table.csv"
        lines = [separator.join(map(quoted, row)) for row in (names, *rows)]
        path.write_bytes("\n".join(lines).encode())
        with pytest.raises(AvbError) as refused:  # no clip of it is there
            load_bursts("folder", path)
        assert "\n" not in str(refused.value) and "table.csv" in str(refused.value)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda values: (
        st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=3) | st.integers(), values, max_size=4)
    ),
    max_leaves=12,
)


@FAST
@given(st.dictionaries(st.sampled_from(["pooling", "seed", "extends", "encoder", "label_columns"]), VALUE))
@example({"seed": {"a": float("nan")}})
def test_recipes_of_any_values(tmp_path, content):
    """What is read becomes words of a command line, and those say what the recipe says."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        recipe = read_recipe(path)
        words = recipe_arguments(recipe, {"pooling", "seed", "encoder", "label_columns"})
    except RecipeError as error:
        assert "\n" not in str(error)
        return
    assert all(isinstance(word, str) for word in words)
    for key, value in recipe.items():
        if isinstance(value, (str, int)) and key != "encoder":
            assert words[words.index(f"--{key}") + 1] == str(value)


@FAST
@given(st.binary(max_size=60))
def test_yaml_of_any_bytes(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_yaml(path), dict)
    except RecipeError as error:
        assert "recipe.yaml" in str(error)


def test_values_are_counted_as_they_would_be_written_out(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"label_columns": ["a"] * (MAX_VALUES - 2)}))
    assert len(read_yaml(path)["label_columns"]) == MAX_VALUES - 2
    path.write_text(f"a: &a {json.dumps(['x'] * (MAX_VALUES // 2))}\nb: *a\n")
    with pytest.raises(RecipeError, match="with its anchors expanded"):
        read_yaml(path)
