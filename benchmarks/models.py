"""The compared models, with random weights: the stock one of each shape, and ours with the same weights.

The stock model is what a reader of the paper would write in ten lines: the full encoder of Transformers in fp32 with
eager attention, `hidden_states[k]`, an LSTM and a linear layer. Only workers import this module, because it takes
seconds.
"""

from pathlib import Path

import numpy as np
import torch
from clips import make_burst
from harness import ROOT
from librosa.feature import melspectrogram
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.utils import logging

from avb.recipes import read_yaml
from configuration_avb import Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst, ccc_loss

logging.set_verbosity_error()
logging.disable_progress_bar()

_PLAIN = {"layerdrop": 0.0, "mask_time_prob": 0.0}  # all layers run, nothing is masked: the same work on both sides
_LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
}  # fmt: skip
# Fields of Wav2Vec2Config, and the layer that feeds the head (the paper's section IV-B: 12).
SHAPES = {
    "TOY": ({
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
        "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    }, 2),
    "BASE": ({}, 12),
    "LARGE": (_LARGE, 12),  # LARGE-LV60K's and XLSR53's
}  # fmt: skip
NUM_LABELS = 10


class StockModel(nn.Module):
    """Transformers' own encoder, all layers, and the paper's head on `hidden_states[layer]`."""

    def __init__(self, encoder: Wav2Vec2Model, layer: int, rnn_size: int):
        super().__init__()
        self.wav2vec2, self.layer = encoder, layer
        self.rnn = nn.LSTM(encoder.config.hidden_size, rnn_size, 2, batch_first=True)
        self.head = nn.Linear(rnn_size, NUM_LABELS)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, samples) → scores (batch, labels) of the last frame; clips of one length."""
        outputs = self.wav2vec2(input_values, attention_mask=attention_mask, output_hidden_states=True)
        frames = self.rnn(outputs.hidden_states[self.layer])[0]
        return self.head(frames[:, -1]).sigmoid()


def rnn_size(shape: str) -> int:
    return 16 if shape == "TOY" else 512  # section IV-B: 512


def save_stock(folder: Path, shape: str, head: str = "random"):
    """A stock checkpoint and its head in `folder`.

    Args:
        folder: made if need be.
        shape: see `SHAPES`.
        head: `random`, or one whose scores differ from clip to clip, as two models that are to be compared must:
            `trained` (see `fit_head`) or `stretched`, the last layer scaled so that its outputs over a few clips have a
            standard deviation of 1.
    """
    torch.manual_seed(0)
    fields, layer = SHAPES[shape]
    config = Wav2Vec2Config(**fields, **_PLAIN, attn_implementation="eager")
    model = StockModel(Wav2Vec2Model(config), layer, rnn_size(shape))
    if head == "trained":
        fit_head(model)
    if head == "stretched":
        outputs = torch.logit(score_alone(model.eval(), clips(8, 2.0)).double())  # (clips, labels)
        with torch.no_grad():
            scale = 1 / outputs.std(0)
            model.head.weight.mul_(scale[:, None])
            model.head.bias.copy_(-(outputs.mean(0) - model.head.bias) * scale)
    model.wav2vec2.save_pretrained(folder)
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("wav2vec2.")}
    save_file(weights, folder / "head.safetensors")


def fit_head(model: StockModel, num_clips: int = 64, steps: int = 100, batch_size: int = 16):
    """Trains LSTM and linear layer on the frames of the frozen random encoder, with CCC loss: to tell the ranks of the
    clips' energies in as many mel bands as there are labels."""
    waveforms = clips(num_clips, 2.0, seed=2)
    energies = melspectrogram(y=waveforms.numpy(), sr=16_000, n_mels=NUM_LABELS).mean(-1)  # (clips, bands)
    targets = torch.from_numpy(energies.argsort(0).argsort(0) / (num_clips - 1)).float()
    model.eval()
    with torch.no_grad():
        frames = torch.cat(
            [model.wav2vec2(clip[None], output_hidden_states=True).hidden_states[model.layer] for clip in waveforms]
        )
    optimizer = torch.optim.Adam([*model.rnn.parameters(), *model.head.parameters()], lr=1e-3)
    for step in range(steps):
        chosen = torch.randperm(num_clips, generator=torch.Generator().manual_seed(step))[:batch_size]
        scores = model.head(model.rnn(frames[chosen])[0][:, -1]).sigmoid()
        optimizer.zero_grad()
        ccc_loss(scores, targets[chosen]).backward()
        optimizer.step()


def load_stock(folder: Path, shape: str) -> StockModel:
    encoder = Wav2Vec2Model.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model = StockModel(encoder, SHAPES[shape][1], rnn_size(shape))
    model.load_state_dict(load_file(folder / "head.safetensors"), strict=False)
    return model


def load_ours(folder: Path, shape: str) -> Wav2Vec2ForVocalBurst:
    """Our model with the weights of the stock checkpoint: cut to the layer that is used, sdpa."""
    model = Wav2Vec2ForVocalBurst.from_pretrained(
        folder,
        attn_implementation="sdpa",
        dtype=torch.float32,
        encoder_layer=SHAPES[shape][1],
        rnn_hidden_size=rnn_size(shape),
        num_labels=NUM_LABELS,
    )
    model.load_state_dict(load_file(folder / "head.safetensors"), strict=False)
    return model


def clips(count: int, seconds: float, seed: int = 1) -> torch.Tensor:
    """(count, samples) clips of zero mean and unit variance, as wav2vec 2.0's feature extractor gives them."""
    generator = np.random.default_rng(seed)
    waveforms = np.stack([make_burst(generator, seconds) for _ in range(count)])
    return torch.from_numpy((waveforms - waveforms.mean(1, keepdims=True)) / waveforms.std(1, keepdims=True))


@torch.inference_mode()
def score_alone(model: nn.Module, waveforms: torch.Tensor) -> torch.Tensor:
    """Scores (clips, labels), each clip in a batch of its own."""
    outputs = [model(waveform[None]) for waveform in waveforms]
    return torch.cat([output if isinstance(output, torch.Tensor) else output.logits for output in outputs]).float()


def small_fields() -> dict:
    """The small encoder of `recipes/encoders/small.yaml`."""
    return read_yaml(ROOT / "recipes" / "encoders" / "small.yaml")


def vocal_burst_config(fields: dict, **head) -> Wav2Vec2VocalBurstConfig:
    return Wav2Vec2VocalBurstConfig(**fields, num_labels=NUM_LABELS, **head)
