"""Several tasks of one model: joined labels, the sum of losses, scores and tables of each task, submissions."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import LAYER_NORM, ROOT
from datasets import Dataset, DatasetDict
from tiny import tiny_model

import predict_avb
import train_avb
from avb.corpora import load_bursts
from avb.corpora.multitask import join
from avb.corpora.rows import Corpus
from avb.errors import CorpusError
from avb.metrics import compute_metrics, defined_metric, evaluate_predictions
from avb.reports.run_table import read_results
from avb.tasks import TASKS, MultiTask, Task
from configuration_avb import Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst, ccc_loss, ce_loss, mse_loss
from pipeline_avb import scores_from_logits

FOUR = MultiTask(tuple(TASKS.values()))
TWO_TASKS = [
    {"name": "two", "loss": "ccc", "num_labels": 2},
    {"name": "type", "loss": "ce", "num_labels": 8},
    {"name": "age", "loss": "mse", "num_labels": 1, "label_range": [0, 100]},
]


def make_model(**changes) -> Wav2Vec2ForVocalBurst:
    return tiny_model(**LAYER_NORM, num_labels=11, loss="multitask", tasks=TWO_TASKS, **changes)


@pytest.fixture
def labels() -> torch.Tensor:
    """(8, 4): two scores, a class and an age a clip, some missing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat(
        [
            torch.rand(8, 2, generator=generator),
            torch.randint(0, 8, (8, 1), generator=generator).float(),
            100 * torch.rand(8, 1, generator=generator),
        ],
        1,
    )
    labels[0, :2] = labels[1, 2] = labels[2, 3] = float("nan")
    return labels


# ---- tasks and corpora


def test_names_and_labels():
    assert FOUR.name == "high+two+culture+type" and FOUR.num_labels == 60
    assert FOUR.labels[0] == "Awe" and FOUR.labels[10:12] == ("Valence", "Arousal") and FOUR.labels[-1] == "Other"
    twins = MultiTask((Task("a", "regression", ("x", "y")), Task("b", "regression", ("x",))))
    assert twins.labels == ("a/x", "y", "b/x")
    with pytest.raises(ValueError, match="at least two different tasks"):
        MultiTask((TASKS["high"], TASKS["high"]))


def rows(ids, labels) -> Dataset:
    return Dataset.from_dict({"id": ids, "labels": labels})


def test_clips_are_joined_by_their_id():
    two = Corpus(TASKS["two"], DatasetDict(train=rows(["a", "b"], [[0.1, 0.2], [0.3, 0.4]])))
    kinds = Corpus(TASKS["type"], DatasetDict(train=rows(["c", "b"], [7, -100]), test=rows(["d"], [1])))
    task, splits = join([two, kinds])
    assert task.name == "two+type" and splits["train"]["id"][:] == ["a", "b", "c"]
    nan = np.nan
    np.testing.assert_allclose(splits["train"]["labels"][:], [[0.1, 0.2, nan], [0.3, 0.4, nan], [nan, nan, 7]])
    np.testing.assert_allclose(splits["test"]["labels"][:], [[nan, nan, 1]])
    scores, classes = task.targets(np.asarray(splits["train"]["labels"][:]))
    assert classes.tolist() == [-100, -100, 7] and np.isnan(scores[2]).all()


def test_a_clip_in_two_splits_is_refused():
    two = Corpus(TASKS["two"], DatasetDict(train=rows(["a"], [[0.1, 0.2]])))
    kinds = Corpus(TASKS["type"], DatasetDict(test=rows(["a"], [1])))
    with pytest.raises(CorpusError, match="clip 'a' is in split 'train' for one task and in 'test' for task 'type'"):
        join([two, kinds])


def test_the_release_has_all_four(sample):
    corpus = load_bursts("hume_vb", sample, "high+two+culture+type")
    assert corpus.task == FOUR
    for name, true in zip(TASKS, corpus.task.targets(np.asarray(corpus.splits["train"]["labels"][:])), strict=True):
        alone = load_bursts("hume_vb", sample, name).splits["train"]
        assert alone["id"][:] == corpus.splits["train"]["id"][:]
        np.testing.assert_allclose(true, np.asarray(alone["labels"][:]), atol=1e-7)


# ---- loss


def test_loss_is_the_weighted_sum_of_the_tasks(labels):
    logits = torch.randn(8, 11)
    expected = [
        ccc_loss(logits[:, :2], labels[:, :2]),
        ce_loss(logits[:, 2:10], labels[:, 2].nan_to_num(-100).long()),
        mse_loss(logits[:, 10:], labels[:, 3:]),
    ]
    torch.testing.assert_close(make_model().compute_loss(logits, labels), sum(expected))
    weighted = make_model(task_weights=[1.0, 0.5, 0.0]).compute_loss(logits, labels)
    torch.testing.assert_close(weighted, expected[0] + 0.5 * expected[1])

    model = make_model(task_weighting="uncertainty")
    s = model.log_variances
    by_hand = sum(torch.exp(-s[i]) * loss + s[i] for i, loss in enumerate(expected))
    loss = model.compute_loss(logits, labels)
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    torch.testing.assert_close(s.grad, 1 - torch.exp(-s.detach()) * torch.stack(expected))


def test_a_task_without_a_label_in_the_batch_adds_nothing(labels):
    labels[:, 2] = float("nan")
    logits = torch.randn(8, 11, requires_grad=True)
    loss = make_model().compute_loss(logits, labels)
    loss.backward()
    assert loss.isfinite() and (logits.grad[:, 2:10] == 0).all() and (logits.grad[:, :2] != 0).any()


def test_outputs_lie_in_each_tasks_range(waveforms):
    model = make_model().eval()
    with torch.no_grad():
        logits = torch.cat([model(clip[None]).logits for clip in waveforms])
    assert ((0 <= logits[:, :2]) & (logits[:, :2] <= 1)).all()
    assert ((0 <= logits[:, 10]) & (logits[:, 10] <= 100)).all() and (logits[:, 10] > 1).any()
    scores = scores_from_logits(logits.numpy(), model.config)
    np.testing.assert_allclose(scores[:, 2:10].sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(scores[:, [0, 1, 10]], logits.numpy()[:, [0, 1, 10]])


def test_saved_and_reloaded(tmp_path, waveforms):
    model = make_model(task_weighting="uncertainty").eval()
    model.save_pretrained(tmp_path)
    again = Wav2Vec2ForVocalBurst.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again.log_variances, model.log_variances)
    with torch.no_grad():
        torch.testing.assert_close(again(waveforms[5][None]).logits, model(waveforms[5][None]).logits)


def test_learned_weights_start_even_on_a_plain_encoder(checkpoints):
    """A parameter that a checkpoint lacks would hold whatever the memory held."""
    model = Wav2Vec2ForVocalBurst.from_pretrained(
        checkpoints["BASE"], loss="multitask", tasks=TWO_TASKS, num_labels=11, task_weighting="uncertainty"
    )
    assert model.log_variances.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": TWO_TASKS[:1]}, "tasks=.* two or more dicts"),
        ({"num_labels": 12}, "num_labels=12 .* 11, the sum"),
        ({"task_weights": [1.0]}, "task_weights=.* 3 numbers"),
        ({"task_weights": [1.0, 1.0, 1.0], "task_weighting": "uncertainty"}, "with task_weighting='fixed'"),
        ({"task_weighting": "magic"}, "task_weighting='magic' .* fixed, uncertainty"),
    ],
)
def test_illegal_settings(changes, message):
    fields = {"loss": "multitask", "tasks": TWO_TASKS, "num_labels": 11, **changes}
    with pytest.raises(ValueError, match=message):
        Wav2Vec2VocalBurstConfig(**fields)


# ---- scores


def test_scores_are_those_of_each_task():
    rng = np.random.default_rng(0)
    task = MultiTask((TASKS["two"], TASKS["type"]))
    true = np.concatenate([rng.random((50, 2)), rng.integers(0, 8, (50, 1))], 1)
    true[:5, 2] = np.nan
    outputs = rng.normal(size=(50, 10))
    scores = evaluate_predictions(task, true, outputs)
    assert scores["tasks"]["two"] == evaluate_predictions(TASKS["two"], true[:, :2], outputs[:, :2])
    classes = np.nan_to_num(true[:, 2], nan=-100).astype(int)
    assert scores["tasks"]["type"] == evaluate_predictions(TASKS["type"], classes, outputs[:, 2:])
    mean = (scores["tasks"]["two"]["ccc"] + scores["tasks"]["type"]["uar"]) / 2
    assert scores["mean_score"] == pytest.approx(mean)

    flat = compute_metrics(task)(type("Prediction", (), {"predictions": outputs, "label_ids": true}))
    assert flat["mean_score"] == pytest.approx(mean) and flat["type_uar"] == scores["tasks"]["type"]["uar"]

    true[:, 2] = np.nan  # withheld: the other task is scored all the same
    scores = evaluate_predictions(task, true, outputs)
    assert scores["mean_score"] == scores["tasks"]["two"]["ccc"]
    assert scores["tasks"]["type"] == {"num_clips": 0, "note": "no clip has its labels"}


# ---- the commands


@pytest.fixture(scope="module")
def trained(release, tmp_path_factory):
    folder = tmp_path_factory.mktemp("multitask")
    argv = [
        str(ROOT / "recipes" / "multitask.yaml"), "--data_dir", str(release), "--output_dir", str(folder / "run"),
        "--encoder", str(ROOT / "recipes" / "encoders" / "tiny.yaml"), "--freeze", "none", "--encoder_layer", "2",
        "--rnn_hidden_size", "16", "--max_steps", "3", "--results", str(folder / "runs.csv"),
        "--report_to", "none",
    ]  # fmt: skip
    assert train_avb.main(argv) == 0
    return folder


@pytest.mark.slow
def test_a_run_scores_every_task(trained):
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    scores = metrics["splits"]["validation"]["tasks"]
    assert list(scores) == list(TASKS)
    uar = scores["type"][defined_metric(scores["type"], "uar")]  # some class may have no clip
    mean = (sum(scores[name]["ccc"] for name in ("high", "two", "culture")) + uar) / 4
    assert metrics["splits"]["validation"]["mean_score"] == pytest.approx(mean)

    found = {row.task: row for row in read_results(trained / "runs.csv") if row.split == "validation"}
    assert found["high+two+culture+type"].score == pytest.approx(mean)
    assert found["type"].metric == "uar"
    assert found["type"].score == pytest.approx(scores["type"]["uar"], nan_ok=True)
    assert found["high"].low == scores["high"]["ccc_low"]

    with open(trained / "run" / "predictions_validation.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert row["prediction_type"] in TASKS["type"].labels and row["label_type"] in TASKS["type"].labels
    assert row["confidence_type"] == row[row["prediction_type"]]
    assert 0 <= float(row["China_Fear"]) <= 1 and row["true_Valence"]
    assert sum(float(row[label]) for label in TASKS["type"].labels) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_one_model_submits_to_every_task(name, trained, release, tmp_path):
    argv = [str(trained / "run"), "--corpus", "hume_vb", "--data_dir", str(release), "--task", name]
    assert predict_avb.main([*argv, "--output", str(tmp_path / "scores.csv"), "--submission", "TEAM", "1"]) == 0
    assert len(list(tmp_path.glob("*TEAM*"))) == 1


def test_a_baseline_learns_one_task(sample, tmp_path, capsys):
    argv = ["--corpus", "hume_vb", "--task", "high+two", "--data_dir", str(sample), "--model", "emo18"]
    assert train_avb.main([*argv, "--output_dir", str(tmp_path / "run")]) == 1
    assert "--model emo18 learns one task, not high+two" in capsys.readouterr().err
