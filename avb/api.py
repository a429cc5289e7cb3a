"""Training from Python, with the names and defaults of the command line.

import avb

run = avb.train("clips.csv", encoder="emogator-small", output_dir="runs/mine")
print(run.metrics.splits["test"]["uar"], run.score("laugh.wav"))
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import soundfile as sf
from datasets import Audio, ClassLabel, Dataset, DatasetDict

from avb.command_line import OFF, make_parser, parse_arguments
from avb.errors import AvbError
from avb.files import make_folder
from avb.inference.load import load
from avb.recipes import recipe_arguments
from avb.run import run
from avb.run_files import CONFIG, FOLDS, Metrics
from pipeline_avb import VocalBurstPipeline

CLIPS = "clips"  # in a run's folder, for clips given as objects: a table, and a folder of audio


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """A finished run.

    Attributes:
        output_dir: the run's folder, with model, card, scores and predictions.
        metrics: the measurements, by split.
    """

    output_dir: Path
    metrics: Metrics

    def __repr__(self) -> str:
        metric, splits = self.metrics.metric, self.metrics.splits
        scores = [f"{split} {metric} {splits[split][metric]:.3f}" for split in splits if self.metrics.is_scored(split)]
        return f"TrainedRun({str(self.output_dir)!r}: {', '.join(scores) or 'no split has labels'})"

    @cached_property
    def score(self) -> VocalBurstPipeline:
        """The model as returned by `avb.load`: `run.score("laugh.wav")`."""
        if not (self.output_dir / CONFIG).is_file():
            raise AvbError(
                f"{self.output_dir}: a cross-validation has a model per fold, in {FOLDS}/; final_model=True "
                "makes one of all clips"
            )
        return load(str(self.output_dir))

    @property
    def model(self):
        """The model in evaluation mode."""
        return self.score.model


def train(
    data: str | os.PathLike | pd.DataFrame | Dataset | DatasetDict,
    *,
    recipe: str | list[str] | None = None,
    **arguments,
) -> TrainedRun:
    """Trains, scores and saves a model, as `train_avb.py` does.

    Args:
        data: a table or a folder of clips, like `--data_dir`; a DataFrame of such a table; or `datasets` objects with
            the clips in a column `audio`. Paths in an object are relative to the current folder, or to `audio_root`.
        recipe: name (`paper/high-lv60k`) or file of a recipe; of several, later ones override earlier ones.
        arguments: arguments of `train_avb.py`, such as `encoder`, `num_train_epochs`, `output_dir`; None turns one
            off.

    Raises:
        AvbError: an argument is unknown or invalid, the clips cannot be read, ... The process is never ended.
    """
    arguments = {name: OFF if value is None else value for name, value in arguments.items()}
    arguments.setdefault("output_dir", "runs/run")
    if isinstance(data, (str, os.PathLike)):
        arguments["data_dir"] = os.fspath(data)
    else:
        arguments |= _as_table(data, arguments)
    recipes = [recipe] if isinstance(recipe, str) else recipe or []
    known = {action.dest for action in make_parser()._actions} - {"help", "list_recipes"}  # these end a process
    parts = parse_arguments([*recipes, *recipe_arguments(arguments, known)], exits=False)
    try:
        metrics = run(*parts)
    except AvbError:
        raise
    except ValueError as error:  # raised by the model's configuration
        raise AvbError(str(error)) from error
    assert metrics is not None  # there is only one process
    return TrainedRun(Path(str(arguments["output_dir"])), metrics)


def _as_table(data: pd.DataFrame | Dataset | DatasetDict, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Writes clips given as objects to the run's folder; returns the arguments with which they are read."""
    folder = make_folder(Path(str(arguments["output_dir"])) / CLIPS)
    table = folder / "clips.csv"
    if isinstance(data, pd.DataFrame):
        data.to_csv(table, index=False)
        return {"data_dir": str(table), "audio_root": arguments.get("audio_root", os.getcwd())}
    if not isinstance(data, (Dataset, DatasetDict)):
        raise AvbError(f"data must be a path, a DataFrame or a Dataset of datasets, got {type(data).__name__}")
    splits = data if isinstance(data, DatasetDict) else {"": data}
    rows = [
        {**row, "split": name} if name else row for name, split in splits.items() for row in _rows(split, folder, name)
    ]
    pd.DataFrame(rows).to_csv(table, index=False)
    return {"data_dir": str(table), "audio_root": os.sep, "path_column": "file"}


def _rows(split: Dataset, folder: Path, name: str) -> Iterator[dict]:
    """Yields rows of a table: the clip's file, written if the clip is in memory, and the other columns."""
    if "audio" not in split.column_names:
        raise AvbError(f"the Dataset has no column 'audio', only {', '.join(split.column_names)}: use rename_column")
    if isinstance(split.features["audio"], Audio):
        split = split.cast_column("audio", Audio(decode=False))
    classes = {key: feature for key, feature in split.features.items() if isinstance(feature, ClassLabel)}
    for number, row in enumerate(split):
        audio = row.pop("audio")
        row |= {key: feature.int2str(row[key]) for key, feature in classes.items() if row[key] is not None}
        yield {"file": str(_file_of(audio, folder, f"{name or 'clip'}-{number:06d}")), **row}


def _file_of(audio: Any, folder: Path, stem: str) -> Path:
    if isinstance(audio, (str, os.PathLike)):
        return Path(audio).absolute()
    if isinstance(audio, dict) and audio.get("bytes"):
        path = folder / f"{stem}{Path(audio.get('path') or '.wav').suffix or '.wav'}"
        path.write_bytes(audio["bytes"])
        return path.absolute()
    if isinstance(audio, dict) and audio.get("array") is not None:
        path = folder / f"{stem}.wav"
        sf.write(path, audio["array"], audio["sampling_rate"], subtype="FLOAT")
        return path.absolute()
    if isinstance(audio, dict) and audio.get("path"):
        return Path(audio["path"]).absolute()
    raise AvbError(f"row {stem}: its audio is not a path, bytes or an array: {audio!r:.80}")
