"""Trains, scores and saves a vocal-burst model.

    python train_avb.py                                     # the synthetic sample corpus in data/
    accelerate launch train_avb.py recipes/X.yaml --data_dir ROOT --any_argument value

`output_dir` receives the model and its feature extractor, `metrics.json` (with 95 % intervals), `predictions_SPLIT.csv`
for each scored split, `results.csv` (the rows that `--results` adds to a table), `train_set.json` (statistics of the
training set), the recipe as run, the versions, the list of unreadable clips, and the model card. `--push_to_hub true
--hub_model_id ORG/NAME` uploads the files that belong on the Hub.

Slow imports happen in `main`, where Ctrl-C is one line, and most of them after the arguments are checked.
"""

import sys
from pathlib import Path

from avb.commands import as_command

ROOT = Path(__file__).resolve().parent
SAMPLE_MAKER = ROOT / "data" / "make_sample.py"


@as_command("train_avb.py", errors=(ValueError,), resume="--resume true continues from the last checkpoint")
def main(argv: list[str] | None = None) -> int:
    from avb.command_line import parse_arguments
    from avb.recipes import FOLDER as RECIPES

    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        argv = [str(RECIPES / "sample.yaml"), "--data_dir", make_sample_corpus(), "--overwrite", "true"]
    arguments = parse_arguments(argv)

    import torch

    from avb.run import run

    try:
        run(*arguments)
    finally:
        if torch.distributed.is_initialized():  # otherwise, gloo's threads sometimes abort the process at exit
            torch.distributed.destroy_process_group()
    return 0


def make_sample_corpus() -> str:
    """The folder of the synthetic sample corpus, which is generated if it does not exist."""
    if not SAMPLE_MAKER.exists():
        sys.exit(
            "train_avb.py: error: give a recipe (--list_recipes); the sample corpus is part of the source tree only"
        )
    from data.make_sample import make_sample

    return str(make_sample(ROOT / "data" / "sample"))


if __name__ == "__main__":
    sys.exit(main())
