"""The model: layer parity, batch independence, pooling, short clips, freezing, saving, its configuration."""

import numpy as np
import pytest
import tiny
import torch
from conftest import ENCODER_SHAPES, GROUP_NORM, LAYER_NORM, TINY, stir
from transformers import HubertConfig, HubertForCTC, HubertModel, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, Wav2Vec2Model

from configuration_avb import Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst
from pooling_avb import POOLINGS


def make_model(shape=None, **fields) -> Wav2Vec2ForVocalBurst:
    """Clips differ by more than the tolerance of what is compared."""
    if "id2label" not in fields:
        fields.setdefault("num_labels", 10)
    shape = {"rnn_hidden_size": 24, **(shape or {**TINY, **ENCODER_SHAPES["BASE"]})}
    return tiny.tiny_model(shape=shape, head_scale=10, **fields).eval()


def pad(waveforms, extra: int = 0, value: float = 0.0):
    """A right-padded batch and its mask; `value` fills the padding."""
    size = max(map(len, waveforms)) + extra
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    mask = torch.arange(size) < lengths[:, None]
    batch = torch.full(mask.shape, value)
    batch[mask] = torch.cat(waveforms)
    return batch, mask.long()


# ---- encoder ------------------------------------------------------------------------------------------------------


def use_our_sums(stock, model):
    """Gives a stock encoder the parts that add up in another order (test_front_end.py, test_positions.py)."""
    stock.feature_extractor = model.wav2vec2.feature_extractor
    stock.encoder.pos_conv_embed = model.wav2vec2.encoder.pos_conv_embed


@pytest.mark.parametrize("name", ENCODER_SHAPES)
@pytest.mark.parametrize("layer", [7, 12])
def test_layer_is_the_full_encoders_hidden_state_bit_for_bit(checkpoints, name, layer):
    full = Wav2Vec2Model.from_pretrained(checkpoints[name]).eval()
    model = Wav2Vec2ForVocalBurst.from_pretrained(checkpoints[name], encoder_layer=layer).eval()
    audio = torch.randn(2, 9000)
    with torch.inference_mode():
        hidden_states = model.wav2vec2(audio).last_hidden_state
        expected = full(audio, output_hidden_states=True).hidden_states[layer]
        assert (hidden_states - expected).abs().max() < 1e-5
        use_our_sums(full, model)
        assert torch.equal(hidden_states, full(audio, output_hidden_states=True).hidden_states[layer])
    assert len(model.wav2vec2.encoder.layers) == layer == model.config.num_hidden_layers


@pytest.mark.parametrize("name", ["LARGE", "LARGE-LV60K"])
def test_padded_clip_has_the_full_encoders_hidden_state(checkpoints, name):
    """With a mask ours equals a stock encoder that sees the clip alone, which for group norm a stock batch does not."""
    full = Wav2Vec2Model.from_pretrained(checkpoints[name]).eval()
    model = Wav2Vec2ForVocalBurst.from_pretrained(checkpoints[name]).eval()
    short, long = torch.randn(6000), torch.randn(20_000)
    batch, mask = pad([short, long])
    with torch.inference_mode():
        alone = full(short[None], output_hidden_states=True).hidden_states[12][0]
        ours = model.wav2vec2(batch, mask).last_hidden_state[0, : len(alone)]
        stock = full(batch, mask, output_hidden_states=True).hidden_states[12][0, : len(alone)]
    assert (ours - alone).abs().max() < 1e-5
    if name == "LARGE":
        assert (stock - alone).abs().max() > 1e-2  # what the masked group norm is there for


@pytest.mark.parametrize("model_class", [Wav2Vec2Model, Wav2Vec2ForPreTraining, Wav2Vec2ForCTC])
def test_every_kind_of_plain_checkpoint_loads(checkpoints, tmp_path, model_class):
    plain = model_class.from_pretrained(checkpoints["LARGE-LV60K"])
    plain.save_pretrained(tmp_path)
    model, info = Wav2Vec2ForVocalBurst.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert {key.split(".")[0] for key in info["missing_keys"]} == {"rnn", "head"}
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    key = "encoder.layers.11.attention.k_proj.weight"
    plain_encoder = plain if model_class is Wav2Vec2Model else plain.wav2vec2
    assert torch.equal(model.wav2vec2.get_parameter(key), plain_encoder.get_parameter(key))
    assert model.config.layerdrop == 0


# ---- batch independence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
def test_prediction_does_not_depend_on_the_batch(encoder_shape, waveforms, pooling):
    model = make_model(encoder_shape, pooling=pooling)
    with torch.inference_mode():
        alone = torch.cat([model(waveform[None]).logits for waveform in waveforms])
        for extra, value in ((0, 0.0), (5000, 0.0), (321, 7.0)):
            together = model(*pad(waveforms, extra, value)).logits
            assert (together - alone).abs().max() < 1e-5
    assert alone[3:].std(0).min() > 1e-3  # a head that answers the same to all would pass the above


def test_prediction_does_not_depend_on_the_batch_without_rnn_and_as_classes(waveforms):
    model = make_model(rnn_layers=0, loss="ce", pooling="avg")
    with torch.inference_mode():
        alone = torch.cat([model(waveform[None]).logits for waveform in waveforms])
        together = model(*pad(waveforms)).logits
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()
    assert alone.std(0).min() > 1e-3


# ---- lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 399, 400, 3000, 16_000])
@pytest.mark.parametrize("group_norm", [True, False])
def test_short_clips_train_under_spec_augment(samples, group_norm):
    shape = {**TINY, **ENCODER_SHAPES["BASE" if group_norm else "LARGE-LV60K"]}
    model = make_model(shape, mask_time_prob=0.5, mask_feature_prob=0.3, encoder_layer=2).train()
    batch, mask = pad([torch.randn(samples), torch.randn(max(1, samples // 2))])
    for _ in range(5):
        loss = model(batch, mask, labels=torch.rand(2, 10)).loss
        loss.backward()
        assert loss.isfinite()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_spec_augment_masks_about_what_it_is_asked_to_and_nothing_of_the_padding():
    from encoder_avb import sample_spans

    torch.manual_seed(0)
    lengths = torch.tensor([9, 200, 400])
    spans = torch.stack([sample_spans(lengths, 400, prob=0.3, span=10) for _ in range(300)])
    share = spans.float().sum(-1).mean(0) / lengths
    assert share[0] == 0  # shorter than a span
    assert not spans[:, 1, 200:].any()
    assert 0.2 < share[1] < 0.3 and 0.2 < share[2] < 0.3  # spans overlap: prob is an upper bound


def test_a_minute_of_audio_is_predicted():
    model = make_model(encoder_layer=1)
    with torch.inference_mode():
        assert model(torch.randn(1, 60 * 16_000)).logits.isfinite().all()


# ---- pooling and head ---------------------------------------------------------------------------------------------


def test_pooling_against_loops():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(4, 6, 3, generator=generator)
    scores = torch.randn(4, 6, 1, generator=generator)
    lengths = [1, 3, 6, 5]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    for clip, length in enumerate(lengths):
        valid = frames[clip, :length]
        weights = torch.tensor([np.exp(score) for score in scores[clip, :length, 0].tolist()])
        expected = {
            "first": valid[0],
            "last": valid[-1],
            "max": torch.stack([max(valid[:, label]) for label in range(3)]),
            "avg": sum(valid) / length,
            "maskavg": sum(valid) / length,
            "attention": sum(weight * frame for weight, frame in zip(weights, valid, strict=True)) / sum(weights),
        }
        for pooling, pool in POOLINGS.items():
            pooled = pool(frames, mask, scores=scores, lengths=mask.sum(-1))
            assert torch.allclose(pooled[clip], expected[pooling], atol=1e-6)


def test_head_order_is_rnn_then_linear_then_pooling():
    """Section III-B: predictions are made for each frame, and pooled."""
    model = make_model(pooling="avg", label_range=[1, 7], encoder_layer=2)
    audio = torch.randn(2, 8000)
    with torch.inference_mode():
        hidden = model.wav2vec2(audio).last_hidden_state
        expected = (1 + 6 * model.head(model.rnn(hidden)[0]).sigmoid()).mean(1)
        logits = model(audio).logits
    assert torch.allclose(logits, expected, atol=1e-5)
    assert logits.min() > 1 and logits.max() < 7
    assert (model.rnn.num_layers, model.rnn.hidden_size, model.rnn.bidirectional) == (2, 24, False)


def test_default_head_is_the_papers():
    config = Wav2Vec2VocalBurstConfig()
    assert (config.encoder_layer, config.rnn_layers, config.rnn_hidden_size) == (12, 2, 512)
    assert (config.pooling, config.loss) == ("last", "ccc")


@pytest.mark.parametrize(("layers", "expected"), [(24, 12), (12, 12), (4, 4)])
def test_the_layer_is_the_papers_or_the_last_of_a_smaller_encoder(layers, expected, tmp_path):
    config = Wav2Vec2VocalBurstConfig(num_hidden_layers=layers)
    assert (config.encoder_layer, config.num_hidden_layers) == (expected, expected)
    config.save_pretrained(tmp_path)
    assert Wav2Vec2VocalBurstConfig.from_pretrained(tmp_path).encoder_layer == expected


def test_frames_of_the_encoder_go_in_place_of_the_waveforms(waveforms):
    model = make_model(pooling="attention")
    batch, mask = pad(waveforms)
    with torch.inference_mode():
        outputs, frame_mask = model.encode(batch, mask)
        found = model(encoder_frames=outputs.last_hidden_state, frame_mask=frame_mask).logits
        assert torch.equal(found, model(batch, mask).logits)


def test_batch_normalization_of_waveforms_takes_the_padding_along(waveforms):
    batch, _ = pad(waveforms[-2:])
    scaled = (batch - batch.mean()) / torch.sqrt(batch.var(correction=0) + 1e-5)
    shape = {**TINY, **ENCODER_SHAPES["LARGE-LV60K"]}  # whose front end hears how loud a clip is
    with torch.inference_mode():
        found = make_model(shape, waveform_normalization="batch")(batch).logits
        assert torch.allclose(found, make_model(shape)(scaled).logits, atol=1e-5)
        assert not torch.allclose(found, make_model(shape)(batch).logits, atol=1e-4)


def test_head_norm_is_over_all_frames_of_the_batch_and_the_padding_can_be_pooled(waveforms):
    """The authors' head: its sigmoid follows a batch norm, and its average counts frames of silence."""
    model = make_model(head_norm="batch", rnn_layers=0, head_dropout=0.0, masked_pooling=False, pooling="avg")
    batch, mask = pad(waveforms[-2:])
    model.wav2vec2.eval()
    model.head_norm.train()
    with torch.no_grad():
        hidden_states = model.encode(batch, mask)[0].last_hidden_state
        outputs = model.head(hidden_states)  # (batch, frames, labels)
        mean, var = outputs.mean((0, 1)), outputs.var((0, 1), correction=0)
        normed = (outputs - mean) / torch.sqrt(var + model.head_norm.eps)
        expected = (normed * model.head_norm.weight + model.head_norm.bias).sigmoid().mean(1)
        assert torch.allclose(model(batch, mask).logits, expected, atol=1e-5)


def test_the_authors_masked_average_sums_padding_and_divides_by_the_clip(waveforms):
    """It can exceed 1; with `masked_pooling` it is the average over valid frames."""
    batch, mask = pad([waveforms[3], waveforms[-1]])
    model = make_model(pooling="maskavg", masked_pooling=False, rnn_layers=0)
    with torch.inference_mode():
        outputs, frame_mask = model.encode(batch, mask)
        scores = model.head(outputs.last_hidden_state).sigmoid()
        expected = scores.sum(1) / frame_mask.sum(1, keepdim=True)
        assert torch.allclose(model(batch, mask).logits, expected, atol=1e-5) and expected.max() > 1
        masked = make_model(pooling="maskavg", rnn_layers=0)(batch, mask).logits
        assert torch.equal(masked, make_model(pooling="avg", rnn_layers=0)(batch, mask).logits)


@pytest.mark.parametrize("loss", ["ccc", "ce"])
def test_the_authors_older_model_without_rnn(waveforms, loss):
    """Sum over all frames / valid ones → linear → batch norm over clips (CCC) → sigmoid, before cross entropy too."""
    fields = {"pooling": "maskavg", "masked_pooling": False, "pool_before_head": True, "rnn_layers": 0, "loss": loss}
    fields |= {"head_norm": "batch_clips"} if loss == "ccc" else {"ce_sigmoid": True}
    model = make_model(**fields).train()
    model.wav2vec2.eval()
    batch, mask = pad(waveforms[-3:])
    with torch.no_grad():
        outputs, frame_mask = model.encode(batch, mask)
        pooled = outputs.last_hidden_state.sum(1) / frame_mask.sum(1, keepdim=True)
        expected = pooled @ model.head.weight.T + model.head.bias
        if loss == "ccc":
            norm = model.head_norm
            expected = (expected - expected.mean(0)) / torch.sqrt(expected.var(0, correction=0) + norm.eps)
            expected = expected * norm.weight + norm.bias
        assert torch.allclose(model(batch, mask).logits, expected.sigmoid(), atol=1e-4)
    for wrong in ({"head_norm": "batch"}, {"loss": "mse", "head_norm": None, "ce_sigmoid": True}):
        with pytest.raises(ValueError, match="is invalid"):
            make_model(**fields | wrong)


def test_logits_and_loss_are_fp32_under_autocast():
    model = make_model(encoder_layer=2).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(4, 8000), labels=torch.rand(4, 10))
    assert output.logits.dtype == output.loss.dtype == torch.float32
    output.loss.backward()
    assert model.head.weight.grad.isfinite().all()


# ---- training state -----------------------------------------------------------------------------------------------


def test_gradients_reach_every_parameter():
    model = make_model(pooling="attention", mask_time_prob=0.9, encoder_layer=2).train()
    model(torch.randn(4, 16_000), labels=torch.rand(4, 10)).loss.backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    # A softmax over frames does not see a constant, nor does attention see a constant added to all keys.
    assert [name for name in without if "k_proj.bias" not in name and name != "attention.bias"] == []


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = make_model(encoder_layer=3, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        batch, mask = pad([torch.randn(9000, generator=torch.Generator().manual_seed(2)), torch.ones(4000)])
        model(batch, mask, labels=torch.linspace(0, 1, 20).view(2, 10)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_frozen_encoder_stays_as_it_is_and_has_no_dropout():
    model = make_model(hidden_dropout=0.5, encoder_layer=2)
    model.freeze_encoder()
    model.train()
    audio = torch.randn(2, 8000)
    assert torch.equal(model.wav2vec2(audio).last_hidden_state, model.wav2vec2(audio).last_hidden_state)
    model(audio, labels=torch.rand(2, 10)).loss.backward()
    assert all(parameter.grad is None for parameter in model.wav2vec2.parameters())
    assert model.rnn.training and model.head.weight.grad.any()


def test_frozen_front_end_leaves_the_transformer_trainable():
    model = make_model(encoder_layer=2).train()
    model.freeze_feature_encoder()
    model(torch.randn(2, 8000), labels=torch.rand(2, 10)).loss.backward()
    assert all(parameter.grad is None for parameter in model.wav2vec2.feature_extractor.parameters())
    assert model.wav2vec2.encoder.layers[0].feed_forward.output_dense.weight.grad.any()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(waveforms, attention):
    reference = make_model(encoder_layer=2)
    model = make_model(encoder_layer=2, attn_implementation=attention)
    batch = pad(waveforms)
    with torch.inference_mode():
        assert torch.allclose(model(*batch).logits, reference(*batch).logits, atol=1e-5)


@pytest.mark.parametrize("shape", [GROUP_NORM, LAYER_NORM], ids=["base", "large"])
@pytest.mark.parametrize("kind", [HubertModel, HubertForCTC])
def test_a_hubert_encoder_is_read_as_it_is(kind, shape, tmp_path):
    """Its weights have wav2vec 2.0's names, after `hubert.` where it has a head: none may be left random."""
    hubert = stir(kind(HubertConfig(**TINY, **shape, num_hidden_layers=4))).eval()
    hubert.save_pretrained(tmp_path)
    model, info = Wav2Vec2ForVocalBurst.from_pretrained(
        tmp_path, encoder_layer=3, num_labels=4, output_loading_info=True
    )
    assert all(key.startswith(("rnn.", "head.")) for key in info["missing_keys"])
    audio = torch.randn(2, 8000)
    with torch.inference_mode():
        encoder = hubert if kind is HubertModel else hubert.hubert
        hidden_states = model.eval().encode(audio)[0].last_hidden_state
        expected = encoder(audio, output_hidden_states=True).hidden_states[3]
        assert (hidden_states - expected).abs().max() < 1e-5
        use_our_sums(encoder, model)
        assert torch.equal(hidden_states, encoder(audio, output_hidden_states=True).hidden_states[3])


def test_saved_model_is_the_model(encoder_shape, tmp_path):
    model = make_model(encoder_shape, pooling="attention", label_range=[-1, 1], id2label={0: "Valence", 1: "Arousal"})
    model.save_pretrained(tmp_path)
    # No pickle; code too, where `import avb` has asked for it (tests/test_hub.py).
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".py"} == {"config.json", "model.safetensors"}
    loaded, info = Wav2Vec2ForVocalBurst.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    audio = torch.randn(2, 8000)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(audio).logits, model(audio).logits)
    assert loaded.config.id2label == {0: "Valence", 1: "Arousal"}


def test_hidden_states_and_tuples_as_everywhere_in_transformers():
    model = make_model(encoder_layer=3)
    with torch.inference_mode():
        output = model(torch.randn(1, 8000), output_hidden_states=True)
        logits, hidden_states = model(torch.randn(1, 8000), output_hidden_states=True, return_dict=False)
    assert len(output.hidden_states) == len(hidden_states) == 4
    assert logits.shape == (1, 10)


# ---- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"pooling": "mean"}, ["pooling='mean'", "last, first, max, avg, maskavg, attention"]),
        ({"loss": "mae"}, ["loss='mae'", "ccc, mse, ce"]),
        ({"encoder_layer": 13}, ["encoder_layer=13", "between 1 and 12"]),
        ({"encoder_layer": 0}, ["encoder_layer=0", "between 1 and 12"]),
        ({"rnn_layers": -1}, ["rnn_layers=-1"]),
        ({"rnn_hidden_size": 0}, ["rnn_hidden_size=0"]),
        ({"head_dropout": 1.0}, ["head_dropout=1.0"]),
        ({"loss": "ce", "num_labels": 1}, ["num_labels=1", "2 or more classes"]),
        ({"loss": "ce", "num_labels": 3, "class_weights": [1.0]}, ["class_weights=[1.0]", "3 numbers"]),
        ({"class_weights": [1.0, 2.0]}, ["class_weights", "loss='ce'"]),
        ({"label_smoothing": 0.1}, ["label_smoothing=0.1", "loss='ce'"]),
        ({"loss": "mse", "problem_type": "multi_label_classification"}, ["problem_type", "'regression'"]),
        ({"label_range": [1, 1]}, ["label_range=[1, 1]", "low < high"]),
        ({"add_adapter": True}, ["add_adapter=True"]),
        (
            {"mask_feature_prob": 0.1, "hidden_size": 8, "num_attention_heads": 2},
            ["mask_feature_length=10", "at most 8"],
        ),
        ({"conv_dim": (16, 16)}, ["conv"]),
    ],
)
def test_illegal_fields_are_named_with_what_is_legal(fields, names):
    with pytest.raises(ValueError) as error:
        Wav2Vec2VocalBurstConfig(**fields)
    assert all(name in str(error.value) for name in names)


def test_other_architectures_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "wavlm"}')
    with pytest.raises(ValueError, match="'wavlm'"):
        Wav2Vec2VocalBurstConfig.from_pretrained(tmp_path)


def test_receptive_field_is_one_frame():
    config = Wav2Vec2VocalBurstConfig()
    assert config.receptive_field == 400
    model = make_model()
    assert model._get_feat_extract_output_lengths(torch.tensor([399, 400])).tolist() == [0, 1]
