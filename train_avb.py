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

import yaml
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments, parse_arguments
from avb.baselines import prepare_training
from avb.corpora import load_bursts, require_split
from avb.corpora.decode import BadClip, decode_splits
from avb.errors import AvbError
from avb.output import make_folder, write_json, write_table
from avb.results import append_result, failed_run, run_results
from avb.scoring import score_split, summary
from avb.training import BurstTrainer, build_model

ROOT = Path(__file__).resolve().parent
SAMPLE_RECIPE = ROOT / "recipes" / "sample.yaml"


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        argv = [str(SAMPLE_RECIPE), "--data_dir", make_sample_corpus(), "--overwrite", "true"]
    model_args, data_args, args, recipe = parse_arguments(argv)
    facts = {
        "encoder": model_args.encoder if model_args.model == "wav2vec2" else model_args.model,
        "corpus": data_args.corpus,
        "data_dir": data_args.data_dir,
    }
    try:
        metrics, epochs = train(model_args, data_args, args, recipe)
    except ValueError as error:
        print(f"train_avb.py: error: {error}", file=sys.stderr)
        if args.results and args.process_index == 0:
            append_result(args.results, failed_run(argv, str(error), task=data_args.task, seed=args.seed, **facts))
        return 1
    if args.results and args.process_index == 0:
        for row in run_results(argv, metrics, epochs=epochs, versions=versions(), **facts):
            append_result(args.results, row)
    return 0


def train(model_args: ModelArguments, data_args: DataArguments, args: AvbTrainingArguments, recipe: dict):
    """Corpus → model → trainer → metrics, predictions and model on disk. Returns the metrics and the epochs trained."""
    output_dir = make_folder(args.output_dir)
    if (output_dir / "metrics.json").exists() and not (args.overwrite or args.resume):
        raise AvbError(f"{output_dir} holds a finished model: choose another --output_dir, or --overwrite true")
    if data_args.data_dir is None:
        raise AvbError("--data_dir is missing: the folder of the corpus, or your table of clips")
    set_seed(args.seed)  # before the model: its head starts from random weights

    with args.main_process_first(desc="decoding audio"):
        corpus = load_bursts(data_args.corpus, data_args.data_dir, data_args.task, **data_args.corpus_options())
        for split in ("train", "validation"):
            require_split(corpus.splits, split)
        splits, bad_clips = decode_splits(
            corpus.splits,
            trim_top_db=data_args.trim_top_db,
            peak_db=data_args.peak_db,
            cache_dir=data_args.cache_dir,
            num_proc=data_args.num_decode_workers,
            strict=data_args.strict,
        )
    task = corpus.task
    if data_args.max_train_clips is not None:
        shuffled = splits["train"].shuffle(seed=args.seed)
        splits["train"] = shuffled.select(range(min(data_args.max_train_clips, len(shuffled))))
    batch_size = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and len(splits["train"]) < batch_size:
        raise AvbError(
            f"{len(splits['train'])} train clips are fewer than one batch of {batch_size}: lower "
            "--per_device_train_batch_size or add --dataloader_drop_last false"
        )

    model, feature_extractor = build_model(model_args, data_args, task, splits["train"])
    with args.main_process_first(desc="computing features"):
        splits, collator = prepare_training(
            model, feature_extractor, splits, num_proc=data_args.num_decode_workers, cache_dir=data_args.cache_dir
        )
    trainer = BurstTrainer(
        model,
        args,
        task,
        feature_extractor,
        collator,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
    )
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir) if args.resume else None)
    seconds = time.perf_counter() - started
    trainer.save_model()  # the feature extractor too
    (output_dir / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads; recipe.yaml says it all

    metrics = {"task": task.name, "metric": task.metric, "labels": list(task.labels)}
    for name, split in splits.items():
        if name != "train":
            metrics[name] = score_split(trainer, task, name, split, output_dir)
    metrics |= {"train_clips": len(splits["train"]), "train_seconds": round(seconds, 1), "seed": args.seed}
    if trainer.is_world_process_zero():
        if bad_clips:
            rows = (clip._asdict() for clip in bad_clips)
            write_table(output_dir / "bad_clips.csv", rows, list(BadClip._fields))
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        write_json(output_dir / "versions.json", versions())
        write_json(output_dir / "metrics.json", metrics)
        print(summary(task, metrics, len(bad_clips), output_dir))
    return metrics, trainer.state.epoch


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

    return str(make_sample(ROOT / "data" / "sample"))


if __name__ == "__main__":
    sys.exit(main())
