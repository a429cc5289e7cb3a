"""Labels softened by teachers, tables and models: the numbers, what is refused, and the real commands to a student."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import stir
from datasets import Dataset
from tiny_kinds import STOCK, load

import predict_avb
import train_avb
from audio_avb import AudioPreparation, set_peak
from avb.baselines import BASELINES
from avb.cards.hub_folder import save_hub_folder
from avb.collator import BurstCollator
from avb.corpora import load_bursts
from avb.corpora.folds import write_folds
from avb.errors import AvbError, CorpusError
from avb.inference.load import load_model
from avb.inference.score import score_waveforms
from avb.tasks import TASKS, MultiTask, Task
from avb.training import teachers
from avb.training.distillation import are_models, label_rows, soften
from avb.training.teachers import ModelTeachers, with_folds
from feature_extraction_avb import VocalBurstFeatureExtractor

MOOD = Task("mood", "classification", ("calm", "glad", "sad"))
RATINGS = Task("ratings", "regression", ("valence", "arousal"))


def split(labels: list) -> Dataset:
    clips = {"id": [f"c{clip}" for clip in range(len(labels))], "labels": labels}
    waveforms = {"input_values": [[0.1] * 10] * len(labels), "num_samples": [10] * len(labels)}
    rows = Dataset.from_dict(clips | waveforms)
    return rows.with_format("numpy", columns=["input_values"], output_all_columns=True)


def teacher(path, task: Task, scores: dict[str, list]):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *task.labels, "prediction"])
        writer.writerows([clip, *row, "?"] for clip, row in scores.items())
    return str(path)


def test_labels_are_weighed_with_the_mean_of_the_teachers(tmp_path):
    one = teacher(tmp_path / "a.csv", MOOD, {"c1": [0.2, 0.8, 0], "c0": [0.5, 0.25, 0.25], "x": [0, 0, 1]})
    two = teacher(tmp_path / "b.csv", MOOD, {"c0": [0.1, 0.65, 0.25], "c1": [0, 1, 0]})
    softened = soften(split([2, -100]), MOOD, [one, two], 0.4)
    np.testing.assert_allclose(softened["labels"][:], [[0.12, 0.18, 0.7], [0.1, 0.9, 0]], atol=1e-6)
    assert softened["id"][:] == ["c0", "c1"] and softened["num_samples"][:] == [10, 10]
    assert isinstance(softened[0]["input_values"], np.ndarray)


def test_scores_are_weighed_likewise_and_missing_ones_are_the_teachers(tmp_path):
    table = teacher(tmp_path / "a.csv", RATINGS, {"c0": [0.5, 0.25], "c1": [0.25, 0.75]})
    softened = soften(split([[1.0, float("nan")], [0.75, 0.75]]), RATINGS, [table], 0.5)
    np.testing.assert_allclose(softened["labels"][:], [[0.75, 0.25], [0.5, 0.75]])


def test_without_teachers_classes_become_probabilities():
    softened = soften(split([1, -100]), MOOD, [], 0.5)
    np.testing.assert_array_equal(softened["labels"][:], [[0, 1, 0], [np.nan] * 3])
    np.testing.assert_array_equal(label_rows(MOOD, [0, 2]), [[1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("scores", "weight", "message"),
    [
        ({"c0": [1, 0, 0]}, 0.5, "no scores of 1 of 2 train clips, such as 'c1'"),
        ({"c0": [1, 0, 0], "c1": ["", 0, 1]}, 0.5, "a score of clip 'c1' is not a number"),
        ({"c0": [1, 0, 0], "c1": [1, 0, 0]}, 1.5, "--teacher_weight 1.5 is out of range"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(scores, weight, message, tmp_path):
    with pytest.raises(AvbError, match=message):
        soften(split([0, 1]), MOOD, [teacher(tmp_path / "a.csv", MOOD, scores)], weight)


def test_other_labels_and_other_tasks_are_refused(tmp_path):
    table = teacher(tmp_path / "a.csv", RATINGS, {"c0": [0, 0], "c1": [0, 0]})
    with pytest.raises(AvbError, match=r"a\.csv: no column 'calm'"):
        soften(split([0, 1]), MOOD, [table], 0.5)
    with pytest.raises(AvbError, match="one task, not of mood\\+ratings"):
        soften(split([0, 1]), MultiTask((MOOD, RATINGS)), [table], 0.5)


def save_model(folder, task: Task, seed: int = 0, **settings) -> str:
    """A log-mel CNN with random weights, and its feature extractor, as train_avb.py writes them."""
    torch.manual_seed(seed)
    model, feature_extractor = BASELINES["log_mel_cnn"](task)
    torch.nn.init.normal_(model.head.weight)  # so that its scores differ from clip to clip
    for name, value in settings.items():
        setattr(feature_extractor, name, value)
    save_hub_folder(model, feature_extractor, folder)
    return str(folder)


HEARD = VocalBurstFeatureExtractor(peak_db=-3.0)
CPU = torch.device("cpu")


def test_models_say_of_a_batch_what_they_say_of_its_clips_alone(tmp_path, waveforms):
    names = [save_model(tmp_path / str(seed), MOOD, seed) for seed in range(2)]
    clips = [waveforms[-1].numpy(), waveforms[-2].numpy()]
    labels = [[0.0, 1.0, 0.0], [float("nan")] * 3]
    rows = [{"input_values": clip, "labels": row} for clip, row in zip(clips, labels, strict=True)]
    softened = ModelTeachers(names, MOOD, HEARD, 0.25, CPU).soften(BurstCollator(HEARD)(rows))
    scores = np.mean([score_waveforms(*load_model(name, "cpu"), clips) for name in names], axis=0)
    assert np.abs(scores[0] - scores[1]).max() > 0.01
    np.testing.assert_allclose(softened[0], 0.25 * scores[0] + 0.75 * np.array([0, 1, 0]), atol=1e-5)
    np.testing.assert_allclose(softened[1], scores[1], atol=1e-5)
    assert not softened.requires_grad


def test_a_step_does_not_wait_for_a_teacher_that_hears_its_batch(tmp_path, monkeypatch):
    """Scores on the meta device have no values: a copy of them to the host would raise."""
    names = [save_model(tmp_path / "like", MOOD, peak_db=-3.0), save_model(tmp_path / "unlike", MOOD, peak_db=-6.0)]
    like, unlike = (teachers[None] for teachers in ModelTeachers(names, MOOD, HEARD, 1.0, CPU).teachers)
    outputs = SimpleNamespace(logits=torch.empty(1, 3, device="meta"))
    monkeypatch.setattr(type(like.model), "forward", lambda self, **inputs: outputs)
    inputs = {name: torch.ones(1, 800, device="meta") for name in ("input_values", "attention_mask")}
    assert like.scores(inputs, 1).device.type == "meta"
    with pytest.raises(NotImplementedError, match="meta tensor"):  # it has the host set the level of each clip
        unlike.scores(inputs, 1)


def save_kind(name: str, folder, task: Task, **preparation) -> str:
    """A tiny model on another kind of encoder, as train_avb.py writes it."""
    STOCK[name].build().save_pretrained(folder / "encoder")
    loss = "ce" if task.kind == "classification" else "ccc"
    model = load(folder / "encoder", STOCK[name].kind, num_labels=task.num_labels, id2label=task.id2label, loss=loss)
    save_hub_folder(model, VocalBurstFeatureExtractor(**preparation), folder / "model")
    return str(folder / "model")


def save_egemaps(folder) -> str:
    model, feature_extractor = BASELINES["egemaps_mlp"](MOOD, preparation=AudioPreparation(peak_db=-3.0))
    save_hub_folder(stir(model), feature_extractor, folder)
    return str(folder)


RAW = {"do_normalize": False, "peak_db": -3.0}  # as a kind is trained whose pre-training heard levels


@pytest.mark.parametrize("teacher", ["whisper", "wav2vec2-bert", "data2vec-audio", "log_mel_cnn", "egemaps_mlp"])
@pytest.mark.parametrize("student", [HEARD, VocalBurstFeatureExtractor(**RAW)], ids=["normalised", "level"])
def test_a_teacher_of_another_input_hears_what_it_was_trained_to_hear(teacher, student, tmp_path, waveforms):
    if teacher in STOCK:
        own = RAW if STOCK[teacher].kind != "data2vec-audio" else {"peak_db": None}
        name = save_kind(teacher, tmp_path, MOOD, **own)
    elif teacher == "egemaps_mlp":
        pytest.importorskip("opensmile")
        name = save_egemaps(tmp_path)
    else:
        name = save_model(tmp_path, MOOD, peak_db=-6.0)
    clips = [set_peak(clip - clip.mean(), -3.0) for clip in (waveforms[-1].numpy(), waveforms[-2].numpy())]
    batch = BurstCollator(student)([{"input_values": clip, "labels": [0.0, 1.0, 0.0]} for clip in clips])
    heard = [set_peak(clip, -6.0) if teacher == "log_mel_cnn" else clip for clip in clips]
    for views in (1, 3) if teacher == "whisper" else (1,):
        softened = ModelTeachers([name], MOOD, student, 1.0, CPU, views).soften(batch)
        expected = score_waveforms(*load_model(name, "cpu"), heard, views=views)
        np.testing.assert_allclose(softened, expected, atol=1e-4 if teacher == "egemaps_mlp" else 1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-4


def test_a_teacher_in_bfloat16_says_the_same(tmp_path, waveforms, monkeypatch):
    """As on a GPU: a speech encoder is rounded, a baseline is not."""
    monkeypatch.setattr(teachers, "teaching_dtype", lambda device: torch.bfloat16)
    names = [save_kind("whisper", tmp_path / "kind", MOOD, peak_db=-3.0), save_model(tmp_path / "cnn", MOOD)]
    clips = [waveforms[-1].numpy(), waveforms[-2].numpy()]
    batch = BurstCollator(HEARD)([{"input_values": clip, "labels": [0.0, 1.0, 0.0]} for clip in clips])
    for name, dtype in zip(names, (torch.bfloat16, torch.float32), strict=True):
        rounded = ModelTeachers([name], MOOD, HEARD, 1.0, CPU)
        assert rounded.teachers[0][None].model.dtype == dtype
        expected = score_waveforms(*load_model(name, "cpu"), clips)
        softened = rounded.soften(batch)
        assert softened.dtype == torch.float32
        np.testing.assert_allclose(softened, expected, atol=0.02 if dtype == torch.bfloat16 else 1e-5)


def save_folds(folder, task: Task, fold_of: dict[str, int]) -> str:
    """A run with folds, as train_avb.py leaves it: a model in each, and which clip is in which."""
    for fold in sorted(set(fold_of.values())):
        save_model(folder / "folds" / str(fold), task, seed=fold)
    write_folds(folder / "folds.csv", list(fold_of), np.array(list(fold_of.values())))
    return str(folder)


def test_a_run_with_folds_asks_the_model_that_never_heard_the_clip(tmp_path, waveforms):
    run = save_folds(tmp_path / "cv", MOOD, {"c0": 2, "c1": 0, "c2": 2, "c3": 1})
    plain = save_model(tmp_path / "plain", MOOD, seed=9)
    rows = with_folds(split([[0.0, 1.0, 0.0]] * 4), [run, plain])
    assert rows["folds"][:] == [[2, -1], [0, -1], [2, -1], [1, -1]]
    clips = [waveforms[-1 - number].numpy() for number in range(4)]
    batch = [row | {"input_values": clip} for row, clip in zip(rows, clips, strict=True)]
    softened = ModelTeachers([run, plain], MOOD, HEARD, 1.0, CPU).soften(BurstCollator(HEARD)(batch))
    by_fold = [score_waveforms(*load_model(f"{run}/folds/{fold}", "cpu"), clips) for fold in range(3)]
    own = np.array([by_fold[fold][number] for number, fold in enumerate((2, 0, 2, 1))])
    np.testing.assert_allclose(softened, (own + score_waveforms(*load_model(plain, "cpu"), clips)) / 2, atol=1e-5)
    assert np.abs(own - by_fold[0]).max() > 0.01

    with pytest.raises(CorpusError, match="c1"):
        with_folds(split([0, 1]), [save_folds(tmp_path / "few", MOOD, {"c0": 0, "c9": 1})])
    assert with_folds(split([0, 1]), [plain]).column_names == split([0, 1]).column_names

    for folder in (f"{run}/folds/1", f"{run}/folds"):  # an unfinished cross-validation, and one that was tidied up
        shutil.rmtree(folder)
        with pytest.raises(AvbError, match=r"fold [01] has no model in .*finish this cross-validation first"):
            ModelTeachers([run], MOOD, HEARD, 1.0, CPU)


def test_teachers_are_models_or_tables():
    assert are_models(["emogator-cnn", "runs/a.b"]) and not are_models(["a.csv", "b.PARQUET"]) and not are_models([])
    with pytest.raises(AvbError, match=r"models and tables \(a\.csv\)"):
        are_models(["emogator-cnn", "a.csv"])


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (MOOD, {"trim_top_db": 30.0}, "it was trained with trim_top_db 30.0, and here that is None"),
        (MOOD, {"do_normalize": False, "peak_db": None}, "it hears clips at the level they were recorded at"),
        (Task("mood", "classification", ("calm", "sad", "glad")), {}, "its labels are calm, sad, glad, not those of"),
    ],
)
def test_a_model_of_other_labels_or_another_input_cannot_teach(task, settings, message, tmp_path):
    name = save_model(tmp_path / "teacher", task, **settings)
    with pytest.raises(AvbError, match=message):
        ModelTeachers([name], MOOD, HEARD, 0.5, CPU)


def test_a_weight_out_of_range_and_a_model_that_is_not_there_are_refused():
    with pytest.raises(AvbError, match="--teacher_weight 2 is out of range"):
        ModelTeachers([], MOOD, HEARD, 2, CPU)
    with pytest.raises(AvbError, match="nowhere: no such model"):
        ModelTeachers(["./nowhere"], MOOD, HEARD, 0.5, CPU)


@pytest.mark.slow
def test_a_model_teaches_by_the_real_command(sample, tmp_path):
    """The first step's loss is that of labels which are the teacher's own scores; the clips' labels play no part."""
    corpus = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "type"]
    common = [*corpus, "--save_strategy", "no", "--load_best_model_at_end", "false", "--report_to", "none"]
    name = save_model(tmp_path / "teacher", TASKS["type"])
    argv = [*common, "--encoder", "recipes/encoders/tiny.yaml", "--freeze", "none", "--encoder_layer", "1"]
    argv += ["--rnn_layers", "0", "--max_steps", "2", "--logging_steps", "1", "--logging_strategy", "steps"]

    def train(folder: str, *more: str) -> list[float]:
        assert train_avb.main([*argv, *more, "--output_dir", str(tmp_path / folder)]) == 0
        history = json.loads((tmp_path / folder / "trainer_state.json").read_text())["log_history"]
        return [row["loss"] for row in history if "loss" in row]

    losses = [train(weight, "--teachers", name, "--teacher_weight", weight) for weight in ("0", "1")]
    ids = load_bursts("hume_vb", sample, "type").splits["train"]["id"]
    folds = ["--teachers", save_folds(tmp_path / "cv", TASKS["type"], {clip: row % 2 for row, clip in enumerate(ids)})]
    folds += ["--augment", "mixup"]
    on_device = train("device", *folds, "--audio_on_device", "true")  # whose samples the teachers hear, too
    np.testing.assert_allclose(on_device, train("disk", *folds), atol=1e-3)
    plain = train("plain")
    np.testing.assert_allclose(losses[0], plain, rtol=1e-5)
    assert np.abs(np.subtract(losses[1], plain)).max() > 1e-3


@pytest.mark.slow
def test_from_whisper_to_wav2vec_to_a_cnn(sample, tmp_path):
    """Teachers whose input is not the student's, and a teacher asked at several speeds, by the real command."""
    whisper = save_kind("whisper", tmp_path / "whisper", TASKS["two"], **RAW)
    common = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "two", "--save_strategy", "no"]
    common += ["--load_best_model_at_end", "false", "--max_steps", "1", "--logging_steps", "1", "--logging_strategy"]
    common += ["steps", "--teacher_weight", "1", "--per_device_train_batch_size", "4", "--cache_dir"]
    common += [str(tmp_path / "cache")]
    tiny = ["--encoder", "recipes/encoders/tiny.yaml", "--freeze", "none", "--encoder_layer", "1", "--rnn_layers", "0"]
    losses = set()
    for student, teacher, more in (
        (tiny, whisper, []),
        (tiny, whisper, ["--teacher_views", "3"]),
        (["--model", "log_mel_cnn"], str(tmp_path / "0"), []),
    ):
        folder = tmp_path / str(len(losses))
        assert train_avb.main([*common, *student, *more, "--teachers", teacher, "--output_dir", str(folder)]) == 0
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        losses |= {row["loss"] for row in history if "loss" in row}
    assert len(losses) == 3


@pytest.mark.slow
def test_from_teacher_to_student_by_the_real_commands(sample, tmp_path, capsys):
    """A baseline teaches a wav2vec 2.0 student, with mixup; the student's loss is that of softened labels."""
    corpus = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "type"]
    common = [*corpus, "--save_strategy", "no", "--load_best_model_at_end", "false", "--report_to", "none"]
    teacher_argv = ["--model", "log_mel_cnn", "--max_steps", "3", "--output_dir", str(tmp_path / "teacher")]
    assert train_avb.main([*common, *teacher_argv]) == 0
    table = tmp_path / "says.csv"
    assert predict_avb.main([str(tmp_path / "teacher"), *corpus, "--split", "train", "--output", str(table)]) == 0
    student_argv = ["--encoder", "recipes/encoders/tiny.yaml", "--freeze", "none", "--encoder_layer", "1"]
    student_argv += ["--rnn_layers", "0", "--augment", "mixup", "--max_steps", "2", "--logging_steps", "1"]
    student_argv += ["--teachers", str(table), "--teacher_weight", "0.5", "--logging_strategy", "steps"]
    assert train_avb.main([*common, *student_argv, "--output_dir", str(tmp_path / "student")]) == 0
    losses = [
        row["loss"]
        for row in json.loads((tmp_path / "student" / "trainer_state.json").read_text())["log_history"]
        if "loss" in row
    ]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
    assert "uar" in json.loads((tmp_path / "student" / "metrics.json").read_text())["splits"]["validation"]
    capsys.readouterr()
    assert (
        train_avb.main([*common, *student_argv, "--teachers", "nowhere.csv", "--output_dir", str(tmp_path / "s")]) == 1
    )
    assert "nowhere.csv: cannot be read as a table" in capsys.readouterr().err
