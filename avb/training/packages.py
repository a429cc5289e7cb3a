"""Checks, before the corpus is opened, that the packages of the chosen optimiser and experiment trackers are there."""

from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from avb.errors import AvbError


def check_packages(args: TrainingArguments):
    """Lets the stock Trainer import what it will need later.

    Raises:
        AvbError: `--optim` or `--report_to` is unknown, or needs a package that is missing.
    """
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, nn.Linear(1, 1))
    except (ImportError, ValueError, RuntimeError) as error:
        name = getattr(args.optim, "value", args.optim)
        raise AvbError(f"--optim {name}: {_one_line(error)}; or leave it out to use adamw_torch_fused") from error
    for name in args.report_to:
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()
        except (ImportError, ValueError, RuntimeError) as error:
            raise AvbError(f"--report_to {name}: {_one_line(error)}; or leave it out") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
