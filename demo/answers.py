"""What models say of recordings: one recording, many recordings, and their table. Nothing of Gradio in here.

A recording no longer than the window is scored as one clip, with the numbers of `VocalBurstPipeline`; a longer one is
scored window by window, and its mean over windows stands for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import avb
from avb.errors import AudioError, AvbError
from pipeline_avb import VocalBurstPipeline

HOP_SHARE = 0.5  # of a window, from one window's start to the next one's
COLUMNS = ("file", "seconds", "error")  # of the table, before those of the labels


@dataclass(frozen=True)
class Answer:
    """The scores of one recording by one model.

    Args:
        labels: in the order of the model's task.
        scores: (windows, labels), float32.
        spans: start and end of each window, seconds.
        score_range: lowest and highest score the model can give.
        is_classifier: scores are probabilities of classes, and sum to 1 over labels.
    """

    labels: tuple[str, ...]
    scores: np.ndarray
    spans: tuple[tuple[float, float], ...]
    score_range: tuple[float, float]
    is_classifier: bool

    @property
    def mean(self) -> np.ndarray:
        """Scores averaged over windows, (labels,)."""
        return self.scores.mean(axis=0)

    @property
    def seconds(self) -> float:
        """Length of the recording, seconds."""
        return self.spans[-1][1]

    @property
    def prediction(self) -> str:
        """Label with the highest score."""
        return self.labels[int(self.mean.argmax())]


def load_models(names: list[str]) -> dict[str, VocalBurstPipeline]:
    """Pipelines on the CPU, by the names they are shown under: a folder's last part where that is unique.

    Raises:
        AvbError: there is no such model, or no model is named at all.
    """
    if not names:
        raise AvbError("no model to show: name folders or models on the Hub with --models, or in AVB_DEMO_MODELS")
    names = list(dict.fromkeys(str(Path(name)) if Path(name).is_dir() else name for name in names))
    shown = [Path(name).resolve().name if Path(name).is_dir() else name for name in names]
    shown = [short if shown.count(short) == 1 else name for short, name in zip(shown, names, strict=True)]
    return {short: avb.load(name, device="cpu") for short, name in zip(shown, names, strict=True)}


def label_names(pipe: VocalBurstPipeline) -> tuple[str, ...]:
    """The model's labels in the order of its task."""
    config = pipe.model.config
    return tuple(config.id2label[index] for index in range(config.num_labels))


def score_recording(pipe: VocalBurstPipeline, path: str | Path, window_seconds: float, max_seconds: float) -> Answer:
    """One file's scores.

    Args:
        path: of an audio file.
        window_seconds: a longer recording is cut into windows of this length, half a window apart.
        max_seconds: longest recording that is accepted.

    Raises:
        AudioError: it cannot be read or used; the message has the file's name, and not where the server keeps it.
    """
    path = Path(path)
    windows = pipe(
        {"bytes": path.read_bytes(), "path": path.name},
        window_seconds=window_seconds,
        hop_seconds=window_seconds * HOP_SHARE,
        max_seconds=max_seconds,
    )
    config = pipe.model.config
    is_classifier = config.problem_type != "regression"
    return Answer(
        labels=label_names(pipe),
        scores=np.array([[entry["score"] for entry in window["scores"]] for window in windows], np.float32),
        spans=tuple((window["start"], window["end"]) for window in windows),
        score_range=(0.0, 1.0) if is_classifier else tuple(config.label_range),
        is_classifier=is_classifier,
    )


def score_recordings(
    pipe: VocalBurstPipeline, paths: list[str], window_seconds: float, max_seconds: float
) -> Iterator[tuple[str, Answer | AudioError]]:
    """Each file's name with its answer, or with the error that kept it from being read; in the order given."""
    for path in paths:
        try:
            yield Path(path).name, score_recording(pipe, path, window_seconds, max_seconds)
        except AudioError as error:
            yield Path(path).name, error


def table(pipe: VocalBurstPipeline, results: list[tuple[str, Answer | AudioError]]) -> pd.DataFrame:
    """One row per file: name, seconds, error, a classifier's class and its probability, every label's mean score.

    A file that could not be read keeps its row, with the error and without scores.
    """
    own = ["prediction", "confidence"] if pipe.model.config.problem_type != "regression" else []
    labels = label_names(pipe)
    rows = []
    for name, answer in results:
        if isinstance(answer, AudioError):
            rows.append([name, None, str(answer), *[None] * len([*own, *labels])])
            continue
        scores = [round(float(score), 6) for score in answer.mean]
        predicted = [answer.prediction, max(scores)] if own else []
        rows.append([name, round(answer.seconds, 3), None, *predicted, *scores])
    return pd.DataFrame(rows, columns=[*COLUMNS, *own, *labels])


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """The table as a CSV file, whole or not there at all."""
    temporary = path.with_name(path.name + ".tmp")
    frame.to_csv(temporary, index=False, lineterminator="\n")
    return temporary.replace(path)


def with_progress(results: Iterator, total: int, report: Callable[[tuple[int, int]], None]) -> list:
    """All results, `report((done, total))` being called after each."""
    done = []
    for result in results:
        done.append(result)
        report((len(done), total))
    return done
