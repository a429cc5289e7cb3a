"""The losses against literal formulas, and where labels are missing or constant."""

import math

import pytest
import torch
from torch.nn import functional as F

from modeling_avb import ccc_loss, ce_loss, mse_loss


def literal_ccc(x: list[float], y: list[float]) -> float:
    """Equation 2 of the paper, with s_x and s_y read as standard deviations."""
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    s_xy = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
    s_xx = sum((a - mean_x) ** 2 for a in x) / n
    s_yy = sum((b - mean_y) ** 2 for b in y) / n
    return 2 * s_xy / (s_xx + s_yy + (mean_x - mean_y) ** 2)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(16, 4, generator=generator), torch.rand(16, 4, generator=generator)


def test_ccc_loss_is_the_formula(batch):
    predictions, targets = batch
    expected = [1 - literal_ccc(predictions[:, k].tolist(), targets[:, k].tolist()) for k in range(4)]
    assert ccc_loss(*batch).item() == pytest.approx(sum(expected) / 4, abs=1e-6)


def test_missing_labels_are_left_out_of_their_label(batch):
    predictions, targets = batch
    targets = targets.clone()
    targets[:5, 1] = math.nan
    targets[:, 2] = math.nan
    targets[1:, 3] = math.nan  # one clip alone has no concordance
    kept = [1 - literal_ccc(predictions[rows:, k].tolist(), targets[rows:, k].tolist()) for rows, k in ((0, 0), (5, 1))]
    assert ccc_loss(predictions, targets).item() == pytest.approx(sum(kept) / 2, abs=1e-6)
    present = ~targets.isnan()
    assert mse_loss(predictions, targets).item() == pytest.approx(
        (predictions[present] - targets[present]).square().mean().item(), abs=1e-7
    )


@pytest.mark.parametrize("loss", [ccc_loss, mse_loss])
def test_a_batch_without_labels_costs_nothing_and_has_a_gradient(loss):
    predictions = torch.rand(3, 2, requires_grad=True)
    value = loss(predictions, torch.full((3, 2), math.nan))
    value.backward()
    assert value == 0 and predictions.grad.abs().sum() == 0


@pytest.mark.parametrize("constant", [0.0, 0.5, 1.0])
def test_constant_label_and_constant_prediction_have_a_finite_gradient(constant):
    targets = torch.full((8, 3), constant)
    for predictions in (torch.rand(8, 3), torch.full((8, 3), 0.3), targets.clone()):
        predictions.requires_grad_()
        loss = ccc_loss(predictions, targets)
        loss.backward()
        assert loss.isfinite() and predictions.grad.isfinite().all()


def test_ccc_gradient_against_finite_differences(batch):
    predictions, targets = (tensor[:6, :2].clone() for tensor in batch)
    targets[0, 0] = math.nan
    predictions.requires_grad_()
    ccc_loss(predictions, targets).backward()
    step = 1e-3
    for index in ((1, 0), (5, 1), (0, 0)):
        ends = []
        for sign in (1, -1):
            moved = predictions.detach().clone()
            moved[index] += sign * step
            ends.append(ccc_loss(moved, targets).item())
        assert predictions.grad[index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-3)


def test_losses_are_computed_in_fp32(batch):
    predictions, targets = (tensor.bfloat16() for tensor in batch)
    assert ccc_loss(predictions, targets).item() == ccc_loss(predictions.float(), targets.float()).item()
    assert (
        mse_loss(predictions, targets).dtype
        == ce_loss(predictions, torch.zeros(16, dtype=torch.long)).dtype
        == torch.float32
    )


def test_ce_loss_is_torchs_mean_over_labelled_clips(batch):
    logits, _ = batch
    targets = torch.arange(16) % 4
    targets[3] = -100
    weights = [1.0, 2.0, 0.5, 4.0]
    assert ce_loss(logits, targets).item() == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-6)
    expected = F.cross_entropy(logits, targets, torch.tensor(weights), label_smoothing=0.1)
    assert ce_loss(logits, targets, weights, 0.1).item() == pytest.approx(expected.item(), abs=1e-6)
    assert ce_loss(logits, torch.full((16,), -100)).item() == 0  # torch's own mean is NaN here


def test_ce_loss_of_probabilities(batch):
    logits, shares = batch
    shares = shares / shares.sum(1, keepdim=True)
    weights = [1.0, 2.0, 0.5, 4.0]
    literal = sum(-(share * row.log_softmax(0)).sum() for share, row in zip(shares, logits, strict=True)) / 16
    assert ce_loss(logits, shares).item() == pytest.approx(literal.item(), abs=1e-6)
    one_hot = F.one_hot(torch.arange(16) % 4, 4).float()
    hard = ce_loss(logits, torch.arange(16) % 4, weights, 0.1)
    assert ce_loss(logits, one_hot, weights, 0.1).item() == pytest.approx(hard.item(), abs=1e-6)
    shares[3] = math.nan
    rest = torch.arange(16) != 3
    assert ce_loss(logits, shares).item() == pytest.approx(ce_loss(logits[rest], shares[rest]).item(), abs=1e-6)
    assert ce_loss(logits, torch.full((16, 4), math.nan)).item() == 0
