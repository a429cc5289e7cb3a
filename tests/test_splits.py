"""Splits and folds that are made: whole speakers on one side, every class on all sides where its speakers allow it."""

from collections import Counter

import numpy as np
import pytest

from avb.corpora.splits import SPLITS, strata_of, stratified_folds, stratified_splits
from avb.errors import CorpusError


def counts(splits, strata, stratum) -> dict:
    return Counter(split for split, own in zip(splits, strata, strict=True) if own == stratum)


def test_a_large_speaker_stays_in_train_and_the_shares_are_kept():
    groups = ["big"] * 50 + [f"s{i}" for i in range(50)]
    splits = stratified_splits(groups, [0] * 100, "here")
    assert set(splits[:50]) == {"train"} and splits.count("validation") == 10 and splits.count("test") == 10
    assert sorted(stratified_splits(["a", "b", "c"], [0] * 3, "here")) == sorted(SPLITS)
    assert sorted(stratified_splits(["a", "b"] + ["c"] * 98, [0] * 100, "here")[:2]) == ["test", "validation"]


def test_rare_classes_are_in_every_split_and_common_ones_have_their_share():
    strata = ["common"] * 380 + ["some"] * 40 + ["few"] * 8 + ["three"] * 3 + ["two"] * 2 + ["one"]
    splits = stratified_splits([f"clip {index}" for index in range(len(strata))], strata, "here")
    assert counts(splits, strata, "common") == {"train": 304, "validation": 38, "test": 38}
    assert counts(splits, strata, "some") == {"train": 32, "validation": 4, "test": 4}
    assert counts(splits, strata, "few") == {"train": 6, "validation": 1, "test": 1}
    assert counts(splits, strata, "three") == {"train": 1, "validation": 1, "test": 1}
    assert counts(splits, strata, "two") == {"train": 1, "validation": 1}
    assert counts(splits, strata, "one") == {"train": 1}


def test_speakers_with_several_classes_are_never_cut():
    rng = np.random.default_rng(0)
    groups = [f"s{index}" for index in rng.integers(0, 60, 600)]
    strata = rng.integers(0, 8, 600).tolist()
    splits = stratified_splits(groups, strata, "here")
    assert len(set(zip(groups, splits, strict=True))) == len(set(groups))
    for stratum in range(8):
        found = counts(splits, strata, stratum)
        assert set(found) == set(SPLITS) and found["train"] > 0.65 * sum(found.values())


def test_the_order_of_clips_does_not_matter():
    groups, strata = [f"s{i % 40}" for i in range(200)], [i % 7 for i in range(200)]
    forwards = dict(zip(groups, stratified_splits(groups, strata, "here"), strict=True))
    backwards = dict(zip(groups[::-1], stratified_splits(groups[::-1], strata[::-1], "here"), strict=True))
    assert forwards == backwards


def test_folds():
    groups, strata = [f"s{i % 50}" for i in range(500)], [(i // 50) % 5 for i in range(500)]
    folds = stratified_folds(groups, strata, 5, "here")
    assert len(set(zip(groups, folds, strict=True))) == 50
    for fold in range(5):
        assert counts(folds, strata, fold) == dict.fromkeys(range(5), 20)
    with pytest.raises(CorpusError, match="here: 51 folds of 50 speakers"):
        stratified_folds(groups, strata, 51, "here")
    with pytest.raises(CorpusError, match="at least 3 speakers"):
        stratified_splits(["a", "b"], [0, 0], "here")


def test_strata_of_labels():
    assert strata_of(np.array([3, -100, 1])) == [3, -100, 1]
    few = np.array([[0.1], [0.5], [0.9], [np.nan]])
    assert strata_of(few) == [0] * 4
    assert strata_of(np.repeat(few, 10, axis=0))[::10] == [(0,), (1,), (2,), (-1,)]
    assert len(set(strata_of(np.random.default_rng(0).random((900, 2))))) == 9
    many = np.full((40, 5), 0.5)
    many[np.arange(40), np.repeat([4, 2, 0, 1], 10)] += 0.2
    assert strata_of(many)[::10] == [(4,), (2,), (0,), (1,)]
