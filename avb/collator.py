"""Collates rows of decoded clips into one padded batch."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import BatchFeature, Wav2Vec2FeatureExtractor

from feature_extraction_avb import VocalBurstFeatureExtractor


class BurstCollator:
    """Normalises and pads waveforms, which were trimmed and levelled when decoded, and builds the attention mask.

    Unusual: the result is that of the feature extractor, to the bit, but its call would copy every clip six times. Here
    samples go from the memory-mapped file to the batch in one copy.

    Args:
        feature_extractor: the model's.
        lengths: to which batches are padded, ascending, in samples; without them, each is padded to its longest clip.
    """

    def __init__(self, feature_extractor: VocalBurstFeatureExtractor, lengths: Sequence[int] = ()):
        self.feature_extractor, self.lengths = feature_extractor, lengths

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """Rows with `input_values` (samples,) and optionally `labels` → `input_values`, `attention_mask`, `labels`."""
        clips = [np.asarray(row["input_values"], dtype=np.float32) for row in rows]
        if isinstance(self.feature_extractor, Wav2Vec2FeatureExtractor):
            batch = self._pad(clips, padded_length(max(map(len, clips)), self.lengths))
        else:  # it computes features
            settings = {"sampling_rate": self.feature_extractor.sampling_rate, "prepared": True}
            batch = self.feature_extractor(clips, return_tensors="pt", **settings)
        return BatchFeature({**batch, **collate_labels(rows)})

    def _pad(self, clips: list[np.ndarray], width: int) -> dict[str, torch.Tensor]:
        """Waveforms (batch, width) and their mask, int32."""
        extractor = self.feature_extractor
        waveforms = torch.full((len(clips), width), float(extractor.padding_value))
        for row, clip in zip(waveforms.numpy(), clips, strict=True):
            row[: len(clip)] = extractor.zero_mean_unit_var_norm([clip], None)[0] if extractor.do_normalize else clip
        counts = torch.tensor([*map(len, clips)])
        return {"input_values": waveforms, "attention_mask": (torch.arange(width) < counts[:, None]).int()}


def padded_length(longest: int, lengths: Sequence[int]) -> int:
    """The first of `lengths` (ascending) that a batch fits into. A longer batch is padded to a multiple of an eighth of
    the last length, so that these lengths are few too. Without lengths, the length of the batch.
    """
    if not lengths:
        return longest
    if longest <= lengths[-1]:
        return lengths[bisect_left(lengths, longest)]
    step = -(-lengths[-1] // 8)
    return lengths[-1] + -(-(longest - lengths[-1]) // step) * step


def collate_labels(rows: list[dict]) -> dict[str, torch.Tensor]:
    """The `labels` of rows, if they have any: (batch, labels) float32 for scores, (batch,) int64 for classes.

    Also `folds` (batch, teachers) int64, if teachers need them (`avb.training.distillation.with_folds`).
    """
    if "labels" not in rows[0]:
        return {}
    labels = np.stack([np.asarray(row["labels"]) for row in rows])
    batch = {"labels": torch.from_numpy(labels.astype(np.float32 if labels.ndim == 2 else np.int64))}
    if "folds" in rows[0]:
        batch["folds"] = torch.tensor([list(row["folds"]) for row in rows])
    return batch


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Batches of indices of clips of similar length, each at most `budget` long including padding (or a single clip).

    Memory is bounded by the longest clip, and little work is spent on padding.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batch: list[int] = []
    for index in order:
        if batch and lengths[index] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
