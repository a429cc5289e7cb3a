"""The engines that run an export, and their precisions: only names, so that a command's help loads no engine."""

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}  # backend, which is also the extra's name → its package
PRECISIONS = {"onnx": ("fp32", "fp16", "int8"), "openvino": ("fp32", "fp16", "bf16")}
# Of scores, in [0, 1] for the regression tasks. In bf16, a small model differs by .011 on a processor with AVX-512 and
# without AMX, where OpenVINO rounds more often.
TOLERANCES = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.01, "bf16": 0.02}
