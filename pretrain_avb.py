"""Pre-trains an encoder on unlabelled bursts, with one of the objectives of `avb.pretraining.models`.

    python pretrain_avb.py recipes/pretraining/small.yaml --data_dir EMOGATOR --output_dir runs/encoder
    python train_avb.py recipes/emogator/small.yaml --data_dir EMOGATOR --encoder runs/encoder

`output_dir` becomes a plain wav2vec 2.0 checkpoint, for `--encoder` and for `Wav2Vec2Model.from_pretrained`. Any corpus
can be used, because labels are not read. `--resume true` continues from the last checkpoint.
"""

import sys
from typing import TYPE_CHECKING

from avb.commands import as_command
from avb.errors import AvbError
from avb.files import make_folder, read_json, write_json, write_text
from avb.run_files import METRICS, RECIPE

if TYPE_CHECKING:  # they import torch and Transformers, and Ctrl-C in these seconds is answered in main only
    from avb.arguments import AvbTrainingArguments, DataArguments, PretrainingArguments


@as_command("pretrain_avb.py", errors=(ValueError,), resume="--resume true continues from the last checkpoint")
def main(argv: list[str] | None = None) -> int:
    from avb.arguments import PretrainingArguments
    from avb.command_line import parse_arguments

    model_args, data_args, args, command = parse_arguments(argv, PretrainingArguments)
    pretrain(model_args, data_args, args, command.recipe)
    return 0


def pretrain(
    model_args: "PretrainingArguments", data_args: "DataArguments", args: "AvbTrainingArguments", recipe: dict
):
    """Pre-trains an encoder on a corpus and saves it; returns the objective's loss on validation clips."""
    # Imported here, because they take seconds, which help and errors in arguments do not need.
    import yaml
    from transformers import Wav2Vec2FeatureExtractor, set_seed

    from avb.collator import BurstCollator
    from avb.pretraining.build import PretrainingTrainer, build_model, check_enough, first_batches, long_enough
    from avb.training.checkpoints import clear, discard_all, is_finished, starting_point
    from avb.training.loading import load_clips
    from avb.training.packages import check_packages
    from avb.training.settings import check_unchanged
    from avb.training.start import corpus_lines, model_lines

    if args.push_to_hub:
        raise AvbError("--push_to_hub is for train_avb.py: an encoder is not pushed")
    if data_args.folds is not None:
        raise AvbError(
            "--folds is for train_avb.py: an encoder is not scored; use --fold_file and --fold to hold out a fold"
        )
    if args.audio_on_device == "true":
        raise AvbError("--audio_on_device is for train_avb.py: pre-training reads clips from the disk; leave it out")
    check_packages(args)
    assert args.output_dir is not None  # parse_arguments ensures this
    output_dir = make_folder(args.output_dir)
    if (output_dir / "config.json").exists() and not (args.overwrite or args.resume):
        raise AvbError(f"{output_dir} contains an encoder: choose another --output_dir, or --overwrite true")
    if args.resume and not args.overwrite and is_finished(output_dir):
        if args.process_index == 0:
            print(f"{output_dir} contains a finished encoder: nothing to resume (--overwrite true trains again)")
        return read_json(output_dir / METRICS, "--overwrite true trains again")["validation_loss"]
    if args.resume and not args.overwrite:
        check_unchanged(output_dir, recipe)
    checkpoint = starting_point(output_dir, args.resume, args.overwrite)
    set_seed(args.seed)
    clips = load_clips(data_args, args, reads_labels=False)
    model = build_model(model_args)
    splits = {name: long_enough(split, model.config).remove_columns("labels") for name, split in clips.splits.items()}
    batch_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    check_enough(splits, batch_size, args.dataloader_drop_last)
    feature_extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    collator = BurstCollator(feature_extractor)
    model.fit_targets(first_batches(splits["train"], collator, args.train_batch_size))

    args.load_best_model_at_end = False  # keep the last epoch: the loss says little about later use
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=feature_extractor,
    )
    if trainer.is_world_process_zero():
        if args.overwrite:
            clear(output_dir)
        write_text(output_dir / RECIPE, yaml.safe_dump(recipe, sort_keys=False))
        lines = corpus_lines(str(data_args.data_dir), splits, clips.has_made_splits)
        source = f"encoder {model_args.encoder}, objective {model_args.objective}"
        lines += model_lines(trainer.model, source, args, {"all": args.learning_rate})
        print("\n".join(lines), flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).wav2vec2.save_pretrained(output_dir)
        feature_extractor.save_pretrained(output_dir)
        metrics = {"objective": model_args.objective, "validation_loss": loss, "train_clips": len(splits["train"])}
        write_json(output_dir / METRICS, metrics)
        if not args.keep_checkpoints:
            discard_all(output_dir)
        print(f"validation loss {loss:.4f} ({model_args.objective}); {len(clips.bad)} unreadable clips; {output_dir}")
    return loss


if __name__ == "__main__":
    sys.exit(main())
