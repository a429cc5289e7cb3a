"""Rows of decoded clips → one padded batch."""

import numpy as np
import torch
from transformers import BatchFeature, Wav2Vec2FeatureExtractor


class BurstCollator:
    """Pads waveforms on the right, normalises them as the feature extractor says, and builds the mask.

    A mask is built for every encoder, the group-norm ones included, whose stock feature extractors leave it out: the
    model needs it to keep a clip's prediction independent of its batch.
    """

    def __init__(self, feature_extractor: Wav2Vec2FeatureExtractor):
        self.feature_extractor = feature_extractor

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """Rows with `input_values` (samples,) and perhaps `labels` → `input_values`, `attention_mask`, `labels`."""
        batch = self.feature_extractor(
            [np.asarray(row["input_values"], dtype=np.float32) for row in rows],
            sampling_rate=self.feature_extractor.sampling_rate,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        if "labels" in rows[0]:
            # (batch, labels) float32 for scores, (batch,) int64 for classes
            labels = np.stack([np.asarray(row["labels"]) for row in rows])
            batch["labels"] = torch.from_numpy(labels.astype(np.float32 if labels.ndim == 2 else np.int64))
        return batch
