"""The targets of masked prediction, one per frame of the encoder.

A target is computed from exactly the samples that its frame of the convolutional front end covers: window = receptive
field, hop = stride. So every front end has one target per frame.
"""

import librosa
import numpy as np
import scipy.fft
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import nn

from audio_avb import SAMPLING_RATE

PITCH_RANGE = (75.0, 1200.0)  # Hz: from a groan to a scream
OCTAVE_COST = 0.02  # per doubling of the period, in units of autocorrelation (Boersma 1993)
VOICED = 0.5  # share of a frame's energy that repeats after one period


class LogMel(nn.Module):
    """Log-mel spectra of a wav2vec 2.0 front end's frames: (batch, samples) → (batch, frames, bins)."""

    filters: torch.Tensor
    window: torch.Tensor

    def __init__(self, receptive_field: int, stride: int, num_mel_bins: int):
        super().__init__()
        self.receptive_field, self.stride, self.num_mel_bins = receptive_field, stride, num_mel_bins
        self.size = num_mel_bins
        self.make_buffers()
        self.reset_parameters()

    def make_buffers(self):
        self.register_buffer("filters", torch.empty(self.num_mel_bins, self.receptive_field // 2 + 1))
        self.register_buffer("window", torch.empty(self.receptive_field))

    def reset_parameters(self):
        filters = librosa.filters.mel(sr=SAMPLING_RATE, n_fft=self.receptive_field, n_mels=self.num_mel_bins)
        with torch.no_grad():
            self.filters.copy_(torch.from_numpy(filters))
            self.window.copy_(torch.hann_window(self.receptive_field))

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.log_mel(self.power(waveforms))

    def power(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → power spectrum (batch, frequencies, frames)."""
        size, hop = self.receptive_field, self.stride
        return torch.stft(waveforms, size, hop, window=self.window, center=False, return_complex=True).abs().square()

    def log_mel(self, power: torch.Tensor) -> torch.Tensor:
        return (self.filters @ power).clamp(min=1e-5).log().transpose(1, 2)


class Descriptors(LogMel):
    """A few decorrelated descriptors per frame: (batch, samples) → (batch, frames, 26).

    20 mel-frequency cepstral coefficients, log energy, spectral centroid, spread and flatness, periodicity (the highest
    normalised autocorrelation, after Boersma 1993) and log pitch (0 where periodicity is below `VOICED`).
    """

    num_coefficients = 20
    cosines: torch.Tensor
    frequencies: torch.Tensor
    window_autocorrelation: torch.Tensor

    def make_buffers(self):
        super().make_buffers()
        half = self.receptive_field // 2 + 1
        self.register_buffer("cosines", torch.empty(self.num_mel_bins, self.num_coefficients))
        self.register_buffer("frequencies", torch.empty(half))
        self.register_buffer("window_autocorrelation", torch.empty(half))
        self.size = self.num_coefficients + 6
        shortest, longest = SAMPLING_RATE / PITCH_RANGE[1], SAMPLING_RATE / PITCH_RANGE[0]
        self.lags = slice(int(np.ceil(shortest)), min(int(longest) + 1, half))

    def reset_parameters(self):
        super().reset_parameters()
        cosines = scipy.fft.dct(np.eye(self.num_mel_bins), norm="ortho", axis=0)[: self.num_coefficients].T
        with torch.no_grad():
            self.cosines.copy_(torch.from_numpy(cosines))
            self.frequencies.copy_(torch.fft.rfftfreq(self.receptive_field, 1 / SAMPLING_RATE))
            self.window_autocorrelation.copy_(self._autocorrelation(self.window))

    def _autocorrelation(self, frames: torch.Tensor) -> torch.Tensor:
        """(..., samples) → (..., half of the lags)."""
        spectrum = torch.fft.rfft(frames, 2 * self.receptive_field).abs().square()
        return torch.fft.irfft(spectrum)[..., : self.receptive_field // 2 + 1]

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        power = self.power(waveforms)
        cepstrum = self.log_mel(power) @ self.cosines  # (batch, frames, coefficients)

        power = power.transpose(1, 2).clamp(min=1e-10)  # (batch, frames, frequencies)
        energy = power.sum(-1)
        shares = power / energy[..., None]
        centroid = (shares * self.frequencies).sum(-1)
        spread = (shares * (self.frequencies - centroid[..., None]).square()).sum(-1).sqrt()
        flatness = power.log().mean(-1) - power.mean(-1).log()

        frames = waveforms.unfold(1, self.receptive_field, self.stride) * self.window
        autocorrelation = self._autocorrelation(frames)
        normalised = autocorrelation / autocorrelation[..., :1].clamp(min=1e-10)
        normalised = normalised / (self.window_autocorrelation / self.window_autocorrelation[0]).clamp(min=0.05)
        lags = torch.arange(self.lags.start, self.lags.stop, device=waveforms.device)
        best = (normalised[..., self.lags] - OCTAVE_COST * lags.log2()).argmax(-1)  # on a tie the shortest period
        periodicity = normalised[..., self.lags].gather(-1, best[..., None])[..., 0]
        pitch = (SAMPLING_RATE / lags[best]).log() * (periodicity > VOICED)
        others = [energy.log(), centroid / 1000, spread / 1000, flatness, periodicity, pitch]
        return torch.cat([cepstrum, torch.stack(others, -1)], -1)


class Clusters(nn.Module):
    """The k-means cluster of each frame's features: (batch, frames, features) → (batch, frames) int64."""

    centres: torch.Tensor

    def __init__(self, num_clusters: int, size: int):
        super().__init__()
        self.num_clusters, self.size = num_clusters, size
        self.register_buffer("centres", torch.zeros(num_clusters, size))

    def fit(self, frames: torch.Tensor, seed: int = 42):
        """Fits the clusters to `frames` (number, features) of random clips."""
        kmeans = MiniBatchKMeans(self.num_clusters, batch_size=4096, n_init=3, random_state=seed).fit(frames.numpy())
        self.centres.copy_(torch.from_numpy(kmeans.cluster_centers_))

    @torch.no_grad()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.cdist(frames, self.centres.expand(len(frames), -1, -1)).argmin(-1)
