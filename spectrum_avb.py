"""Spectra of 16 kHz waveforms as products, for encoders that read features: the numbers of the stock extractors.

Self-contained code for the Hub: it needs numpy, torch and transformers. What an extractor does to a frame before its
Fourier transform (its mean, pre-emphasis, window) is linear, and part of the matrix: a spectrum is one convolution,
which every engine runs, on the device of the model, where the matrices stay: a copy per batch would make the host wait.
"""

from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank, window_function

HOP = 160  # samples from one spectrum to the next
WIDTH = 400  # samples per spectrum


def power_spectrum(waveforms: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """(batch, samples) → (batch, frequencies, frames), in fp32 regardless of the surrounding precision."""
    with torch.autocast(waveforms.device.type, enabled=False):
        parts = F.conv1d(waveforms.float()[:, None], filters, stride=HOP)
        real, imaginary = parts.chunk(2, 1)
        return real.square() + imaginary.square()


@lru_cache(4)
def kaldi_filters(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(2 × 257, 1, 400) real and imaginary parts, and (80, 257) mel filters, of `SeamlessM4TFeatureExtractor`.

    Samples scaled to 16 bits, each frame with its mean removed, pre-emphasis of 0.97, Povey's window, 512 points.
    """
    frame = np.eye(WIDTH) - 1 / WIDTH
    emphasis = np.eye(WIDTH) - 0.97 * np.eye(WIDTH, k=-1)
    emphasis[0, 0] = 0.03
    window = window_function(WIDTH, "povey", periodic=False)
    transform = _fourier(512) @ (2**15 * window[:, None] * (emphasis @ frame))
    mel = mel_filter_bank(
        num_frequency_bins=257, num_mel_filters=80, min_frequency=20, max_frequency=8000, sampling_rate=16_000,
        norm=None, mel_scale="kaldi", triangularize_in_mel_space=True,
    )  # fmt: skip
    return _on_device(transform, device)[:, None], _on_device(mel.T, device)


@lru_cache(4)
def whisper_filters(num_mel_bins: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(2 × 201, 1, 400) real and imaginary parts, and (bins, 201) mel filters, of `WhisperFeatureExtractor`."""
    transform = _fourier(WIDTH) * window_function(WIDTH, "hann", periodic=True)
    mel = mel_filter_bank(
        num_frequency_bins=201, num_mel_filters=num_mel_bins, min_frequency=0.0, max_frequency=8000.0,
        sampling_rate=16_000, norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    return _on_device(transform, device)[:, None], _on_device(mel.T, device)


def _fourier(points: int) -> np.ndarray:
    """(2 × frequencies, WIDTH): cosines, then sines."""
    angles = 2 * np.pi / points * np.outer(np.arange(points // 2 + 1), np.arange(WIDTH))
    return np.concatenate([np.cos(angles), -np.sin(angles)])


def _on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # a tensor cached in prediction may be used in training
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)
