"""Tiny models with random weights that tests of several modules read."""

from pathlib import Path

import torch
import transformers
from conftest import TINY, stir

from avb.cards.hub_folder import save_hub_folder
from avb.tasks import MultiTask, Task
from configuration_avb import Wav2Vec2VocalBurstConfig
from configuration_events_avb import BurstEventsConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst
from modeling_events_avb import BurstEventsModel

LOSSES = {"regression": "ccc", "classification": "ce", "multitask": "multitask"}
ONE_LAYER = {**TINY, "num_hidden_layers": 1, "encoder_layer": 1, "rnn_hidden_size": 16}


def tiny_model(
    task: Task | MultiTask | None = None,
    shape: dict = ONE_LAYER,
    *,
    head_scale: float = 1.0,
    is_stirred: bool = True,
    seed: int = 0,
    **fields,
) -> Wav2Vec2ForVocalBurst:
    """The paper's model at tiny width.

    Args:
        task: whose labels and loss it has; None leaves both to `fields`.
        shape: fields of the encoder and the LSTM.
        head_scale: large weights of the head, so that scores differ from clip to clip.
        is_stirred: whether every parameter is moved off its initial value.
        seed: of the weights.
        **fields: of the configuration; they win.
    """
    torch.manual_seed(seed)
    of_task = {}
    if task is not None:
        of_task = {"loss": LOSSES[task.kind], "id2label": task.id2label, "label2id": task.label2id}
    model = Wav2Vec2ForVocalBurst(Wav2Vec2VocalBurstConfig(**{**shape, **of_task, **fields}))
    if is_stirred:
        stir(model)
    model.head.weight.data *= head_scale
    return model


def save_model(folder: Path, task: Task, **fields) -> Path:
    """A model of one layer, saved as training saves it."""
    model = tiny_model(task, head_scale=30, is_stirred=False, **fields)
    return save_hub_folder(model, VocalBurstFeatureExtractor(peak_db=-3.0, trim_top_db=None), folder)


def save_encoder(folder: Path, kind: str = "Wav2Vec2", layers: int = 1) -> torch.nn.Module:
    """A stock encoder, `{kind}Model` of Transformers, saved as a checkpoint to train from."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**TINY, num_hidden_layers=layers)
    encoder = stir(getattr(transformers, f"{kind}Model")(config))
    encoder.save_pretrained(folder)
    return encoder


def detector_of_noise() -> BurstEventsModel:
    """A small detector of random weights, for which what is loud happens to be a burst."""
    torch.manual_seed(2)
    model = BurstEventsModel(BurstEventsConfig(channels=16, dilations=(1, -2, 2))).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean += torch.randn_like(module.running_mean) * 0.1
        model.classifier.weight *= -10
        model.classifier.bias += 4.5
    return model
