"""Checks what the release of a model still lacks.

    python -m avb.cards check runs/high

Each point is checked in the files of the folder and comes with the command that fixes it. Some points are required:
without them, the push fails or the card is misleading. The others are what the Hub and its readers expect of a model
in 2026.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from avb.cards.hub_folder import EVALUATIONS, hub_files
from avb.cards.push import files_to_push
from avb.cards.run import Run, read_run
from avb.errors import AvbError
from avb.inference.calibrated import find_calibration
from avb.inference.engines import HUB_FOLDER
from avb.inference.load import load_model
from avb.run_files import CARD
from calibration_avb import CALIBRATION_FILE


@dataclass(frozen=True)
class Point:
    """A line of the list: what is checked, whether it is met, and how to fix it if not."""

    name: str
    is_met: bool
    way: str
    must: bool = False

    @property
    def line(self) -> str:
        if self.is_met:
            return f"ok      {self.name}"
        return f"{'MISSING' if self.must else 'lacks  '} {self.name}: {self.way}"


def check_release(folder: str | Path) -> list[Point]:
    """Checks all points in the folder of a finished run.

    Raises:
        AvbError: the folder contains no run.
    """
    folder = Path(folder)
    return [*_points(folder, read_run(folder))]


def _points(folder: Path, run: Run) -> Iterator[Point]:
    write = f"python -m avb.cards write {folder}"
    yield _tried("a model with the code that loads it", lambda: hub_files(folder))
    yield Point("a card", (folder / CARD).is_file(), write, must=True)
    yield _tried("files that can be pushed, without pickles", lambda: files_to_push(folder))
    text, data = _read_card(folder)
    for key, way in {
        "license": f"{write}, and agree on the licence with the data's owner",
        "library_name": write,
    }.items():
        yield Point(f"{key} in the card", data.get(key, "unknown") != "unknown", way, must=True)
    yield Point("pipeline_tag in the card", "pipeline_tag" in data, write, must=True)
    yield Point("the card's scores match metrics.json", _is_current(run, data), f"{write} once more", must=True)
    splits = [section.split for section in run.sections]
    yield Point("a score on labelled clips", bool(splits), "train with a validation split", must=True)

    yield Point("a score on a test split, which selected nothing", "test" in splits, "add a test split to the data")
    has_intervals = all(any(key.endswith("_low") for key in section.scores) for section in run.sections)
    yield Point("intervals", bool(splits) and has_intervals, "train again: older runs have none")
    yield Point("model-index in the card", "model-index" in data, write)
    seeds = "### Runs of this recipe with other seeds" in text
    yield Point("several seeds", seeds, f"train with another --seed, then {write} --results results/runs.csv")
    yield Point("base_model in the card", "base_model" in data or run.encoder_is_random, "use an encoder from the Hub")
    yield Point("datasets on the Hub", "datasets" in data, f"{write} --dataset ORG/NAME, if the data is there")
    benchmark = any((folder / EVALUATIONS).glob("*.yaml"))
    yield Point(
        f"{EVALUATIONS}/ for a registered benchmark", benchmark, f"{write} --benchmark ORG/DATASET:TASK, if it has one"
    )
    yield Point("an example clip with its scores", bool(data.get("widget")), f"{write} --example laugh.wav")
    yield Point("energy of the training", "kWh" in text, f"{write} --watts W, if you know them")
    calibrated = _is_calibrated(folder)
    yield Point("calibrated probabilities", calibrated, f"python -m avb.calibration {folder} DATA")
    fit = f"python -m avb.events reject {folder} --pool POOL --data_dir EMOGATOR (see its --help for POOL)"
    yield Point("rejection of sounds that are not bursts", bool(run.rejection) and calibrated, fit)
    exported = (folder / HUB_FOLDER / "model.onnx").is_file()
    yield Point(f"{HUB_FOLDER}/ for other engines", exported, f"python -m avb.export {folder} {folder} --hub")


def _is_calibrated(folder: Path) -> bool:
    """Whether there is a calibration fitted to these weights; one fitted to other weights is never used."""
    if not (folder / CALIBRATION_FILE).is_file():
        return False
    try:
        return find_calibration(str(folder), load_model(str(folder), "cpu")[0].trained_weights) is not None
    except AvbError:
        return False


def _tried(name: str, look) -> Point:
    try:
        look()
    except AvbError as error:
        return Point(name, False, str(error), must=True)
    return Point(name, True, "", must=True)


def _read_card(folder: Path) -> tuple[str, dict[str, Any]]:
    """Text and metadata of the card; both are empty if there is no readable card."""
    try:
        card = ModelCard.load(folder / CARD)
    except (OSError, ValueError, yaml.YAMLError):
        return "", {}
    return card.text, card.data.to_dict()


def _is_current(run: Run, data: dict[str, Any]) -> bool:
    """Whether each score in the card's model-index matches metrics.json."""
    found = {
        (result["dataset"]["split"], result["task"]["name"], metric["name"]): metric["value"]
        for model in data.get("model-index", [])
        for result in model["results"]
        for metric in result["metrics"]
    }
    scores = {(section.split, section.task.name): section.scores for section in run.sections}
    return all(
        metric in scores.get((split, task), {}) and abs(scores[split, task][metric] - value) < 1e-4
        for (split, task, metric), value in found.items()
    )
