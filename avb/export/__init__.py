"""A trained model as ONNX Runtime and OpenVINO run it, once it is shown to predict the same."""

from avb.export.exporting import export_model
from avb.export.hub import export_hub

__all__ = ["export_hub", "export_model"]
