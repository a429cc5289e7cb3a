"""openSMILE's functionals: those of openSMILE itself, their cache on disk, the processes that compute them."""

import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
import warm
from conftest import ROOT
from datasets import DatasetDict
from tones import RATINGS, TYPE, tone_split
from transformers import AutoFeatureExtractor

from avb.baselines import (
    BASELINES,
    FeatureCollator,
    OpenSmileFeatureExtractor,
    OpenSmileMLP,
    OpenSmileMLPConfig,
    opensmile_features,
    prepare_baseline,
)
from avb.baselines import opensmile_mlp as opensmile_module
from avb.baselines.opensmile_mlp import FEATURE_SETS, MIN_SAMPLES
from avb.collator import BurstCollator
from avb.errors import AvbError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("feature_set", FEATURE_SETS)
def test_features_are_opensmiles_own(opensmile, tone, feature_set):
    smile = opensmile.Smile(opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals)
    features = OpenSmileFeatureExtractor(feature_set)([tone, tone[:7000]], sampling_rate=16_000)["input_values"]
    assert features.dtype == np.float32 and features.shape == (2, FEATURE_SETS[feature_set])
    for clip, row in zip((tone, tone[:7000]), features, strict=True):
        assert np.array_equal(row, smile.process_signal(clip, 16_000).to_numpy(np.float32)[0])


def test_short_clips_have_features_and_a_full_scale_sample_does_not_wrap(opensmile, tone):
    extract = OpenSmileFeatureExtractor()
    lengths = (1, 2, MIN_SAMPLES - 1, MIN_SAMPLES, MIN_SAMPLES + 1)
    features = extract([tone[100 : 100 + length] for length in lengths], sampling_rate=16_000)["input_values"]
    assert np.isfinite(features).all() and (features != 0).any(1).all()
    padded = np.pad(tone[100:102], (0, MIN_SAMPLES - 2))
    assert np.array_equal(extract([padded])["input_values"][0], features[1])
    loud, clipped = tone / np.abs(tone).max(), (tone / np.abs(tone).max()).clip(-1, 32767 / 32768)
    assert np.array_equal(*extract([loud, clipped])["input_values"])


def test_undefined_functionals_are_zero(opensmile, monkeypatch):
    undefined = np.array([np.nan, np.inf, -np.inf, 2.0])[None, :, None]
    monkeypatch.setattr(opensmile_module, "_smile", lambda feature_set: lambda clip, sampling_rate: undefined)
    assert OpenSmileFeatureExtractor()([np.ones(2000)])["input_values"].tolist() == [[0, 0, 0, 2]]


def test_extractor_has_the_keywords_of_wav2vec2s_and_survives_saving(opensmile, tone, tmp_path):
    extract = OpenSmileFeatureExtractor("ComParE_2016")
    keywords = {"padding": True, "return_attention_mask": True, "return_tensors": "pt", "sampling_rate": 16_000}
    batch = extract([tone[:2000]], **keywords)
    assert isinstance(batch["input_values"], torch.Tensor) and list(batch) == ["input_values"]
    assert torch.equal(extract(tone[:2000], return_tensors="pt")["input_values"], batch["input_values"])  # not a list
    assert torch.equal(
        extract([tone], truncation=True, max_length=2000, **keywords)["input_values"], batch["input_values"]
    )
    extract.save_pretrained(tmp_path)
    reloaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(reloaded) is OpenSmileFeatureExtractor and reloaded.to_dict() == extract.to_dict()
    with pytest.raises(ValueError, match="8000 Hz"):
        extract([tone], sampling_rate=8000)
    with pytest.raises(ValueError, match="mono"):
        extract([np.zeros((2, 3000))])
    with pytest.raises(ValueError, match="eGeMAPSv02, ComParE_2016"):
        OpenSmileFeatureExtractor("eGeMAPS")


def test_missing_opensmile_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)  # what makes `import opensmile` fail
    with pytest.raises(AvbError, match=r'pip install "avb\[opensmile\]"'):
        BASELINES["egemaps_mlp"](TYPE)
    assert BASELINES["emo18"](TYPE)[0].config.num_labels == 8


# ---- cached features and standardisation -----------------------------------------------------------------------------


def test_features_of_a_split_are_computed_once(opensmile, tmp_path, monkeypatch):
    split, extract = tone_split(), OpenSmileFeatureExtractor()
    features = opensmile_features(split, extract, cache_dir=tmp_path)
    expected = extract(list(split["input_values"]))["input_values"]
    assert set(features.column_names) == set(split.column_names)
    assert np.array_equal(features["input_values"][:], expected)
    assert features[1]["input_values"].dtype == np.float32 and features[1]["labels"] == split[1]["labels"]

    def refuse(self, clip):
        raise AssertionError("computed again")

    monkeypatch.setattr(OpenSmileFeatureExtractor, "_functionals", refuse)
    # other labels: the same file
    relabelled = split.remove_columns("labels").add_column("labels", list(range(6)))
    relabelled = relabelled.with_format("numpy", ["input_values"], output_all_columns=True)
    again = opensmile_features(relabelled, extract, cache_dir=tmp_path)
    assert np.array_equal(again["input_values"][:], expected) and again[:]["labels"] == list(range(6))
    with pytest.raises(AssertionError, match="computed again"):  # other clips: another file
        opensmile_features(split.select([3, 1]), extract, cache_dir=tmp_path)


class KilledExtractor(OpenSmileFeatureExtractor):
    """Stands for the system, which kills a process when memory runs out."""

    def _functionals(self, clip):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_processes_compute_what_one_does(opensmile, tmp_path):
    split, extract = tone_split(20), OpenSmileFeatureExtractor()
    one, two = (opensmile_features(split, extract, num_proc=n, cache_dir=tmp_path / str(n)) for n in (1, 2))
    assert np.array_equal(one["input_values"][:], two["input_values"][:])


@pytest.mark.slow
def test_a_killed_process_is_an_error_and_not_a_wait(opensmile, tmp_path):
    with pytest.raises(AvbError, match="was killed.*memory ran out.*--num_decode_workers"):
        opensmile_features(tone_split(), KilledExtractor(), num_proc=2, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.arrow*"))


@pytest.mark.slow
def test_sigterm_leaves_neither_processes_nor_a_file(opensmile, tmp_path):
    script = f"""if True:
        import sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from avb.baselines import OpenSmileFeatureExtractor, opensmile_features
        from tones import tone_split

        extractor = OpenSmileFeatureExtractor("ComParE_2016")
        opensmile_features(tone_split(3000), extractor, num_proc=2, cache_dir={str(tmp_path)!r})
    """
    process = warm.start([sys.executable, "-c", script])
    while not (unfinished := list(tmp_path.iterdir())) or not unfinished[0].stat().st_size > 1e6:
        assert process.poll() is None, process.stderr
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait().returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
    for _ in range(600):  # those that it started are of its group
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes are left")


def test_features_of_chosen_rows_stay_with_their_rows(opensmile, tmp_path):
    split = tone_split()
    chosen = opensmile_features(split.select([4, 1]), OpenSmileFeatureExtractor(), cache_dir=tmp_path)
    whole = opensmile_features(split, OpenSmileFeatureExtractor(), cache_dir=tmp_path)
    assert chosen[:]["id"] == ["4", "1"] and np.array_equal(chosen["input_values"][:], whole[[4, 1]]["input_values"])


def test_prepared_training_standardises_by_train_and_feeds_the_model(opensmile, tmp_path):
    model, extract = BASELINES["egemaps_mlp"](RATINGS)
    waveforms = DatasetDict(train=tone_split(), validation=tone_split(2, samples=500))
    splits, collate = prepare_baseline(model, extract, waveforms, cache_dir=tmp_path)
    features = splits["train"]["input_values"][:]
    standardized = model.standardization(torch.from_numpy(features)).double()
    varying = torch.from_numpy(features.std(0) > 1e-3)
    assert varying.sum() > 40
    assert standardized.mean(0).abs().max() < 1e-3
    assert torch.allclose(standardized.std(0, correction=0)[varying], torch.ones(1).double(), atol=1e-3)

    model.eval()
    batch = collate(list(splits["validation"]))
    assert batch["labels"].dtype == torch.float32 and batch["labels"].shape == (2, 2)
    with torch.inference_mode():
        output = model(**batch)
        rows = [{"input_values": clip} for clip in waveforms["validation"]["input_values"]]
        from_audio = model(**BurstCollator(extract)(rows)).logits  # as the prediction command does
    assert output.loss.isfinite() and torch.equal(output.logits, from_audio)


def test_emo18_trains_on_the_waveforms_themselves():
    model, extract = BASELINES["emo18"](RATINGS)
    splits = DatasetDict(train=tone_split())
    prepared, collate = prepare_baseline(model, extract, splits)
    assert prepared is splits and isinstance(collate, BurstCollator)
    # neither centred nor scaled
    assert np.array_equal(collate([splits["train"][0]])["input_values"][0].numpy(), splits["train"][0]["input_values"])


def test_standardisation_survives_saving_and_refuses_nonsense(tmp_path):
    model = OpenSmileMLP(OpenSmileMLPConfig(num_labels=2))
    features = np.random.default_rng(0).normal(3, 2, (50, 88)).astype(np.float32)
    features[:, 0], features[:, 1] = 4e6, 0
    model.fit_standardization(features)
    assert model.standardization.std[:2].tolist() == [1, 1]
    model.save_pretrained(tmp_path)
    reloaded = OpenSmileMLP.from_pretrained(tmp_path)
    np.testing.assert_allclose(reloaded.standardization.mean, features.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(reloaded.standardization.std[2:], features[:, 2:].std(0, dtype=np.float64), rtol=1e-6)
    for wrong, message in ((features[:, :5], "88"), (features[:0], "clips > 0"), (features * np.nan, "NaN")):
        with pytest.raises(ValueError, match=message):
            model.fit_standardization(wrong)


def test_class_labels_are_stacked_as_integers():
    rows = [{"input_values": np.ones(88, np.float32), "labels": label} for label in (3, -100)]
    batch = FeatureCollator()(rows)
    assert batch["labels"].tolist() == [3, -100] and batch["labels"].dtype == torch.int64
    assert list(FeatureCollator()([{"input_values": [1.0, 2.0]}])) == ["input_values"]
