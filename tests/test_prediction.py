"""`predict_avb.py`: inputs, formats, bad clips, interruption, submissions; and scores equal to those of training."""

import csv
import io
import json
import os
import shutil

import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import ROOT
from tiny import save_model
from transformers import Wav2Vec2FeatureExtractor

import avb
import predict_avb
from audio_avb import AudioPreparation
from avb.arguments import DataArguments, ModelArguments
from avb.cards.hub_folder import save_hub_folder
from avb.corpora import submission
from avb.errors import AvbError
from avb.events.finding import as_scorer
from avb.files import locked
from avb.inference import scorer
from avb.inference.clips import read_names
from avb.inference.load import load_model
from avb.inference.score import model_key, score_waveforms
from avb.tasks import TASKS
from avb.training.build import build_model
from feature_extraction_avb import VocalBurstFeatureExtractor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), TASKS["two"])


@pytest.fixture
def clips(tmp_path):
    """Six clips in two folders, under names that trip programs up."""
    names = ["b.wav", "a b.flac", "-dash.ogg", "ünï\ncode.mp3", "deep/c.WAV", "deep/d.wav"]
    (tmp_path / "clips" / "deep").mkdir(parents=True)
    for number, name in enumerate(names):
        tone = np.sin(np.arange(3000 + 2500 * number) * 0.01 * (number + 1)) * np.hanning(3000 + 2500 * number)
        sf.write(tmp_path / "clips" / name, 0.5 * tone, 16_000, format=name.rsplit(".")[-1].upper())
    return tmp_path / "clips"


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_folder_in_every_format(model, clips, tmp_path, suffix, capsys):
    output = tmp_path / f"scores{suffix}"
    assert predict_avb.main([str(model), str(clips), "--output", str(output)]) == 0
    readers = {".csv": pd.read_csv, ".jsonl": lambda path: pd.read_json(path, lines=True), ".parquet": pd.read_parquet}
    table = readers[suffix](output)
    assert list(table.columns) == ["id", "Valence", "Arousal"]
    assert sorted(table["id"]) == sorted(str(path) for path in clips.rglob("*") if path.is_file())
    assert table["Valence"].between(0, 1).all() and table["Valence"].std() > 1e-3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", f"scores{suffix}"]
    assert "6 clips scored" in capsys.readouterr().out


def test_files_globs_and_standard_input_keep_their_order(model, clips, tmp_path, monkeypatch):
    output = tmp_path / "scores.csv"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{clips}/b.wav\n\n{clips}/a b.flac\n".encode())))
    patterns = [str(clips / "deep" / "d.wav"), "-", str(clips / "deep" / "*.wav"), str(clips / "-dash.ogg")]
    assert predict_avb.main([str(model), *patterns, "--output", str(output)]) == 0
    ids = [row["id"].removeprefix(f"{clips}/") for row in read_csv(output)]
    assert ids == ["deep/d.wav", "b.wav", "a b.flac", "deep/d.wav", "-dash.ogg"]


def test_scores_are_the_models_own(model, clips, tmp_path):
    """Through batches, threads and files, a clip's score is what the model says of it alone."""
    output = tmp_path / "scores.jsonl"
    assert predict_avb.main([str(model), str(clips), "--output", str(output), "--batch_seconds", "1"]) == 0
    loaded, feature_extractor = load_model(str(model), "cpu")
    for line in output.read_text().splitlines():
        row = json.loads(line)
        waveform, _ = sf.read(row["id"], dtype="float32")
        alone = score_waveforms(loaded, feature_extractor, [waveform])[0]  # the level does not matter: normalised
        assert [row["Valence"], row["Arousal"]] == pytest.approx(alone.tolist(), abs=2e-5)


@torch.inference_mode()
def test_several_views_are_averaged_whoever_asks(model, clips, tmp_path):
    """Table, pipeline and windows give the mean of the scores at several speeds, which a plain loop finds too."""
    path, output = str(clips / "deep" / "d.wav"), tmp_path / "scores.csv"
    loaded, feature_extractor = load_model(str(model), "cpu")
    waveform = AudioPreparation.of(feature_extractor).apply(sf.read(path, dtype="float32")[0])
    played = [librosa.resample(waveform, orig_sr=16_000 * speed, target_sr=16_000) for speed in (1 / 1.14, 1, 1.14)]
    each = [loaded(**feature_extractor(view, sampling_rate=16_000, return_tensors="pt")).logits for view in played]
    expected = torch.cat(each).mean(0).tolist()
    assert np.ptp(torch.cat(each).numpy(), axis=0).min() > 1e-3

    command = [str(model), path, str(clips / "b.wav"), "--output", str(output)]
    assert predict_avb.main([*command, "--views", "3"]) == 0
    row = read_csv(output)[0]
    assert [float(row["Valence"]), float(row["Arousal"])] == pytest.approx(expected, abs=2e-3)  # of another resampler
    pipe = avb.load(str(model), "cpu", views=3)
    for answer in (pipe(path), pipe(path, window_seconds=9)[0]["scores"], pipe([path, path], batch_size=4)[1]):
        assert [entry["score"] for entry in answer] == pytest.approx([float(row[name]) for name in row if name != "id"])
    assert pipe(path, views=1) == avb.load(str(model), "cpu")(path) != pipe(path)
    windows = tmp_path / "windows.csv"
    argv = [str(model), path, "--output", str(windows), "--window_seconds", "9", "--views", "3"]
    assert predict_avb.main(argv) == 0
    assert float(read_csv(windows)[0]["Arousal"]) == pytest.approx(float(row["Arousal"]), abs=1e-5)
    assert as_scorer(pipe).views == 3
    with pytest.raises(ValueError, match="views 0 is invalid: it must be 1 to 15"):
        pipe(path, views=0)


def test_bad_clips_are_skipped_counted_and_reported(model, clips, tmp_path, capsys):
    (clips / "text.wav").write_text("this is no audio")
    (clips / "empty.wav").write_bytes(b"")
    shutil.copy(clips / "b.wav", clips / "cut.wav")
    with open(clips / "cut.wav", "rb+") as file:
        file.truncate(3000)
    output = tmp_path / "scores.csv"
    paths = [str(clips), str(clips / "nowhere.wav")]
    assert predict_avb.main([str(model), *paths, "--output", str(output)]) == predict_avb.EXIT_SKIPPED
    bad = {row["id"].removeprefix(f"{clips}/"): row["error"] for row in read_csv(tmp_path / "scores.csv.errors.csv")}
    assert bad.keys() == {"text.wav", "empty.wav", "cut.wav", "nowhere.wav"}
    assert all(name in message for name, message in bad.items())
    assert len(read_csv(output)) == 6
    assert "4 clips skipped" in capsys.readouterr().err
    # A later run without bad clips leaves no report behind.
    assert predict_avb.main([str(model), str(clips / "b.wav"), "--output", str(output), "--overwrite"]) == 0
    assert not (tmp_path / "scores.csv.errors.csv").exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_name_that_is_no_utf_8(model, clips, tmp_path, suffix):
    os.rename(clips / "b.wav", os.fsencode(clips) + b"/b\xff.wav")
    output = tmp_path / f"scores{suffix}"
    assert predict_avb.main([str(model), str(clips), "--output", str(output)]) == 0
    assert rb"\xff.wav" in output.read_bytes().replace(rb"\\xff", rb"\xff")  # JSON doubles the backslash


def test_strict_stops_at_the_first_bad_clip(model, clips, tmp_path, capsys):
    (clips / "b.wav").write_text("this is no audio")
    output = tmp_path / "scores.csv"
    assert predict_avb.main([str(model), str(clips), "--output", str(output), "--strict"]) == 1
    assert "b.wav" in capsys.readouterr().err and not output.exists()


def test_interrupted_run_goes_on(model, clips, tmp_path, monkeypatch, capsys):
    output = tmp_path / "scores.csv"
    assert predict_avb.main([str(model), str(clips), "--output", str(output)]) == 0
    whole = output.read_bytes()
    output.unlink()

    real, scored = scorer.score_row, []

    def interrupt_at_the_fourth(scores, config):
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(scores)
        return real(scores, config)

    monkeypatch.setattr(scorer, "score_row", interrupt_at_the_fourth)
    assert predict_avb.main([str(model), str(clips), "--output", str(output)]) == 130
    assert not output.exists()
    with open(tmp_path / "scores.csv.partial", "a") as file:
        file.write('{"id": "half a li')  # what a crash in the middle of a write leaves
    monkeypatch.setattr(scorer, "score_row", real)
    capsys.readouterr()
    assert predict_avb.main([str(model), str(clips), "--output", str(output)]) == 0
    assert "3 of 6 clips are scored already" in capsys.readouterr().out
    assert output.read_bytes() == whole and not (tmp_path / "scores.csv.partial").exists()


def test_partial_scores_of_another_model_are_not_used(model, clips, tmp_path, capsys):
    output = tmp_path / "scores.csv"
    (tmp_path / "scores.csv.partial").write_text('{"fingerprint": "of another model"}\n{"id": "x", "Valence": 1}\n')
    assert predict_avb.main([str(model), str(clips), "--output", str(output)]) == 0
    assert len(read_csv(output)) == 6 and "already" not in capsys.readouterr().out


def test_classes_are_probabilities_and_a_prediction(clips, tmp_path):
    model = save_model(tmp_path / "model", TASKS["type"])
    assert predict_avb.main([str(model), str(clips), "--output", str(tmp_path / "scores.csv")]) == 0
    for row in read_csv(tmp_path / "scores.csv"):
        scores = {label: float(row[label]) for label in TASKS["type"].labels}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(scores, key=scores.get)
        assert float(row["confidence"]) == max(scores.values()) and list(row)[:3] == ["id", "prediction", "confidence"]


@pytest.mark.parametrize("task_name", ["high", "two", "culture", "type"])
def test_submission_of_a_corpus_split(sample, tmp_path, task_name):
    model = save_model(tmp_path / "model", TASKS[task_name])
    corpus = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", task_name]
    output = tmp_path / "out" / "scores.csv"
    argv = [str(model), *corpus, "--output", str(output), "--submission", "SlabCNU", "3"]
    assert predict_avb.main(argv) == 0
    (path,) = output.parent.glob("A-VB-*_SlabCNU_3.csv")
    ids = submission.read_test_ids(sample, task_name)
    assert submission.validate(path, task_name, expected_ids=ids) == []
    assert [row["id"] for row in read_csv(output)] == list(ids)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pooling": "avg", "masked_pooling": False}, "the pooling includes the padding"),
        ({"masked_group_norm": False}, "the group norm includes the padding"),
        ({}, None),
    ],
)
def test_a_submission_that_depends_on_its_batches_says_so(sample, tmp_path, capsys, fields, reason):
    model = save_model(tmp_path / "model", TASKS["two"], **fields)
    corpus = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "two"]
    argv = [str(model), *corpus, "--output", str(tmp_path / "scores.csv"), "--submission", "TEAM", "1"]
    assert predict_avb.main(argv) == 0
    printed = capsys.readouterr().err
    assert ("depend on which clips share a batch" in printed) == (reason is not None)
    assert reason is None or (reason in printed and "predictions_test.csv" in printed)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere/at/all", "CLIPS"], "nowhere/at/all: no such model"),
        (["PLAIN", "CLIPS"], "'wav2vec2' model, not a trained vocal-burst model"),
        (["MODEL", "EMPTY"], "no audio files found in"),
        (["MODEL", "CLIPS", "nowhere/"], "nowhere/: no such file or folder; check the path"),
        (["MODEL", "CLIPS", "nowhere/at/all"], "nowhere/at/all: no such file or folder; check the path"),
        (
            ["MODEL", "--corpus", "hume_vb", "--data_dir", "SAMPLE", "--task", "high", "--submission", "TEAM", "1"],
            "predicts Valence, Arousal, which is not task 'high'",
        ),
        (["MODEL", "CLIPS", "--output", "scores.xlsx"], "scores.xlsx: the suffix says the format"),
        (["MODEL", "CLIPS", "--output", "/proc/avb/scores.csv"], "/proc/avb: cannot be made"),
        (["MODEL", "CLIPS", "--output", "EXISTING"], "exists: give another name, or --overwrite"),
        (["MODEL", "--corpus", "hume_vb", "--data_dir", "SAMPLE", "--task", "two", "--split", "dev"], "--split dev"),
    ],
)
def test_errors_are_one_line_and_say_the_way_out(argv, message, model, clips, checkpoints, sample, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "existing.csv").write_text("mine")
    places = {
        "MODEL": model, "CLIPS": clips, "PLAIN": checkpoints["BASE"], "EMPTY": tmp_path / "empty", "SAMPLE": sample,
        "EXISTING": tmp_path / "existing.csv",
    }  # fmt: skip
    argv = [str(places.get(item, item)) for item in argv]
    if "--output" not in argv:
        argv += ["--output", str(tmp_path / "scores.csv")]
    assert predict_avb.main(argv) == 1
    printed = capsys.readouterr().err
    assert message in printed and printed.startswith("predict_avb.py: error: ") and printed.count("\n") == 1
    assert (tmp_path / "existing.csv").read_text() == "mine"


def test_bulk_scores_are_those_of_the_pipeline(clips, tmp_path):
    folder = save_model(tmp_path / "model", TASKS["high"])
    extractor = VocalBurstFeatureExtractor(peak_db=-3.0, trim_top_db=20.0, do_normalize=False)
    extractor.save_pretrained(folder)
    output = tmp_path / "scores.csv"
    assert predict_avb.main([str(folder), str(clips), "--output", str(output)]) == 0
    rows = read_csv(output)
    pipe = avb.load(str(folder))
    answers = pipe([row["id"] for row in rows], batch_size=4)
    for row, answer in zip(rows, answers, strict=True):
        assert [float(row[entry["label"]]) for entry in answer] == pytest.approx(
            [entry["score"] for entry in answer], abs=2e-5
        )
    untrimmed = save_hub_folder(pipe.model, VocalBurstFeatureExtractor(do_normalize=False), tmp_path / "untrimmed")
    assert avb.load(str(untrimmed))(rows[0]["id"]) != answers[0]


def test_a_folder_of_before_the_feature_extractor_knew_of_trimming(clips, tmp_path):
    folder = save_model(tmp_path / "model", TASKS["two"])
    pipe = avb.load(str(folder))
    pipe.feature_extractor.trim_top_db, pipe.feature_extractor.peak_db = 20.0, -6.0
    expected = pipe(clips / "b.wav")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    with pytest.raises(AvbError, match=r"preprocessor_config.json is a plain encoder's"):
        avb.load(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"trim_top_db": 20.0, "peak_db": -6.0}))
    old = avb.load(str(folder))
    assert old(clips / "b.wav") == expected
    again = save_hub_folder(old.model, old.feature_extractor, tmp_path / "again")
    assert "trim_top_db" not in json.loads((again / "config.json").read_text())
    assert avb.load(str(again))(clips / "b.wav") == expected


def test_head_less_weights_are_refused(model, tmp_path, capsys):
    """A file that lacks the head would be filled with random numbers, and answer."""
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file({key: value for key, value in weights.items() if key != "head.weight"}, broken / "model.safetensors")
    argv = [str(broken), str(ROOT / "README.md"), "--output", str(tmp_path / "scores.csv")]
    assert predict_avb.main(argv) == 1
    assert "lack head.weight" in capsys.readouterr().err


# ---- precision ------------------------------------------------------------------------------------------------------


def test_bfloat16_differs_by_little_and_is_another_run(model, clips, tmp_path):
    command = [str(model), str(clips), "--output"]
    for dtype in ("float32", "bfloat16"):
        assert predict_avb.main([*command, str(tmp_path / f"{dtype}.csv"), "--dtype", dtype]) == 0
    rows, low = (read_csv(tmp_path / f"{dtype}.csv") for dtype in ("float32", "bfloat16"))
    labels = TASKS["two"].labels
    scores, rounded = (np.array([[float(row[label]) for label in labels] for row in table]) for table in (rows, low))
    assert 0 < np.abs(scores - rounded).max() < 0.05 < 0.1 < np.ptp(scores)
    keys = {model_key(*load_model(str(model), "cpu", dtype)) for dtype in ("float32", "bfloat16")}
    assert len(keys) == 2  # an interrupted run is not gone on with in another precision


def test_bfloat16_is_for_wav2vec2(tmp_path):
    folder = tmp_path / "baseline"
    baseline, feature_extractor = build_model(ModelArguments(model="emo18"), DataArguments(), TASKS["two"], None)
    save_hub_folder(baseline, feature_extractor, folder)
    load_model(str(folder), "cpu")
    with pytest.raises(AvbError, match="bfloat16 is for models with a speech encoder in torch; leave it at"):
        load_model(str(folder), "cpu", "bfloat16")


def test_the_longest_clip_is_an_option(model, clips, tmp_path, capsys):
    command = [str(model), str(clips), "--output", str(tmp_path / "scores.csv"), "--max_seconds", "0.001"]
    assert predict_avb.main(command) == 3
    assert "0 clips scored" in capsys.readouterr().out
    errors = (tmp_path / "scores.csv.errors.csv").read_text()
    assert "longer than 0.001 seconds" in errors and "--max_seconds" in errors
    assert predict_avb.main([*command[:-2], "--overwrite"]) == 0  # another limit: nothing is resumed


@pytest.mark.parametrize(
    "content",
    [b"a.wav\n\n b \xff.wav\n", b"a.wav\r\n b \xff.wav\r\n", b"a.wav\0 b \xff.wav\0"],
    ids=["unix", "dos", "zero"],
)
def test_names_on_standard_input(content, monkeypatch):
    """As `find`, a Windows program and `find -print0` write them; a name need not be UTF-8."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    assert read_names() == ["a.wav", os.fsdecode(b" b \xff.wav")]


def test_a_closed_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert predict_avb.main(["emogator-cnn", "-", "--output", "scores.csv"]) == 1
    assert "standard input, which is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, said",
    [
        (["--output", "-"], "scores are not written to standard output"),
        (["--output", "a.csv", "--batch_seconds", "nan"], "must be positive"),
        (["--output", "a.csv", "--batch_seconds", "inf"], "must be positive"),
        (["--output", "a.csv", "--window_seconds", "0", "--events"], "either --events or --window_seconds"),
    ],
)
def test_outputs_and_numbers_that_are_none(more, said, capsys):
    with pytest.raises(SystemExit):
        predict_avb.main(["emogator-cnn", "a.wav", *more])
    assert said in capsys.readouterr().err


def test_windows_of_no_length_are_not_whole_clips(model, clips, tmp_path, capsys):
    argv = [str(model), str(clips / "b.wav"), "--window_seconds", "0", "--output", str(tmp_path / "w.csv")]
    assert predict_avb.main(argv) == 1
    assert "the hop must be positive" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["scores.csv", "shards"])
def test_a_second_command_does_not_write_where_one_is_writing(output, model, clips, tmp_path, capsys):
    (tmp_path / "shards").mkdir()
    with locked(tmp_path / {"scores.csv": "scores.csv.partial", "shards": "shards/.lock"}[output]):
        assert predict_avb.main([str(model), str(clips), "--output", str(tmp_path / output)]) == 1
    assert "another command is writing there" in capsys.readouterr().err
    assert predict_avb.main([str(model), str(clips), "--output", str(tmp_path / output)]) == 0
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob(".lock"))
