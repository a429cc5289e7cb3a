"""How a model's training read its corpus: the defaults of later commands on the same corpus."""

import os
from pathlib import Path
from typing import Any

from avb.corpus_arguments import OPTIONS, PATH_OPTIONS
from avb.inference.clips import CorpusClips
from avb.recipes import read_yaml
from avb.run_files import RECIPE, SPLITS


def corpus_of_run(
    model: str, corpus: str, data_dir: str, task: str | None, split: str, given: dict[str, Any]
) -> CorpusClips:
    """A split of a corpus, read as in the run of `model`.

    On the corpus of the run, options that are not given are the run's. Splits made by the run are used too, see
    `avb.corpora.rows.as_in_run`, unless `split_column` is given.

    Args:
        model: a run's folder; other models have no options and no splits.
        corpus: hume_vb, emogator or folder.
        data_dir: its location.
        task: if it has several.
        split: train, validation or test.
        given: options of the corpus's `load` function.

    Raises:
        RecipeError: the run's recipe cannot be read.
    """
    recipe = read_yaml(Path(model) / RECIPE) if os.path.isfile(Path(model) / RECIPE) else {}
    there = recipe.get("data_dir")
    is_same = (
        recipe.get("corpus", "folder") == corpus
        and isinstance(there, str)
        and os.path.realpath(there) == os.path.realpath(data_dir)
    )
    options = dict(given)
    if is_same:
        run = {name: recipe[name] for name in OPTIONS if recipe.get(name) not in (None, "none")}
        options = run | given
        task = task or recipe.get("task")
    for name in PATH_OPTIONS:  # a worker has another current folder
        if options.get(name):
            options[name] = os.path.abspath(options[name])
    pairs = tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in sorted(options.items())
        if value is not False
    )
    splits = Path(model) / SPLITS
    is_used = corpus == "folder" and "split_column" not in given and splits.is_file()
    run_splits = os.path.abspath(splits) if is_used else None
    return CorpusClips(corpus, os.path.abspath(data_dir), task, split, pairs, run_splits, is_same)
