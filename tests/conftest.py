"""Shared by all tests: the four encoder shapes of the paper at tiny width, and clips made of noise and tones."""

import gc
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

# No test reaches for the network, and none is slowed down by a client that tries: read when transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForPreTraining

# Models are tiny: threads would cost more than they give, the more so where other programs run.
torch.set_num_threads(1)
# What is imported for the tests stays: not to look through it again and again is a quarter of the suite's time.
gc.disable()


def pytest_collection_modifyitems(items):
    """Files with many slow tests come first: one that comes last keeps one worker busy while the others wait."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


ROOT = Path(__file__).resolve().parent.parent

GROUP_NORM = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
ENCODER_SHAPES = {
    "BASE": {**GROUP_NORM, "num_hidden_layers": 12},
    "LARGE": {**GROUP_NORM, "num_hidden_layers": 24},
    "LARGE-LV60K": {**LAYER_NORM, "num_hidden_layers": 24},
    "XLSR53": {**LAYER_NORM, "num_hidden_layers": 24, "feat_proj_dropout": 0.1, "hidden_dropout": 0.0},
}
TINY = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def require_bf16_of_openvino():
    """Skips a test, with what the export says, where it refuses bf16."""
    import openvino

    from avb.errors import AvbError
    from avb.export.exporting import check_hardware

    try:
        check_hardware(openvino, "bf16")
    except AvbError as error:
        pytest.skip(str(error))


def stir(model: torch.nn.Module) -> torch.nn.Module:
    """Moves every parameter off its initial value: zero biases and unit norms would hide what is left out."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture(scope="session", params=ENCODER_SHAPES)
def encoder_shape(request) -> dict:
    return {**TINY, **ENCODER_SHAPES[request.param]}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Folders of plain pre-training checkpoints, one an encoder shape."""
    folders = {}
    for name, shape in ENCODER_SHAPES.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp(name)
        stir(Wav2Vec2ForPreTraining(Wav2Vec2Config(**TINY, **shape))).save_pretrained(folders[name])
        # The released BASE and LARGE feature extractors say that no mask is needed.
        has_mask = shape["feat_extract_norm"] == "layer"
        Wav2Vec2FeatureExtractor(return_attention_mask=has_mask).save_pretrained(folders[name])
    return folders


@pytest.fixture
def waveforms() -> list[torch.Tensor]:
    """Clips from one sample to three seconds: shorter than a frame, exactly one frame, and usual bursts."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for number, samples in enumerate((1, 399, 400, 719, 720, 16_001, 35_200, 48_000)):
        tone = torch.sin(torch.arange(samples) * 0.02 * 1.7**number)
        clips.append(tone + 0.3 * torch.randn(samples, generator=generator))
    return clips


@pytest.fixture(scope="session")
def tone() -> np.ndarray:
    """One second of a 220 Hz tone that fades, at 16 kHz."""
    time = np.arange(16_000) / 16_000
    return (0.5 * np.sin(2 * np.pi * 220 * time) * np.exp(-3 * time)).astype(np.float32)


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """The synthetic sample corpus in small: 96 clips in the layout of the release."""
    from data.make_sample import make_sample

    return make_sample(tmp_path_factory.mktemp("sample") / "root", clips=96)


@pytest.fixture(scope="session")
def release(request, tmp_path_factory) -> Path:
    """HUME-VB's layout: real bursts with pseudo-labels where the tool that makes it is at hand, else the sample."""
    tool, clips = os.environ.get("AVB_HUME_VB_TOOL"), os.environ.get("AVB_EMOGATOR")
    if not (tool and clips):
        return request.getfixturevalue("sample")
    root = tmp_path_factory.mktemp("release")
    subprocess.run([sys.executable, tool, clips, str(root), "--clips", "240"], check=True, capture_output=True)
    return root


@pytest.fixture(scope="session")
def emogator() -> Path:
    """The Parquet shards of EmoGator, where they are at hand."""
    root = os.environ.get("AVB_EMOGATOR")
    if not root:
        pytest.skip("AVB_EMOGATOR does not name a folder with EmoGator's Parquet shards (data/README.md)")
    return Path(root)


@pytest.fixture
def opensmile():
    return pytest.importorskip("opensmile", reason="the openSMILE baselines are an extra: avb[opensmile]")


@pytest.fixture
def one_thread():
    """Tensors are small here: a second thread costs more than it brings where other work runs too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
