"""What is printed before the first step."""

from types import SimpleNamespace

import torch
from datasets import Dataset
from torch import nn

from avb.tasks import MultiTask, Task
from avb.training.start import class_lines, corpus_lines, lacking_lines, model_lines

KINDS = Task("kinds", "classification", ("cry", "laugh", "sob"))


def split(labels: list, speakers: str = "", seconds: float = 36.0) -> Dataset:
    columns = {"labels": labels, "num_samples": [int(16_000 * seconds)] * len(labels)}
    return Dataset.from_dict(columns | ({"speaker": list(speakers)} if speakers else {}))


def test_the_corpus_and_whose_clips_they_are(tmp_path):
    splits = {"train": split([0, 0, 1, 2], "aabc"), "validation": split([0, 1], "ad")}
    assert corpus_lines(str(tmp_path / "clips.csv"), splits, has_made_splits=True) == [
        "corpus clips.csv: train 4, validation 2 clips, 0.06 hours; the splits were made here (67 / 33 %)",
        "speakers: train 3, validation 2",
        "  1 of the train speakers are in another split too, such as a: scores of new people will be lower",
    ]
    nameless = {"train": split([0]), "test": split([1])}
    assert corpus_lines("clips.csv", nameless)[1:] == ["speakers: none are known, so intervals go by clip"]
    cuts = {name: rows.add_column("group", ["talk1"]) for name, rows in nameless.items()}
    assert corpus_lines("clips.csv", cuts)[1:] == ["speakers: none are known, so intervals go by group"]


def test_classes_are_counted_and_those_that_a_split_lacks_are_named():
    splits = {"train": split([0, 0, 1, -100]), "validation": split([0, 1, 2]), "test": split([-100, -100])}
    assert class_lines(KINDS, splits) == [
        "classes (train / validation / test): cry 2 / 1 / 0, laugh 1 / 1 / 0, sob 0 / 1 / 0",
        "  clips without a label, which are neither learned nor scored: train 1",
        "  train has no clip of sob: it cannot be learned",  # labels of test are withheld: nothing is lacking
    ]
    assert lacking_lines(KINDS, {"test": split([0, 0])}) == [
        "  test has no clip of laugh, sob: its UAR will exclude it"
    ]
    enough = split([0, 1, 2] * 5)
    assert class_lines(KINDS, {"train": enough, "test": split([0, 1] * 5 + [2])})[1:] == [
        "  test has fewer than 5 clips of sob: --folds 5 scores every clip instead"
    ]
    many = Task("many", "classification", tuple(f"class number {number}" for number in range(30)))
    lines = class_lines(many, {"train": split(list(range(30)))})
    assert max(map(len, lines)) <= 110 and all(line.endswith((" 1,", " 1")) for line in lines)  # no count is parted
    assert class_lines(Task("x", "regression", ("joy",)), {"train": split([[0.5]])}) == []


def test_classes_of_several_tasks():
    task = MultiTask((Task("x", "regression", ("joy",)), Task("k", "classification", ("cry", "laugh"))))
    lines = class_lines(task, {"train": split([[0.1, 0.0], [0.3, float("nan")]])})
    assert lines == ["classes of k (train): cry 1, laugh 0", "  train has no clip of laugh: it cannot be learned"]


def test_what_is_trained():
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 50, bias=False))
    model[0].requires_grad_(False)
    args = SimpleNamespace(world_size=2, device=torch.device("cpu"), lr_scheduler_type="cosine", train_batch_size=16)
    assert model_lines(model, "encoder x", args, {"head": 3e-3}) == [
        "model: encoder x; 5,000 of 15,000 weights are trained, on 2 × cpu",
        "learning rates: head 0.003, cosine; 16 clips per step and device",
    ]
