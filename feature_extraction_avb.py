"""The feature extractor of `Wav2Vec2ForVocalBurst`: that of wav2vec 2.0, preceded by the audio preparation of training.

Self-contained code for the Hub: it needs only transformers, numpy and `audio_avb.py` beside it.

Unusual: the preparation of training clips (trimmed silence, level) is saved with the model. So a saved model always
receives the same audio, from the stock audio-classification pipeline too. Clips that `audio_avb.load_audio` has already
prepared are marked with `prepared=True`, because trimming twice trims more.
"""

import numpy as np
from transformers import BatchFeature, Wav2Vec2FeatureExtractor

try:  # as remote code from the Hub, or as a module of the installed project
    from .audio_avb import AudioPreparation
except ImportError:
    from audio_avb import AudioPreparation


class VocalBurstFeatureExtractor(Wav2Vec2FeatureExtractor):
    """16 kHz waveforms → `input_values`, padded on the right, and their `attention_mask`.

    Args:
        peak_db: level of each clip's highest absolute sample, dBFS; None keeps the recorded level.
        trim_top_db: trim ends more than this many dB below the loudest frame (positive); None does not trim.
        return_attention_mask: whether to return a mask. Unlike in the stock feature extractors, this is the default
            for group-norm encoders too: the model needs it to keep predictions independent of the batch.
        kwargs: arguments of `Wav2Vec2FeatureExtractor`.

    Raises:
        ValueError: `trim_top_db` is invalid.
    """

    _auto_class = "AutoFeatureExtractor"  # every saved folder contains the code, whoever saves it

    def __init__(
        self,
        peak_db: float | None = None,
        trim_top_db: float | None = None,
        return_attention_mask: bool = True,
        **kwargs,
    ):
        super().__init__(return_attention_mask=return_attention_mask, **kwargs)
        self.peak_db = peak_db
        self.trim_top_db = trim_top_db
        AudioPreparation.of(self)  # refuses invalid values

    def __call__(self, raw_speech, *args, prepared: bool = False, **kwargs) -> BatchFeature:
        """Like `Wav2Vec2FeatureExtractor`, after trimming and levelling.

        Args:
            raw_speech: one waveform (samples,) or a list of them, at `sampling_rate`.
            prepared: whether the clips were already trimmed and levelled when they were decoded.

        Returns:
            `input_values` and `attention_mask`, of shape (batch, samples) if padded, or for a single clip.
        """
        if not prepared:
            raw_speech = self.prepare(raw_speech)
        return super().__call__(raw_speech, *args, **kwargs)

    def prepare(self, raw_speech) -> list[np.ndarray]:
        """Trims and levels one waveform (samples,) or a list of them."""
        clips = [raw_speech] if np.ndim(raw_speech[0]) == 0 else raw_speech
        preparation = AudioPreparation.of(self)
        return [preparation.apply(np.asarray(clip, dtype=np.float32)) for clip in clips]
