"""The positional convolution by way of spectra: the stock layer's numbers and gradients, and when it is taken."""

from types import SimpleNamespace

import peft
import pytest
import torch
from torch.nn.utils import parametrize
from transformers import UniSpeechSatConfig, Wav2Vec2Config, WavLMConfig
from transformers.models.unispeech_sat.modeling_unispeech_sat import UniSpeechSatPositionalConvEmbedding
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PositionalConvEmbedding
from transformers.models.wavlm.modeling_wavlm import WavLMPositionalConvEmbedding

import positions_avb
from configuration_avb import Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst
from modeling_data2vec_avb import Data2VecAudioVocalBurstConfig, Data2VecAudioVocalBurstEncoder
from positions_avb import PositionalConvolution, SpectralConvolution, is_worth_it

STOCK = {
    Wav2Vec2PositionalConvEmbedding: Wav2Vec2Config,
    WavLMPositionalConvEmbedding: WavLMConfig,
    UniSpeechSatPositionalConvEmbedding: UniSpeechSatConfig,
}


def stock_layer(stock=Wav2Vec2PositionalConvEmbedding, taps: int = 16, hidden: int = 32, groups: int = 4):
    torch.manual_seed(0)
    shape = {"num_conv_pos_embeddings": taps, "num_conv_pos_embedding_groups": groups, "hidden_size": hidden}
    layer = stock(STOCK[stock](**shape)).double()
    with torch.no_grad():
        for parameter in layer.parameters():  # a bias of zero and the norms that the kernels have would hide much
            parameter.add_(torch.randn_like(parameter))
    return layer


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(positions_avb, "is_worth_it", lambda hidden_states, conv: True)


def run(layer, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The outputs, and the gradients of the inputs and of every parameter."""
    inputs = inputs.clone().requires_grad_()
    outputs = layer(inputs)
    (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    return [outputs.detach(), inputs.grad, *gradients]


def check_against(layer, own, frames: int):
    assert list(own.state_dict()) == list(layer.state_dict())
    inputs = torch.randn(3, frames, 32, dtype=torch.float64)
    for found, wanted in zip(run(own, inputs), run(layer, inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("taps", [16, 15, 128])
@pytest.mark.parametrize("frames", [1, 2, 9, 40, 41])
def test_it_is_the_stock_layer(taps, frames, always):
    layer = stock_layer(taps=taps)
    check_against(layer, PositionalConvolution(layer), frames)


@pytest.mark.parametrize("stock", [WavLMPositionalConvEmbedding, UniSpeechSatPositionalConvEmbedding])
def test_it_is_the_layer_of_the_other_kinds(stock, always):
    layer = stock_layer(stock)
    check_against(layer, PositionalConvolution(layer), 40)


def test_stacked_ones_are_those_of_data2vec(always):
    """Through the whole encoder, in which padding is silent in front of each; alone, nothing is padded."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = Data2VecAudioVocalBurstConfig(
        **shape, encoder_layer=1, conv_dim=(16,) * 7, num_conv_pos_embedding_groups=4
    )
    encoder = Data2VecAudioVocalBurstEncoder(config).double().eval()
    frames, mask = torch.randn(2, 30, 32, dtype=torch.float64), torch.ones(2, 30, dtype=torch.bool)
    found = encoder.encode_frames(frames, mask)
    assert (found - encoder.encoder(frames).last_hidden_state).abs().max() < 1e-10


def test_a_layer_that_does_more_than_convolve_is_called(always):
    """Adapters around it, and hooks that gather its weights, have their say."""
    layer, inputs = stock_layer(), torch.randn(2, 30, 32, dtype=torch.float64)
    own = PositionalConvolution(layer)
    called = layer.conv.register_forward_pre_hook(lambda conv, inputs: (inputs[0] * 2,))
    torch.testing.assert_close(own(inputs), layer(inputs))
    called.remove()
    torch.testing.assert_close(own(inputs), layer(inputs))
    parametrize.remove_parametrizations(layer.conv, "weight")
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["conv"]), own)
    torch.nn.init.normal_(adapted.conv.lora_B["default"].weight)
    expected = adapted.conv(inputs.transpose(1, 2))[..., :-1].transpose(1, 2)
    assert (expected - adapted.conv.base_layer(inputs.transpose(1, 2))[..., :-1].transpose(1, 2)).abs().max() > 0.1
    torch.testing.assert_close(adapted(inputs), adapted.activation(expected))


def test_a_norm_that_is_folded_into_the_weights_changes_nothing(always):
    layer, inputs = stock_layer(), torch.randn(2, 30, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(inputs)
        parametrize.remove_parametrizations(layer.conv, "weight")
        torch.testing.assert_close(PositionalConvolution(layer)(inputs), expected, rtol=0, atol=1e-10)


def test_what_is_frozen_gets_no_gradient(always):
    layer = PositionalConvolution(stock_layer())
    layer.conv.requires_grad_(False)
    inputs = torch.randn(2, 30, 32, dtype=torch.float64, requires_grad=True)
    layer(inputs).sum().backward()
    assert inputs.grad is not None and all(parameter.grad is None for parameter in layer.parameters())
    layer.conv.requires_grad_(True)
    layer(inputs.detach()).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_bfloat16_around_it_rounds_its_ends_alone(always):
    """Under autocast the stock layer multiplies rounded weights; the spectra stay in fp32, and so do gradients."""
    layer = stock_layer(taps=128, hidden=64).float()
    own, inputs = PositionalConvolution(layer), torch.randn(4, 60, 64)
    expected = run(layer, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(own, inputs)
    assert [tensor.dtype for tensor in found] == [torch.float32] * len(found)
    for part, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(part, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = own(inputs.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), expected[0], rtol=0, atol=0.02 * float(expected[0].abs().max()))


@pytest.mark.parametrize("has_amx", [False, True])
def test_it_is_taken_where_it_pays(has_amx, monkeypatch):
    monkeypatch.setattr(positions_avb, "has_matrix_units", lambda: has_amx)
    large = torch.nn.Conv1d(1024, 1024, 128, groups=16, device="meta")

    def is_taken(batch: int, frames: int, dtype=torch.float32) -> bool:
        return is_worth_it(torch.empty(batch, frames, 1024, dtype=dtype, device="meta"), large)

    assert is_taken(16, 110) and is_taken(16, 110, torch.bfloat16) and is_taken(128, 110) and is_taken(4, 500)
    assert not is_taken(1, 50)  # the kernels' spectra would cost most
    assert not is_taken(4, 1000) and not is_taken(64, 1025)  # transforms would
    elsewhere = SimpleNamespace(shape=(16, 110, 1024), device=torch.device("mps"), dtype=torch.float32)
    assert not is_worth_it(elsewhere, large)  # it has no float64
    cpu = torch.empty(8, 110, 1024)
    assert is_worth_it(cpu, large) and is_worth_it(cpu.bfloat16(), large) is not has_amx
    assert not is_worth_it(cpu[:2].bfloat16(), large)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_worth_it(cpu, large) is not has_amx


def test_the_choice_is_compiled_too():
    conv, inputs = torch.nn.Conv1d(32, 32, 16, padding=8, groups=4), torch.randn(4, 20, 32)
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(positions_avb.convolve, fullgraph=True, backend="eager")(inputs, conv)
        torch.testing.assert_close(compiled, positions_avb.convolve(inputs, conv))


def test_a_model_takes_it_in_training_and_an_exported_graph_does_not(monkeypatch):
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model = Wav2Vec2ForVocalBurst(Wav2Vec2VocalBurstConfig(**shape, encoder_layer=1, conv_dim=(16,) * 7, num_labels=2))
    taken, apply = [], SpectralConvolution.apply
    monkeypatch.setattr(SpectralConvolution, "apply", lambda *inputs: taken.append(1) or apply(*inputs))
    waveforms = torch.randn(4, 16_000)
    model(waveforms, labels=torch.rand(4, 2)).loss.backward()
    assert taken == [1]
    traced = torch.jit.trace(model.eval().wav2vec2.encoder.pos_conv_embed, torch.randn(4, 49, 64), check_trace=False)
    assert taken == [1] and "_convolution" in str(traced.inlined_graph)
