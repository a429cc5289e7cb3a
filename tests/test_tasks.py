"""Task definitions: the official labels, and the errors of a task that makes no sense."""

import ast
import dataclasses
import sys
from pathlib import Path

import pytest

from avb import tasks
from avb.errors import AvbError
from avb.tasks import TASKS, MultiTask, Task, get_task, refuse_own_columns

# Spelled out on purpose: the module builds this list, so a second building would prove nothing.
CULTURE_HEADER = (
    "China_Awe,China_Excitement,China_Amusement,China_Awkwardness,China_Fear,China_Horror,China_Distress,"
    "China_Triumph,China_Sadness,"
    "United States_Awe,United States_Excitement,United States_Amusement,United States_Awkwardness,United States_Fear,"
    "United States_Horror,United States_Distress,United States_Triumph,United States_Sadness,"
    "South Africa_Awe,South Africa_Excitement,South Africa_Amusement,South Africa_Awkwardness,South Africa_Fear,"
    "South Africa_Horror,South Africa_Distress,South Africa_Triumph,South Africa_Sadness,"
    "Venezuela_Awe,Venezuela_Excitement,Venezuela_Amusement,Venezuela_Awkwardness,Venezuela_Fear,Venezuela_Horror,"
    "Venezuela_Distress,Venezuela_Triumph,Venezuela_Sadness,"
    "China_Surprise,United States_Surprise,South Africa_Surprise,Venezuela_Surprise"
)
HEADERS = {
    "high": "Awe,Excitement,Amusement,Awkwardness,Fear,Horror,Distress,Triumph,Sadness,Surprise",
    "two": "Valence,Arousal",
    "culture": CULTURE_HEADER,
    "type": "Gasp,Laugh,Cry,Scream,Grunt,Groan,Pant,Other",
}


def test_the_official_tasks_hold_the_official_labels_in_order():
    assert {name: ",".join(task.labels) for name, task in TASKS.items()} == HEADERS
    assert {name: task.num_labels for name, task in TASKS.items()} == {"high": 10, "two": 2, "culture": 40, "type": 8}
    assert {name: task.metric for name, task in TASKS.items()} == {
        "high": "ccc",
        "two": "ccc",
        "culture": "ccc",
        "type": "uar",
    }
    assert all(get_task(name) is task and task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("x", "classification", ("cry", "end")), "'end', .* rename the class in the table, .* to 'end_label'"),
        (Task("x", "regression", ("awe", "confidence")), "'confidence', .* rename the column to 'confidence_label'"),
        (Task("x", "regression", ("awe", "awe_low")), "'awe_low'"),
        (Task("x", "regression", ("true_awe", "awe")), "'true_awe'"),
        (MultiTask((TASKS["two"], Task("x", "classification", ("cry", "prediction_x")))), "'prediction_x'"),
        (Task("x", "classification", ("awe", "awe_low", "prediction_x", "Start")), None),  # none of them is a column
        *((task, None) for task in TASKS.values()),
    ],
)
def test_labels_that_are_called_like_a_column_of_the_tables(task, message):
    if message is None:
        return refuse_own_columns(task)
    with pytest.raises(AvbError, match=f"a label cannot be called {message}"):
        refuse_own_columns(task)


def test_label_maps_are_inverse():
    task = TASKS["type"]
    assert task.id2label[1] == "Laugh" and task.label2id["Laugh"] == 1
    assert {task.label2id[label]: label for label in task.labels} == task.id2label
    assert list(task.id2label) == list(range(8))


def test_a_task_from_lists_equals_one_from_tuples_and_can_be_a_key():
    from_lists = Task("mine", "regression", ["joy", "pain"], [1, 9])
    assert from_lists == Task("mine", "regression", ("joy", "pain"), (1.0, 9.0))
    assert {from_lists: 1}[Task("mine", "regression", ("joy", "pain"), (1.0, 9.0))] == 1
    assert Task("one", "regression", ("joy",)).num_labels == 1


def test_a_task_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TASKS["two"].labels = ("Valence",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name must be a non-empty string"),
        ({"kind": "ranking"}, r"kind must be one of \['regression', 'classification'\], got 'ranking'"),
        ({"labels": ()}, "labels must hold at least 1 for regression, got 0"),
        ({"kind": "classification", "labels": ("a",)}, "labels must hold at least 2 for classification, got 1"),
        ({"labels": ("a", "b", "a")}, r"labels must be unique, repeated: \['a'\]"),
        ({"labels": ("a", " ")}, "labels must be a tuple or list of non-empty strings"),
        ({"labels": ("a", 3)}, "labels must be a tuple or list of non-empty strings"),
        ({"labels": "Awe"}, "labels must be a tuple or list of non-empty strings, got 'Awe'"),
        ({"label_range": (1.0, 1.0)}, "label_range must be two numbers .* low < high"),
        ({"label_range": (2.0, 1.0)}, "label_range must be two numbers"),
        ({"label_range": (0.0, float("nan"))}, "label_range must be two numbers"),
        ({"label_range": (0.0,)}, "label_range must be two numbers"),
        ({"label_range": "01"}, "label_range must be two numbers"),
    ],
)
def test_an_illegal_field_is_named_with_its_legal_values(fields, message):
    legal = {"name": "mine", "kind": "regression", "labels": ("a", "b")}
    with pytest.raises(ValueError, match=message):
        Task(**(legal | fields))


@pytest.mark.parametrize(
    ("name", "nearest"), [("hihg", "high"), ("cultures", "culture"), ("TYPE", "type"), ("too", "two")]
)
def test_an_unknown_task_names_the_nearest_and_all(name, nearest):
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'.*high, two, culture, type"):
        get_task(name)


def test_even_a_name_like_no_other_gets_the_list():
    with pytest.raises(ValueError, match="unknown task ''.*high, two, culture, type"):
        get_task("")


def test_tasks_imports_the_standard_library_numpy_and_the_errors_only():
    tree = ast.parse(Path(tasks.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported = {name.split(".")[0] for name in imported - {"avb.errors"}}
    assert imported and imported <= sys.stdlib_module_names | {"numpy"}
