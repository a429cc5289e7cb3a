"""The folder of a model on the Hub: weights, settings, and the code that loads them without this project.

`save_hub_folder` writes it; `hub_files` lists which files of a folder belong on the Hub. A run's other files are not
uploaded: checkpoints, predictions, and the recipe, which contains paths of the machine it ran on. There is no pickle
among the files: weights are safetensors, everything else is text.
"""

import inspect
import json
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub.utils.sha import sha_fileobj
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from avb.errors import AvbError
from avb.files import make_folder, read_json
from avb.inference.engines import HUB_FOLDER, REPORT_FILE
from avb.run_files import CARD, METRICS, TRAIN_SET
from calibration_avb import CALIBRATION_FILE
from pipeline_avb import TASK, VocalBurstPipeline

NEEDED_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
CARD_FILES = (CARD, METRICS, TRAIN_SET)  # the card, and the files that hold the numbers it shows
EVALUATIONS = ".eval_results"  # folder of scores on benchmarks that are registered on the Hub
REPO_PLACEHOLDER = "ORG/THIS-MODEL"  # placeholder in a card for the repository, which is unknown until the push


def save_hub_folder(model: PreTrainedModel, feature_extractor, folder: str | os.PathLike) -> Path:
    """Writes a trained model as the Hub serves it: `hub_files(folder)`, except for the card.

    Each file is complete before it replaces an older file of the same name.

    Args:
        model: `Wav2Vec2ForVocalBurst` or a baseline; sets `auto_map` and `custom_pipelines` in its config.
        feature_extractor: the model's feature extractor; sets its `auto_map`.
        folder: created if it does not exist.

    Raises:
        AvbError: the folder cannot be created or written.
    """
    folder = make_folder(folder)
    model_class, config_class, extractor_class = map(_reference, (model, model.config, feature_extractor))
    model.config.auto_map = {
        "AutoConfig": config_class,
        "AutoModel": model_class,
        "AutoModelForAudioClassification": model_class,
    }
    model.config.custom_pipelines = {
        TASK: {"impl": f"pipeline_avb.{VocalBurstPipeline.__name__}", "pt": ["AutoModelForAudioClassification"]}
    }
    feature_extractor.auto_map = {"AutoFeatureExtractor": extractor_class}
    with TemporaryDirectory(dir=folder, prefix="hub-") as temporary:
        # One file, whatever its size, so that the names of the uploaded files are the same for every model.
        model.save_pretrained(temporary, max_shard_size="1TB")
        feature_extractor.save_pretrained(temporary)
        for module in (type(model), type(model.config), type(feature_extractor), VocalBurstPipeline):
            _copy_code(module.__module__, Path(temporary))
        for path in Path(temporary).iterdir():
            os.replace(path, folder / path.name)
    return folder


def hub_files(folder: str | os.PathLike) -> list[str]:
    """Names of a finished run's files that belong on the Hub: first the card, then the model's files, then the code.

    Raises:
        AvbError: the folder contains no finished model, or lacks a file that its config.json refers to.
    """
    folder = Path(folder)
    missing = [name for name in NEEDED_FILES if not (folder / name).is_file()]
    if missing:
        raise AvbError(f"{folder}: no {', '.join(missing)}; give the folder of a finished run of train_avb.py")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    references = [*config.get("auto_map", {}).values(), *preprocessor.get("auto_map", {}).values()]
    references += [entry["impl"] for entry in config.get("custom_pipelines", {}).values()]
    again = "save the model again with avb.cards.hub_folder.save_hub_folder"
    if not references:
        raise AvbError(f"{folder}: config.json names no code that can load the model without this project; {again}")
    code: set[str] = set()
    try:
        for name in {f"{reference.split('.')[0]}.py" for reference in references}:
            code |= {name, *(Path(path).name for path in get_relative_import_files(folder / name))}
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise AvbError(f"{folder}: {name}, the code that loads the model, is missing; {again}") from error
    present = [name for name in (*CARD_FILES, CALIBRATION_FILE) if (folder / name).is_file()]
    further = [path.relative_to(folder).as_posix() for path in sorted(folder.glob(f"{EVALUATIONS}/*.yaml"))]
    return [*present, *further, *NEEDED_FILES, *sorted(code), *_export_files(folder)]


def _export_files(folder: Path) -> list[str]:
    """The files of `onnx/`, if there are any; raises AvbError if they were exported from other weights."""
    report = folder / HUB_FOLDER / REPORT_FILE
    if not report.is_file():
        return []
    with open(folder / "model.safetensors", "rb") as weights:
        digest = sha_fileobj(weights).hex()
    again = f"python -m avb.export {folder} {folder} --hub --overwrite"
    if read_json(report, again).get("weights_sha256") != digest:
        raise AvbError(f"{report.parent}: exported from other weights than model.safetensors; export it again: {again}")
    return sorted(path.relative_to(folder).as_posix() for path in report.parent.iterdir())


def _reference(instance: object) -> str:
    """The class of `instance` in the notation of `auto_map`: module_file.ClassName."""
    return f"{type(instance).__module__.rpartition('.')[2]}.{type(instance).__name__}"


def _copy_code(module: str, folder: Path):
    """Copies the file of an imported module and of its relative imports, from its package or the project's root.

    Transformers' own `custom_object_save` searches only the file's folder, which lacks the code that baselines share.
    """
    source = Path(inspect.getfile(sys.modules[module]))
    if (folder / source.name).exists():
        return
    shutil.copyfile(source, folder / source.name)
    package = module.rpartition(".")[0]
    for name in get_relative_imports(source):
        sibling = f"{package}.{name}"
        _copy_code(sibling if sibling in sys.modules else name, folder)
