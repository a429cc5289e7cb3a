"""An exported model, run by ONNX Runtime or OpenVINO, with the interface of the torch model.

`avb.load("runs/mine-onnx")` and `predict_avb.py runs/mine-onnx PATHS` accept it like a folder written by train_avb.py:
the key `export` of its config.json says which engine runs `model.onnx`, and at which precision. The number of threads
is torch's (`torch.set_num_threads`, `OMP_NUM_THREADS`).
"""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from huggingface_hub.utils.sha import sha_fileobj
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import cached_file

from avb.errors import AvbError
from avb.files import read_json
from avb.inference.precisions import ENGINES, PRECISIONS

MODEL_FILE = "model.onnx"
REPORT_FILE = "export.json"
MAX_SECONDS = 120.0  # per clip: attention computes a score for every pair of frames, 2.3 GB per layer for LARGE
HUB_FOLDER = "onnx"  # of a model's folder, with the files below (the Hub's layout)
HUB_FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_quantized.onnx"}
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ExportedModel:
    """Predicts like `Wav2Vec2ForVocalBurst`, on the CPU; without gradients, losses or hidden states."""

    device = torch.device("cpu")
    dtype = torch.float32  # of inputs and outputs
    input_modalities = ("audio",)

    def __init__(self, config: PreTrainedConfig, run: Run):
        self.config = config
        self.trained_weights = getattr(config, "export", {}).get("weights", "")  # of the exported model
        self._run = run

    def __call__(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None):
        """Like the torch model's forward.

        Args:
            input_values: (batch, samples) float waveforms at 16 kHz, padded on the right.
            attention_mask: (batch, samples), 1 for audio and 0 for padding; None if there is no padding.

        Returns:
            `SequenceClassifierOutput` with `logits` (batch, num_labels).

        Raises:
            AvbError: a clip is longer than `MAX_SECONDS`.
        """
        if attention_mask is None:
            attention_mask = torch.ones(input_values.shape, dtype=torch.long)
        seconds = input_values.shape[1] / 16_000
        if seconds > MAX_SECONDS:
            raise AvbError(
                f"a clip of {seconds:.0f} s: an exported model takes up to {MAX_SECONDS:g} s at once; score it in "
                "windows (window_seconds=2), or with the model it was exported from"
            )
        logits = self._run(input_values.float().numpy(), attention_mask.long().numpy())
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    def parameters(self):
        """There are none in torch; `config.export` has the hash of the weights."""
        return iter(())

    def can_generate(self) -> bool:
        return False


def load_exported(name: str | os.PathLike, config: PreTrainedConfig, device: str = "auto") -> ExportedModel:
    """Loads a model from a folder, or a repository on the Hub, that `avb.export` wrote.

    Args:
        name: the folder or repository.
        config: its configuration, with the entry `export`.
        device: `auto` or `cpu`.

    Raises:
        AvbError: the device is not the CPU, the engine is not installed, or the file is missing or damaged.
    """
    refuse_device(name, device)
    match config.export:
        case {"backend": str(backend), "precision": str(precision)}:
            config.name_or_path = str(name)  # as in a torch model: the location of its calibration
            return ExportedModel(config, open_engine(cached_file(name, MODEL_FILE), backend, precision))
    raise AvbError(f"{name}: 'export' in config.json has no backend and precision; export the model again")


def has_hub_export(name: str | os.PathLike) -> bool:
    """Whether a model's folder, or its repository on the Hub, has the Hub's layout of an export."""
    file = f"{HUB_FOLDER}/{HUB_FILES['fp32']}"
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False) is not None


def load_hub_export(
    name: str | os.PathLike, config: PreTrainedConfig, device: str, engine: str, precision: str | None = None
) -> ExportedModel:
    """Like `load_exported`, for the Hub's layout written by `avb.export.export_hub`.

    Args:
        name: the folder or repository.
        config: its configuration; gets the entry `export`.
        device: `auto` or `cpu`.
        engine: `onnx` or `openvino`.
        precision: one of `HUB_FILES`; None means fp32.

    Raises:
        AvbError: there is no such file; see also `load_exported`.
    """
    precision = precision or "fp32"
    check_precision(engine, precision)
    if precision not in HUB_FILES:
        raise AvbError(f"{name}: no file of {HUB_FOLDER}/ is {precision}; there are {', '.join(HUB_FILES)}")
    file = f"{HUB_FOLDER}/{HUB_FILES[precision]}"
    path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise AvbError(f"{name}: no {file}; write it first: python -m avb.export {name} {name} --hub")
    with open(path, "rb") as content:
        digest = sha_fileobj(content).hex()
    config.export = {"backend": engine, "precision": precision, "sha256": digest}
    report = cached_file(name, f"{HUB_FOLDER}/{REPORT_FILE}", _raise_exceptions_for_missing_entries=False)
    if report is not None:
        config.export["weights"] = read_json(Path(report), "export the model again").get("weights", "")
    config.name_or_path = str(name)
    refuse_device(name, device)
    return ExportedModel(config, open_engine(path, engine, precision))


def refuse_device(name: str | os.PathLike, device: str):
    """Raises an AvbError if an export is to run on any device but the CPU."""
    if device not in ("auto", "cpu"):
        raise AvbError(f"{name}: an exported model runs on the CPU; leave device={device!r} out, or give 'cpu'")


def open_engine(path: str | os.PathLike, backend: str, precision: str) -> Run:
    """Returns a function that maps waveforms and their mask, (batch, samples) each, to the logits of `model.onnx`.

    Raises:
        AvbError: `backend` or `precision` is unknown, its package is not installed, or the file cannot be read.
    """
    check_precision(backend, precision)
    engine = import_package(ENGINES[backend], backend)
    try:
        return _OPEN[backend](engine, Path(path), precision)
    except Exception as error:  # each engine has its own error types, with only this in common
        raise AvbError(f"{path}: cannot be read ({str(error).splitlines()[0]}); export the model again") from error


def check_precision(backend: str, precision: str):
    """Raises an AvbError if the engine does not support this precision."""
    if backend not in PRECISIONS or precision not in PRECISIONS[backend]:
        legal = ", ".join(f"{precision} with {name}" for name, legal in PRECISIONS.items() for precision in legal)
        raise AvbError(f"precision {precision!r} with backend {backend!r} is not supported; use one of {legal}")


def import_package(package: str, extra: str):
    """Imports a package of one of the project's extras.

    Raises:
        AvbError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise AvbError(f'{package}, which exported models need, is missing: pip install "avb[{extra}]"') from error


def _open_onnxruntime(onnxruntime, path: Path, precision: str):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda waveforms, mask: session.run(None, {"input_values": waveforms, "attention_mask": mask})[0]


def _open_openvino(openvino, path: Path, precision: str):
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # On a CPU without bf16 the engine computes in fp32, which is slower, but not less exact.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    lock = Lock()  # its inference request has the tensors of one call

    def run(waveforms: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with lock:
            return np.array(compiled({"input_values": waveforms, "attention_mask": mask})[0])

    return run


_OPEN = {"onnx": _open_onnxruntime, "openvino": _open_openvino}
