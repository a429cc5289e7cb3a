"""No recording of a folder is overlooked, none is longer than asked, in training and pre-training as in prediction."""

import csv

import numpy as np
import pytest
import soundfile as sf

import predict_avb
from audio_avb import AUDIO_SUFFIXES
from avb.arguments import ModelArguments, PretrainingArguments
from avb.command_line import parse_arguments
from avb.corpora import load_bursts
from avb.inference.clips import find_paths
from avb.training.loading import load_clips

NOISE = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000)
SHADOWS = ("._0.wav", "__MACOSX/0.wav", "__MACOSX/._0.wav")  # as an archive made on a Mac leaves them
BESIDE = (".DS_Store", "Thumbs.db", "desktop.ini")  # not called like audio: nothing is said of them


@pytest.fixture
def folder(tmp_path):
    """Two classes of three clips, and beside them what file systems leave."""
    for name in ("laugh", "cry"):
        for number in range(3):
            (tmp_path / "clips" / name).mkdir(parents=True, exist_ok=True)
            sf.write(tmp_path / "clips" / name / f"{number}.wav", NOISE, 16_000)
        for shadow in (*SHADOWS, *BESIDE):
            path = tmp_path / "clips" / name / shadow
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\0\5\x16\7" + bytes(100))
    return tmp_path / "clips"


def test_shadows_are_skipped_and_counted(folder, caplog, capsys):
    splits = load_bursts("folder", folder).splits
    assert sum(map(len, splits.values())) == 6 and "6 hidden files and file-system metadata files" in caplog.text
    assert len(find_paths([str(folder)])) == 6 and "6 file-system metadata files" in capsys.readouterr().err


def test_every_suffix_of_audio_is_found(folder):
    wanted = ".sf .paf .pvf .xi .sd2 .m4a .webm .amr .caf .aifc .wave .rf64 .mp2 .wv .3gp .wma .opus .ac3".split()
    assert set(wanted) <= set(AUDIO_SUFFIXES)
    for suffix in AUDIO_SUFFIXES:
        (folder / "laugh" / f"other{suffix}").write_bytes(b"no audio")
        (folder / "cry" / f"OTHER{suffix.upper()}").write_bytes(b"no audio")
    splits = load_bursts("folder", folder).splits
    assert sum(map(len, splits.values())) == len(find_paths([str(folder)])) == 6 + 2 * len(AUDIO_SUFFIXES)


def test_audio_that_cannot_be_read_is_listed(folder, tmp_path):
    (folder / "laugh" / "phone.m4a").write_bytes(bytes([7]) * 500)
    output = tmp_path / "scores.csv"
    assert predict_avb.main(["emogator-cnn", str(folder), "--output", str(output)]) == predict_avb.EXIT_SKIPPED
    with open(f"{output}.errors.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["id"].endswith("phone.m4a") and "cannot be decoded" in row["error"]


@pytest.mark.parametrize("model_arguments", [ModelArguments, PretrainingArguments])
def test_max_seconds_in_training_and_pretraining(folder, tmp_path, model_arguments):
    """The limit keeps long clips out, and raised it lets eleven minutes in."""
    with sf.SoundFile(folder / "laugh" / "long.flac", "w", 1_000, 1) as file:
        file.write(np.zeros(660_000, np.int16))
    (tmp_path / "run").mkdir()
    words = ["--data_dir", str(folder), "--output_dir", str(tmp_path / "run"), "--cache_dir", str(tmp_path / "cache")]
    for limit, bad in (("", 1), ("700", 0), ("0.5", None)):
        _, data, training, _ = parse_arguments([*words, *(["--max_seconds", limit] if limit else [])], model_arguments)
        if bad is None:
            with pytest.raises(ValueError, match="longer than 0.5 seconds; .*, or raise max_seconds"):
                load_clips(data, training, model_arguments is ModelArguments)
            continue
        clips = load_clips(data, training, model_arguments is ModelArguments)
        assert len(clips.bad) == bad and all("longer than 600 seconds" in clip.reason for clip in clips.bad)
