"""What of the stock Trainer is overridden: a release of Transformers that changes it fails here, not in training."""

import inspect

from transformers import HfArgumentParser, Trainer

from avb.training.averaging import AveragingTrainer
from avb.training.resumption import CheckpointTrainer
from avb.training.trainer import BurstTrainer

# Method → parameters of the stock one, as of transformers 5.23.
EXPECTED = {
    "_determine_best_metric": ["metrics", "trial"],
    "_finalize_training": ["trial", "num_train_samples", "start_time"],
    "_get_dataloader": ["dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"],
    "_get_eval_sampler": ["eval_dataset"],
    "_get_output_dir": ["trial"],
    "_get_train_sampler": ["train_dataset"],
    "_issue_warnings_after_load": ["load_result"],
    "_init_training_state": [
        "max_steps",
        "num_update_steps_per_epoch",
        "num_train_epochs",
        "resume_from_checkpoint",
        "trial",
    ],
    "_load_best_model": [],
    "_load_optimizer_and_scheduler": ["checkpoint"],
    "_prepare_inputs": ["inputs"],
    "_run_epoch": [
        "model",
        "epoch",
        "train_dataloader",
        "steps_in_epoch",
        "num_update_steps_per_epoch",
        "trial",
        "ignore_keys_for_eval",
        "start_time",
        "resume_from_checkpoint",
        "epochs_trained",
        "steps_trained_in_current_epoch",
    ],
    "_save": ["output_dir", "state_dict"],
    "_save_checkpoint": ["model", "trial"],
    "_save_optimizer_and_scheduler": ["output_dir"],
    "compute_loss": ["model", "inputs", "return_outputs", "num_items_in_batch"],
    "create_optimizer": ["model"],
    "evaluation_loop": ["dataloader", "description", "prediction_loss_only", "ignore_keys", "metric_key_prefix"],
    "floating_point_ops": ["inputs"],
    "get_batch_samples": ["epoch_iterator", "num_batches", "device"],
    "train": ["resume_from_checkpoint", "trial", "ignore_keys_for_eval"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
}


def overridden() -> dict[str, list[str]]:
    """Methods of the stock Trainer that ours replace, with the stock parameters."""
    found = {}
    for cls in (CheckpointTrainer, AveragingTrainer, BurstTrainer):
        for name in vars(cls):
            stock = inspect.getattr_static(Trainer, name, None)
            if inspect.isfunction(stock) and name != "__init__":
                found[name] = [parameter for parameter in inspect.signature(stock).parameters if parameter != "self"]
    return found


def test_the_stock_parser_takes_a_field_at_a_time():
    stock = inspect.getattr_static(HfArgumentParser, "_parse_dataclass_field")
    assert isinstance(stock, staticmethod) and list(inspect.signature(stock).parameters) == ["parser", "field"]


def test_signatures_of_what_is_overridden():
    assert overridden() == EXPECTED
