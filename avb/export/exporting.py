"""Exports a trained model to ONNX, for fast predictions on a CPU, once it is shown to predict the same.

    python -m avb.export runs/mine runs/mine-onnx                                     # ONNX Runtime, fp32
    python -m avb.export runs/mine runs/mine-int8 --precision int8 --clips my_clips/
    python -m avb.export runs/mine runs/mine-bf16 --backend openvino --precision bf16  # the fastest on a recent CPU

OUT is a folder of its own: `model.onnx` (any batch, any length, the mask inside), `config.json`,
`preprocessor_config.json` and `export.json`, the differences that were measured. Everything that takes a model's folder
takes it. Before OUT exists the export is compared with the torch model, on made-up bursts of 0.025 to 6 s and on the
clips given, each alone and in a padded batch; past the tolerance it is refused.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import torch
from huggingface_hub.utils.sha import sha_fileobj
from transformers.utils import logging

from audio_avb import AUDIO_SUFFIXES, load_audio
from avb.errors import AvbError
from avb.export.check import Difference, compare, made_up_bursts, print_table
from avb.export.graph import InferenceGraph
from avb.export.quantization import quantize_products
from avb.files import make_folder, write_json
from avb.inference.clips import find_paths
from avb.inference.engines import (
    ENGINES,
    MODEL_FILE,
    PRECISIONS,
    ExportedModel,
    check_precision,
    import_package,
    open_engine,
)
from avb.inference.prediction import load_model
from modeling_avb import Wav2Vec2ForVocalBurst

OPSET = 17  # the first with LayerNormalization
REPORT_FILE = "export.json"
TOLERANCES = {"fp32": 1e-4, "int8": 0.01, "bf16": 0.01}  # of scores, in [0, 1] for the regression tasks
MAX_CLIPS = 64  # that are compared, evenly taken from those given


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.disable_progress_bar()
    try:
        differences = export_model(
            args.model,
            args.out,
            backend=args.backend,
            precision=args.precision,
            tolerance=args.tolerance,
            clips=find_clips(args.clips),
            overwrite=args.overwrite,
        )
    except AvbError as error:
        print(f"avb.export: error: {error}", file=sys.stderr)
        return 1
    print_table(differences)
    print(f"{args.out}: {args.precision} by {args.backend}")
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.export",
        usage="%(prog)s MODEL OUT [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="folder written by train_avb.py, or a model on the Hub")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--backend", choices=PRECISIONS, default="onnx", help="engine that runs it (default: onnx)")
    parser.add_argument(
        "--precision", choices=TOLERANCES, default="fp32", help="int8 with onnx, bf16 with openvino (default: fp32)"
    )
    parser.add_argument(
        "--tolerance", type=float, help="largest difference of a score (default: 0.0001 for fp32, 0.01 for the others)"
    )
    parser.add_argument(
        "--clips", nargs="+", metavar="PATH", default=[], help="audio files, folders, globs to compare on"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is an export")
    return parser.parse_args(argv)


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
    """Writes the folder `out`, which `avb.load` takes, and returns what it was compared on.

    Args:
        name: a folder written by train_avb.py, or a model on the Hub.
        out: the folder to write; it appears once it is complete and compared.
        backend: `onnx` (ONNX Runtime) or `openvino`.
        precision: `fp32`, `int8` (onnx) or `bf16` (openvino).
        tolerance: largest absolute difference of a score; None is that of `TOLERANCES`.
        clips: audio files to compare on, beside made-up bursts.
        overwrite: replace `out` if it is an export.

    Raises:
        AvbError: the model cannot be exported, `out` exists or cannot be written, the engine is not installed, a clip
            cannot be read, or the export differs by more than the tolerance.
    """
    out = Path(out)
    check_precision(backend, precision)
    engine = import_package(ENGINES[backend], backend)
    import_package("onnx", "onnx")  # what is traced is written and quantised by it
    check_hardware(engine, precision)
    check_out(out, overwrite)
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    model, feature_extractor = load_model(str(name), "cpu")
    if not isinstance(model, Wav2Vec2ForVocalBurst):
        raise AvbError(f"{name}: only a fine-tuned wav2vec 2.0 can be exported, this is a {type(model).__name__}")
    bursts = made_up_bursts() | read_clips(clips, feature_extractor)

    make_folder(out.parent)
    with TemporaryDirectory(dir=out.parent, prefix=f"{out.name}-") as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        write_graph(model, folder / MODEL_FILE, precision)
        with open(folder / MODEL_FILE, "rb") as file:
            digest = sha_fileobj(file).hex()
        config = deepcopy(model.config)
        # What loads safetensors by the code of a Hub folder would find none here.
        config.auto_map, config.custom_pipelines = {}, {}
        config.export = {"backend": backend, "precision": precision, "sha256": digest}
        exported = ExportedModel(config, open_engine(folder / MODEL_FILE, backend, precision))
        differences = compare(model, exported, feature_extractor, bursts)
        refuse_difference(name, differences, backend, precision, tolerance)
        config.save_pretrained(folder)
        feature_extractor.save_pretrained(folder)
        write_json(folder / REPORT_FILE, report(differences, backend, precision, tolerance))
        move_folder(folder, out)
    return differences


def write_graph(model: Wav2Vec2ForVocalBurst, path: Path, precision: str):
    """The model as an ONNX file, traced with two clips; at int8 its products are quantised, at bf16 by the engine."""
    samples = 2 * model.config.receptive_field
    mask = torch.ones(2, samples, dtype=torch.long)
    mask[1, samples // 2 :] = 0
    batch, time = {0: "batch"}, {1: "samples"}
    traced = path.with_suffix(".fp32.onnx") if precision == "int8" else path
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of every branch on a configuration, and of the exporter's own future. What would go wrong in
        # a trace, a constant that depends on the clip, is what the comparison is for.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            InferenceGraph(model).eval(),
            (torch.zeros(2, samples), mask),
            traced,
            dynamo=False,  # the exporter through torch.export does not take an LSTM over a varying time
            opset_version=OPSET,
            input_names=["input_values", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_values": batch | time, "attention_mask": batch | time, "logits": batch},
        )
    if precision == "int8":
        quantize_products(traced, path)
        traced.unlink()


def refuse_difference(name, differences: list[Difference], backend: str, precision: str, tolerance: float):
    """Raises an AvbError where the largest difference is above the tolerance, or is not a number."""
    worst = max(differences, key=lambda difference: difference.sort_key)
    if not worst.largest <= tolerance:
        raise AvbError(
            f"{name}: exported to {precision} for {backend} it differs by {worst.largest:.2g} from the torch model on "
            f"{worst.clip} ({worst.worse}), more than the tolerance of {tolerance:g}; nothing is written. Give a "
            "--precision that is closer, or a larger --tolerance"
        )


def report(differences: list[Difference], backend: str, precision: str, tolerance: float) -> dict:
    """What `export.json` holds."""
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


def find_clips(paths: list[str]) -> list[str]:
    """Audio files among files, folders and globs, at most `MAX_CLIPS`, evenly taken.

    Raises:
        AvbError: there is no audio among them.
    """
    found = find_paths(paths)
    if paths and not found:
        raise AvbError(f"--clips {' '.join(paths)}: no audio there; suffixes read are {' '.join(AUDIO_SUFFIXES)}")
    if len(found) > MAX_CLIPS:
        print(f"compared on {MAX_CLIPS} of {len(found)} clips")
        found = [found[index * len(found) // MAX_CLIPS] for index in range(MAX_CLIPS)]
    return found


def read_clips(paths: Sequence[str | os.PathLike], feature_extractor) -> dict:
    """Waveforms (samples,) by their file, prepared as the feature extractor says. Raises an AudioError."""
    settings = {"peak_db": feature_extractor.peak_db, "trim_top_db": feature_extractor.trim_top_db}
    rate = feature_extractor.sampling_rate
    return {str(path): load_audio(path, sampling_rate=rate, **settings) for path in paths}


def check_hardware(engine, precision: str):
    """Raises an AvbError where the comparison would say nothing about the precision asked for."""
    if precision == "bf16" and "BF16" not in engine.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise AvbError("--precision bf16: this CPU has no bf16, so what it costs cannot be measured here; give fp32")


def check_out(out: Path, overwrite: bool):
    """Raises an AvbError where `out` exists, unless it is an export that may be replaced."""
    if not os.path.lexists(out):
        return
    if not (out / REPORT_FILE).is_file():
        raise AvbError(f"{out} exists, and is no exported model: give another name")
    if not overwrite:
        raise AvbError(f"{out} exists: give another name, or --overwrite")


def move_folder(folder: Path, out: Path):
    """Moves a whole folder to `out`, in the place of an export that may be there."""
    old = folder.with_name("replaced")  # goes with the temporary folder around it
    if out.exists():
        os.replace(out, old)
    os.replace(folder, out)
    rmtree(old, ignore_errors=True)
