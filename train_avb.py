"""Trains, scores and saves a vocal-burst model.

    python train_avb.py                                     # the synthetic sample corpus in data/
    accelerate launch train_avb.py recipes/X.yaml --data_dir ROOT --any_argument value

Into `output_dir` go the model and its feature extractor, `metrics.json` (with 95 % intervals), `predictions_SPLIT.csv`
for each split that was scored, the recipe as it was run, the versions, and the clips that could not be read.
"""

import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments, parse_arguments
from avb.corpora import load_bursts
from avb.corpora.decode import BadClip, decode_splits
from avb.errors import AvbError
from avb.metrics import evaluate_predictions
from avb.output import make_folder, write_json, write_table
from avb.prediction import score_columns, score_row, scores_from_logits
from avb.tasks import Task
from avb.training import BurstTrainer, build_model

ROOT = Path(__file__).resolve().parent
SAMPLE_RECIPE = ROOT / "recipes" / "sample.yaml"


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        argv = [str(SAMPLE_RECIPE), "--data_dir", make_sample_corpus()]
    model_args, data_args, training_args, recipe = parse_arguments(argv)
    try:
        train(model_args, data_args, training_args, recipe)
    except (AvbError, ValueError) as error:
        print(f"train_avb.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def train(model_args: ModelArguments, data_args: DataArguments, args: AvbTrainingArguments, recipe: dict):
    """Corpus → model → trainer → metrics, predictions and model on disk."""
    output_dir = make_folder(args.output_dir)
    if (output_dir / "metrics.json").exists() and not (args.overwrite or args.resume):
        raise AvbError(f"{output_dir} holds a finished model: choose another --output_dir, or --overwrite true")
    if data_args.data_dir is None:
        raise AvbError("--data_dir is missing: the folder of the corpus, or your table of clips")
    set_seed(args.seed)  # before the model: its head starts from random weights

    with args.main_process_first(desc="decoding audio"):
        corpus = load_bursts(data_args.corpus, data_args.data_dir, data_args.task, **data_args.corpus_options())
        splits, bad_clips = decode_splits(
            corpus.splits,
            trim_top_db=data_args.trim_top_db,
            peak_db=data_args.peak_db,
            cache_dir=data_args.cache_dir,
            num_proc=data_args.num_decode_workers,
            strict=data_args.strict,
        )
    task = corpus.task
    for split in ("train", "validation"):
        if split not in splits:
            raise AvbError(f"{data_args.data_dir} has no {split} clips, only {', '.join(splits)}")
    if data_args.max_train_clips is not None:
        shuffled = splits["train"].shuffle(seed=args.seed)
        splits["train"] = shuffled.select(range(min(data_args.max_train_clips, len(shuffled))))
    if args.dataloader_drop_last and len(splits["train"]) < args.train_batch_size * args.world_size:
        raise AvbError(
            f"{len(splits['train'])} train clips are fewer than one batch of {args.train_batch_size * args.world_size}: "
            "lower --per_device_train_batch_size or add --dataloader_drop_last false"
        )

    model, feature_extractor = build_model(model_args, data_args, task, splits["train"])
    trainer = BurstTrainer(
        model,
        args,
        task,
        feature_extractor,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
    )
    checkpoint = get_last_checkpoint(args.output_dir) if args.resume else None
    started = time.perf_counter()
    if args.num_train_epochs > 0:
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    trainer.save_model()  # the feature extractor too
    (output_dir / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads; recipe.yaml says it all

    results = {"task": task.name, "metric": task.metric, "labels": list(task.labels)}
    for name, split in splits.items():
        if name != "train":
            results[name] = score_split(trainer, task, name, split, output_dir)
    results |= {"train_clips": len(splits["train"]), "train_seconds": round(seconds, 1), "seed": args.seed}
    if trainer.is_world_process_zero():
        if bad_clips:
            rows = (clip._asdict() for clip in bad_clips)
            write_table(output_dir / "bad_clips.csv", rows, list(BadClip._fields))
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        write_json(output_dir / "versions.json", versions())
        write_json(output_dir / "metrics.json", results)
        print(summary(task, results, len(bad_clips), output_dir))


def score_split(trainer: BurstTrainer, task: Task, name: str, split, output_dir: Path) -> dict:
    """Writes `predictions_NAME.csv`; returns the metrics, or says that the labels are withheld."""
    output = trainer.predict(split, metric_key_prefix=name)
    logits, labels = output.predictions, np.asarray(split["labels"])
    config = trainer.accelerator.unwrap_model(trainer.model).config
    extra = [column for column in ("speaker", "country") if column in split.column_names]
    truths = ["label"] if task.kind == "classification" else [f"true_{label}" for label in task.labels]
    if trainer.is_world_process_zero():
        rows = (
            {"id": row_id, **dict(zip(extra, known, strict=True)), **score_row(scores, config), **true_labels(task, truth)}
            for row_id, scores, truth, *known in zip(
                split["id"], scores_from_logits(logits, config), labels, *(split[column] for column in extra), strict=True
            )
        )
        write_table(output_dir / f"predictions_{name}.csv", rows, ["id", *extra, *score_columns(config), *truths])
    if np.isnan(labels).all() if task.kind == "regression" else (labels < 0).all():
        return {"num_clips": 0, "note": "labels are withheld"}
    groups = np.asarray(split["speaker"]) if "speaker" in split.column_names else None
    return evaluate_predictions(task, labels, logits, groups)


def true_labels(task: Task, truth) -> dict:
    """The columns of a clip's own labels; empty where they are missing."""
    if task.kind == "classification":
        return {"label": task.labels[int(truth)] if truth >= 0 else None}
    return {f"true_{label}": None if np.isnan(value) else float(value) for label, value in zip(task.labels, truth, strict=True)}


def summary(task: Task, results: dict, num_bad_clips: int, output_dir: Path) -> str:
    """What a reader of the terminal wants to know: scores with intervals, and where everything is."""
    lines = [""]
    for name in ("validation", "test"):
        if task.metric not in results.get(name, {}):
            continue
        scores = results[name]
        interval = f"{scores[task.metric + '_low']:.3f} to {scores[task.metric + '_high']:.3f}"
        lines.append(f"{name}: {task.metric.upper()} {scores[task.metric]:.3f}, 95 % interval {interval}, "
                     f"{scores['num_clips']} clips")
        per_label = "ccc" if task.kind == "regression" else "recall"
        width = max(map(len, task.labels))
        lines += [f"  {label:<{width}}  {scores['per_label'][label][per_label]:.3f}" for label in task.labels]
    if num_bad_clips:
        lines.append(f"{num_bad_clips} clips could not be read: {output_dir / 'bad_clips.csv'}")
    lines.append(f"model, metrics and predictions: {output_dir}")
    return "\n".join(lines)


def versions() -> dict:
    """What a result depends on besides recipe and seed."""
    packages = ("torch", "transformers", "datasets", "accelerate", "librosa", "soundfile", "numpy")
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def make_sample_corpus() -> str:
    """The folder of the synthetic sample corpus, generated if it is not there."""
    if not SAMPLE_RECIPE.exists():
        sys.exit("train_avb.py: error: give a recipe; the sample corpus is part of the source tree, not of the package")
    from data.make_sample import make_sample

    root = ROOT / "data" / "sample"
    make_sample(root)
    return str(root)


if __name__ == "__main__":
    sys.exit(main())
