"""Measures how far an exported model differs from the original torch model, on the same clips, alone and padded.

Very short clips are always included, because engines fail there: OpenVINO 2026.4 in bf16 is off by 40 % in a grouped
convolution of 16 taps over fewer than 8 frames, but correct for longer clips.
"""

from dataclasses import dataclass

import numpy as np
import torch

from avb.collator import BurstCollator
from avb.inference.engines import ExportedModel
from pipeline_avb import scores_from_logits

BATCH = 8  # clips that are padded together, in the order given
BURST_SECONDS = (0.025, 6.0, 0.05, 3.0, 0.1, 0.2, 2.0, 0.4, 1.0, 0.7, 1.5)


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference of one clip's scores."""

    clip: str
    seconds: float
    alone: float
    padded: float  # both models given the clip in the same batch

    @property
    def largest(self) -> float:
        return float(np.max([self.alone, self.padded]))  # NaN if either is

    @property
    def worse(self) -> str:
        return "alone" if self.alone >= self.padded else "in a padded batch"

    @property
    def sort_key(self) -> float:
        return np.inf if np.isnan(self.largest) else self.largest

    def row(self) -> dict:
        return {"clip": self.clip, "seconds": self.seconds, "alone": self.alone, "padded": self.padded}


def compare(model, exported: ExportedModel, feature_extractor, bursts: dict[str, np.ndarray]) -> list[Difference]:
    """The differences on each clip.

    Args:
        model: in evaluation mode, on the CPU.
        exported: its export.
        feature_extractor: of both.
        bursts: prepared waveforms (samples,) at the feature extractor's rate, by name.
    """
    waveforms = list(bursts.values())
    expected, found = (score_alone_and_padded(each, feature_extractor, waveforms) for each in (model, exported))
    return differences(expected, found, feature_extractor.sampling_rate, bursts)


def differences(
    expected: np.ndarray, found: np.ndarray, sampling_rate: int, bursts: dict[str, np.ndarray]
) -> list[Difference]:
    """The differences between the `score_alone_and_padded` of two models, clip by clip."""
    alone, padded = np.abs(expected - found).max(-1).tolist()  # (clips,) each
    return [
        Difference(name, round(len(waveform) / sampling_rate, 4), *pair)
        for (name, waveform), pair in zip(bursts.items(), zip(alone, padded, strict=True), strict=True)
    ]


@torch.inference_mode()
def score_alone_and_padded(model, feature_extractor, waveforms: list[np.ndarray]) -> np.ndarray:
    """Scores (2, clips, labels): of each clip alone, and in a batch of `BATCH`."""
    collate = BurstCollator(feature_extractor)

    def score(size: int) -> np.ndarray:
        batches = [waveforms[start : start + size] for start in range(0, len(waveforms), size)]
        inputs = (collate([{"input_values": waveform} for waveform in batch]) for batch in batches)
        return np.concatenate(
            [scores_from_logits(model(**each).logits.float().numpy(), model.config) for each in inputs]
        )

    return np.stack([score(1), score(BATCH)])


def made_up_bursts(sampling_rate: int = 16_000, peak: float = 0.7) -> dict[str, np.ndarray]:
    """Waveforms of 0.025 to 6 s: gliding tones with overtones, breath and a decay; the same each time."""
    generator = np.random.default_rng(0)
    bursts = {}
    for number, seconds in enumerate(BURST_SECONDS):
        time = np.arange(round(seconds * sampling_rate)) / sampling_rate
        pitch = generator.uniform(90, 500) * 2 ** (generator.uniform(-1, 1) * time / seconds)  # Hz
        phase = 2 * np.pi * np.cumsum(pitch) / sampling_rate
        voice = sum(np.sin(overtone * phase) / overtone for overtone in range(1, 8))
        breath = generator.standard_normal(len(time)) * generator.uniform(0.1, 1)
        syllables = 0.6 + 0.4 * np.sin(2 * np.pi * generator.uniform(2, 8) * time)
        burst = (voice + breath) * syllables * np.exp(-generator.uniform(0, 3) * time / seconds)
        bursts[f"burst {number}"] = (peak * burst / np.abs(burst).max()).astype(np.float32)
    return bursts


def print_table(differences: list[Difference]):
    """Prints one line per clip, and the largest difference."""
    width = max(len(difference.clip) for difference in differences)
    print(f"{'clip':<{width}}  seconds    alone   padded")
    for difference in differences:
        print(
            f"{difference.clip:<{width}}  {difference.seconds:7.3f}  {difference.alone:7.1e}  {difference.padded:7.1e}"
        )
    print(f"largest difference of a score: {max(difference.largest for difference in differences):.2g}")
