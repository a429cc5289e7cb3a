"""Exports a detector to ONNX: `input_values` (batch, samples) → `logits` (batch, frames, 1), any length and batch size.

FILE.json, written beside FILE.onnx, has the parameters that turn logits into events: `decoding_rule` of detection.py.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from avb.errors import AvbError
from avb.events.detection import decoding_rule
from avb.files import make_folder, write_json
from modeling_events_avb import SAMPLING_RATE, BurstEventsModel

OPSET = 17
TOLERANCE = 1e-3  # of logits
CHECK_SECONDS = (1.0, 3.37)


class _Logits(nn.Module):
    def __init__(self, model: BurstEventsModel):
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values).logits


def export(model: BurstEventsModel, output: str | Path) -> Path:
    """Writes a detector in evaluation mode, and compares it with the original on noise of two lengths.

    Raises:
        AvbError: the package onnx or onnxruntime is missing, or the logits differ by more than `TOLERANCE`.
    """
    try:
        import onnx  # noqa: F401  # torch needs it to write
        import onnxruntime
    except ImportError as error:
        raise AvbError(f'{error.name}, which exports need, is missing: pip install "avb[onnx]"') from error
    output = Path(output)
    make_folder(output.parent)
    axes = {"input_values": {0: "batch", 1: "samples"}, "logits": {0: "batch", 1: "frames"}}
    with warnings.catch_warnings():  # the tracer warns that it is the older of two exporters
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model).eval(), (torch.zeros(1, SAMPLING_RATE),), str(output), input_names=["input_values"],
            output_names=["logits"], dynamic_axes=axes, opset_version=OPSET, dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # keeps batch norms separate, with the model's own weights
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for seconds in CHECK_SECONDS:
        waveforms = rng.standard_normal((2, int(seconds * SAMPLING_RATE))).astype(np.float32) * 0.1
        (found,) = session.run(None, {"input_values": waveforms})
        with torch.inference_mode():
            expected = model(torch.from_numpy(waveforms)).logits.numpy()
        difference = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
        if not difference <= TOLERANCE:
            raise AvbError(f"{output}: its logits differ by {difference:.3g} from the original's; do not use it")
    write_json(output.with_suffix(".json"), decoding_rule(model))
    return output
