"""Tiny models with random weights that tests of several modules read."""

from pathlib import Path

import torch
from conftest import TINY

from avb.cards.hub_folder import save_hub_folder
from avb.tasks import Task
from configuration_avb import Wav2Vec2VocalBurstConfig
from configuration_events_avb import BurstEventsConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst
from modeling_events_avb import BurstEventsModel


def save_model(folder: Path, task: Task, **fields) -> Path:
    """One layer, saved as training saves it; a head of large weights, so that scores differ from clip to clip."""
    torch.manual_seed(0)
    loss = "ce" if task.kind == "classification" else "ccc"
    config = Wav2Vec2VocalBurstConfig(
        **TINY, num_hidden_layers=1, encoder_layer=1, rnn_hidden_size=16, loss=loss, id2label=task.id2label, **fields
    )
    model = Wav2Vec2ForVocalBurst(config)
    model.head.weight.data *= 30
    return save_hub_folder(model, VocalBurstFeatureExtractor(peak_db=-3.0, trim_top_db=None), folder)


def detector_of_noise() -> BurstEventsModel:
    """A small detector of random weights, for which what is loud happens to be a burst."""
    torch.manual_seed(2)
    model = BurstEventsModel(BurstEventsConfig(channels=16, dilations=(1, -2, 2))).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean += torch.randn_like(module.running_mean) * 0.1
        model.classifier.weight *= 10
        model.classifier.bias += 2.5
    return model
