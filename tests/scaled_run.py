"""Short trainings for tests, one process of possibly several: `scaled_run.py JSON`, an output folder's settings each.

Writes the final weights, the logged losses, and what evaluation says of every clip. With `double` all arithmetic is in
float64, so that what is left of a difference is no rounding error of the model's own.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments  # noqa: E402
from avb.collator import BurstCollator  # noqa: E402
from avb.tasks import TASKS, MultiTask  # noqa: E402
from avb.training.build import build_model  # noqa: E402
from avb.training.device_audio import place_clips  # noqa: E402
from avb.training.trainer import BurstTrainer  # noqa: E402

TASKS_BY_NAME = {**TASKS, "two+type": MultiTask((TASKS["two"], TASKS["type"]))}


def clips(num_clips: int, task, missing: int = 0, longest: int = 6400) -> Dataset:
    """Decoded clips of mixed length: tones whose pitch and fade are the labels. The first `missing` have none."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(num_clips):
        value, samples = generator.random(2), int(generator.integers(1600, longest))
        tone = np.sin(np.arange(samples) * (0.02 + 0.3 * value[0])) * np.linspace(1, value[1], samples)
        classes = number % 8
        labels = {"two": value, "type": classes, "two+type": np.array([*value, classes])}[task.name]
        if number < missing:
            labels = -100 if task.name == "type" else np.full(len(labels), np.nan)
        rows.append(
            {"id": str(number), "input_values": tone.astype(np.float32), "num_samples": samples, "labels": labels}
        )
    return Dataset.from_list(rows)


def make_trainer(
    output_dir,
    task="two",
    num_clips=50,
    num_scored=None,
    missing=5,
    double=False,
    model=None,
    longest=6400,
    augment=(),
    **arguments,
):
    """The Trainer of a tiny model on generated clips; `model` and `arguments` go over its settings.

    The first `num_scored` clips, or all of them, are those of evaluation.
    """
    task = TASKS_BY_NAME[task]
    torch.manual_seed(0)
    data = clips(num_clips, task, missing, longest)
    scored = data.select(range(num_scored or num_clips))
    encoder = {"encoder": str(ROOT / "recipes/encoders/tiny.yaml"), "freeze": "none", "encoder_layer": 1}
    settings = ModelArguments(**{**encoder, "rnn_layers": 1, "rnn_hidden_size": 16, **(model or {})})
    fitted, feature_extractor = build_model(settings, DataArguments(), task, data)
    collate = BurstCollator(feature_extractor)

    def collator(rows):
        batch = collate(rows)
        if double:
            batch["input_values"] = batch["input_values"].double()
        return batch

    quiet = {"disable_tqdm": True, "report_to": "none", "eval_strategy": "no", "save_strategy": "no"}
    common = {"load_best_model_at_end": False, "warmup_steps": 0, "logging_strategy": "steps", "logging_steps": 1}
    common |= {"learning_rate": 1e-3, "encoder_learning_rate": 1e-3, "use_cpu": True}
    args = AvbTrainingArguments(output_dir=str(output_dir), **{**quiet, **common, **arguments})
    if double:
        fitted.double()
    fitted.to(args.device)
    collator = collator if double else collate
    splits = {"train": data, "validation": scored}
    placed = place_clips(splits, collator, augment, 0.5, args.seed, args.audio_on_device, args.device)
    data, scored = placed.train, placed.splits["validation"]
    trained = (fitted, args, task, feature_extractor, placed.collator, None, placed.audio)
    return BurstTrainer(*trained, train_dataset=data, eval_dataset=scored)


def main(runs: dict[str, dict]):
    torch.set_num_threads(1)
    (double,) = {settings.get("double", False) for settings in runs.values()}  # it is the whole process's
    if double:
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
    for output_dir, settings in runs.items():
        run(output_dir, settings)


def run(output_dir: str, settings: dict):
    ids = []
    log_ids = settings.pop("log_ids", False)
    trainer = make_trainer(output_dir, **settings)
    if log_ids:
        collate = trainer.data_collator
        trainer.data_collator = lambda rows: [ids.append([int(row["id"]) for row in rows]), collate(rows)][1]
    start = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    seen = gather_object([ids])
    scores = trainer.predict(trainer.eval_dataset)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # whole, also under FSDP
    if trainer.is_world_process_zero():
        folder = Path(output_dir)
        save_file(weights, folder / "weights.safetensors")
        save_file(start, folder / "start.safetensors")
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        (folder / "run.json").write_text(
            json.dumps(
                {
                    "losses": losses,
                    "ids": seen,
                    "num_scored": len(scores.predictions),
                    "predictions": scores.predictions.tolist(),
                    "labels": scores.label_ids.tolist(),
                    "metrics": {key: value for key, value in scores.metrics.items() if "_per_second" not in key},
                }
            )
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        sys.stdout.flush()
        # gloo's threads race with the end of the interpreter ("terminate called without an active exception").
        os._exit(0)
