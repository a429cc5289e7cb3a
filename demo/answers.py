"""Scores of one or many recordings, and their table; independent of Gradio.

A recording that fits into the window is scored as one clip, with the numbers of `VocalBurstPipeline`. A longer one is
scored window by window and represented by the mean over windows.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile as sf

import avb
from audio_avb import SAMPLING_RATE
from avb.errors import AudioError, AvbError
from avb.events.detection import MARGIN_SECONDS
from calibration_avb import RATES
from pipeline_avb import VocalBurstPipeline, read_audio

FALSE_ALARMS_PER_HOUR = RATES[-1]  # few bursts are to be marked "probably not a burst"
HOP_SHARE = 0.5  # of a window, from one window's start to the next one's
COLUMNS = ("file", "seconds", "error")  # of the table, before those of the labels


@dataclass(frozen=True)
class Event:
    """A vocal burst of a recording.

    Args:
        start: seconds.
        end: seconds.
        label: with the highest score.
        score: of the label.
        wav: its sound, as a file's bytes.
    """

    start: float
    end: float
    label: str
    score: float
    wav: bytes


@dataclass(frozen=True)
class Answer:
    """The scores of one recording by one model.

    Args:
        labels: in the order of the model's task.
        scores: (windows, labels), float32.
        spans: start and end of each window, seconds.
        score_range: lowest and highest score the model can give.
        is_classifier: scores are probabilities of classes, and sum to 1 over labels.
        events: of a recording that is longer than a window; None of one that is not.
        is_burst: of one window, where the model's calibration tells bursts from other sounds; else None.
    """

    labels: tuple[str, ...]
    scores: np.ndarray
    spans: tuple[tuple[float, float], ...]
    score_range: tuple[float, float]
    is_classifier: bool
    events: tuple[Event, ...] | None = None
    is_burst: bool | None = None

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


def score_recording(
    pipe: VocalBurstPipeline, path: str | Path, window_seconds: float, max_seconds: float, with_events: bool = False
) -> Answer:
    """One file's scores.

    Args:
        pipe: the model.
        path: of an audio file.
        window_seconds: a longer recording is cut into windows of this length, half a window apart.
        max_seconds: longest recording that is accepted.
        with_events: find the events of one that is longer than a window.

    Raises:
        AudioError: it cannot be read or used; the message has the file's name, and not where the server keeps it.
    """
    path = Path(path)
    recording = {"bytes": path.read_bytes(), "path": path.name}
    can_reject = pipe.calibration is not None and pipe.calibration.burst is not None
    windows = pipe(
        dict(recording),
        window_seconds=window_seconds,
        hop_seconds=window_seconds * HOP_SHARE,
        max_seconds=max_seconds,
        **({"false_alarms_per_hour": FALSE_ALARMS_PER_HOUR} if can_reject else {}),
    )
    is_whole = len(windows) == 1
    config = pipe.model.config
    is_classifier = config.problem_type != "regression"
    return Answer(
        labels=label_names(pipe),
        scores=np.array([[entry["score"] for entry in window["scores"]] for window in windows], np.float32),
        spans=tuple((window["start"], window["end"]) for window in windows),
        score_range=(0.0, 1.0) if is_classifier else tuple(config.label_range),
        is_classifier=is_classifier,
        events=tuple(find_events(pipe, recording)) if with_events and not is_whole else None,
        is_burst=windows[0]["scores"][0]["is_burst"] if can_reject and is_whole else None,
    )


def find_events(pipe: VocalBurstPipeline, recording: dict) -> Iterator[Event]:
    """The events of a recording, {"bytes": ..., "path": name}, in their order."""
    found = avb.find(dict(recording), pipe)
    waveform = read_audio(dict(recording), SAMPLING_RATE, float("inf")) if len(found) else None
    for row in found.to_dict("records"):
        scores = {label: row[label] for label in label_names(pipe)}
        label = max(scores, key=scores.__getitem__)
        first, last = (
            round(max(0.0, at) * SAMPLING_RATE) for at in (row["start"] - MARGIN_SECONDS, row["end"] + MARGIN_SECONDS)
        )
        wav = io.BytesIO()
        sf.write(wav, waveform[first:last], SAMPLING_RATE, format="WAV")
        yield Event(row["start"], row["end"], label, scores[label], wav.getvalue())


def score_recordings(
    pipe: VocalBurstPipeline, paths: list[str], window_seconds: float, max_seconds: float
) -> Iterator[tuple[str, Answer | AudioError]]:
    """Each file's name with its answer, or with the error if it cannot be read; in the order given."""
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
