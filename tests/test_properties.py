"""Laws that scores, losses, masks and splits obey, on arrays drawn by hypothesis."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from audio_avb import set_peak, waveform_from_array
from avb.collator import BurstCollator, length_batches
from avb.corpora.splits import SPLITS, hashed_split, stratified_splits
from avb.metrics import accuracy, ccc, confusion_matrix, pearson, uar
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import ccc_loss, ce_loss, mse_loss
from pipeline_avb import window_spans

FAST = settings(max_examples=80, deadline=None, derandomize=True)
# Multiples of 1/64: sums and differences of a few of them are exact, and no law fails for rounding alone.
SCORES = st.integers(-640, 640).map(lambda number: number / 64)
SEEDS = st.integers(0, 2**32 - 1)


def pairs(least: int = 2):
    """Two arrays of the same length."""
    return st.integers(least, 30).flatmap(lambda n: st.tuples(*[arrays.arrays(np.float64, n, elements=SCORES)] * 2))


# ---------------------------------------------------------------------------------------------------- CCC


@FAST
@given(pairs())
def test_ccc_is_symmetric_bounded_and_no_more_than_pearson(pair):
    x, y = pair
    value = ccc(x, y)
    assume(not np.isnan(value))
    assert value == pytest.approx(ccc(y, x), abs=1e-12) and abs(value) <= 1 + 1e-12
    if not np.isnan(pearson(x, y)):
        assert abs(value) <= abs(pearson(x, y)) + 1e-9 and value * pearson(x, y) >= -1e-12


@FAST
@given(pairs())
def test_ccc_is_one_at_identity_and_only_there(pair):
    x, y = pair
    if np.ptp(x) > 0:
        assert ccc(x, x) == pytest.approx(1, abs=1e-12) and ccc(x, -x + 2 * x.mean()) == pytest.approx(-1, abs=1e-9)
    else:
        assert np.isnan(ccc(x, x))
    if np.abs(x - y).max() >= 1 / 64 and not np.isnan(ccc(x, y)):
        # 1 - CCC = mean (x - y)² / (s_x² + s_y² + (x̄ - ȳ)²)
        expected = 1 - np.mean((x - y) ** 2) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        assert ccc(x, y) == pytest.approx(expected, abs=1e-9) and ccc(x, y) < 1


@FAST
@given(pairs(), SEEDS, st.floats(0.01, 100), st.floats(-50, 50))
def test_ccc_knows_neither_order_nor_common_scale(pair, seed, scale, shift):
    x, y = pair
    value = ccc(x, y)
    assume(not np.isnan(value))
    order = np.random.default_rng(seed).permutation(len(x))
    assert ccc(x[order], y[order]) == pytest.approx(value, abs=1e-9)
    assert ccc(scale * x + shift, scale * y + shift) == pytest.approx(value, abs=1e-6)
    assert ccc(-x, -y) == pytest.approx(value, abs=1e-9)


@FAST
@given(pairs(), st.floats(0.1, 5), st.floats(-3, 3))
def test_ccc_of_an_affine_prediction(pair, slope, offset):
    """CCC(x, a x + b) = 2 a s² / (s² + a² s² + ((1 - a) x̄ - b)²); Pearson's is 1 whatever a > 0 and b are."""
    x, _ = pair
    assume(x.var() > 1e-3)
    expected = 2 * slope * x.var() / (x.var() * (1 + slope**2) + ((1 - slope) * x.mean() - offset) ** 2)
    assert ccc(x, slope * x + offset) == pytest.approx(expected, abs=1e-9)
    assert pearson(x, slope * x + offset) == pytest.approx(1, abs=1e-9)


# ---------------------------------------------------------------------------------------------------- UAR


@FAST
@given(st.integers(2, 6), st.integers(1, 60), SEEDS)
def test_uar_under_relabelling_and_order(num_classes, clips, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, num_classes, (2, clips))
    value = uar(truth, predicted, num_classes)
    names, order = rng.permutation(num_classes), rng.permutation(clips)
    assert uar(names[truth], names[predicted], num_classes) == pytest.approx(value, abs=1e-12)
    assert uar(truth[order], predicted[order], num_classes) == pytest.approx(value, abs=1e-12)
    assert uar(truth, truth, num_classes) == 1 and 0 <= value <= 1
    matrix = confusion_matrix(truth, predicted, num_classes)
    assert matrix.sum() == clips and np.trace(matrix) / clips == pytest.approx(accuracy(truth, predicted), abs=1e-12)
    # Each clip twice changes nothing; a class that is always missed costs its share.
    assert uar(np.tile(truth, 2), np.tile(predicted, 2), num_classes) == pytest.approx(value, abs=1e-12)


# ---------------------------------------------------------------------------------------------------- losses


def literal_losses(loss: str):
    """The losses in float64, in NumPy, so that finite differences have digits to spare."""

    def ccc64(x, y):
        values = []
        for column in range(x.shape[1]):
            kept = ~np.isnan(y[:, column])
            if kept.sum() >= 2:
                a, b = x[kept, column], y[kept, column]
                covariance = ((a - a.mean()) * (b - b.mean())).mean()
                values.append(1 - 2 * covariance / (a.var() + b.var() + (a.mean() - b.mean()) ** 2 + 1e-8))
        return np.mean(values) if values else 0.0

    def mse64(x, y):
        kept = ~np.isnan(y)
        return ((x - y)[kept] ** 2).mean() if kept.any() else 0.0

    def ce64(x, y):
        kept = y >= 0
        probabilities = (
            np.log(np.exp(x - x.max(1, keepdims=True)).sum(1)) + x.max(1) - x[np.arange(len(x)), np.maximum(y, 0)]
        )
        return probabilities[kept].mean() if kept.any() else 0.0

    return {"ccc": ccc64, "mse": mse64, "ce": ce64}[loss]


@settings(FAST, max_examples=25)
@given(st.sampled_from(["ccc", "mse", "ce"]), st.integers(2, 8), st.integers(2, 4), SEEDS)
def test_gradients_are_those_of_the_formula(loss, clips, labels, seed):
    """Each loss in fp32 against a literal one in float64: its value, and its gradient by central differences."""
    rng = np.random.default_rng(seed)
    predictions = rng.uniform(0.05, 0.95, (clips, labels))
    if loss == "ce":
        targets = rng.integers(0, labels, clips)
        targets[rng.random(clips) < 0.2] = -100
    else:
        targets = rng.uniform(0, 1, (clips, labels))
        targets[rng.random((clips, labels)) < 0.2] = np.nan
    ours = {"ccc": ccc_loss, "mse": mse_loss, "ce": ce_loss}[loss]
    tensor = torch.tensor(predictions, dtype=torch.float32, requires_grad=True)
    value = ours(tensor, torch.tensor(targets))
    value.backward()
    literal = literal_losses(loss)
    assert value.item() == pytest.approx(literal(predictions, targets), abs=2e-5)
    step = 1e-6
    for index in np.ndindex(clips, labels):
        ahead, behind = predictions.copy(), predictions.copy()
        ahead[index] += step
        behind[index] -= step
        slope = (literal(ahead, targets) - literal(behind, targets)) / (2 * step)
        assert tensor.grad[index].item() == pytest.approx(slope, abs=2e-3, rel=2e-3)


# ---------------------------------------------------------------------------------------------------- batches


@FAST
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=8), SEEDS)
def test_a_batch_holds_each_clip_as_it_is_alone(lengths, seed):
    """Padding and mask go forth and back: cut to its mask, a row is the clip of a batch of one."""
    rng = np.random.default_rng(seed)
    rows = [{"input_values": rng.standard_normal(length).astype(np.float32)} for length in lengths]
    collate = BurstCollator(VocalBurstFeatureExtractor(peak_db=None))
    batch = collate(rows)
    assert batch["input_values"].shape == batch["attention_mask"].shape == (len(rows), max(lengths))
    for row, values, mask in zip(rows, batch["input_values"], batch["attention_mask"], strict=True):
        length = len(row["input_values"])
        assert mask[:length].all() and not mask[length:].any() and not values[length:].any()
        torch.testing.assert_close(values[:length], collate([row])["input_values"][0], rtol=0, atol=1e-6)


@FAST
@given(st.lists(st.integers(1, 5000), max_size=60), st.integers(1, 20_000))
def test_batches_by_length_hold_every_clip_once_within_the_budget(lengths, budget):
    batches = list(length_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget


@FAST
@given(st.integers(1, 200_000), st.floats(0.01, 20), st.floats(0.01, 1))
def test_windows_cover_a_recording(samples, window, share):
    hop = max(window * share, 1 / 16_000)
    spans = window_spans(samples, 16_000, window, min(hop, round(window * 16_000) / 16_000))
    assert spans[0][0] == 0 and spans[-1][1] == samples
    assert all(start < end for start, end in spans)
    assert all(after[0] <= before[1] and after[0] > before[0] for before, after in zip(spans, spans[1:], strict=False))
    assert len({end - start for start, end in spans}) == 1


# ---------------------------------------------------------------------------------------------------- audio, splits


@FAST
@given(arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1, 1, width=32)), st.floats(-60, 0))
def test_a_level_is_reached_once_and_stays(waveform, level):
    levelled = set_peak(waveform, level)
    if np.abs(waveform).max() > 0:
        assert np.abs(levelled).max() == pytest.approx(10 ** (level / 20), rel=1e-5)
    np.testing.assert_allclose(set_peak(levelled, level), levelled, rtol=1e-5, atol=1e-9)


@settings(FAST, max_examples=30)
@given(st.integers(1, 3000), st.sampled_from([1_000, 8_000, 11_025, 44_100, 48_000, 384_000]))
def test_resampling_keeps_the_length_in_seconds(samples, rate):
    waveform = waveform_from_array(np.ones(samples, np.float32), rate)
    assert len(waveform) == int(np.ceil(samples * (16_000 / rate))) and np.isfinite(waveform).all()


@FAST
@given(st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.integers(0, 4)), min_size=3, max_size=60))
def test_made_splits_part_speakers_and_do_not_depend_on_order(clips):
    speakers, classes = map(list, zip(*clips, strict=True))
    assume(len(set(speakers)) >= 3)
    splits = stratified_splits(speakers, classes, "x")
    split_of = dict(zip(speakers, splits, strict=True))
    assert [split_of[speaker] for speaker in speakers] == splits, "a speaker is on two sides"
    assert set(splits) == set(SPLITS)
    assert stratified_splits(speakers[::-1], classes[::-1], "x") == splits[::-1]
    assert all(hashed_split(speaker) in SPLITS for speaker in speakers)
