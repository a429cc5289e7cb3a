"""VocalBurstFeatureExtractor: wav2vec 2.0's where nothing is to be prepared, else with the preparation of training."""

import json
import tracemalloc

import numpy as np
import pytest
import soundfile as sf
import torch
from datasets import Dataset
from transformers import Wav2Vec2FeatureExtractor

from audio_avb import AudioError, AudioPreparation, load_audio
from avb.baselines import OpenSmileFeatureExtractor, opensmile_features
from avb.collator import BurstCollator
from feature_extraction_avb import VocalBurstFeatureExtractor

KEYWORDS = {"sampling_rate": 16_000, "padding": True, "return_attention_mask": True, "return_tensors": "np"}


@pytest.fixture
def clips(tone) -> list[np.ndarray]:
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    return [np.concatenate([quiet, tone, quiet]), 0.1 * tone[:5000], tone[:1]]


def test_without_settings_it_is_the_stock_one(clips):
    for do_normalize in (True, False):
        own = VocalBurstFeatureExtractor(do_normalize=do_normalize)(clips, **KEYWORDS)
        stock = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)(clips, **KEYWORDS)
        for name in ("input_values", "attention_mask"):
            np.testing.assert_array_equal(own[name], stock[name])


@pytest.mark.parametrize("do_normalize", [True, False])
def test_raw_clips_become_what_training_decodes(clips, tmp_path, do_normalize):
    settings = {"peak_db": -6.0, "trim_top_db": 15.0}  # within the tone's fade: cut twice, it would be shorter
    extractor = VocalBurstFeatureExtractor(**settings, do_normalize=do_normalize)
    rows = []
    for number, clip in enumerate(clips):
        sf.write(tmp_path / f"{number}.wav", clip, 16_000, subtype="FLOAT")
        rows.append({"input_values": load_audio(tmp_path / f"{number}.wav", **settings)})
    batch = BurstCollator(extractor)(rows)
    direct = extractor(clips, **KEYWORDS | {"return_tensors": "pt"})
    assert torch.equal(direct["input_values"], batch["input_values"])
    assert torch.equal(direct["attention_mask"], batch["attention_mask"])
    once = len(rows[0]["input_values"])
    assert len(load_audio(tmp_path / "0.wav", trim_top_db=15)) == once < len(clips[0])
    assert len(extractor.prepare(rows[0]["input_values"])[0]) < once == batch["attention_mask"][0].sum()
    alone = extractor(clips[0], sampling_rate=16_000, return_tensors="pt")["input_values"][0]
    np.testing.assert_allclose(alone, batch["input_values"][0][: len(alone)], atol=1e-6)


@pytest.mark.parametrize(("do_normalize", "share"), [(True, 0.6), (False, 0.1)])
def test_a_batch_is_the_extractors_to_the_bit_and_each_clip_is_copied_once(do_normalize, share, tmp_path):
    """Besides the batch itself, which torch allocates, no more is allocated than normalising a clip takes."""
    generator = np.random.default_rng(0)
    waveforms = [generator.normal(0.1, 0.2, 16_000 + 500 * number).astype(np.float32) for number in range(12)]
    Dataset.from_dict({"input_values": waveforms}).save_to_disk(tmp_path)
    rows = Dataset.load_from_disk(str(tmp_path)).with_format("numpy")
    extractor = VocalBurstFeatureExtractor(do_normalize=do_normalize)
    collate = BurstCollator(extractor, lengths=[24_000])
    settings = {"prepared": True, "return_tensors": "pt", "padding": "max_length", "max_length": 24_000}
    expected = extractor(waveforms, **KEYWORDS | settings)
    tracemalloc.start()
    batch = collate(rows.__getitems__(range(12)))  # as a loader reads them
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < share * batch["input_values"].nbytes
    for name in ("input_values", "attention_mask"):
        assert torch.equal(batch[name], expected[name]) and batch[name].dtype == expected[name].dtype


def test_prepared_clips_are_left_alone(clips):
    extractor = VocalBurstFeatureExtractor(peak_db=-6.0, trim_top_db=30.0, do_normalize=False)
    batch = extractor(clips, prepared=True, **KEYWORDS)
    np.testing.assert_array_equal(batch["input_values"][0], clips[0])
    assert not np.array_equal(extractor(clips, **KEYWORDS)["input_values"][0][: len(clips[0])], clips[0])


def test_settings_are_saved(tmp_path):
    VocalBurstFeatureExtractor(peak_db=None, trim_top_db=25.0, do_normalize=False).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (saved["peak_db"], saved["trim_top_db"], saved["return_attention_mask"]) == (None, 25.0, True)
    reloaded = VocalBurstFeatureExtractor.from_pretrained(tmp_path)
    assert (reloaded.peak_db, reloaded.trim_top_db, reloaded.do_normalize) == (None, 25.0, False)


def test_an_illegal_trim_is_refused_before_any_audio():
    with pytest.raises(AudioError, match="trim_top_db must be positive"):
        VocalBurstFeatureExtractor(trim_top_db=-30)


@pytest.mark.parametrize("peak_db", [200, 0.1, float("nan")])
def test_a_level_above_full_scale_is_refused_before_any_audio(peak_db):
    with pytest.raises(AudioError, match="peak_db must be at most 0"):
        VocalBurstFeatureExtractor(peak_db=peak_db)
    VocalBurstFeatureExtractor(peak_db=0)


def test_functionals_are_those_of_prepared_clips_and_of_a_cache_filled_with_them(clips, tmp_path):
    pytest.importorskip("opensmile", reason="the openSMILE baselines are an extra: avb[opensmile]")
    settings = {"peak_db": -6.0, "trim_top_db": 15.0}
    extractor, bare = OpenSmileFeatureExtractor(**settings), OpenSmileFeatureExtractor()
    expected = bare(list(map(AudioPreparation(**settings).apply, clips)))["input_values"]
    np.testing.assert_array_equal(extractor(clips)["input_values"], expected)
    assert not np.array_equal(bare(clips)["input_values"], expected)
    prepared = list(map(AudioPreparation(**settings).apply, clips))
    split = Dataset.from_dict({"input_values": prepared}).with_format("numpy")
    cached = opensmile_features(split, extractor, cache_dir=tmp_path)
    np.testing.assert_array_equal(cached["input_values"][:], expected)
