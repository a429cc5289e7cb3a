"""The Hub's layout of an export: `onnx/model.onnx`, `model_fp16.onnx` and `model_quantized.onnx` in a model's folder.

    python -m avb.export runs/mine runs/mine --hub        # beside the safetensors; `avb.cards push` uploads them too
    python -m avb.export emogator-small small --hub       # a separate folder

transformers.js and Optimum look for these names. `onnx/export.json` contains, for each file, the difference of its
scores from the torch model's, on the clips used by `avb.export.exporting`. Unusual: the exact file must be within its
tolerance; a smaller one that is not is left out, which is printed and stored.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from avb.errors import AvbError
from avb.export.check import Difference, differences, made_up_bursts, score_alone_and_padded
from avb.export.exporting import (
    TOLERANCES,
    copy_calibration,
    move_folder,
    read_clips,
    refuse_difference,
    sha256,
)
from avb.export.writing import OPSET, narrow_graph, refuse_unexportable, trace_graph
from avb.files import make_folder, write_json
from avb.inference.engines import HUB_FILES, HUB_FOLDER, REPORT_FILE, ExportedModel, import_package, open_engine
from avb.inference.load import load_model

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class HubFile:
    """One file of the layout: its largest difference of a score, and whether it was left out because of it."""

    name: str
    precision: str
    bytes: int
    sha256: str
    max_difference: float
    tolerance: float
    is_left_out: bool

    @property
    def said(self) -> str:
        """A line for the terminal."""
        measured = f"{self.bytes:>13,} bytes, scores within {self.max_difference:.2g} of torch's"
        if self.is_left_out:
            return f"{self.name}: left out: {measured}, more than the tolerance of {self.tolerance:g}"
        return f"{self.name}: {measured}"


def export_hub(
    name: str | os.PathLike,
    out: str | os.PathLike,
    *,
    tolerance: float | None = None,
    clips: Sequence[str | os.PathLike] = (),
    overwrite: bool = False,
) -> list[HubFile]:
    """Writes `out/onnx/` and, unless `out` is the model's own folder, the settings next to it.

    Args:
        name: a folder written by train_avb.py, a shipped model, or a model on the Hub.
        out: a new folder, or the model's own.
        tolerance: largest absolute difference of a score, for all files; None: those of `TOLERANCES`.
        clips: audio files to compare on, besides synthetic bursts.
        overwrite: replace an existing `onnx/`.

    Raises:
        AvbError: the model cannot be exported, `out` is something else or cannot be written, a package is not
            installed, a clip cannot be read, or the fp32 file differs by more than the tolerance.
    """
    out = Path(out)
    for package in ("onnxruntime", "onnx"):
        import_package(package, "onnx")
    is_own = out.is_dir() and Path(name).is_dir() and out.samefile(name)
    check_out(out, is_own, overwrite)
    model, feature_extractor = load_model(str(name), "cpu")
    refuse_unexportable(str(name), model)
    bursts = made_up_bursts() | read_clips(clips, feature_extractor)

    make_folder(out.parent)
    with TemporaryDirectory(dir=out if is_own else out.parent, prefix=f".{HUB_FOLDER}-") as temporary:
        whole = Path(temporary) / "whole"
        folder = make_folder(whole / HUB_FOLDER)
        files = []
        expected = score_alone_and_padded(model, feature_extractor, list(bursts.values()))
        for precision, file in HUB_FILES.items():
            if precision == "fp32":  # the first
                trace_graph(model, folder / file)
            else:
                narrow_graph(model, folder / HUB_FILES["fp32"], folder / file, precision)
            exported = ExportedModel(model.config, open_engine(folder / file, "onnx", precision))
            found = score_alone_and_padded(exported, feature_extractor, list(bursts.values()))
            measured = differences(expected, found, feature_extractor.sampling_rate, bursts)
            limit = TOLERANCES[precision] if tolerance is None else tolerance
            if precision == "fp32":
                refuse_difference(name, measured, "onnx", precision, limit)
            files.append(_measure(folder / file, precision, measured, limit))
        facts = {
            "files": [asdict(file) for file in files],
            "clips": len(bursts),
            "weights_sha256": sha256(Path(name) / WEIGHTS) if is_own else None,
            "weights": model.trained_weights,
            "opset": OPSET,
            "versions": {package: version(package) for package in ("avb", "torch", "transformers", "onnxruntime")},
        }
        write_json(folder / REPORT_FILE, facts)
        if is_own:
            move_folder(folder, out / HUB_FOLDER)
            return files
        model.config.auto_map, model.config.custom_pipelines = {}, {}  # their code is not here
        model.config.save_pretrained(whole)
        feature_extractor.save_pretrained(whole)
        copy_calibration(name, model.trained_weights, whole)
        move_folder(whole, out)
    return files


def _measure(path: Path, precision: str, found: list[Difference], limit: float) -> HubFile:
    worst = max(found, key=lambda difference: difference.sort_key).largest
    file = HubFile(path.name, precision, path.stat().st_size, sha256(path), worst, limit, not worst <= limit)
    if file.is_left_out:
        path.unlink()
    return file


def check_out(out: Path, is_own: bool, overwrite: bool):
    """Raises an AvbError if `out` is neither new nor the model's own folder, or already has an export."""
    has_export = (out / HUB_FOLDER / REPORT_FILE).is_file()
    if os.path.lexists(out / HUB_FOLDER) and not has_export:
        raise AvbError(f"{out / HUB_FOLDER} exists, and is not an export: move it away")
    if has_export and not overwrite:
        raise AvbError(f"{out / HUB_FOLDER} exists: give another OUT, or --overwrite")
    if os.path.lexists(out) and not is_own and not has_export:
        raise AvbError(f"{out} exists: give a new folder, or the model's own")
