"""Folds of clips, and trainings that are scored over them: by the command's own parts, in this process."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT
from datasets import Dataset

import avb
from avb.corpora.folds import assign_folds, check_folds, cut_fold, write_folds
from avb.errors import AvbError, CorpusError
from avb.metrics import evaluate_predictions
from avb.run_files import read_metrics
from avb.tasks import Task
from avb.training.frozen import cut_from, number_rows

FAST = {"encoder": "encoders/tiny.yaml", "freeze": "none", "encoder_layer": 1, "max_steps": 2, "use_cpu": True}
FAST |= {"per_device_train_batch_size": 8, "report_to": "none", "rnn_hidden_size": 8}


def clips(speakers: str, labels: str, groups: str | None = None) -> Dataset:
    """A clip per letter; labels are digits."""
    columns = {"id": [f"c{number}" for number in range(len(labels))], "labels": [int(label) for label in labels]}
    columns |= {"speaker": list(speakers)} if speakers else {}
    return Dataset.from_dict(columns | ({"group": list(groups)} if groups else {}))


def parted(rows: Dataset, column: str, fold_of) -> list[str]:
    """The speakers or groups that are in several folds."""
    folds: dict[str, set] = {}
    for name, fold in zip(rows[column], fold_of, strict=True):
        folds.setdefault(name, set()).add(int(fold))
    return [name for name, found in folds.items() if len(found) > 1]


def test_a_number_of_folds_parts_no_speaker_and_spreads_each_class():
    rows = clips("aabbccddeeffgghh" * 2, "0101010101010101" * 2)
    fold_of = assign_folds(rows, "4", "here")
    assert set(fold_of) == {0, 1, 2, 3} and not parted(rows, "speaker", fold_of)
    counts = [np.bincount(np.array(rows["labels"])[fold_of == fold], minlength=2).tolist() for fold in range(4)]
    assert counts == [[4, 4]] * 4
    assert (assign_folds(rows, "4", "here") == fold_of).all()


def test_groups_join_speakers_in_a_fold():
    rows = clips("aabbccdd", "01010101", "12233445")  # 2 joins a and b, 3 b and c, 4 c and d
    with pytest.raises(CorpusError, match="2 folds of 1 speakers"):
        assign_folds(rows, "2", "here")
    rows = clips("aabbccdd", "01010101", "11234567")
    fold_of = assign_folds(rows, "2", "here")
    assert not parted(rows, "speaker", fold_of) and not parted(rows, "group", fold_of)


def test_each_speaker_a_fold():
    fold_of = assign_folds(clips("bbaac", "01010"), "speakers", "here")
    assert fold_of.tolist() == [1, 1, 0, 0, 2]
    with pytest.raises(CorpusError, match="here: --folds speakers needs to know them: --speaker_column"):
        assign_folds(clips("", "01010"), "speakers", "here")
    with pytest.raises(CorpusError, match="there is only one, 'a'"):
        assign_folds(clips("aaa", "010"), "speakers", "here")


def test_a_table_of_folds(tmp_path, caplog):
    rows = clips("aabb", "0101")
    write_folds(tmp_path / "ids.csv", rows["id"][:], np.array([2, 5, 2, 5]))
    assert assign_folds(rows, str(tmp_path / "ids.csv"), "here").tolist() == [2, 5, 2, 5]
    assert "2 speakers or groups are in several folds" in caplog.text
    (tmp_path / "speakers.csv").write_text("speaker,fold\na,0\nb,1\n")
    assert assign_folds(rows, str(tmp_path / "speakers.csv"), "here").tolist() == [0, 0, 1, 1]
    for content, message in [
        ("speaker,fold\na,0\n", "speakers.csv: 1 have no fold, such as speaker 'b'"),
        ("speaker,fold\na,0\nb,0\n", "all clips are in fold 0; at least two folds are needed"),
        ("id,fold\nc0,0\nc0,1\n", "line 3: id 'c0' appears twice"),
    ]:
        (tmp_path / "speakers.csv").write_text(content)
        with pytest.raises(CorpusError, match=message):
            assign_folds(rows, str(tmp_path / "speakers.csv"), "here")


@pytest.mark.parametrize("folds", ["1", "0", "five", "no.csv", "-3"])
def test_folds_that_are_none(folds):
    with pytest.raises(CorpusError, match=f"--folds {folds}: give a number of at least 2, 'speakers'.*or a table"):
        check_folds(folds)


def test_the_epoch_is_not_chosen_by_what_is_held_out():
    rows = clips("aabbccddeeffgghhiijj", "01" * 10)
    held_out = np.isin(rows["speaker"], ["a", "b"])
    splits = cut_fold(rows, held_out, True, "here")
    speakers = {name: set(split["speaker"]) for name, split in splits.items()}
    assert speakers["test"] == {"a", "b"} and len(speakers["validation"]) == 1 and len(speakers["train"]) == 7
    assert len(set.union(*speakers.values())) == 10
    assert set(cut_fold(rows, held_out, False, "here")) == {"train", "test"}
    assert cut_fold(rows, ~held_out | held_out, False, "here")["test"].num_rows == 20


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Clips of six people without splits; two classes, a tone each. One more cannot be read."""
    folder = tmp_path_factory.mktemp("clips")
    rows = ["file,speaker,kind"]
    rng = np.random.default_rng(0)
    for number in range(24):
        sf.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(2_000), 16_000)
        rows.append(f"{number}.wav,s{number % 6},{('laugh', 'cry')[number % 2]}")
    (folder / "broken.wav").write_bytes(b"RIFF, and no more")
    (folder / "clips.csv").write_text("\n".join([*rows, "broken.wav,s0,cry"]) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """A cross-validation with a model of all clips."""
    folder = tmp_path_factory.mktemp("runs") / "cross"
    more = {"keep_checkpoints": True, "cache_dir": str(folder.parent / "cache")}
    return avb.train(table, output_dir=folder, folds=3, final_model=True, **more, **FAST)


def read_rows(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_scores_are_those_of_all_folds_together(finished):
    folder = finished.output_dir
    rows = read_rows(folder / "predictions_cross_validation.csv")
    assert len(rows) == 24 and list(rows[0])[:3] == ["id", "fold", "speaker"]
    of_fold = [read_rows(folder / "folds" / str(fold) / "predictions_test.csv") for fold in range(3)]
    assert sorted(row["id"] for part in of_fold for row in part) == sorted(row["id"] for row in rows)
    assert not parted(Dataset.from_list(rows), "speaker", [int(row["fold"]) for row in rows])

    scores = finished.metrics.splits["cross_validation"]
    task = Task("clips", "classification", ("cry", "laugh"))
    truth, predicted = ([task.label2id[row[key]] for row in rows] for key in ("label", "prediction"))
    expected = evaluate_predictions(task, truth, predicted, [row["speaker"] for row in rows])
    assert {name: scores[name] for name in expected} == expected
    assert expected["interval_unit"] == "speaker" and expected["interval_units"] == 6
    alone = [read_metrics(folder / "folds" / str(fold)).splits["test"]["uar"] for fold in range(3)]
    assert scores["fold_scores"] == alone
    assert json.loads((folder / "metrics.json").read_text())["splits"]["cross_validation"] == scores


@pytest.mark.slow
def test_no_fold_hears_its_own_clips(finished):
    for fold in range(3):
        folder = finished.output_dir / "folds" / str(fold)
        split_of = {row["id"]: row["split"] for row in read_rows(folder / "splits.csv")}
        assert {row["id"] for row in read_rows(folder / "predictions_test.csv")} == {
            clip for clip, split in split_of.items() if split == "test"
        }
        assert set(split_of.values()) == {"train", "test"} and len(split_of) == 24
        assert (folder / "model.safetensors").is_file() and read_metrics(folder).train_clips == 16


@pytest.mark.slow
def test_the_clip_that_cannot_be_read_is_noted_once(finished):
    (path,) = finished.output_dir.rglob("bad_clips.csv")
    assert path.parent == finished.output_dir and [row["id"] for row in read_rows(path)] == ["broken.wav"]


@pytest.mark.slow
def test_the_model_of_all_clips(finished):
    assert {row["split"] for row in read_rows(finished.output_dir / "splits.csv")} == {"train"}
    assert finished.metrics.train_clips == 24 and set(finished.metrics.splits) == {"cross_validation"}
    assert [answer["label"] for answer in finished.score(np.zeros(2_000, np.float32))] == ["cry", "laugh"]
    (row,) = read_rows(finished.output_dir / "results.csv")
    assert row["split"] == "cross_validation" and "--folds 3" in row["changes"]
    card = (finished.output_dir / "README.md").read_text()
    assert "### cross_validation: 24 clips, interval by speaker (6)" in card
    assert "3 folds" in card and "not these weights" in card


@pytest.mark.slow
def test_a_stopped_one_goes_on_where_it_was(finished, table, tmp_path, capsys):
    folder = shutil.copytree(finished.output_dir, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("folds/[01]/*")}
    checkpoint = folder / "folds" / "2" / "checkpoint-2" / "model.safetensors"
    reached = checkpoint.stat().st_mtime_ns
    whole = read_metrics(folder)
    (folder / "metrics.json").unlink()
    (folder / "folds" / "2" / "metrics.json").unlink()
    with pytest.raises(AvbError, match="contains an unfinished run: --resume true continues"):
        avb.train(table, output_dir=folder, folds=3, **FAST)
    capsys.readouterr()
    again = avb.train(table, output_dir=folder, folds=3, resume=True, keep_checkpoints=True, **FAST)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("folds/[01]/*")} == before
    assert checkpoint.stat().st_mtime_ns == reached  # the fold that was begun was not trained anew
    printed = capsys.readouterr().out
    assert "fold 2 (3 of 3): 16 clips to train on, 8 held out" in printed and "fold 0 (1 of 3): 1" not in printed
    assert again.metrics.run_id == whole.run_id
    assert again.metrics.splits["cross_validation"] == whole.splits["cross_validation"]
    (folder / "config.json").unlink()  # as without --final_model
    with pytest.raises(AvbError, match="a model per fold, in folds/; final_model=True"):
        _ = again.model


def test_what_does_not_go_together(table, tmp_path):
    for arguments, message in [
        ({"folds": 1}, "--folds 1: give a number"),
        ({"folds": 3, "fold": 1}, "--folds trains a model per fold"),
        ({"folds": 3, "push_to_hub": True, "hub_model_id": "a/b"}, "--push_to_hub needs --final_model true"),
        ({"final_model": True}, "--final_model true needs --folds"),
        ({"folds": 7}, "7 folds of 6 speakers"),
    ]:
        with pytest.raises(AvbError, match=message):
            avb.train(table, output_dir=tmp_path / "run", **arguments, **FAST)


@pytest.mark.slow
def test_splits_of_the_corpus_stay_apart(sample, tmp_path):
    """The train split is cut; the model of all clips is that of an ordinary run; labels of test are withheld."""
    arguments = {key: value for key, value in FAST.items() if key != "encoder"} | {"encoder": "encoders/tiny.yaml"}
    run = avb.train(
        sample, recipe=str(ROOT / "recipes" / "sample.yaml"), output_dir=tmp_path / "run", folds=2, final_model=True,
        early_stopping_patience=1, **arguments,
    )  # fmt: skip
    assert list(run.metrics.splits) == ["cross_validation", "validation", "test"]
    train = {row["id"] for row in read_rows(run.output_dir / "splits.csv") if row["split"] == "train"}
    assert {row["id"] for row in read_rows(run.output_dir / "predictions_cross_validation.csv")} == train
    inner = read_rows(run.output_dir / "folds" / "0" / "splits.csv")
    assert {row["split"] for row in inner} == {"train", "validation", "test"} and {row["id"] for row in inner} == train


@pytest.mark.slow
def test_a_frozen_encoder_runs_once_for_all_folds(table, tmp_path, checkpoints):
    frozen = FAST | {"encoder": str(checkpoints["LARGE-LV60K"]), "freeze": "encoder"}
    frozen["cache_dir"] = str(tmp_path / "cache")
    avb.train(table, output_dir=tmp_path / "run", folds=2, **frozen)
    (folder,) = (tmp_path / "cache").glob("frames-*")
    before = [row["prediction"] for row in read_rows(tmp_path / "run" / "predictions_cross_validation.csv")]
    shutil.rmtree(tmp_path / "run")
    avb.train(table, output_dir=tmp_path / "run", folds=2, cache_frames=False, **frozen)
    rows = read_rows(tmp_path / "run" / "predictions_cross_validation.csv")
    assert before == [row["prediction"] for row in rows]


def test_rows_of_a_pool_keep_the_labels_of_their_split():
    pool = clips("aabbcc", "010101").add_column("encoder_frames", [[float(n)] for n in range(6)])
    split = number_rows(pool.add_column("input_values", [[0.0]] * 6)).select([4, 1])
    frames = number_rows(pool.add_column("input_values", [[0.0]] * 6))
    found = cut_from(frames, split, "encoder_frames")
    assert found["id"][:] == ["c4", "c1"] and np.ravel(found["encoder_frames"][:]).tolist() == [4.0, 1.0]
    softened = split.remove_columns("labels").add_column("labels", [[0.5, 0.5], [0.75, 0.25]])
    assert np.asarray(cut_from(frames, softened, "encoder_frames")["labels"][:]).tolist() == [[0.5, 0.5], [0.75, 0.25]]
