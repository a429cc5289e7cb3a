"""Clips as vectors: the output of a trained model's encoder, as input of a classifier or a map of your own."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from audio_avb import MAX_SECONDS, AudioError, AudioPreparation
from avb.collator import BurstCollator, length_batches
from avb.errors import AvbError
from avb.inference.decode_ahead import decoded_chunks
from avb.inference.load import load_model
from avb.inference.score import CPU_BATCH_SECONDS, GPU_BATCH_SECONDS
from modeling_avb import VocalBurstModel
from pipeline_avb import is_one_clip, read_audio


def embed(
    clips: Iterable[Any],
    model: str = "emogator-small",
    *,
    layer: int | None = None,
    frames: bool = False,
    device: str = "auto",
    max_seconds: float = MAX_SECONDS,
) -> np.ndarray | list[np.ndarray]:
    """The encoder's frames of each clip, or their mean. Clips are prepared as in the model's training.

    Args:
        clips: inputs as for `avb.load(...)`: paths, arrays with their sampling rate, bytes, rows of `datasets`, ….
        model: as for `avb.load`: a folder, a model shipped with the project, or a name on the Hub.
        layer: transformer layer, counted from 1; 0 is the input of the first. None: the layer that the head reads.
        frames: return all frames instead of their mean.
        device: `auto`, `cpu`, `cuda`, …
        max_seconds: longest clip that is accepted, seconds.

    Returns:
        float32 (clips, hidden): the mean over each clip's frames without padding; with `frames`, a list of (frames,
        hidden). In the order of the clips. The result for a clip does not depend on the other clips.

    Raises:
        AudioError: a clip cannot be read; the message names it.
        AvbError: the model or layer does not exist, or the model has no speech encoder.

    >>> import avb, numpy as np
    >>> noise = np.random.default_rng(0).normal(size=16_000)
    >>> avb.embed([(noise, 16_000), (noise[:8000], 16_000)]).shape
    (2, 256)
    """
    loaded, feature_extractor = load_for_frames(model, layer, device)
    return embed_with(loaded, feature_extractor, clips, layer=layer, frames=frames, max_seconds=max_seconds)


def embed_with(
    model: VocalBurstModel,
    feature_extractor,
    clips: Iterable[Any],
    *,
    layer: int | None = None,
    frames: bool = False,
    max_seconds: float = MAX_SECONDS,
) -> np.ndarray | list[np.ndarray]:
    """As `embed`, with what `load_for_frames` returned."""
    if is_one_clip(clips):
        clips = [clips]
    found: list[np.ndarray] = []
    for waveforms in _chunks(clips, feature_extractor, max_seconds):
        read = model.config.encoder_layer if layer is None else layer
        found += _embed_waveforms(model, feature_extractor, waveforms, read, frames)
    if frames:
        return found
    return np.stack(found) if found else np.zeros((0, model.config.hidden_size), np.float32)


def load_for_frames(model: str, layer: int | None = None, device: str = "auto") -> tuple[VocalBurstModel, Any]:
    """The model and its feature extractor; arguments and errors as in `embed`."""
    loaded, feature_extractor = load_model(model, device)
    if not isinstance(loaded, VocalBurstModel):
        raise AvbError(
            f"{model}: it has no wav2vec 2.0 encoder in torch, whose frames could be given; try emogator-small"
        )
    last = loaded.config.encoder_layer
    if layer is not None and not 0 <= layer <= last:
        raise AvbError(f"layer={layer!r} is invalid: {model} keeps layers 1 to {last}, and 0 is the input of the first")
    return loaded, feature_extractor


def _chunks(clips: Iterable[Any], feature_extractor, max_seconds: float) -> Iterator[list[np.ndarray]]:
    """Yields chunks of prepared waveforms (samples,), large enough for batches of similar length."""
    preparation = AudioPreparation.of(feature_extractor, max_seconds)

    def read(numbered: tuple[int, Any]) -> np.ndarray:
        number, clip = numbered
        try:
            waveform = read_audio(clip, preparation.sampling_rate, max_seconds)
        except AudioError as error:
            raise AudioError(f"clip {number}: {error}") from error
        return preparation.apply(waveform)

    for chunk in decoded_chunks(enumerate(clips), read, 2, preparation.sampling_rate):
        yield [waveform for _, waveform in chunk]


@torch.inference_mode()
def _embed_waveforms(
    model: VocalBurstModel, feature_extractor, waveforms: Sequence[np.ndarray], layer: int, frames: bool
) -> list[np.ndarray]:
    collate = BurstCollator(feature_extractor)
    seconds = CPU_BATCH_SECONDS if model.device.type == "cpu" else GPU_BATCH_SECONDS
    found: dict[int, np.ndarray] = {}
    for indices in length_batches(list(map(len, waveforms)), int(seconds * feature_extractor.sampling_rate)):
        inputs = collate([{"input_values": waveforms[index]} for index in indices]).to(model.device)
        outputs, mask = model.encode(**inputs, output_hidden_states=True)
        hidden = outputs.hidden_states[layer].float()  # (clips, frames, hidden)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # (clips, hidden)
        for row, index in enumerate(indices):
            found[index] = (hidden[row, mask[row]] if frames else mean[row]).cpu().numpy()
    return [found[index] for index in range(len(waveforms))]
