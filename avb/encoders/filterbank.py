"""Random encoders that hear a spectrum from their first step on.

The first convolution of a wav2vec 2.0 front end may be as wide as a frame of a spectrum: `conv_kernel: [400, …]`,
`conv_stride: [160, …]`. Its filters then start as Gabor filters on the mel scale (as in LEAF, Zeghidour et al. 2021,
arXiv:2101.08596) where the file of the encoder says `first_filters: mel`, and are learned like any weight. The model is
the stock one.
"""

from pathlib import Path

import librosa
import numpy as np
import torch
from transformers import Wav2Vec2Model

from audio_avb import SAMPLING_RATE
from avb.errors import AvbError
from avb.recipes import find_recipe, read_yaml

FIRST_FILTERS = (None, "mel")
PHASES = (0, np.pi, np.pi / 2, 3 * np.pi / 2)  # per band: rectified, they respond alike to any sinusoid
LOWEST, HIGHEST = 60.0, 7600.0  # Hz
TILT = 500.0  # Hz: above it, the gain rises by 3 dB per octave, as voices fall by more than that
FIRST_GAIN = 3.0  # of the next norm: lifts weak bands out of the activation's flat middle


def read_encoder(path: str | Path) -> tuple[dict, str | None]:
    """Reads the fields of an encoder's YAML file (`find_recipe`), and how its first convolution is initialised.

    Raises:
        AvbError: the file cannot be read, or its filters are unknown or do not fit.
    """
    fields = read_yaml(find_recipe(path))
    first_filters = fields.pop("first_filters", None)
    if first_filters not in FIRST_FILTERS:
        raise AvbError(f"{path}: first_filters {first_filters!r} is invalid: it must be 'mel', or be left out")
    if first_filters:
        channels, bias = fields.get("conv_dim", [512])[0], fields.get("conv_bias", False)
        if channels % len(PHASES) or bias or fields.get("feat_extract_norm") != "layer":
            raise AvbError(
                f"{path}: first_filters mel needs feat_extract_norm layer, conv_bias false, and conv_dim to begin with "
                f"a multiple of {len(PHASES)}"
            )
    return fields, first_filters


@torch.no_grad()
def start_filters(encoder: Wav2Vec2Model, first_filters: str | None):
    """Initialises the filters of a random encoder's first convolution as `read_encoder` specifies."""
    if first_filters == "mel":
        layer = encoder.feature_extractor.conv_layers[0]
        channels, _, width = layer.conv.weight.shape
        layer.conv.weight.copy_(torch.from_numpy(mel_gabor_filters(channels, width))[:, None])
        layer.layer_norm.weight.fill_(FIRST_GAIN)


def mel_gabor_filters(channels: int, width: int) -> np.ndarray:
    """(channels, width) fp32: for each band, from low to high, a sinusoid in four phases under a Gaussian window.

    The standard deviation of a window is inversely proportional to the distance between bands, and at most a fifth of
    the width.
    """
    frequencies = librosa.mel_frequencies(channels // len(PHASES), fmin=LOWEST, fmax=HIGHEST)  # (bands,)
    seconds = (np.arange(width) - (width - 1) / 2) / SAMPLING_RATE
    deviations = np.minimum(0.9 / (np.pi * np.gradient(frequencies)), width / SAMPLING_RATE / 5)
    windows = np.exp(-0.5 * np.square(seconds / deviations[:, None]))  # (bands, width)
    windows *= (np.sqrt(frequencies / TILT + 0.3) / np.sqrt(np.square(windows).sum(1)))[:, None]
    angles = 2 * np.pi * frequencies[:, None, None] * seconds + np.reshape(PHASES, (-1, 1))  # (bands, phases, width)
    return (windows[:, None] * np.cos(angles)).reshape(channels, width).astype(np.float32)
