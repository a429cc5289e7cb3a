"""Trains, scores and saves a vocal-burst model.

    python train_avb.py                                     # the synthetic sample corpus in data/
    accelerate launch train_avb.py recipes/X.yaml --data_dir ROOT --any_argument value

Into `output_dir` go the model and its feature extractor, `metrics.json` (with 95 % intervals), `predictions_SPLIT.csv`
for each split that was scored, `results.csv` (the rows that `--results` adds to a table), `train_set.json` (what it was
trained on, in numbers), the recipe as it was run, the versions, the clips that could not be read, and the model card.
`--push_to_hub true --hub_model_id ORG/NAME` uploads what of it belongs on the Hub.

What takes seconds to import is imported once the arguments are checked.
"""

import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments
from avb.command_line import parse_arguments
from avb.errors import AvbError
from avb.files import make_folder, write_json, write_table, write_text
from avb.recipes import FOLDER as RECIPES
from avb.run_files import (
    BAD_CLIPS,
    RECIPE,
    RESULTS,
    TRAIN_SET,
    VERSIONS,
    Metrics,
    describe_tasks,
    new_run_id,
    start_run,
    write_metrics,
)

ROOT = Path(__file__).resolve().parent
SAMPLE_RECIPE = RECIPES / "sample.yaml"
SAMPLE_MAKER = ROOT / "data" / "make_sample.py"


def main(argv: list[str] | None = None) -> int:
    try:
        return run(argv)
    finally:
        if torch.distributed.is_initialized():  # else gloo's threads abort the process at its end, now and then
            torch.distributed.destroy_process_group()


def run(argv: list[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        argv = [str(SAMPLE_RECIPE), "--data_dir", make_sample_corpus(), "--overwrite", "true"]
    model_args, data_args, args, command = parse_arguments(argv)

    from avb.cards.card import write_card
    from avb.cards.push import open_repository, push_folder
    from avb.reports.results import failed_run, run_results
    from avb.reports.run_table import append_result, check_table, write_results
    from avb.training.checkpoints import is_finished

    facts: dict[str, Any] = {
        "encoder": model_args.encoder if model_args.model == "wav2vec2" else model_args.model,
        "corpus": data_args.corpus,
        "data_dir": data_args.data_dir,
    }
    repo_id = args.hub_model_id if args.push_to_hub else None
    args.push_to_hub = False  # the Trainer would upload checkpoints too; ours is one commit of the finished folder
    is_main_process = args.process_index == 0
    if args.resume and not args.overwrite and is_finished(args.output_dir):
        if is_main_process:
            print(f"{args.output_dir} holds a finished run: nothing to resume (--overwrite true trains anew)")
        return 0
    if args.results and is_main_process:
        try:
            check_table(args.results)
        except AvbError as error:
            print(f"train_avb.py: error: {error}", file=sys.stderr)
            return 1
    run_id = new_run_id()
    made_by = versions()  # as it starts: the working tree may have another commit at its end
    try:
        if repo_id and is_main_process:
            open_repository(repo_id, args.hub_private_repo)  # a missing token is known now, not after hours
        metrics, epochs = train(model_args, data_args, args, command.recipe, made_by, run_id)
    except ValueError as error:
        print(f"train_avb.py: error: {error}", file=sys.stderr)
        if args.results and is_main_process:
            facts |= {"task": data_args.task, "seed": args.seed, "run_id": run_id}
            append_result(args.results, failed_run(command.name, command.changes, str(error), **facts))
        return 1
    except KeyboardInterrupt:
        if is_main_process:
            print("train_avb.py: stopped; --resume true goes on from the last checkpoint", file=sys.stderr)
        return 130
    if not is_main_process:
        return 0
    try:
        rows = run_results(command.name, command.changes, metrics, epochs=epochs, versions=made_by, **facts)
        write_results(Path(args.output_dir) / RESULTS, rows)
        write_metrics(args.output_dir, metrics)  # last: a run that has it has the others
        if args.results:
            for row in rows:
                append_result(args.results, row)
        name = repo_id.rpartition("/")[2] if repo_id else None
        write_card(args.output_dir, name, [args.results] if args.results and metrics.scored_splits else [])
        if repo_id:
            push_folder(args.output_dir, repo_id, args.hub_private_repo)
    except AvbError as error:
        print(f"train_avb.py: error: {error}\nThe model is trained and saved: {args.output_dir}", file=sys.stderr)
        return 1
    return 0


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: AvbTrainingArguments,
    recipe: dict,
    made_by: dict,
    run_id: str,
) -> tuple[Metrics, float | None]:
    """Corpus → model → trainer → predictions and model on disk. Returns the metrics and the epochs trained."""
    import yaml
    from transformers import set_seed
    from transformers.utils import logging

    from avb.cards.hub_folder import save_hub_folder
    from avb.corpora.decode import BadClip
    from avb.corpora.release import corpus_name
    from avb.training.augmentation import MIXUP, AugmentedClips, read_augmentations
    from avb.training.build import build_model
    from avb.training.checkpoints import clear, starting_point
    from avb.training.distillation import ModelTeachers, are_models, soften
    from avb.training.frozen import training_inputs
    from avb.training.loading import load_clips
    from avb.training.scoring import score_split, summary
    from avb.training.train_set import describe_clips
    from avb.training.trainer import BurstTrainer

    assert args.output_dir is not None  # parse_arguments sees to it
    output_dir = make_folder(args.output_dir)
    checkpoint = starting_point(output_dir, args.resume, args.overwrite)
    if args.resume and checkpoint is None and args.process_index == 0:
        print(f"{output_dir} holds no checkpoint to resume from: training starts anew")
    logging.disable_progress_bar()  # of files of weights, which are read and written in no time
    set_seed(args.seed)  # before the model: its head starts from random weights
    task, splits, bad_clips = load_clips(data_args, args)
    if data_args.max_train_clips is not None:
        shuffled = splits["train"].shuffle(seed=args.seed)
        splits["train"] = shuffled.select(range(min(data_args.max_train_clips, len(shuffled))))
    batch_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    if args.batch_seconds is None and args.dataloader_drop_last and len(splits["train"]) < batch_size:
        raise AvbError(
            f"{len(splits['train'])} train clips are fewer than one batch of {batch_size}: lower "
            "--per_device_train_batch_size or add --dataloader_drop_last false"
        )

    train_set = describe_clips(task, splits["train"])
    model, feature_extractor = build_model(model_args, data_args, task, splits["train"])
    teachers, model_teachers = data_args.teachers or [], None
    if are_models(teachers):
        weight = data_args.teacher_weight
        model_teachers = ModelTeachers(teachers, task, feature_extractor, weight, args.device)
    if teachers or MIXUP in read_augmentations(data_args.augment or [], data_args.augment_prob):
        tables = [] if model_teachers else teachers
        splits["train"] = soften(splits["train"], task, tables, data_args.teacher_weight)
    with args.main_process_first(desc="computing features"):
        splits, collator = training_inputs(
            model.to(args.device),
            feature_extractor,
            splits,
            cache_frames=data_args.cache_frames,
            is_augmented=bool(data_args.augment or model_teachers),
            dtype=data_args.frames_dtype,
            autocast=args.bf16,
            num_proc=data_args.num_decode_workers,
            cache_dir=data_args.cache_dir,
        )
    train_clips = splits["train"]
    if data_args.augment:
        train_clips = AugmentedClips(train_clips, data_args.augment, data_args.augment_prob, args.seed)
    trainer = BurstTrainer(
        model,
        args,
        task,
        feature_extractor,
        collator,
        model_teachers,
        train_dataset=train_clips,
        eval_dataset=splits["validation"],
    )
    if args.overwrite and trainer.is_world_process_zero():
        clear(output_dir)
    if trainer.is_world_process_zero():
        run_id = start_run(output_dir, checkpoint is not None, run_id)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    if trainer.is_world_process_zero():
        trainer.save_state()
        save_hub_folder(trainer.accelerator.unwrap_model(trainer.model), feature_extractor, output_dir)

    scored = {name: clips for name, clips in splits.items() if name != "train"}
    metrics = Metrics(
        task=task.name,
        metric=task.metric,
        labels=list(task.labels),
        run_id=run_id,
        corpus=corpus_name(data_args.corpus, data_args.data_dir),
        seed=args.seed,
        train_clips=len(splits["train"]),
        train_seconds=round(seconds, 1),
        tasks=describe_tasks(task),
        splits={name: score_split(trainer, task, name, clips, output_dir) for name, clips in scored.items()},
    )
    if trainer.is_world_process_zero():
        if bad_clips:
            rows = (clip._asdict() for clip in bad_clips)
            write_table(output_dir / BAD_CLIPS, rows, list(BadClip._fields))
        write_text(output_dir / RECIPE, yaml.safe_dump(recipe, sort_keys=False))
        write_json(output_dir / VERSIONS, made_by)
        write_json(output_dir / TRAIN_SET, train_set)
        print(summary(metrics, len(bad_clips), output_dir))
    return metrics, trainer.state.epoch


def versions() -> dict:
    """What a result depends on besides recipe and seed."""
    packages = ("transformers", "datasets", "accelerate", "librosa", "soundfile", "numpy")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with its CUDA, which the package's own metadata may leave out
        **{package: version(package) for package in packages},
    }


def _commit() -> str | None:
    """Of the repository whose tree this file is in; None where it is installed, or git is not.

    An installed package may lie inside another project's repository, `.venv/` in it, whose commit says nothing.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True)
        if tracked.returncode:
            return None
        return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:
        return None


def make_sample_corpus() -> str:
    """The folder of the synthetic sample corpus, generated if it is not there."""
    if not SAMPLE_MAKER.exists():
        sys.exit(
            "train_avb.py: error: give a recipe (--list_recipes); the sample corpus is part of the source tree only"
        )
    from data.make_sample import make_sample

    return str(make_sample(ROOT / "data" / "sample"))


if __name__ == "__main__":
    sys.exit(main())
