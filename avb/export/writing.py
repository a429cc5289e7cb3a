"""Writes a model to an ONNX file, at the requested precision."""

import warnings
from pathlib import Path

import torch
from torch import nn

from avb.baselines.log_mel import LogMelModel
from avb.errors import AvbError
from avb.export.graph import InferenceGraph
from avb.export.quantization import quantize_products
from avb.export.spectral_graph import SpectralGraph
from avb.export.weight_storage import store_half, store_int8
from modeling_avb import VocalBurstModel

OPSET = 17  # the first with LayerNormalization
TRACED_SAMPLES = 3200  # per clip used for tracing
GRAPHS: dict[type, type[nn.Module]] = {
    VocalBurstModel: InferenceGraph,  # any kind of encoder
    LogMelModel: SpectralGraph,  # any network on log-mel spectrograms
}
# Conversion of the traced file, by graph and precision; other combinations are written as traced.
NARROW = {
    (InferenceGraph, "int8"): quantize_products,
    (SpectralGraph, "int8"): store_int8,
    (InferenceGraph, "fp16"): store_half,
    (SpectralGraph, "fp16"): store_half,
}


def refuse_unexportable(name: str, model):
    """Raises an AvbError if there is no graph for a model of this class."""
    if not isinstance(model, tuple(GRAPHS)):
        legal = ", ".join(found.__name__ for found in GRAPHS)
        raise AvbError(f"{name}: this is a {type(model).__name__}, and only these can be exported: {legal}")


def graph_class(model) -> type[nn.Module]:
    """The class of the graph used to export a model."""
    return next(graph for found, graph in GRAPHS.items() if isinstance(model, found))


def write_graph(model, path: Path, precision: str):
    """Writes the model as an ONNX file; for bf16, the engine does the rounding."""
    narrow = NARROW.get((graph_class(model), precision))
    traced = path.with_suffix(".fp32.onnx") if narrow else path
    trace_graph(model, traced)
    if narrow:
        narrow(traced, path)
        traced.unlink()


def narrow_graph(model, traced: Path, path: Path, precision: str):
    """Converts a file written by `trace_graph` to fp16 or int8."""
    NARROW[graph_class(model), precision](traced, path)


def trace_graph(model, path: Path):
    """Writes the model as an ONNX file in fp32, traced with two clips."""
    mask = torch.ones(2, TRACED_SAMPLES, dtype=torch.long)
    mask[1, TRACED_SAMPLES // 2 :] = 0
    batch, time = {0: "batch"}, {1: "samples"}
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns about every branch on a configuration, and that the exporter is deprecated. A real error of a
        # trace, a constant that depends on the clip, is found by the comparison.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph_class(model)(model).eval(),
            (torch.zeros(2, TRACED_SAMPLES), mask),
            path,
            dynamo=False,  # the exporter based on torch.export does not support an LSTM over variable lengths
            opset_version=OPSET,
            input_names=["input_values", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_values": batch | time, "attention_mask": batch | time, "logits": batch},
        )
