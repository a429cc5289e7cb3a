"""eGeMAPSv02 or ComParE_2016 functionals of a whole clip and a three-layer perceptron: A-VB's feature-based baselines.

Sources: Baird et al. (2022), "The ACII 2022 Affective Vocal Bursts Workshop & Competition", arXiv:2207.03572; Eyben et
al. (2016), "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for Voice Research and Affective Computing", IEEE
Transactions on Affective Computing 7(2); Schuller et al. (2016), "The INTERSPEECH 2016 Computational Paralinguistics
Challenge"; Eyben, Wöllmer & Schuller (2010), "openSMILE: the Munich versatile and fast open-source audio feature
extractor", ACM Multimedia.

Licence: openSMILE belongs to audEERING GmbH and is not part of this project. The audEERING Research License Agreement
covers research, teaching and other non-commercial use; products and other commercial use need a licence from audEERING.
This is why it is an optional extra: `pip install "avb[opensmile]"`.

Unusual:
- The feature extractor does nearly all of the work, 25 to 90 ms per clip. For training, `avb.baselines.features`
  computes the features once for all epochs.
- The mean and standard deviation of the training features are buffers of the model, so a saved model is complete.
"""

from functools import cache

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, FeatureExtractionMixin

from .baseline import BaselineConfig, BaselineModel, require_legal

try:  # as remote code from the Hub, or as a module of the installed project
    from .audio_avb import SAMPLING_RATE, AudioPreparation, AvbError
except ImportError:
    from audio_avb import SAMPLING_RATE, AudioPreparation, AvbError

FEATURE_SETS = {"eGeMAPSv02": 88, "ComParE_2016": 6373}  # functionals of a clip
MIN_SAMPLES = 960  # one 60 ms window, the longest in both sets (for pitch); openSMILE gives NaN for shorter clips


def import_opensmile():
    """Imports the package `opensmile`.

    Raises:
        AvbError: it is not installed; the message says how to install it.
    """
    try:
        import opensmile
    except ImportError as error:
        raise AvbError(
            'the openSMILE baselines need the package opensmile: pip install "avb[opensmile]" (audEERING\'s licence: '
            "research and other non-commercial use only)"
        ) from error
    return opensmile


@cache
def _smile(feature_set: str):
    """openSMILE, one instance per process; not an attribute of the feature extractor, which gets pickled and saved."""
    opensmile = import_opensmile()
    return opensmile.Smile(opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals)


class OpenSmileFeatureExtractor(FeatureExtractionMixin):
    """16 kHz waveforms → openSMILE functionals, one vector per clip, in place of a `VocalBurstFeatureExtractor`.

    Args:
        feature_set: `eGeMAPSv02` (88 functionals) or `ComParE_2016` (6373).
        sampling_rate: of the waveforms, Hz; the baselines are only defined for 16,000.
        peak_db: see `VocalBurstFeatureExtractor`.
        trim_top_db: see `VocalBurstFeatureExtractor`.

    Raises:
        AvbError: the package opensmile is not installed.
        ValueError: the feature set is unknown, or the sampling rate is not 16,000 Hz.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        feature_set: str = "eGeMAPSv02",
        sampling_rate: int = SAMPLING_RATE,
        peak_db: float | None = None,
        trim_top_db: float | None = None,
        **kwargs,
    ):
        if feature_set not in FEATURE_SETS:
            raise ValueError(f"feature_set={feature_set!r} is invalid: it must be one of {', '.join(FEATURE_SETS)}")
        if sampling_rate != SAMPLING_RATE:
            raise ValueError(f"sampling_rate={sampling_rate!r} is invalid: it must be {SAMPLING_RATE} (Hz)")
        AudioPreparation(sampling_rate, trim_top_db, peak_db)  # refuses invalid values
        import_opensmile()  # fails here, before any audio is decoded
        super().__init__(**kwargs)
        self.feature_set = feature_set
        self.sampling_rate = sampling_rate
        self.peak_db = peak_db
        self.trim_top_db = trim_top_db

    def __call__(
        self,
        raw_speech: np.ndarray | list[np.ndarray] | list[float] | list[list[float]],
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        prepared: bool = False,
        **kwargs,
    ) -> BatchFeature:
        """Computes the functionals of one or several waveforms.

        The keywords are those of `Wav2Vec2FeatureExtractor`. One vector per clip needs no padding and no mask, so the
        keywords for these have no effect; `truncation` cuts clips to `max_length` samples.

        Args:
            raw_speech: waveforms of shape (samples,) in [-1, 1], of any length; those shorter than `MIN_SAMPLES`
                (60 ms) are padded with zeros to that length.
            sampling_rate: of the waveforms, Hz.
            prepared: whether the clips were already trimmed and levelled when they were decoded.

        Returns:
            `input_values`, float32 of shape (batch, features). A functional that openSMILE leaves undefined (NaN or
            infinite) is 0.

        Raises:
            ValueError: the sampling rate is not that of the extractor, or a clip is not mono.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"the clips are at {sampling_rate} Hz, but openSMILE features need {self.sampling_rate} Hz"
            )
        if np.ndim(raw_speech[0]) == 0:  # a single clip
            raw_speech = [raw_speech]
        limit = max_length if truncation else None
        clips = [np.asarray(clip, dtype=np.float32) for clip in raw_speech]
        for clip in clips:
            if clip.ndim != 1:
                raise ValueError(f"a clip must be mono, of shape (samples,); got {clip.shape}")
        if not prepared:
            clips = list(map(AudioPreparation.of(self).apply, clips))
        features = np.stack([self._functionals(clip[:limit]) for clip in clips])  # (batch, features)
        return BatchFeature({"input_values": features}, tensor_type=return_tensors)

    def _functionals(self, clip: np.ndarray) -> np.ndarray:
        clip = np.pad(clip, (0, max(0, MIN_SAMPLES - len(clip))))
        # openSMILE uses 16-bit integers: a sample at full scale or above would wrap around to a negative value.
        clip = clip.clip(-1, 1 - 2**-15)
        functionals = _smile(self.feature_set)(clip, self.sampling_rate)  # (1, features, 1)
        return np.nan_to_num(functionals.reshape(-1).astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


class OpenSmileMLPConfig(BaselineConfig):
    """Configuration of `OpenSmileMLP`; see `BaselineConfig` for the other fields.

    Args:
        feature_set: `eGeMAPSv02` or `ComParE_2016`; it determines the width of the first layer.
    """

    model_type = "opensmile-mlp"

    feature_set: str = "eGeMAPSv02"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        require_legal(self, self.feature_set in FEATURE_SETS, "feature_set", f"one of {', '.join(FEATURE_SETS)}")


class Standardization(nn.Module):
    """(x - mean) / std with the moments of the train features; the identity until they are set."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, num_features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) / self.std


class OpenSmileMLP(BaselineModel):
    """Standardised functionals → 128 → 64 → 32 → labels. Input: (batch, features) of an `OpenSmileFeatureExtractor`."""

    config_class = OpenSmileMLPConfig

    def __init__(self, config: OpenSmileMLPConfig):
        super().__init__(config)
        num_features = FEATURE_SETS[config.feature_set]
        self.standardization = Standardization(num_features)
        self.body = nn.Sequential(
            nn.Linear(num_features, 128), nn.LayerNorm(128), nn.LeakyReLU(),
            nn.Linear(128, 64), nn.LayerNorm(64), nn.LeakyReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), nn.Linear(32, config.num_labels))
        self.post_init()

    def _init_weights(self, module: nn.Module):
        if isinstance(module, Standardization):
            nn.init.zeros_(module.mean)
            nn.init.ones_(module.std)
        else:
            super()._init_weights(module)

    def fit_standardization(self, features: np.ndarray):
        """Sets mean and standard deviation (population moments) to those of the train split.

        A constant feature is only centred: its standard deviation would be rounding noise.

        Args:
            features: (clips, features).

        Raises:
            ValueError: the number of features is wrong, there are no clips, or a value is not finite.
        """
        features, expected = np.asarray(features), self.standardization.mean.shape[0]
        if features.ndim != 2 or features.shape[1] != expected or len(features) == 0:
            raise ValueError(f"features must be of shape (clips, {expected}) with clips > 0, got {features.shape}")
        mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        if not np.isfinite(mean).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(mean))} features are NaN or infinite")
        std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
        self.standardization.mean.copy_(torch.from_numpy(mean))
        self.standardization.std.copy_(torch.from_numpy(std))

    def predict(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return self.head(self.body(self.standardization(input_values)))  # (batch, num_labels)
