"""Stores weights with fewer bits than the computation uses: arithmetic remains fp32, so any engine can run the file.

`store_half` writes fp16 weights, which ONNX Runtime converts to fp32 when it opens the file: half the size, the same
speed, scores within about 1e-4. `store_int8` does the same for convolutions, in int8 with a scale per output channel.
Unusual: activations are not rounded, so nothing can overflow, and the score of a clip does not depend on its batch.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

SMALLEST = 1024  # minimum number of values for a weight to be converted
KEPT_IN_FP32 = ("/spectrum/", "/convs.0/", "/head/", "/attention/")  # nodes that read the waveform or predict


def store_half(source: Path, target: Path) -> int:
    """Writes an ONNX graph with its large weights in fp16; returns their number."""

    return _replace_weights(source, target, ("Conv", "MatMul", "Gemm", "LSTM"), _halve)


def store_exact_halves(path: Path) -> int:
    """Converts the large weights of an ONNX graph that fp16 represents exactly to fp16; returns their number.

    A model that was saved in fp16 gives the same numbers at about half the size.
    """

    def narrow(name: str, weight: np.ndarray):
        is_exact = np.array_equal(weight.astype(np.float16).astype(np.float32), weight)
        return _halve(name, weight) if is_exact else None

    return _replace_weights(path, path, ("Conv", "MatMul"), narrow)


def _halve(name: str, weight: np.ndarray):
    from onnx import TensorProto
    from onnx.helper import make_node

    half = f"{name}_half"
    return {half: weight.astype(np.float16)}, [make_node("Cast", [half], [name], to=TensorProto.FLOAT)]


def store_int8(source: Path, target: Path) -> int:
    """Writes an ONNX graph with the weights of its convolutions in int8; returns their number."""

    def narrow(name: str, weight: np.ndarray):
        from onnx.helper import make_node

        scale = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1) / 127, 1e-30).astype(np.float32)  # (out,)
        rounded = np.round(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        return {f"{name}_int8": rounded, f"{name}_scale": scale}, [
            make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=0)
        ]

    return _replace_weights(source, target, ("Conv",), narrow)


def _replace_weights(source: Path, target: Path, operators: Iterable[str], narrow: Callable) -> int:
    """Replaces large weights of these operators by what `narrow` returns: initializers and nodes, or None."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    graph = model.graph
    # Weights are all inputs except the first, which is the data.
    weights = {
        name for node in graph.node if node.op_type in operators and not node.name.startswith(KEPT_IN_FP32)
        for name in node.input[1:]
    }  # fmt: skip
    initializers, nodes, count = [], [], 0
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        is_large = tensor.name in weights and array.dtype == np.float32 and array.size >= SMALLEST
        replaced = narrow(tensor.name, array) if is_large else None
        if replaced is None:
            initializers.append(tensor)
            continue
        made, added = replaced
        initializers += [numpy_helper.from_array(value, name) for name, value in made.items()]
        nodes += added
        count += 1
    nodes += graph.node
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    onnx.save(model, target)
    return count
