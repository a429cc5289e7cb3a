"""A trained model as ONNX Runtime and OpenVINO run it, once it is shown to predict the same."""

from avb.export.exporting import export_model

__all__ = ["export_model"]
