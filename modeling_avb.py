"""Wav2Vec2ForVocalBurst: wav2vec 2.0 → LSTM → linear → pooling, for emotion in laughs, cries, gasps and screams.

"Fine-tuning Wav2vec for Vocal-burst Emotion Recognition" (ACII A-VB 2022), section III. Self-contained code for the
Hub: it needs torch, transformers, and `configuration_avb.py`, `encoder_avb.py`, `front_end_avb.py` and `pooling_avb.py`
beside it. Other kinds of encoder (`modeling_wavlm_avb.py`, …) share the head, `VocalBurstModel`.

Unusual:
- The encoder has only the layers that are used. Layer `k` is `hidden_states[k]` of the full encoder, before any final
  layer norm.
- The prediction for a clip does not depend on its batch: every reduction over time, including the group norm in the
  front end of BASE and LARGE, covers valid frames only. (The `authors` preset does not guarantee this, like the
  authors' code.)
- Any length from one sample is accepted: clips shorter than one frame are padded with silence.
"""

from types import SimpleNamespace

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, Wav2Vec2BaseModelOutput
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Model, Wav2Vec2PreTrainedModel

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import MULTITASK, Wav2Vec2VocalBurstConfig
    from .encoder_avb import WaveformEncoder
    from .pooling_avb import POOLINGS
except ImportError:
    from configuration_avb import MULTITASK, Wav2Vec2VocalBurstConfig
    from encoder_avb import WaveformEncoder
    from pooling_avb import POOLINGS

IGNORE_INDEX = -100  # a clip without a class label; a missing regression label is NaN


# ---- losses --------------------------------------------------------------------------------------------------------


def ccc_loss(
    predictions: torch.Tensor, targets: torch.Tensor, reduction: str = "mean", eps: float = 1e-8
) -> torch.Tensor:
    """1 - CCC over the clips of a batch, averaged or summed over labels, in fp32 (equation 2, population moments).

    CCC = 2 s_xy / (s_x² + s_y² + (x̄ - ȳ)²)

    Labels present in fewer than two clips have no concordance and are left out.

    Args:
        predictions: (batch, labels)
        targets: (batch, labels); NaN marks a missing label.
        reduction: over labels, `mean` or `sum`.
        eps: keeps the gradient finite if a label and its predictions are constant over the batch.
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
    """Cross entropy over the clips that have a class, in fp32; zero, not NaN, if there are none.

    Args:
        logits: (batch, classes)
        targets: (batch,) class indices, -100 if missing; or (batch, classes) probabilities, for mixed clips and
            softened labels, NaN if missing.
        class_weights: one per class, for the mean over clips.
        label_smoothing: in [0, 1).
    """
    logits = logits.float()
    classes = torch.arange(logits.shape[-1], device=logits.device)
    if class_weights is None:
        weight = logits.new_ones(len(classes))
    else:  # filled number by number on the device: copying a list would make the host wait
        weight = torch.cat([logits.new_full((1,), value) for value in class_weights])
    if targets.ndim == 1:
        present = targets != IGNORE_INDEX
        targets = targets[:, None] == classes
    else:
        present = ~targets.isnan().any(-1)
    targets = targets.masked_fill(~present[:, None], 0).float()  # (batch, classes)
    # As in torch.nn.functional.cross_entropy, a clip has the weight of its class, and so does its smoothed loss.
    counts = (targets * weight).sum(-1)  # not a matrix product, which autocast would round
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / len(weight) * present[:, None]
    loss = -(targets * weight * logits.log_softmax(-1)).sum()
    return loss / counts.sum().clamp(min=1e-8)


def scores_from_outputs(config, outputs: torch.Tensor) -> torch.Tensor:
    """Raw outputs (..., num_labels) → logits for `ce`, otherwise a sigmoid scaled to `config.label_range`."""
    if config.loss == MULTITASK:
        parts = zip(task_configs(config), config.task_slices, strict=True)
        return torch.cat([scores_from_outputs(part, outputs[..., place]) for part, place in parts], -1)
    if config.loss == "ce":
        return outputs
    low, high = config.label_range
    return low + (high - low) * outputs.sigmoid()


def compute_loss(config, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss `config.loss` of a whole batch: logits (batch, num_labels), labels in the format of the loss."""
    if config.loss == "ccc":
        return ccc_loss(logits, labels, config.ccc_reduction)
    if config.loss == "mse":
        return mse_loss(logits, labels)
    return ce_loss(logits, labels, config.class_weights, config.label_smoothing)


def task_configs(config) -> list[SimpleNamespace]:
    """The configurations for `compute_loss` and `scores_from_outputs`, one per task of a multitask model."""
    shared = {"ccc_reduction": config.ccc_reduction, "class_weights": None, "label_range": (0.0, 1.0)}
    return [SimpleNamespace(**{**shared, "label_smoothing": config.label_smoothing, **task}) for task in config.tasks]


def task_losses(config, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each task of a multitask model, (tasks,), each over the clips that have its labels.

    Args:
        logits: (batch, num_labels)
        labels: (batch, columns) floats, NaN if missing: the labels of a regression task, one class index for a
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


# ---- model ---------------------------------------------------------------------------------------------------------


class VocalBurstModel(PreTrainedModel):
    """The head for any kind of encoder: LSTM, linear layer, pooling, loss. A mixin, placed before the stock class.

    With `loss="ccc"` or `"mse"`, the logits are the predictions, within `config.label_range`; with `loss="ce"`, they
    are unnormalised log-probabilities.
    """

    encoder_class: type[WaveformEncoder]
    _auto_class = "AutoModelForAudioClassification"  # every saved folder contains the code, whoever saves it
    # Query and value projections of the encoder's attention, to which LoRA adapters are added.
    lora_targets = ("q_proj", "v_proj")
    # The Trainer must not rescale the loss by a number of items: CCC is not a sum over clips.
    accepts_loss_kwargs = False
    # Parts of a plain checkpoint that this model does not have: layers above encoder_layer, the norm after the last
    # one, SpecAugment's vector when it is off, and the heads of pre-training, CTC and sequence classification.
    _keys_to_ignore_on_load_unexpected = [
        r"encoder\.layers\.\d+\.",
        r"encoder\.layer_norm\.",
        r"masked_spec_embed",
        r"^quantizer\.",
        r"^project_(hid|q)\.",
        r"^lm_head\.",
        r"^(projector|classifier|layer_weights)",
    ]

    def save_pretrained(self, save_directory, **kwargs):
        """Like that of Transformers, but `AutoModel` finds the saved class too, not only one Auto class."""
        auto_map = dict(getattr(self.config, "auto_map", None) or {})
        auto_map["AutoModel"] = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        self.config.auto_map = auto_map
        super().save_pretrained(save_directory, **kwargs)

    def __init__(self, config):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.encoder_class(config))  # where plain checkpoints have their encoder
        self.layer_weights = None
        if config.use_weighted_layer_sum:
            layers = config.num_hidden_layers + 1  # plus the input of the first one
            self.layer_weights = nn.Parameter(torch.full((layers,), 1 / layers))
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
        if module is self and self.layer_weights is not None:
            nn.init.constant_(self.layer_weights, 1 / len(self.layer_weights))

    def freeze_encoder(self):
        """Trains only the head: no gradient for the encoder, and no dropout in it (unless `frozen_encoder_dropout`)."""
        self.base_model.requires_grad_(False)
        self.train(self.training)

    def freeze_feature_encoder(self):
        """Freezes the convolutional front end, as is usual when fine-tuning wav2vec 2.0."""
        self.base_model.freeze_feature_encoder()

    def freeze_layers(self, count: int):
        """Freezes the lowest `count` transformer layers and everything before them."""
        kept = {id(parameter) for layer in self.base_model.layers_kept[count:] for parameter in layer.parameters()}
        for parameter in self.base_model.parameters():
            if id(parameter) not in kept:
                parameter.requires_grad = False
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.has_frozen_encoder and not self.config.frozen_encoder_dropout:
            self.base_model.eval()
        return self

    @property
    def has_frozen_encoder(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.base_model.parameters())

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
        """Predicts all labels of all clips.

        Args:
            input_values: (batch, samples) float waveforms at 16 kHz, padded on the right.
            attention_mask: (batch, samples), 1 for audio and 0 for padding; None if there is no padding.
            labels: (batch, labels) floats, NaN if missing, or (batch,) class indices, -100 if missing.
            encoder_frames: the output of `encode` for the waveforms, instead of them.
            frame_mask: (batch, frames) True for frames of `encoder_frames` or `front_end_frames` that contain audio.
            front_end_frames: (batch, frames, channels) the output of the convolutions, instead of the waveforms.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict` as everywhere in Transformers.

        Returns:
            `logits` (batch, num_labels) in fp32, and `loss` if `labels` are given.
        """
        return_dict = kwargs.pop("return_dict", True)
        if encoder_frames is not None:
            outputs = Wav2Vec2BaseModelOutput(last_hidden_state=encoder_frames)
        elif front_end_frames is not None:
            kept = {"front_end_frames": front_end_frames, "frame_mask": frame_mask}
            outputs, frame_mask = self.encode(**kept, **kwargs)
        else:
            assert input_values is not None  # one of the three arguments is given
            outputs, frame_mask = self.encode(input_values, attention_mask, **kwargs)
        assert frame_mask is not None  # frames have their own mask
        logits = self.predict_frames(outputs.last_hidden_state, frame_mask)
        loss = None if labels is None else self.compute_loss(logits, labels)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return output if return_dict else output.to_tuple()

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of a whole batch; for several tasks, a weighted sum.

        With uncertainty weighting, task t with log variance s_t adds exp(-s_t) L_t + s_t (Kendall et al. 2018).
        """
        if self.config.loss != MULTITASK:
            return compute_loss(self.config, logits, labels)
        losses = task_losses(self.config, logits, labels)  # (tasks,)
        if self.log_variances is not None:
            return (losses * torch.exp(-self.log_variances) + self.log_variances).sum()
        weights = self.config.task_weights or [1.0] * len(losses)
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()

    def encode(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        front_end_frames: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        **kwargs,
    ):
        """Runs only the encoder: waveforms, or the output of its front end → its outputs, and the mask of its frames.

        The head reads the `last_hidden_state` of the outputs: (batch, frames, hidden), or all layers concatenated,
        before they are weighted: (batch, frames, (layers + 1) × hidden).
        """
        is_asked = kwargs.get("output_hidden_states", self.config.output_hidden_states)
        if self.layer_weights is not None:
            kwargs["output_hidden_states"] = True
        encoder = self.base_model
        if front_end_frames is None:
            outputs = encoder(input_values, attention_mask=attention_mask, **kwargs)
            lengths = None if attention_mask is None else attention_mask.sum(-1)
            mask = encoder.frame_mask(lengths, outputs.last_hidden_state)
        else:
            outputs = encoder(front_end_frames=front_end_frames, frame_mask=frame_mask, **kwargs)
            mask = encoder.output_mask(frame_mask)
        if self.layer_weights is not None:
            outputs.last_hidden_state = torch.cat(outputs.hidden_states, -1)
            if not is_asked:
                outputs.hidden_states = None
        return outputs, mask

    def weigh_layers(self, layers: torch.Tensor) -> torch.Tensor:
        """(batch, frames, (layers + 1) × hidden) → (batch, frames, hidden), weighted by the softmax of the weights."""
        assert self.layer_weights is not None  # with use_weighted_layer_sum
        weights = self.layer_weights.softmax(-1).to(layers.dtype)
        return torch.stack(layers.chunk(len(weights), -1), -1) @ weights

    def predict_frames(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Runs only the head: the result of `encode`, encoder frames and their mask → (batch, num_labels) in fp32.

        The LSTM only runs forwards, so padding on the right never affects a valid frame.
        """
        if self.layer_weights is not None:
            hidden_states = self.weigh_layers(hidden_states)
        hidden_states = self.dropout(hidden_states)
        if self.rnn is not None:
            hidden_states = self.dropout(self.rnn(hidden_states)[0])  # (batch, frames, rnn_hidden)
        scores = None if self.attention is None else self.attention(hidden_states)
        if self.config.pool_before_head:
            return self.score_outputs(self.head(self.pool_frames(hidden_states, mask, scores)).float())
        frames = self.score_outputs(self.head(hidden_states).float())  # (batch, frames, labels)
        return self.pool_frames(frames, mask, scores)

    def score_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Applies norm and sigmoid to the linear outputs, (batch, frames, num_labels) or (batch, num_labels)."""
        if self.head_norm is not None:
            outputs = self.head_norm(outputs.transpose(1, -1)).transpose(1, -1)
        if self.config.ce_sigmoid:
            outputs = outputs.sigmoid()
        return scores_from_outputs(self.config, outputs)

    def pool_frames(self, frames: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, …) → (batch, …), over the frames that the configured pooling includes."""
        seen = torch.ones_like(mask) if self.config.pools_padding else mask
        return POOLINGS[self.config.pooling](frames, seen, scores=scores, lengths=mask.sum(-1))


class VocalBurstEncoder(WaveformEncoder, Wav2Vec2Model):
    """wav2vec 2.0; checkpoint keys are those of `Wav2Vec2Model`."""

    config_class = Wav2Vec2VocalBurstConfig

    def adapt(self, config):
        super().adapt(config)
        self.use_spectra()
        if config.do_stable_layer_norm:
            # Pre-norm encoders normalise again after the last layer; hidden_states[k] does not include that.
            self.encoder.layer_norm = nn.Identity()


class Wav2Vec2ForVocalBurst(VocalBurstModel, Wav2Vec2PreTrainedModel):
    """The paper's model. Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right."""

    config_class = Wav2Vec2VocalBurstConfig
    encoder_class = VocalBurstEncoder

    @classmethod
    def from_pretrained(cls, *args, key_mapping: dict[str, str] | None = None, **kwargs):
        """Like that of Transformers; also reads HuBERT checkpoints, with any head."""
        return super().from_pretrained(*args, key_mapping={r"^hubert\.": "wav2vec2.", **(key_mapping or {})}, **kwargs)
