"""Exports a trained model to an ONNX folder and checks its predictions; the command is avb/export/command.py.

Unusual: nothing is written if a score of any clip, alone or in a padded batch, differs by more than the tolerance.
"""

import os
from collections.abc import Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from huggingface_hub.utils.sha import sha_fileobj

from audio_avb import AudioPreparation
from avb.errors import AvbError
from avb.export.check import Difference, compare, made_up_bursts
from avb.export.writing import OPSET, refuse_unexportable, write_graph
from avb.files import make_folder, write_json, write_text
from avb.inference.calibrated import find_calibration
from avb.inference.engines import (
    MODEL_FILE,
    REPORT_FILE,
    ExportedModel,
    check_precision,
    import_package,
    open_engine,
)
from avb.inference.load import load_model
from avb.inference.precisions import ENGINES, TOLERANCES
from calibration_avb import CALIBRATION_FILE


def export_model(
    name: str | os.PathLike,
    out: str | os.PathLike,
    *,
    backend: str = "onnx",
    precision: str = "fp32",
    tolerance: float | None = None,
    clips: Sequence[str | os.PathLike] = (),
    overwrite: bool = False,
) -> list[Difference]:
    """Writes the folder `out`, which `avb.load` takes, and returns the differences on each clip.

    Args:
        name: a folder written by train_avb.py, or a model on the Hub.
        out: the folder to write; it appears only when complete and checked.
        backend: `onnx` (ONNX Runtime) or `openvino`.
        precision: `fp32`, `fp16` (weights only), `int8` (onnx) or `bf16` (openvino).
        tolerance: largest absolute difference of a score; None: that of `TOLERANCES`.
        clips: audio files to compare on, besides synthetic bursts.
        overwrite: replace `out` if it is an export.

    Raises:
        AvbError: the model cannot be exported, `out` exists or cannot be written, the engine is not installed, a clip
            cannot be read, or the export differs by more than the tolerance.
    """
    out = Path(out)
    check_precision(backend, precision)
    engine = import_package(ENGINES[backend], backend)
    import_package("onnx", "onnx")  # it writes and quantises what is traced
    check_hardware(engine, precision)
    check_out(out, overwrite)
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    model, feature_extractor = load_model(str(name), "cpu")
    refuse_unexportable(str(name), model)
    bursts = made_up_bursts() | read_clips(clips, feature_extractor)

    make_folder(out.parent)
    with TemporaryDirectory(dir=out.parent, prefix=f"{out.name}-") as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        write_graph(model, folder / MODEL_FILE, precision)
        config = deepcopy(model.config)
        # They would load safetensors with the code of a Hub folder; there are none here.
        config.auto_map, config.custom_pipelines = {}, {}
        config.export = {"backend": backend, "precision": precision, "sha256": sha256(folder / MODEL_FILE)}
        config.export["weights"] = model.trained_weights
        exported = ExportedModel(config, open_engine(folder / MODEL_FILE, backend, precision))
        differences = compare(model, exported, feature_extractor, bursts)
        refuse_difference(name, differences, backend, precision, tolerance)
        config.save_pretrained(folder)
        feature_extractor.save_pretrained(folder)
        copy_calibration(name, model.trained_weights, folder)
        write_json(folder / REPORT_FILE, report(differences, backend, precision, tolerance))
        move_folder(folder, out)
    return differences


def refuse_difference(name, differences: list[Difference], backend: str, precision: str, tolerance: float):
    """Raises an AvbError if the largest difference exceeds the tolerance or is not a number."""
    worst = max(differences, key=lambda difference: difference.sort_key)
    if not worst.largest <= tolerance:
        raise AvbError(
            f"{name}: exported to {precision} for {backend} it differs by {worst.largest:.2g} from the torch model on "
            f"{worst.clip} ({worst.worse}), more than the tolerance of {tolerance:g}; nothing is written. Give a "
            "--precision that is closer, or a larger --tolerance"
        )


def report(differences: list[Difference], backend: str, precision: str, tolerance: float) -> dict:
    """The content of `export.json`."""
    packages = ("avb", "torch", "transformers", ENGINES[backend])
    return {
        "backend": backend,
        "precision": precision,
        "tolerance": tolerance,
        "max_difference": max(difference.largest for difference in differences),
        "opset": OPSET,
        "versions": {package: version(package) for package in packages},
        "clips": [difference.row() for difference in differences],
    }


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return sha_fileobj(file).hex()


def copy_calibration(name: str | os.PathLike, weights: str, folder: Path):
    """Copies the model's calibration to its export, whose scores are the same."""
    calibration = find_calibration(str(name), weights)
    if calibration:
        write_text(folder / CALIBRATION_FILE, calibration.to_json())


def read_clips(paths: Sequence[str | os.PathLike], feature_extractor) -> dict:
    """Waveforms (samples,) by file, prepared as the feature extractor specifies. Raises an AudioError."""
    preparation = AudioPreparation.of(feature_extractor)
    return {str(path): preparation.load(path) for path in paths}


def check_hardware(engine, precision: str):
    """Raises an AvbError if the comparison would say nothing about the requested precision."""
    if precision == "bf16" and "BF16" not in engine.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise AvbError("--precision bf16: this CPU has no bf16, so what it costs cannot be measured here; give fp32")


def check_out(out: Path, overwrite: bool):
    """Raises an AvbError if `out` exists, unless it is an export that may be replaced."""
    if not os.path.lexists(out):
        return
    if not (out / REPORT_FILE).is_file():
        raise AvbError(f"{out} exists, and is not an exported model: give another name")
    if not overwrite:
        raise AvbError(f"{out} exists: give another name, or --overwrite")


def move_folder(folder: Path, out: Path):
    """Moves a complete folder to `out`, and replaces an export that may be there."""
    old = folder.with_name("replaced")  # deleted with the temporary folder around it
    if out.exists():
        os.replace(out, old)
    os.replace(folder, out)
    rmtree(old, ignore_errors=True)
