"""What all baselines share: fields of their configuration, and the step from raw outputs to scores and loss.

A baseline has the interface of `Wav2Vec2ForVocalBurst`: (input_values, attention_mask, labels) → loss and logits. The
logits are within `label_range` for a regression task and raw for a classification. Configuration fields that the
commands read have the same names and checks. A saved baseline includes this file for the Hub.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import LOSSES, require_legal, validate_loss
    from .modeling_avb import compute_loss, scores_from_outputs
except ImportError:
    from configuration_avb import LOSSES, require_legal, validate_loss
    from modeling_avb import compute_loss, scores_from_outputs


class BaselineConfig(PreTrainedConfig):
    """Loss and labels of a baseline.

    Args:
        loss: `mse` (as in the published baselines) or `ccc` for a regression model, `ce` for a classifier.
        label_range: lowest and highest value of a regression label; the sigmoid output is scaled to it.
        ccc_reduction: `mean` or `sum` over labels.
        class_weights: one weight per class for `ce`.
        label_smoothing: label smoothing of `ce`, in [0, 1).

    Raises:
        ValueError: a field has an invalid value, or contradicts another; the message names it and the legal values.
    """

    loss: str = "mse"
    label_range: tuple[float, float] | list[float] = (0.0, 1.0)
    ccc_reduction: str = "mean"
    class_weights: list[float] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        require_legal(self, self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}")
        validate_loss(self)


def power_spectra(waveforms: torch.Tensor, window: torch.Tensor, fft: int, hop: int) -> torch.Tensor:
    """(batch, samples) → |STFT|² (batch, fft // 2 + 1, 1 + samples // hop), frames centred, silence around the clip.

    `window` (at most fft,) is centred in a frame. `avb.export` computes the same as a convolution.
    """
    waveforms = F.pad(waveforms.float(), (fft // 2, fft // 2))
    spectra = torch.stft(waveforms, fft, hop, len(window), window.float(), center=False, return_complex=True)
    return spectra.abs().square()


class BaselineModel(PreTrainedModel):
    """A model whose `predict` returns its raw outputs; scores and loss are computed from them here."""

    config_class = BaselineConfig
    main_input_name = "input_values"
    # The Trainer must not rescale the loss by a number of items: CCC is not a sum over clips.
    accepts_loss_kwargs = False

    def _init_weights(self, module: nn.Module):
        # PyTorch's initialisation, as in the published baselines; Transformers would draw from N(0, 0.02²).
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.LSTM)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def predict(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Raw outputs of shape (batch, num_labels)."""
        raise NotImplementedError

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Predicts all labels of all clips.

        Args:
            input_values: output of the model's feature extractor, (batch, samples) or (batch, features).
            attention_mask: (batch, samples), 1 for audio and 0 for padding on the right; None if there is no padding.
            labels: (batch, labels) floats, NaN if missing, or (batch,) class indices, -100 if missing.

        Returns:
            `logits` (batch, num_labels) in fp32, and `loss` if `labels` are given.
        """
        logits = scores_from_outputs(self.config, self.predict(input_values, attention_mask).float())
        loss = None if labels is None else self.compute_loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def compute_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of a whole batch."""
        return compute_loss(self.config, logits, labels)
