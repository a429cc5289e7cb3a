"""One complete run: corpus → model → training → scores → rows, card and, if requested, the Hub.

`train_avb.py` and `avb.train` both call `run`. The files that it writes are described in `avb.run_files`.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, disable_progress_bars
from transformers import set_seed
from transformers.utils import logging

from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments
from avb.cards.card import write_card
from avb.cards.hub_folder import save_hub_folder
from avb.cards.push import open_repository, push_folder
from avb.command_line import OFF, Command
from avb.corpora.decode import BadClip
from avb.corpora.raters import MAJORITY
from avb.corpora.release import corpus_name
from avb.cross_validation import check_arguments, cross_validate
from avb.encoders.adapters import has_adapters, merge_adapters, save_adapters
from avb.encoders.names import licence_of
from avb.errors import AvbError
from avb.files import make_folder, write_json, write_table, write_text
from avb.recipes import SUFFIXES, read_yaml
from avb.reports.results import failed_run, run_results
from avb.reports.run_table import append_result, check_table, write_results
from avb.run_files import (
    BAD_CLIPS,
    RECIPE,
    RESULTS,
    TRAIN_SET,
    VERSIONS,
    Metrics,
    describe_tasks,
    new_run_id,
    read_metrics,
    start_run,
    write_metrics,
)
from avb.training import defaults, device_defaults
from avb.training.build import build_model, check_model
from avb.training.checkpoints import clear, discard_all, is_finished, starting_point
from avb.training.device_audio import Placed, check_changes, place_clips
from avb.training.distillation import are_models, soften
from avb.training.draws import MIXUP, read_augmentations
from avb.training.frozen import training_inputs
from avb.training.loading import Clips, limit_clips, load_clips
from avb.training.packages import check_packages
from avb.training.scoring import score_split, summary
from avb.training.settings import changed_settings, check_unchanged
from avb.training.start import (
    bad_clip_lines,
    class_lines,
    corpus_lines,
    describe_clips,
    lacking_lines,
    model_lines,
    wrapped,
)
from avb.training.teachers import ModelTeachers, with_folds
from avb.training.trainer import BurstTrainer, batch_dependence
from avb.training.versions import versions


def run(
    model_args: ModelArguments, data_args: DataArguments, args: AvbTrainingArguments, command: Command
) -> Metrics | None:
    """Trains, scores, saves and describes one model.

    Returns:
        The metrics; None on every process but the main one.

    Raises:
        AvbError: see the message. A run that fails gets a row in `args.results` too.
        ValueError: a field of the model's configuration is invalid.
    """
    assert args.output_dir is not None  # parse_arguments sees to it
    repo_id = args.hub_model_id if args.push_to_hub else None
    if repo_id and model_args.lora_rank is not None and not model_args.merge_lora:
        raise AvbError("with --merge_lora false, the folder needs its encoder and peft: leave out --push_to_hub")
    args.push_to_hub = False  # the Trainer would upload checkpoints too; we upload the finished folder in one commit
    is_main_process = args.process_index == 0
    check_arguments(data_args, pushes=repo_id is not None)
    check_packages(args)
    if args.audio_on_device == "true":
        check_changes(data_args.augment or [])
    if args.resume and not args.overwrite:
        if is_finished(args.output_dir):
            if is_main_process:
                changes = changed_settings(args.output_dir, command.recipe)
                note = f"; its settings were others: {'; '.join(changes)}" if changes else ""
                found = f"{args.output_dir} contains a finished run: nothing to resume"
                print(f"{found} (--overwrite true trains again){note}")
            return read_metrics(args.output_dir)
        check_unchanged(args.output_dir, command.recipe)
    if args.results and is_main_process:
        check_table(args.results)
    if repo_id and is_main_process:
        open_repository(repo_id, args.hub_private_repo)  # reports a missing token now, not after hours
    facts: dict[str, Any] = {
        "encoder": model_args.encoder if model_args.model == "wav2vec2" else model_args.model,
        "corpus": data_args.corpus,
        "data_dir": data_args.data_dir,
    }
    run_id = new_run_id()
    made_by = versions()  # at the start: the working tree may be at another commit at the end
    try:
        metrics, bad, epochs = _measure(model_args, data_args, args, command.recipe, made_by, run_id)
    except ValueError as error:
        if args.results and is_main_process:
            facts |= {"task": data_args.task, "seed": args.seed, "run_id": run_id}
            append_result(args.results, failed_run(command.name, command.changes, str(error), **facts))
        raise
    if not is_main_process:
        return None
    has_model = data_args.folds is None or data_args.final_model  # otherwise it is in the folders of the folds
    print(summary(metrics, len(bad), Path(args.output_dir), has_model))
    try:
        rows = run_results(command.name, command.changes, metrics, epochs=epochs, versions=made_by, **facts)
        write_results(Path(args.output_dir) / RESULTS, rows)
        write_metrics(args.output_dir, metrics)  # written last: a run that has it has the other files
        if args.results:
            for row in rows:
                append_result(args.results, row)
        name = repo_id.rpartition("/")[2] if repo_id else None
        if has_model:
            write_card(args.output_dir, name, [args.results] if args.results and metrics.scored_splits else [])
        if repo_id:
            push_folder(args.output_dir, repo_id, args.hub_private_repo)
    except AvbError as error:
        raise AvbError(f"{error}\nThe model is trained and saved: {args.output_dir}") from error
    if not args.keep_checkpoints:
        discard_all(args.output_dir)
    return metrics


def _measure(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: AvbTrainingArguments,
    recipe: dict,
    made_by: dict,
    run_id: str,
) -> tuple[Metrics, list[BadClip], float | None]:
    """Trains a model, or one per fold. Returns the metrics, the unreadable clips, and the epochs trained."""

    said: set[str] = set()  # lines printed by one fold are not repeated by the next

    def train_one(own: AvbTrainingArguments, read_clips: Callable[[], Clips], own_id: str):
        return fit(copy.copy(model_args), data_args, own, recipe, made_by, own_id, read_clips, said)

    def note_run(clips: Clips, pool: Dataset) -> str:
        own_id = run_id
        if args.process_index == 0:
            own_id = _note_run(Path(str(args.output_dir)), args.resume, run_id, recipe, made_by, clips.bad)
            write_json(Path(str(args.output_dir)) / TRAIN_SET, describe_clips(clips.task, pool))
            splits = {"in folds": pool, **{name: split for name, split in clips.splits.items() if name != "train"}}
            lines = corpus_lines(str(data_args.data_dir), splits) + bad_clip_lines([clip.reason for clip in clips.bad])
            print("\n".join(lines + class_lines(clips.task, splits)), flush=True)
        return own_id

    if data_args.folds is not None:
        check_model(model_args)  # before clips are decoded
        return cross_validate(data_args, args, recipe, note_run, train_one)
    read: list[Clips] = []

    def read_clips() -> Clips:
        read.append(load_clips(data_args, args))
        return read[0]

    metrics, epochs = fit(model_args, data_args, args, recipe, made_by, run_id, read_clips, said)
    return metrics, read[0].bad, epochs


def fit(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: AvbTrainingArguments,
    recipe: dict,
    made_by: dict,
    run_id: str,
    read_clips: Callable[[], Clips],
    said: set[str],
) -> tuple[Metrics, float | None]:
    """Builds and trains the model, and writes model and predictions. Returns the metrics and the epochs trained.

    `said` contains lines that are not printed again; printed lines are added to it.
    """
    assert args.output_dir is not None  # parse_arguments sees to it
    output_dir = make_folder(args.output_dir)
    checkpoint = starting_point(output_dir, args.resume, args.overwrite)
    if args.resume and checkpoint is None and args.process_index == 0:
        print(f"{output_dir} has no checkpoint to resume from: training starts over")
    logging.disable_progress_bar()  # of reading and writing weights, which is fast
    disable_progress_bars()  # of joining columns; decoding has bars of its own
    set_seed(args.seed)  # before building the model, whose head has random initial weights

    check_model(model_args)  # before clips are decoded
    clips = read_clips()
    clips.splits["train"] = limit_clips(clips.splits["train"], data_args, args.seed)
    recipe, chosen = _fill_in_defaults(model_args, data_args, args, clips, recipe, output_dir)
    _refuse_few_clips(args, len(clips.splits["train"]))
    train_set = describe_clips(clips.task, clips.splits["train"])
    if args.process_index == 0:
        if data_args.folds is None:
            lines = corpus_lines(str(data_args.data_dir), clips.splits, clips.has_made_splits)
            lines += bad_clip_lines([clip.reason for clip in clips.bad]) + class_lines(clips.task, clips.splits)
        else:  # the clips of all folds were described before the first fold
            lines = lacking_lines(clips.task, {"train": clips.splits["train"]})
        values = chosen.partition(": ")[2]
        _say(lines if values in said else [*lines, "\n".join(wrapped(chosen))], said)
        said.add(values)
    trainer, feature_extractor, placed = _build(model_args, data_args, args, clips)
    longest = max(max(split["num_samples"][:]) for split in clips.splits.values())
    if trainer.audio is not None:
        device_defaults.fill_in_loading(args, recipe)
    if args.device.type == "cuda":  # it affects results, so a resumed run keeps it
        recipe = recipe | {"audio_on_device": str(trainer.audio is not None).lower()}
    device_defaults.fill_in_evaluation(args, recipe, longest, batch_dependence(trainer.model))

    if trainer.is_world_process_zero():
        if args.overwrite:
            clear(output_dir)
        run_id = _note_run(output_dir, checkpoint is not None, run_id, recipe, made_by, clips.bad)
        write_json(output_dir / TRAIN_SET, train_set)
        lines = model_lines(trainer.model, _source(model_args), args, _rates(trainer))
        audio_bytes = 0 if trainer.audio is None else trainer.audio.num_bytes
        how = device_defaults.summary(args, len(trainer.lengths), trainer.graphed is not None, audio_bytes)
        if placed.reason:
            how += f"\nclips come from the disk and not from its memory: {placed.reason}"
        _say([*lines, how], said)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    model = trainer.accelerator.unwrap_model(trainer.model)
    if model_args.merge_lora:
        merge_adapters(model)
    if trainer.is_world_process_zero():
        trainer.save_state()
        if has_adapters(model):
            save_adapters(model, feature_extractor, model_args.encoder, output_dir)
        else:
            save_hub_folder(model, feature_extractor, output_dir)

    scored = {name: split for name, split in placed.splits.items() if name != "train"}
    metrics = Metrics(
        task=clips.task.name,
        metric=clips.task.metric,
        labels=list(clips.task.labels),
        run_id=run_id,
        corpus=corpus_name(data_args.corpus, data_args.data_dir),
        seed=args.seed,
        train_clips=len(placed.train),
        train_seconds=round(seconds, 1),
        encoder_licence=_encoder_licence(model_args),
        tasks=describe_tasks(clips.task),
        splits={name: score_split(trainer, clips.task, name, split, output_dir) for name, split in scored.items()},
    )
    return metrics, trainer.state.epoch


def _encoder_licence(model_args: ModelArguments) -> str | None:
    """The licence of the encoder's weights; None if training starts from random weights."""
    if model_args.model != "wav2vec2" or Path(model_args.encoder).suffix in SUFFIXES:
        return None
    return licence_of(model_args.encoder)


def _say(lines: list[str], said: set[str]):
    for line in lines:
        if line and line not in said:
            print(line, flush=True)
            said.add(line)


def _source(model_args: ModelArguments) -> str:
    if model_args.model != "wav2vec2":
        return f"{model_args.model}, from random weights"
    random = ", random weights" if Path(model_args.encoder).suffix in SUFFIXES else ""
    frozen = {"encoder": ", completely frozen", "feature_encoder": ", with frozen convolutions"}
    encoder = Path(model_args.encoder)  # the path in a recipe is already complete
    is_below = encoder.is_absolute() and encoder.is_relative_to(Path.cwd())
    name = encoder.relative_to(Path.cwd()) if is_below else model_args.encoder
    return f"encoder {name}{random}{frozen.get(model_args.freeze, '')}"


def _rates(trainer: BurstTrainer) -> dict[str, float]:
    """The learning rate of each trained part."""
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    rates = {"head": trainer.args.learning_rate}
    if any(name.startswith(f"{trainer.model.base_model_prefix}.") for name in trained):
        rates = {"encoder": trainer.args.encoder_learning_rate, **rates}
    return rates


def _note_run(output_dir: Path, is_resumed: bool, run_id: str, recipe: dict, made_by: dict, bad: list[BadClip]) -> str:
    """Writes what is known before hours of training: the settings, from which an interrupted run continues, and the
    unreadable clips. Returns the run's id."""
    run_id = start_run(output_dir, is_resumed, run_id)
    write_text(output_dir / RECIPE, yaml.safe_dump(recipe, sort_keys=False))
    write_json(output_dir / VERSIONS, made_by)
    if bad:
        write_table(output_dir / BAD_CLIPS, (clip._asdict() for clip in bad), list(BadClip._fields))
    return run_id


def _fill_in_defaults(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: AvbTrainingArguments,
    clips: Clips,
    recipe: dict,
    output_dir: Path,
) -> tuple[dict, str]:
    """Sets values that were not given; returns the recipe with them, and a line. A resumed run's recipe wins."""
    path, labels = output_dir / RECIPE, clips.splits["train"]["labels"]
    known = read_yaml(path) if args.resume and path.is_file() else {}
    known = {name: None if value == OFF else value for name, value in known.items()}
    chosen = defaults.fill_in(model_args, data_args, args, clips.task, labels, given=recipe, known=known)
    said = defaults.summary(chosen, model_args, len(labels), args.max_steps)
    chosen |= device_defaults.fill_in(model_args, args, given=recipe, known=known)
    return recipe | {name: OFF if value is None else value for name, value in chosen.items()}, said


def _refuse_few_clips(args: AvbTrainingArguments, clips: int):
    batch_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    if args.batch_seconds is None and args.dataloader_drop_last and clips < batch_size:
        raise AvbError(
            f"{clips} train clips are fewer than one batch of {batch_size}: lower "
            "--per_device_train_batch_size or add --dataloader_drop_last false"
        )


def _build(
    model_args: ModelArguments, data_args: DataArguments, args: AvbTrainingArguments, clips: Clips
) -> tuple[BurstTrainer, Any, Placed]:
    """Builds the Trainer of the recipe's model, the feature extractor, and the splits as the model reads them."""
    task, splits = clips.task, clips.splits
    model, feature_extractor = build_model(model_args, data_args, task, splits["train"])
    teachers, model_teachers = data_args.teachers or [], None
    if are_models(teachers):
        settings = (data_args.teacher_weight, args.device, data_args.teacher_views)
        model_teachers = ModelTeachers(teachers, task, feature_extractor, *settings)
    elif data_args.teacher_views != 1:
        raise AvbError("--teacher_views needs --teachers that are models; for tables, use predict_avb.py --views")
    if data_args.rater_targets == MAJORITY and "ratings" in splits["train"].column_names:
        splits["train"] = splits["train"].remove_columns("ratings")  # the label is already the majority vote
    has_raters = "ratings" in splits["train"].column_names and task.kind == "classification"
    if teachers or has_raters or MIXUP in read_augmentations(data_args.augment or [], data_args.augment_prob):
        tables = [] if model_teachers else teachers
        splits["train"] = soften(splits["train"], task, tables, data_args.teacher_weight)
    if model_teachers is not None:
        splits["train"] = with_folds(splits["train"], teachers)
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
            pool=clips.pool,
        )
    augmentation = (data_args.augment or [], data_args.augment_prob, args.seed)
    placed = place_clips(splits, collator, *augmentation, args.audio_on_device, args.device)
    trainer = BurstTrainer(
        model,
        args,
        task,
        feature_extractor,
        placed.collator,
        model_teachers,
        placed.audio,
        train_dataset=placed.train,
        eval_dataset=placed.splits.get("validation"),
    )
    return trainer, feature_extractor, placed
