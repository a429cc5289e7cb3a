"""Exports a trained model for ONNX Runtime and OpenVINO, and checks that its predictions are the same.

`avb.export.exporting.export_model` writes one graph, `avb.export.hub.export_hub` the layout of the Hub.
"""


def __getattr__(name: str):
    """Loads `export_model` and `export_hub` on demand, because the command's help needs no torch."""
    if name == "export_model":
        from avb.export.exporting import export_model

        return export_model
    if name == "export_hub":
        from avb.export.hub import export_hub

        return export_hub
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
