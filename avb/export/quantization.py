"""Quantises matrix products of an ONNX graph to int8, with one scale per weight column and one per input row.

ONNX Runtime's own dynamic quantisation uses one scale for a whole batch, including padding, so the prediction for a
clip would depend on its batch. Here each frame has its own scale, which is also closer to fp32, because outlier frames
affect only themselves. The kernel is the same, `MatMulIntegerToFloat` of com.microsoft.
"""

from pathlib import Path

import numpy as np

# What reads the waveform or predicts from frames: little work, but the most precision to lose.
KEPT_IN_FP32 = ("/convs.0/", "/head/", "/attention/")
_ZERO_POINT = 128  # of inputs, which are stored as uint8: the kernel for signed ones is slower
# Weights are -64 to 64. On CPUs without VNNI that kernel adds two products in 16 bits, which 255 × 127 × 2 overflows,
# unnoticed: with 127, scores of emogator-small differed by .018 from fp32, with 64 by .006.
_TOP_WEIGHT = 64


def quantize_products(source: Path, target: Path) -> int:
    """Writes the graph with products by constant weights in int8, except `KEPT_IN_FP32`; returns their number.

    An input row x becomes round(x / s) with s = max|x| / 127, and a weight column likewise, with 64; sums are int32.

    Args:
        source: a traced `InferenceGraph`.
        target: the file to write.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants = {
        "int8_one": np.float32(1),
        "int8_zero_point": np.uint8(_ZERO_POINT),
        "int8_top": np.float32(127),
        "int8_least": np.float32(1e-30),  # so that a row of zeros has a scale, too
        "int8_columns": np.array([1], np.int64),
        "int8_first": np.array([0], np.int64),
        "int8_last": np.array([-1], np.int64),
    }
    nodes, quantized_inputs, replaced = [], {}, set()
    count = 0
    for node in graph.node:
        is_product = node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2
        if not is_product or node.name.startswith(KEPT_IN_FP32):
            nodes.append(node)
            continue
        frames, name = node.input
        weight = numpy_helper.to_array(weights[name])  # (in, out)
        if frames not in quantized_inputs:
            added, constants[f"{frames}_rows"] = _quantize_rows(frames), np.array([-1, len(weight)], np.int64)
            nodes += added
            quantized_inputs[frames] = True
        if name not in replaced:
            scale = np.maximum(np.abs(weight).max(0) / _TOP_WEIGHT, 1e-30).astype(np.float32)  # (out,)
            constants[f"{name}_int8"] = np.round(weight / scale).astype(np.int8)
            constants[f"{name}_scale"] = scale
            replaced.add(name)
        constants[f"{node.output[0]}_width"] = np.array([weight.shape[1]], np.int64)
        nodes += _multiply(frames, name, node.output[0])
        count += 1
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, target)
    return count


def _quantize_rows(name: str) -> list:
    """Nodes: (..., in) floats → `NAME_int8` (rows, in) and `NAME_scale` (rows, 1)."""
    from onnx.helper import make_node

    def at(suffix):
        return f"{name}_{suffix}"

    return [
        make_node("Reshape", [name, at("rows")], [at("flat")]),
        make_node("Abs", [at("flat")], [at("abs")]),
        make_node("ReduceMax", [at("abs")], [at("max")], axes=[1], keepdims=0),  # (rows,)
        make_node("Max", [at("max"), "int8_least"], [at("positive")]),
        make_node("Div", [at("positive"), "int8_top"], [at("row_scale")]),
        make_node("Shape", [at("row_scale")], [at("count")]),
        make_node("Expand", ["int8_zero_point", at("count")], [at("zero_points")]),
        make_node("QuantizeLinear", [at("flat"), at("row_scale"), at("zero_points")], [at("int8")], axis=0),
        make_node("Unsqueeze", [at("row_scale"), "int8_columns"], [at("scale")]),
        make_node("Shape", [name], [at("shape")]),
        make_node("Slice", [at("shape"), "int8_first", "int8_last"], [at("leading")]),
    ]


def _multiply(name: str, weight: str, output: str) -> list:
    """Nodes: a quantised input by quantised weights → `output` (..., out) floats."""
    from onnx.helper import make_node

    operands = [f"{name}_int8", f"{weight}_int8", "int8_one", f"{weight}_scale", "int8_zero_point"]
    return [
        make_node("MatMulIntegerToFloat", operands, [f"{output}_unscaled"], domain="com.microsoft"),
        make_node("Mul", [f"{output}_unscaled", f"{name}_scale"], [f"{output}_flat"]),
        make_node("Concat", [f"{name}_leading", f"{output}_width"], [f"{output}_shape"], axis=0),
        make_node("Reshape", [f"{output}_flat", f"{output}_shape"], [output]),
    ]
