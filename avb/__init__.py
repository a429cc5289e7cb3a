"""avb: emotion in vocal bursts.

    import avb
    avb.load("runs/sample")("laugh.wav")  # [{"label": "Awe", "score": 0.31}, ...]
    avb.find("interview.wav")  # DataFrame: start, end, detection, one column per emotion
    avb.plot("interview.wav", "interview.png")  # its scores over time and its events
    run = avb.train("clips.csv", encoder="emogator-small", output_dir="runs/mine")
    avb.embed(["laugh.wav"])  # float32 (clips, hidden)

Importing it registers the model, its feature extractor and `VocalBurstPipeline` with Transformers (see
`avb.registration`). It loads neither torch nor Transformers: the functions below import them when they are called.
"""

from typing import TYPE_CHECKING

from avb.registration import register_when_loaded

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from avb.api import TrainedRun
    from avb.errors import AudioError as AudioError
    from avb.errors import AvbError as AvbError
    from avb.events.pipeline import RecordingPipeline
    from pipeline_avb import VocalBurstPipeline

__version__ = "0.1.0"

register_when_loaded()


def load(
    name: str, device: str = "auto", engine: str | None = None, precision: str | None = None, **settings
) -> "RecordingPipeline":
    """Loads a trained model as a pipeline, from a folder or the Hub; runs this project's code, never the repository's.

    Args:
        name: a folder written by train_avb.py or avb.export, a model shipped with the project (`emogator-small`), or a
            model on the Hub.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        engine: `torch`; or `onnx` or `openvino`, for a folder with `onnx/` (`python -m avb.export MODEL MODEL --hub`).
            None means torch if there are safetensors.
        precision: for `onnx` and `openvino`: `fp32` (None), `fp16` or `int8`.
        settings: default arguments of calls, see `VocalBurstPipeline`: `top_k`, `window_seconds`, `batch_size`, …

    Raises:
        AvbError: there is no such model, its files are damaged or do not fit together, or it has no trained head.
    """
    from avb.events import pipeline

    return pipeline.load(name, device, engine, precision, **settings)


def find(recording, model: "str | VocalBurstPipeline" = "emogator-small", **settings) -> "pd.DataFrame":
    """Finds the vocal bursts of a recording and scores their emotions: see `avb.events.finding.find`."""
    from avb.events import finding

    return finding.find(recording, model, **settings)


def plot(recording, output=None, model: "str | VocalBurstPipeline" = "emogator-small", **settings) -> "Figure":
    """Draws a recording: its events, its level, and its scores over time. Needs matplotlib, the extra `report`.

    Args:
        recording: a path, bytes, (array, rate), or whatever else a pipeline accepts; any length.
        output: a .png or .svg file to write; None only returns the figure, which a notebook shows.
        model: an emotion model: anything that `avb.load` accepts, or its result.
        settings: `window_seconds`, `hop_seconds`, `labels`, `detector`, `threshold`, `device`, see
            `avb.events.timeline.make_timeline`.

    Returns:
        The matplotlib figure.

    Raises:
        AudioError: the recording cannot be read.
        AvbError: matplotlib is missing, an argument is invalid, or the picture cannot be written.
    """
    try:
        from avb.reports import timeline
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("jinja2", "matplotlib"):
            raise
        from avb.errors import AvbError

        raise AvbError(f'a picture needs {error.name}: pip install "avb[report]"') from error
    return timeline.plot(recording, output, model=model, **settings)


def train(data, *, recipe: str | list[str] | None = None, **arguments) -> "TrainedRun":
    """Trains, scores and saves a model; the keywords are arguments of `train_avb.py`: see `avb.api.train`."""
    from avb import api

    return api.train(data, recipe=recipe, **arguments)


def embed(clips, model: str = "emogator-small", **settings):
    """Clips as vectors of a model's encoder, float32 (clips, hidden): see `avb.inference.embedding.embed`."""
    from avb.inference import embedding

    return embedding.embed(clips, model, **settings)


def __getattr__(name: str):
    """Loads `avb.BurstTrainer`, `avb.AvbTrainingArguments`, `avb.AvbError` and `avb.AudioError` on first access."""
    if name in ("AvbError", "AudioError"):
        from avb import errors

        return getattr(errors, name)
    if name == "BurstTrainer":
        from avb.training.trainer import BurstTrainer

        return BurstTrainer
    if name == "AvbTrainingArguments":
        from avb.arguments import AvbTrainingArguments
        from avb.registration import register_now

        register_now()
        return AvbTrainingArguments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
