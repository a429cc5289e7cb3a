"""Pre-trains an encoder on unlabelled bursts: masked regression of the log-mel spectrum (`avb.pretraining`).

    python pretrain_avb.py recipes/pretraining/small.yaml --data_dir EMOGATOR --output_dir runs/encoder
    python train_avb.py recipes/emogator/small.yaml --data_dir EMOGATOR --encoder runs/encoder

`output_dir` becomes a plain wav2vec 2.0 checkpoint, for `--encoder` and for `Wav2Vec2Model.from_pretrained`. Any corpus
will do: its labels are not read. `--resume true` goes on from the last checkpoint.
"""

import sys
from pathlib import Path

import yaml
from torch.utils.data import DataLoader, RandomSampler
from transformers import Trainer, Wav2Vec2Config, Wav2Vec2FeatureExtractor, set_seed
from transformers.trainer_utils import get_last_checkpoint

from avb.arguments import AvbTrainingArguments, DataArguments, PretrainingArguments, parse_arguments
from avb.collator import BurstCollator
from avb.errors import AvbError
from avb.loading import load_clips
from avb.output import make_folder, write_json
from avb.pretraining import BurstForPretraining, long_enough
from avb.recipes import read_yaml

STANDARDIZATION_BATCHES = 50


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv, PretrainingArguments)
    try:
        pretrain(*arguments)
    except ValueError as error:
        print(f"pretrain_avb.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def pretrain(model_args: PretrainingArguments, data_args: DataArguments, args: AvbTrainingArguments, recipe: dict):
    """Corpus → encoder on disk; returns the mean absolute error on validation clips, in standard deviations."""
    if args.push_to_hub:
        raise AvbError("--push_to_hub is for train_avb.py: an encoder is not pushed")
    output_dir = make_folder(args.output_dir)
    if (output_dir / "config.json").exists() and not (args.overwrite or args.resume):
        raise AvbError(f"{output_dir} holds an encoder: choose another --output_dir, or --overwrite true")
    set_seed(args.seed)
    _, splits, bad_clips = load_clips(data_args, args)
    model = build_model(model_args)
    splits = {name: long_enough(split, model.config).remove_columns("labels") for name, split in splits.items()}
    feature_extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    collator = BurstCollator(feature_extractor)
    model.fit_standardization(first_batches(splits["train"], collator, args.train_batch_size))

    args.load_best_model_at_end = False  # the last epoch: its loss says little about what the encoder is for
    trainer = Trainer(model, args, collator, splits["train"], splits["validation"], processing_class=feature_extractor)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir) if args.resume else None)
    error = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).wav2vec2.save_pretrained(output_dir)
        feature_extractor.save_pretrained(output_dir)
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        write_json(output_dir / "metrics.json", {"validation_error": error, "train_clips": len(splits["train"])})
        print(f"validation error {error:.4f} standard deviations; {len(bad_clips)} unreadable clips; {output_dir}")
    return error


def build_model(model_args: PretrainingArguments) -> BurstForPretraining:
    """The encoder of a YAML file, with random weights, or that of a folder."""
    masking = {"mask_time_prob": model_args.mask_time_prob, "mask_time_length": model_args.mask_time_length}
    if Path(model_args.encoder).suffix in (".yaml", ".yml"):
        config = Wav2Vec2Config(**read_yaml(Path(model_args.encoder)), **masking, layerdrop=0.0)
        return BurstForPretraining(config, model_args.num_mel_bins)
    try:
        return BurstForPretraining.from_pretrained(
            model_args.encoder, num_mel_bins=model_args.num_mel_bins, **masking, layerdrop=0.0
        )
    except OSError as error:
        raise AvbError(f"--encoder {model_args.encoder}: no YAML file and no folder of an encoder ({error})") from error


def first_batches(rows, collator: BurstCollator, batch_size: int):
    """Some random batches of a split, for the targets' mean and standard deviation."""
    sampler = RandomSampler(rows, num_samples=min(len(rows), STANDARDIZATION_BATCHES * batch_size))
    return DataLoader(rows, batch_size, sampler=sampler, collate_fn=collator)


if __name__ == "__main__":
    sys.exit(main())
