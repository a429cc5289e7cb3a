"""The layer-norm front end on rows: the stock layers' frames and gradients, for any kernel, stride and length."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from configuration_avb import Wav2Vec2VocalBurstConfig
from front_end_avb import VocalBurstFeatureEncoder

SHAPES = {
    "LARGE": ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
    "small": ((20, 8, 4, 4), (10, 4, 4, 2)),
    "no stride": ((5, 1, 3), (2, 1, 3)),
    "gaps": ((2, 2), (3, 4)),  # samples that no kernel reads
    "far": ((9, 4, 1), (2, 1, 5)),  # a kernel that reaches over many strides
}


def front_ends(shape: str, bias: bool = True, dtype=torch.float64):
    kernels, strides = SHAPES[shape]
    config = Wav2Vec2VocalBurstConfig(
        feat_extract_norm="layer", conv_bias=bias, conv_dim=[8, *[12] * (len(kernels) - 1)], conv_kernel=kernels,
        conv_stride=strides,
    )  # fmt: skip
    torch.manual_seed(0)
    stock, ours = Wav2Vec2FeatureEncoder(config).to(dtype), VocalBurstFeatureEncoder(config).to(dtype)
    ours.load_state_dict(stock.state_dict())
    return config.receptive_field, stock, ours


def parameter_gradients(front_end, waveforms, weights):
    return torch.autograd.grad((front_end(waveforms) * weights).sum(), list(front_end.parameters()))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_frames_and_gradients_are_those_of_the_stock_layers(shape, bias):
    field, stock, ours = front_ends(shape, bias)
    for samples in (*range(field, field + 23, 3), 639, 640, 641, 1600, 3201):
        if samples < field:
            continue
        waveforms = torch.randn(3, samples, dtype=torch.float64)
        expected, frames = stock(waveforms), ours(waveforms)
        assert frames.shape == expected.shape
        torch.testing.assert_close(frames, expected, rtol=0, atol=1e-12)
        weights = torch.randn_like(expected)
        pairs = zip(*(parameter_gradients(model, waveforms, weights) for model in (ours, stock)), strict=True)
        for gradient, wanted in pairs:
            torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


def test_gradient_of_the_waveform():
    _, stock, ours = front_ends("LARGE")
    gradients = []
    for model in (ours, stock):
        model.eval()
        waveforms = torch.randn(2, 1700, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        waveforms.requires_grad_()
        gradients.append(torch.autograd.grad(model(waveforms).square().sum(), waveforms)[0])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_a_clip_is_not_heard_by_the_clip_before_it():
    """Frames that reach from one clip into the next are dropped."""
    field, _, ours = front_ends("LARGE")
    waveforms = torch.randn(2, 2 * field, dtype=torch.float64)
    other = torch.stack([waveforms[0], 100 * waveforms[1]])
    assert torch.equal(ours(waveforms)[0], ours(other)[0])
    assert not torch.equal(ours(waveforms)[1], ours(other)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_precision_and_bfloat16(dtype):
    _, stock, ours = front_ends("LARGE", dtype=torch.float32)
    waveforms = torch.randn(2, 8000)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        frames, expected = ours(waveforms), stock(waveforms)
    atol = 1e-5 if dtype is torch.float32 else 0.1
    torch.testing.assert_close(frames.float(), expected.float(), rtol=0, atol=atol)


class Copies(TorchDispatchMode):
    """The dtypes that tensors are cast to."""

    def __init__(self):
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default:
            self.dtypes.append(kwargs["dtype"])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_a_frozen_one_stays_in_bfloat16(norm):
    """Under autocast its inputs and weights are cast once; what comes out is as far from the truth as the stock's."""
    torch.manual_seed(0)
    config = Wav2Vec2VocalBurstConfig(feat_extract_norm=norm, conv_bias=True, conv_dim=[32] * 7)
    stock, ours = Wav2Vec2FeatureEncoder(config), VocalBurstFeatureEncoder(config)
    ours.load_state_dict(stock.state_dict())
    ours.requires_grad_(False)
    waveforms = torch.randn(4, 8000)
    with Copies() as copies, torch.autocast("cpu", torch.bfloat16):
        frames = ours(waveforms)
    assert copies.dtypes == [torch.bfloat16] * (1 + len(list(ours.parameters())))
    with torch.autocast("cpu", torch.bfloat16):
        expected = stock(waveforms)
        ours.requires_grad_(True)
        assert ours(waveforms).requires_grad
    assert frames.dtype == torch.bfloat16 and all(weight.dtype == torch.float32 for weight in ours.parameters())
    exact = stock.double()(waveforms.double())
    error, allowed = ((output.double() - exact).square().mean().sqrt() for output in (frames, expected))
    assert 0 < error < 1.2 * allowed


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frozen_ones_sums_of_products_are_the_stock_layers(shape):
    field, stock, ours = front_ends(shape)
    for samples in (field, field + 7, 3201):
        waveforms = torch.randn(3, samples, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(ours(waveforms), stock(waveforms), rtol=0, atol=1e-12)


def test_gradient_checkpointing():
    _, _, ours = front_ends("LARGE")
    waveforms = torch.randn(2, 1700, dtype=torch.float64)
    weights = torch.ones(())
    expected = parameter_gradients(ours, waveforms, weights)
    calls = []

    def checkpoint(function, *args):
        calls.append(function)
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)

    for layer in ours.conv_layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, checkpoint
    for gradient, wanted in zip(parameter_gradients(ours, waveforms, weights), expected, strict=True):
        assert torch.equal(gradient, wanted)
    assert len(calls) == len(ours.conv_layers)


def test_a_seed_gives_the_weights_it_gives_with_the_stock_layers():
    """Results of models that start from random weights can be repeated, whatever the front end is written in."""
    config = Wav2Vec2VocalBurstConfig(feat_extract_norm="layer", conv_dim=[8] * 7)
    after = []
    for front_end in (Wav2Vec2FeatureEncoder, VocalBurstFeatureEncoder):
        torch.manual_seed(0)
        front_end(config)
        after.append(torch.rand(3))
    assert torch.equal(*after)
