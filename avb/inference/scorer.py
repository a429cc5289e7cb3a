"""A model and the settings with which it is run: one object for tables of scores and for shards, on any machine."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from audio_avb import MAX_SECONDS
from avb.errors import AudioError
from avb.inference.calibrated import Calibrated
from avb.inference.clips import Clip, Clips
from avb.inference.load import load_model
from avb.inference.score import (
    in_order,
    model_key,
    score_as_computed,
    score_columns,
    score_row,
    settings_key,
)


def is_unreadable(row: dict) -> bool:
    """Whether a row of `Scorer.rows` has an error instead of scores; for a label called `error`, it is a number."""
    return isinstance(row.get("error"), str)


@dataclass
class Scorer:
    """A model with the settings for scoring clips; `load` creates one.

    Attributes:
        model, feature_extractor: see `avb.inference.load.load_model`.
        batch_seconds, num_workers, max_seconds, views: see `avb.inference.score.score_as_computed`.
        calibrated: calibrates the model's scores; None does not change them.
    """

    model: Any
    feature_extractor: Any
    batch_seconds: float | None = None
    num_workers: int | None = None
    max_seconds: float = MAX_SECONDS
    calibrated: Calibrated | None = None
    views: int = 1

    @classmethod
    def load(
        cls,
        name: str,
        device: str = "auto",
        dtype: str = "float32",
        batch_seconds: float | None = None,
        num_workers: int | None = None,
        max_seconds: float = MAX_SECONDS,
        coverage: float | None = None,
        false_alarms_per_hour: float | None = None,
        views: int = 1,
    ) -> "Scorer":
        """Arguments and errors are those of `load_model`, `score_as_computed` and `Calibrated.of`."""
        # oneDNN caches primitives for 1,024 input shapes, but clips rarely have the same shape twice: this wastes a few
        # hundred MB over time. The limit is read at the first use.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
        model, feature_extractor = load_model(name, device, dtype)
        calibrated = Calibrated.of(name, model, coverage, false_alarms_per_hour)
        return cls(model, feature_extractor, batch_seconds, num_workers, max_seconds, calibrated, views)

    @property
    def config(self):
        return self.model.config

    @cached_property
    def key(self) -> str:
        """What scores depend on besides the clips."""
        calibrated = self.calibrated.key if self.calibrated else ""
        return model_key(self.model, self.feature_extractor) + settings_key(self.max_seconds, self.views) + calibrated

    @property
    def columns(self) -> dict[str, type]:
        """The columns of `rows` after `id`, and their content: text or numbers."""
        return score_columns(self.config) | (self.calibrated.columns() if self.calibrated else {})

    def rows(self, clips: Clips) -> Iterator[dict]:
        """Yields each clip's `id` with its scores, or with the `error` that made it unreadable, in the given order."""
        return in_order(self.numbered_rows(enumerate(clips.clips())))

    def numbered_rows(self, clips: Iterable[tuple[int, Clip]], strict: bool = False) -> Iterator[tuple[int, dict]]:
        """Yields the number and the row of each clip (see `rows`) as they are computed, not quite in order.

        Raises:
            AudioError: `strict`, and a clip cannot be read.
        """
        settings = (self.batch_seconds, self.num_workers, self.max_seconds, self.views)
        for number, clip, scores in score_as_computed(self.model, self.feature_extractor, clips, *settings):
            if isinstance(scores, AudioError):
                if strict:
                    raise scores
                yield number, {"id": clip.id, "error": str(scores)}
            else:
                yield number, {"id": clip.id, **self.row(scores)}

    def row(self, scores: np.ndarray) -> dict:
        """The columns for one clip's uncalibrated scores (labels,)."""
        if self.calibrated is None:
            return score_row(scores, self.config)
        about_burst = self.calibrated.burst_row(scores)
        scores = self.calibrated.scores(scores)
        return score_row(scores, self.config) | about_burst | self.calibrated.row(scores)
