"""Wav2Vec2ForVocalBurst: wav2vec 2.0 → LSTM → linear → pooling, for emotion in laughs, cries, gasps and screams.

"Fine-tuning Wav2vec for Vocal-burst Emotion Recognition" (ACII A-VB 2022), section III. Self-contained code for the
Hub: it needs torch, transformers, `configuration_avb.py` and `front_end_avb.py` beside it.

Unusual:
- The encoder is cut to the layers that are used, and layer `k` is `hidden_states[k]` of the whole encoder, before any
  final layer norm.
- A clip's prediction does not depend on the batch it is in. Every reduction over time sees valid frames only, the
  group norm in the front end of BASE and LARGE included. (The `authors` preset gives this up, as their code does.)
- Any length from one sample up: shorter than one frame is padded with silence.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput, Wav2Vec2BaseModelOutput
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Model, Wav2Vec2PreTrainedModel
from transformers.utils.output_capturing import capture_outputs

try:  # as remote code from the Hub, and as a module of the installed project
    from .configuration_avb import MULTITASK, Wav2Vec2VocalBurstConfig
    from .front_end_avb import VocalBurstFeatureEncoder, length_mask
except ImportError:
    from configuration_avb import MULTITASK, Wav2Vec2VocalBurstConfig
    from front_end_avb import VocalBurstFeatureEncoder, length_mask

IGNORE_INDEX = -100  # a clip without a class label; a missing regression label is NaN


# ---- losses --------------------------------------------------------------------------------------------------------


def ccc_loss(
    predictions: torch.Tensor, targets: torch.Tensor, reduction: str = "mean", eps: float = 1e-8
) -> torch.Tensor:
    """1 - CCC over the clips of a batch, mean or sum over labels, in fp32 (equation 2, population moments).

    CCC = 2 s_xy / (s_x² + s_y² + (x̄ - ȳ)²)

    A label that fewer than two clips carry has no concordance and is left out.

    Args:
        predictions: (batch, labels)
        targets: (batch, labels); NaN marks a missing label.
        reduction: over labels, `mean` or `sum`.
        eps: keeps the gradient finite where a label and its predictions are constant over the batch.
    """
    predictions, targets = predictions.float(), targets.float()
    present = ~targets.isnan()
    counts = present.sum(0)  # (labels,)
    weights = present / counts.clamp(min=1)  # (batch, labels)
    targets = targets.masked_fill(~present, 0.0)

    mean_x, mean_y = (weights * predictions).sum(0), (weights * targets).sum(0)  # (labels,)
    x, y = predictions - mean_x, targets - mean_y
    covariance = (weights * x * y).sum(0)
    variances = (weights * x.square()).sum(0) + (weights * y.square()).sum(0)
    ccc = 2 * covariance / (variances + (mean_x - mean_y).square() + eps)

    scored = counts >= 2
    total = ((1 - ccc) * scored).sum()
    return total if reduction == "sum" else total / scored.sum().clamp(min=1)


def mse_loss(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the labels that are present, in fp32.

    Args:
        predictions: (batch, labels)
        targets: (batch, labels); NaN marks a missing label.
    """
    predictions, targets = predictions.float(), targets.float()
    present = ~targets.isnan()
    errors = (predictions - targets.masked_fill(~present, 0.0)) * present
    return errors.square().sum() / present.sum().clamp(min=1)


def ce_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    class_weights: list[float] | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross entropy over the clips that have a class, in fp32; zero, not NaN, where none has.

    Args:
        logits: (batch, classes)
        targets: (batch,) class indices, -100 where missing; or (batch, classes) probabilities, as mixed clips and
            softened labels have them, NaN where missing.
        class_weights: one per class; the mean over clips is weighed by them.
        label_smoothing: in [0, 1).
    """
    logits = logits.float()
    weight = logits.new_ones(logits.shape[-1]) if class_weights is None else logits.new_tensor(class_weights)
    if targets.ndim == 1:
        present = targets != IGNORE_INDEX
        targets = F.one_hot(targets.masked_fill(~present, 0), len(weight))
    else:
        present = ~targets.isnan().any(-1)
    targets = targets.masked_fill(~present[:, None], 0).float()  # (batch, classes)
    # A clip weighs what its class does, and so does its smoothed loss: as torch.nn.functional.cross_entropy has it.
    counts = targets @ weight
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / len(weight) * present[:, None]
    loss = -(targets * weight * logits.log_softmax(-1)).sum()
    return loss / counts.sum().clamp(min=1e-8)


def scores_from_outputs(config, outputs: torch.Tensor) -> torch.Tensor:
    """Raw outputs (..., num_labels) → logits for `ce`; else a sigmoid stretched to `config.label_range`."""
    if config.loss == MULTITASK:
        parts = zip(task_configs(config), config.task_slices, strict=True)
        return torch.cat([scores_from_outputs(part, outputs[..., place]) for part, place in parts], -1)
    if config.loss == "ce":
        return outputs
    low, high = config.label_range
    return low + (high - low) * outputs.sigmoid()


def compute_loss(config, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss `config.loss` names, of a whole batch: logits (batch, num_labels), labels as each loss has them."""
    if config.loss == "ccc":
        return ccc_loss(logits, labels, config.ccc_reduction)
    if config.loss == "mse":
        return mse_loss(logits, labels)
    return ce_loss(logits, labels, config.class_weights, config.label_smoothing)


def task_configs(config) -> list[SimpleNamespace]:
    """What `compute_loss` and `scores_from_outputs` read, one per task of a multitask model."""
    shared = {"ccc_reduction": config.ccc_reduction, "class_weights": None, "label_range": (0.0, 1.0)}
    return [SimpleNamespace(**{**shared, "label_smoothing": config.label_smoothing, **task}) for task in config.tasks]


def task_losses(config, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each task of a multitask model, (tasks,), each over the clips that have its labels.

    Args:
        logits: (batch, num_labels)
        labels: (batch, columns) floats, NaN where missing: a regression task's labels, one class index of a
            classification task.
    """
    widths = [1 if task["loss"] == "ce" else task["num_labels"] for task in config.tasks]
    losses = []
    parts = zip(task_configs(config), config.task_slices, labels.split(widths, -1), strict=True)
    for part, place, targets in parts:
        if part.loss == "ce":
            targets = targets[:, 0].nan_to_num(IGNORE_INDEX).long()
        losses.append(compute_loss(part, logits[..., place], targets))
    return torch.stack(losses)


# ---- encoder -------------------------------------------------------------------------------------------------------


class VocalBurstEncoder(Wav2Vec2Model):
    """wav2vec 2.0 up to layer `config.encoder_layer`; its last hidden state is that layer's output, nothing after it.

    Checkpoint keys are those of `Wav2Vec2Model`.
    """

    config_class = Wav2Vec2VocalBurstConfig

    def __init__(self, config: Wav2Vec2VocalBurstConfig):
        super().__init__(config)
        self.feature_extractor = VocalBurstFeatureEncoder(config)
        if config.do_stable_layer_norm:
            # The pre-norm encoders normalise once more after the last layer, which hidden_states[k] does not have.
            self.encoder.layer_norm = nn.Identity()
        self.post_init()

    def _mask_hidden_states(self, hidden_states, mask_time_indices=None, attention_mask=None):
        """SpecAugment as in the stock model, but drawn on the device and never larger than the clip.

        Each frame starts a masked span with probability `mask_time_prob / mask_time_length`, so that about
        `mask_time_prob` of the frames are masked. A clip shorter than a span is left alone: the stock code raises.
        """
        config = self.config
        if not (self.training and config.apply_spec_augment):
            return hidden_states
        if config.mask_time_prob > 0 and mask_time_indices is None:
            mask_time_indices = sample_spans(
                attention_mask.sum(-1), hidden_states.shape[1], config.mask_time_prob, config.mask_time_length
            )
        if mask_time_indices is not None:
            masked = self.masked_spec_embed.to(hidden_states.dtype)
            hidden_states = torch.where(mask_time_indices[..., None], masked, hidden_states)
        if config.mask_feature_prob > 0:
            size = hidden_states.new_full((len(hidden_states),), config.hidden_size, dtype=torch.long)
            spans = sample_spans(size, config.hidden_size, config.mask_feature_prob, config.mask_feature_length)
            hidden_states = hidden_states.masked_fill(spans[:, None], 0.0)
        return hidden_states

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values=None,
        attention_mask=None,
        mask_time_indices=None,
        front_end_frames=None,
        frame_mask=None,
        **kwargs,
    ):
        """(batch, samples) → `last_hidden_state` (batch, frames, hidden).

        Args:
            input_values: (batch, samples) waveforms at 16 kHz, padded on the right.
            attention_mask: (batch, samples), 1 for audio and 0 for padding; None when there is no padding.
            mask_time_indices: (batch, frames) frames to replace by the mask embedding.
            front_end_frames: (batch, frames, channels) what `run_front_end` made of the waveforms, instead of them.
            frame_mask: (batch, frames) that of `front_end_frames`.
        """
        if front_end_frames is None:
            front_end_frames, frame_mask = self.run_front_end(input_values, attention_mask)
        else:
            front_end_frames = front_end_frames.to(self.dtype)  # they may be kept in half precision
        hidden_states, features = self.feature_projection(front_end_frames)
        hidden_states = self._mask_hidden_states(hidden_states, mask_time_indices, frame_mask)
        hidden_states = self.encoder(hidden_states, attention_mask=frame_mask, **kwargs).last_hidden_state
        return Wav2Vec2BaseModelOutput(last_hidden_state=hidden_states, extract_features=features)

    def run_front_end(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None):
        """The convolutions alone: (batch, samples) → their frames (batch, frames, channels), and the frames' mask."""
        shortage = self.config.receptive_field - input_values.shape[1]
        if shortage > 0:
            input_values = F.pad(input_values, (0, shortage))
        lengths = None
        if attention_mask is not None:
            lengths = attention_mask.sum(-1)
            # Whatever the padding holds, silence follows a clip: a clip shorter than one frame reads into it.
            input_values = input_values.masked_fill(~length_mask(lengths, input_values.shape[1]), 0.0)
            lengths = lengths.clamp(min=self.config.receptive_field)
        if self.config.waveform_normalization == "batch":
            input_values = F.layer_norm(input_values, input_values.shape)
        frames = self.feature_extractor(input_values, lengths).transpose(1, 2)  # (batch, frames, channels)
        return frames, self.frame_mask(lengths, frames)

    def frame_mask(self, lengths: torch.Tensor | None, frames: torch.Tensor) -> torch.Tensor:
        """(batch, frames) True where a frame is made of audio. `lengths` (batch,) in samples, None for no padding."""
        if lengths is None:
            return frames.new_ones(frames.shape[:2], dtype=torch.bool)
        lengths = lengths.clamp(min=self.config.receptive_field)
        return length_mask(self._get_feat_extract_output_lengths(lengths), frames.shape[1])


def sample_spans(lengths: torch.Tensor, size: int, prob: float, span: int) -> torch.Tensor:
    """Random spans of `span` places that cover about `prob` of each row's first `lengths`: (batch, size)."""
    fits = length_mask(lengths - span + 1, size)
    starts = (torch.rand(fits.shape, device=lengths.device) < prob / span) & fits
    padded = F.pad(starts.float()[:, None], (span - 1, 0))
    return F.max_pool1d(padded, span, stride=1)[:, 0].bool()


# ---- pooling -------------------------------------------------------------------------------------------------------


def pool(
    frames: torch.Tensor,
    mask: torch.Tensor,
    pooling: str,
    scores: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Per-frame predictions (batch, frames, labels) → (batch, labels), over frames where `mask` is True.

    `first`, `last`, `max` and `avg` are section III-B's; `maskavg` is the authors', a sum divided by `lengths`
    (batch,), by default the frames it is over; `attention` weighs frames by the softmax of `scores` (batch, frames, 1).
    """
    if pooling == "first":
        return frames[:, 0]
    if pooling == "last":
        last = mask.sum(-1) - 1
        return frames[torch.arange(len(frames), device=frames.device), last]
    valid = mask[..., None]  # (batch, frames, 1)
    if pooling == "max":
        return frames.masked_fill(~valid, float("-inf")).amax(1)
    if pooling in ("avg", "maskavg"):
        counts = mask.sum(-1) if lengths is None or pooling == "avg" else lengths
        return (frames * valid).sum(1) / counts[:, None]
    assert scores is not None  # with pooling "attention"
    weights = scores.float().masked_fill(~valid, float("-inf")).softmax(1)
    return (frames * weights).sum(1)


# ---- model ---------------------------------------------------------------------------------------------------------


class Wav2Vec2ForVocalBurst(Wav2Vec2PreTrainedModel):
    """The paper's model. Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right.

    With `loss="ccc"` or `"mse"` the logits are the predictions themselves, within `config.label_range`; with
    `loss="ce"` they are unnormalised log-probabilities.
    """

    config_class = Wav2Vec2VocalBurstConfig
    # The Trainer must not rescale the loss by a number of items: CCC is no sum over clips.
    accepts_loss_kwargs = False
    # What a plain checkpoint holds and this model leaves out: layers above encoder_layer, the norm after the last one,
    # SpecAugment's vector when it is off, and the heads of pre-training, CTC and sequence classification.
    _keys_to_ignore_on_load_unexpected = [
        r"encoder\.layers\.\d+\.",
        r"encoder\.layer_norm\.",
        r"masked_spec_embed",
        r"^quantizer\.",
        r"^project_(hid|q)\.",
        r"^lm_head\.",
        r"^(projector|classifier|layer_weights)",
    ]

    def __init__(self, config: Wav2Vec2VocalBurstConfig):
        super().__init__(config)
        self.wav2vec2 = VocalBurstEncoder(config)
        self.dropout = nn.Dropout(config.head_dropout)
        width = config.hidden_size
        self.rnn = None
        if config.rnn_layers:
            self.rnn = nn.LSTM(
                width,
                config.rnn_hidden_size,
                config.rnn_layers,
                batch_first=True,
                dropout=config.head_dropout if config.rnn_layers > 1 else 0.0,
            )
            width = config.rnn_hidden_size
        self.head = nn.Linear(width, config.num_labels)
        self.head_norm = nn.BatchNorm1d(config.num_labels) if config.head_norm else None
        self.attention = nn.Linear(width, 1) if config.pooling == "attention" else None
        self.log_variances = None
        if config.loss == MULTITASK and config.task_weighting == "uncertainty":
            self.log_variances = nn.Parameter(torch.zeros(len(config.tasks)))
        self.post_init()

    def _init_weights(self, module):
        if self.config.head_init == "torch" and any(module is part for part in (self.rnn, self.head, self.attention)):
            module.reset_parameters()
            return
        super()._init_weights(module)
        if module is self and self.log_variances is not None:
            nn.init.zeros_(self.log_variances)

    @classmethod
    def from_pretrained(cls, *args, key_mapping: dict[str, str] | None = None, **kwargs):
        """As everywhere in Transformers; HuBERT checkpoints are read too, whatever head they come with."""
        return super().from_pretrained(*args, key_mapping={r"^hubert\.": "wav2vec2.", **(key_mapping or {})}, **kwargs)

    def freeze_encoder(self):
        """Trains the head only: no gradient into the encoder, and its dropout off (or as `frozen_encoder_dropout`)."""
        self.wav2vec2.requires_grad_(False)
        self.train(self.training)

    def freeze_feature_encoder(self):
        """Keeps the convolutional front end as it is, as fine-tuning of wav2vec 2.0 usually does."""
        self.wav2vec2.freeze_feature_encoder()

    def train(self, mode: bool = True):
        super().train(mode)
        frozen = not any(parameter.requires_grad for parameter in self.wav2vec2.parameters())
        if frozen and not self.config.frozen_encoder_dropout:
            self.wav2vec2.eval()
        return self

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        encoder_frames: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        front_end_frames: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Predicts every label of every clip.

        Args:
            input_values: (batch, samples) float waveforms at 16 kHz, padded on the right.
            attention_mask: (batch, samples), 1 for audio and 0 for padding; None when there is no padding.
            labels: (batch, labels) floats with NaN where missing, or (batch,) class indices with -100.
            encoder_frames: (batch, frames, hidden) what `encode` made of the waveforms, instead of them.
            frame_mask: (batch, frames) True where a frame of `encoder_frames` or `front_end_frames` is made of audio.
            front_end_frames: (batch, frames, channels) what the convolutions made of the waveforms, instead of them.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict` as everywhere in Transformers.

        Returns:
            `logits` (batch, num_labels) in fp32, and `loss` when `labels` are given.
        """
        return_dict = kwargs.pop("return_dict", True)
        if encoder_frames is not None:
            outputs = Wav2Vec2BaseModelOutput(last_hidden_state=encoder_frames)
        elif front_end_frames is not None:
            outputs = self.wav2vec2(front_end_frames=front_end_frames, frame_mask=frame_mask, **kwargs)
        else:
            assert input_values is not None  # one of the three is given
            outputs, frame_mask = self.encode(input_values, attention_mask, **kwargs)
        assert frame_mask is not None  # frames come with theirs
        logits = self.predict_frames(outputs.last_hidden_state, frame_mask)
        loss = None if labels is None else self.compute_loss(logits, labels)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return output if return_dict else output.to_tuple()

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of a whole batch; that of several tasks is a weighted sum.

        With uncertainty weighting, task t of log variance s_t adds exp(-s_t) L_t + s_t (Kendall et al. 2018).
        """
        if self.config.loss != MULTITASK:
            return compute_loss(self.config, logits, labels)
        losses = task_losses(self.config, logits, labels)  # (tasks,)
        if self.log_variances is not None:
            return (losses * torch.exp(-self.log_variances) + self.log_variances).sum()
        weights = self.config.task_weights or [1.0] * len(losses)
        return (losses * losses.new_tensor(weights)).sum()

    def encode(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        """The encoder alone: waveforms → its outputs, `last_hidden_state` (batch, frames, hidden), and their mask."""
        outputs = self.wav2vec2(input_values, attention_mask=attention_mask, **kwargs)
        lengths = None if attention_mask is None else attention_mask.sum(-1)
        return outputs, self.wav2vec2.frame_mask(lengths, outputs.last_hidden_state)

    def predict_frames(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The head alone: encoder frames (batch, frames, hidden) and their mask → (batch, num_labels) in fp32.

        The LSTM runs forwards only, so the padding on the right never reaches a valid frame.
        """
        hidden_states = self.dropout(hidden_states)
        if self.rnn is not None:
            hidden_states = self.dropout(self.rnn(hidden_states)[0])  # (batch, frames, rnn_hidden)
        scores = None if self.attention is None else self.attention(hidden_states)
        if self.config.pool_before_head:
            return self.score_outputs(self.head(self.pool_frames(hidden_states, mask, scores)).float())
        frames = self.score_outputs(self.head(hidden_states).float())  # (batch, frames, labels)
        return self.pool_frames(frames, mask, scores)

    def score_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """The linear layer's outputs, (batch, frames, num_labels) or (batch, num_labels), normed and squashed."""
        if self.head_norm is not None:
            outputs = self.head_norm(outputs.transpose(1, -1)).transpose(1, -1)
        if self.config.ce_sigmoid:
            outputs = outputs.sigmoid()
        return scores_from_outputs(self.config, outputs)

    def pool_frames(self, frames: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, …) → (batch, …), over the frames that the configuration's pooling sees."""
        seen = torch.ones_like(mask) if self.config.pools_padding else mask
        return pool(frames, seen, self.config.pooling, scores, lengths=mask.sum(-1))
