"""Dropout of a training step on a CPU: what it computes, how often it drops, and that nothing else changes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scaled_run import make_trainer
from tiny_kinds import STOCK, load
from torch import nn
from torch.nn import functional as F
from trainings import NOISY, Operations, is_same, weights

from avb.cards.hub_folder import save_hub_folder
from avb.training import dropout
from avb.training.dropout import LEVELS, CheapDropout, cheap_dropout, keep_mask

DROPS = {"hidden_dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3, "feat_proj_dropout": 0.3}
DROPS |= {"layerdrop": 0.0, "mask_time_prob": 0.0}
WHISPER_DROPS = {"dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3}
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}  # tolerances


def drawn_mask(shape, dropped: int, seed: int) -> torch.Tensor:
    """A second, literal reading of `keep_mask`, in float64: four numbers of 16 bits from each of 64."""
    torch.manual_seed(seed)
    count = int(np.prod(shape))
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).tolist()
    numbers = [(word >> shift) % LEVELS for word in words for shift in (0, 16, 32, 48)]
    signed = np.array([number - LEVELS * (number >= LEVELS // 2) for number in numbers[:count]])
    return torch.from_numpy((signed + LEVELS // 2 >= dropped).astype(float)).view(shape)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7)])
def test_an_element_is_dropped_or_divided_by_the_probability_to_be_kept(shape, dtype):
    dropped = round(0.3 * LEVELS)
    mask = drawn_mask(shape, dropped, 7)
    x = torch.randn(shape[::-1], dtype=dtype).permute(*range(len(shape))[::-1]).requires_grad_()  # not contiguous
    weight = torch.randn(shape, dtype=dtype)
    torch.manual_seed(7)
    with CheapDropout():
        found = nn.Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    share = 1 - dropped / LEVELS
    close = {"rtol": 0.01 if dtype == torch.bfloat16 else 1e-6, "atol": 0, "check_dtype": False}
    assert found.dtype == dtype and found.shape == shape
    torch.testing.assert_close(found, x.double() * mask / share, **close)
    torch.testing.assert_close(gradient, weight.double() * mask / share, **close)


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_as_much_is_dropped_as_is_asked_for(p):
    """In each of the four places of a number of 64 bits, and in neighbouring places independently."""
    count = 2**18
    torch.manual_seed(0)
    lost = 1 - keep_mask(torch.Size([count, 4]), round(p * LEVELS)).double()
    bound = 5 * (p * (1 - p) / count) ** 0.5 + 1 / LEVELS
    assert (lost.mean(0) - p).abs().max() < bound
    pairs = lost.T @ lost / count
    both = p**2
    assert (pairs - both).masked_select(~torch.eye(4, dtype=torch.bool)).abs().max() < 5 * (both / count) ** 0.5
    assert abs((lost[1:] * lost[:-1]).mean() - both) < 5 * (both / count) ** 0.5


def test_the_mean_is_that_of_the_stock_functions():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 6, 4).unbind()
    x, draws, exact = torch.randn(6, 4), 4000, F.scaled_dot_product_attention(query, key, value)

    def means() -> tuple[torch.Tensor, torch.Tensor]:
        dropped = torch.stack([F.dropout(x, 0.2) for _ in range(draws)])
        parts = (part.expand(draws, 2, 6, 4) for part in (query, key, value))
        return dropped, F.scaled_dot_product_attention(*parts, dropout_p=0.2)

    stock = means()
    with CheapDropout():
        own = means()
    for found, wanted, centre in zip(own, stock, (x, exact[0]), strict=True):
        error = found.std(0) / draws**0.5
        assert ((found.mean(0) - centre).abs() <= 5 * error + 1e-6).all()
        torch.testing.assert_close(found.std(0), wanted.std(0), rtol=0.15, atol=0)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("kind", ["none", "padding", "bias", "padding, bias"])
def test_attention_is_its_formula(kind, dtype):
    """With the same mask of what is dropped, values and gradients, against float64."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(3, 2, 5, 4, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    weight = torch.randn(3, 2, 5, 4, generator=generator).to(dtype)
    is_audio = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    mask = is_audio[:, None, None].expand(3, 1, 5, 5)
    bias = torch.randn(3, 2, 5, 5, generator=generator).to(dtype)
    lowest = torch.finfo(dtype).min
    given = {"none": None, "padding": mask, "bias": bias, "padding, bias": torch.where(mask, bias, lowest)}[kind]
    dropped = round(0.25 * LEVELS)
    kept = drawn_mask((3, 2, 5, 5), dropped, 3) / (1 - dropped / LEVELS)

    query, key, value = exact = [part.detach().double().requires_grad_() for part in parts]
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / 2
    if "bias" in kind:
        scores = scores + bias.double()
    if "padding" in kind:
        scores = scores.masked_fill(~mask, -torch.inf)
    expected = torch.einsum("bhqk,bhkd->bhqd", scores.exp() / scores.exp().sum(-1, keepdim=True) * kept, value)
    wanted = torch.autograd.grad((expected * weight.double()).sum(), exact)

    torch.manual_seed(3)
    with CheapDropout():
        found = F.scaled_dot_product_attention(*parts, attn_mask=given, dropout_p=0.25)
    gradients = torch.autograd.grad((found * weight).sum(), parts)
    for one, other in zip((found, *gradients), (expected, *wanted), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=0, atol=EXACT[dtype] * max(1, other.abs().max().item()))


def test_what_it_does_not_compute_is_left_to_torch():
    """Causal attention, frames that attend to nothing (zero, not NaN), rates that 16 bits do not tell from 0."""
    torch.manual_seed(0)
    query = torch.randn(1, 2, 5, 4)
    empty = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    empty[..., 2, :] = False
    with CheapDropout():
        attended = F.scaled_dot_product_attention(query, query, query, empty, 0.1)
        assert attended[..., 2, :].eq(0).all() and not attended[..., 3, :].eq(0).all()
        first = F.scaled_dot_product_attention(query, query, query, dropout_p=0.1, is_causal=True)[..., 0, :]
        assert (first.eq(0) | (first - query[..., 0, :] / 0.9).abs().lt(1e-5)).all()  # the only frame it attends to
        before = torch.get_rng_state()
        for x in (F.dropout(query, 0.0), F.dropout(query, 1e-6), nn.Dropout(0.5).eval()(query)):
            assert torch.equal(x, query)
        attended = F.scaled_dot_product_attention(query, query, query)
        assert torch.equal(torch.get_rng_state(), before)
        assert F.dropout(query, 1.0).eq(0).all()
    assert torch.equal(attended, F.scaled_dot_product_attention(query, query, query))


# ---- models ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=STOCK)
def model(request, tmp_path_factory):
    stock = STOCK[request.param]
    folder = tmp_path_factory.mktemp("plain")
    stock.build().save_pretrained(folder)
    drops = WHISPER_DROPS if stock.kind == "whisper" else DROPS
    return load(folder, stock.kind, pooling="attention", rnn_layers=0, head_dropout=0.3, **drops)


def padded(waveforms) -> dict:
    clips = waveforms[-3:]
    inputs = nn.utils.rnn.pad_sequence(clips, batch_first=True)
    lengths = torch.tensor([len(clip) for clip in clips])
    return {"input_values": inputs, "attention_mask": (torch.arange(inputs.shape[1]) < lengths[:, None]).long()}


def test_every_kind_of_encoder_has_it(model, waveforms):
    """Nothing draws in torch's own way, and a padded batch scores as in evaluation where nothing is dropped."""
    inputs = padded(waveforms)
    model.train()
    with Operations() as stock:
        model(**inputs)
    with Operations() as own, CheapDropout():
        model(**inputs)
    drawing = {"bernoulli_", "native_dropout", "_fused_dropout"}
    assert stock.names & drawing and not own.names & drawing and "random_" in own.names


def test_padding_is_not_attended_to(model, waveforms, monkeypatch):
    monkeypatch.setattr(dropout, "drop", lambda x, p: x)
    inputs = padded(waveforms)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        with CheapDropout():
            found = model.train()(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# ---- training -------------------------------------------------------------------------------------------------------

STEPS = {"max_steps": 3, "model": NOISY}


def test_recomputed_activations_drop_the_same(tmp_path):
    """Gradient checkpointing runs a layer again, in the backward pass."""
    trained = []
    for number, fields in enumerate(({}, {"gradient_checkpointing": True})):
        trainer = make_trainer(tmp_path / str(number), **STEPS, **fields)
        trainer.train()
        trained.append(weights(trainer))
    assert is_same(*trained)


def test_the_saved_folder_says_nothing_of_it(tmp_path):
    trainer = make_trainer(tmp_path / "run", **STEPS)
    saved = []
    for name in ("before", "after"):
        save_hub_folder(trainer.model, trainer.processing_class, tmp_path / name)
        saved.append(json.loads((tmp_path / name / "config.json").read_text()))
        keys = [*trainer.model.state_dict()]
        if name == "before":
            first = keys
            trainer.train()
    assert saved[0] == saved[1] and first == keys


def test_evaluation_and_what_comes_after_a_failed_step_are_as_before(tmp_path):
    trainer = make_trainer(tmp_path, **STEPS)
    trainer.train()
    inputs = next(iter(trainer.get_eval_dataloader()))
    with pytest.raises(RuntimeError):
        trainer.training_step(trainer.model, {**inputs, "input_values": torch.zeros(2, 2, 2, 2)})
    with Operations() as operations:
        F.dropout(torch.ones(3), 0.5)
    assert "bernoulli_" in operations.names


def test_only_on_a_cpu_and_not_where_a_step_is_compiled():
    for device, is_compiled, expected in (("cpu", False, True), ("cuda", False, False), ("cpu", True, False)):
        args = SimpleNamespace(device=torch.device(device), torch_compile=is_compiled)
        assert isinstance(cheap_dropout(args), CheapDropout) is expected
