"""Pre-trains an encoder on unlabelled bursts, by one of the objectives of `avb.pretraining.models`.

    python pretrain_avb.py recipes/pretraining/small.yaml --data_dir EMOGATOR --output_dir runs/encoder
    python train_avb.py recipes/emogator/small.yaml --data_dir EMOGATOR --encoder runs/encoder

`output_dir` becomes a plain wav2vec 2.0 checkpoint, for `--encoder` and for `Wav2Vec2Model.from_pretrained`. Any corpus
will do: its labels are not read. `--resume true` goes on from the last checkpoint.
"""

import sys
from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset
from torch.utils.data import DataLoader, RandomSampler
from transformers import Trainer, Wav2Vec2Config, Wav2Vec2FeatureExtractor, set_seed
from transformers.trainer_utils import get_last_checkpoint

from avb.arguments import AvbTrainingArguments, DataArguments, PretrainingArguments
from avb.collator import BurstCollator
from avb.command_line import parse_arguments
from avb.encoders.filterbank import read_encoder, start_filters
from avb.errors import AvbError, did_you_mean
from avb.files import make_folder, write_json, write_text
from avb.pretraining import OBJECTIVES
from avb.recipes import SUFFIXES
from avb.run_files import METRICS, RECIPE
from avb.training.loading import load_clips
from configuration_avb import receptive_field

FIRST_BATCHES = 50  # that targets are standardised on, and their clusters found


def main(argv: list[str] | None = None) -> int:
    model_args, data_args, args, command = parse_arguments(argv, PretrainingArguments)
    try:
        pretrain(model_args, data_args, args, command.recipe)
    except ValueError as error:
        print(f"pretrain_avb.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def pretrain(model_args: PretrainingArguments, data_args: DataArguments, args: AvbTrainingArguments, recipe: dict):
    """Corpus → encoder on disk; returns the objective's loss on validation clips."""
    if args.push_to_hub:
        raise AvbError("--push_to_hub is for train_avb.py: an encoder is not pushed")
    assert args.output_dir is not None  # parse_arguments sees to it
    output_dir = make_folder(args.output_dir)
    if (output_dir / "config.json").exists() and not (args.overwrite or args.resume):
        raise AvbError(f"{output_dir} holds an encoder: choose another --output_dir, or --overwrite true")
    set_seed(args.seed)
    _, splits, bad_clips = load_clips(data_args, args)
    model = build_model(model_args)
    splits = {name: long_enough(split, model.config).remove_columns("labels") for name, split in splits.items()}
    feature_extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    collator = BurstCollator(feature_extractor)
    model.fit_targets(first_batches(splits["train"], collator, args.train_batch_size))

    args.load_best_model_at_end = False  # the last epoch: its loss says little about what the encoder is for
    trainer = Trainer(model, args, collator, splits["train"], splits["validation"], processing_class=feature_extractor)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir) if args.resume else None)
    loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).wav2vec2.save_pretrained(output_dir)
        feature_extractor.save_pretrained(output_dir)
        write_text(output_dir / RECIPE, yaml.safe_dump(recipe, sort_keys=False))
        metrics = {"objective": model_args.objective, "validation_loss": loss, "train_clips": len(splits["train"])}
        write_json(output_dir / METRICS, metrics)
        print(f"validation loss {loss:.4f} ({model_args.objective}); {len(bad_clips)} unreadable clips; {output_dir}")
    return loss


def build_model(model_args: PretrainingArguments):
    """The encoder of a YAML file, with random weights, or that of a folder; and what it shall predict."""
    if model_args.objective not in OBJECTIVES:
        near = did_you_mean(model_args.objective, OBJECTIVES, "Legal")
        raise AvbError(f"--objective {model_args.objective!r} is unknown{near}")
    model_class = OBJECTIVES[model_args.objective]
    masking = {"mask_time_prob": model_args.mask_time_prob, "mask_time_length": model_args.mask_time_length}
    if Path(model_args.encoder).suffix in SUFFIXES:
        if model_args.objective == "layer_clusters":
            raise AvbError("--objective layer_clusters needs an encoder that has learned something: --encoder FOLDER")
        fields, first_filters = read_encoder(model_args.encoder)
        model = model_class(Wav2Vec2Config(**fields, **masking, layerdrop=0.0), model_args.num_mel_bins)
        start_filters(model.wav2vec2, first_filters)
        return model
    try:
        return model_class.from_pretrained(
            model_args.encoder, num_mel_bins=model_args.num_mel_bins, **masking, layerdrop=0.0
        )
    except OSError as error:
        raise AvbError(f"--encoder {model_args.encoder}: no YAML file and no folder of an encoder ({error})") from error


def long_enough(rows: Dataset, config: Wav2Vec2Config) -> Dataset:
    """The rows whose clips hold at least one span to hide."""
    stride = int(np.prod(config.conv_stride))
    samples = receptive_field(config.conv_kernel, config.conv_stride) + (config.mask_time_length - 1) * stride
    return rows.select(np.flatnonzero(np.asarray(rows["num_samples"]) >= samples))


def first_batches(rows, collator: BurstCollator, batch_size: int):
    """Some random batches of a split."""
    sampler = RandomSampler(rows, num_samples=min(len(rows), FIRST_BATCHES * batch_size))
    return DataLoader(rows, batch_size, sampler=sampler, collate_fn=collator)


if __name__ == "__main__":
    sys.exit(main())
