"""`.eval_results/*.yaml`: a run's score on a benchmark registered on the Hub, for the benchmark's leaderboard.

    python -m avb.cards write runs/high --benchmark ORG/DATASET:TASK

The Hub reads these files in addition to the card's `model-index`, which has every score. Their format is that of
`huggingface_hub.EvalResultEntry` (huggingface.co/docs/hub/eval-results). HUME-VB and EmoGator are not registered, so a
file is written only on request: only the user knows under which name the data set is registered.
"""

import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from avb.cards.hub_folder import EVALUATIONS
from avb.cards.run import Run
from avb.errors import AvbError
from avb.files import make_folder, write_text

SPLIT = "test"  # a leaderboard compares scores on a split that selected nothing


def write_evaluations(folder: Path, run: Run, benchmark: str) -> Path:
    """Writes the run's test score, one file per task of a benchmark.

    Args:
        folder: the run's folder.
        run: facts about the run.
        benchmark: ORG/DATASET:TASK, a benchmark on the Hub and a task from its eval.yaml.

    Raises:
        AvbError: `benchmark` is not such a name, or the test split has no score, or has scores of several tasks.
    """
    match = re.fullmatch(r"([\w.-]+/[\w.-]+):([\w.-]+)", benchmark)
    if match is None:
        raise AvbError(f"--benchmark {benchmark!r}: give ORG/DATASET:TASK, as in the benchmark's eval.yaml")
    sections = [section for section in run.sections if section.split == SPLIT]
    if len(sections) != 1:
        found = "no score" if not sections else f"{len(sections)} tasks'"
        raise AvbError(f"{folder}: --benchmark needs the score of one task on {SPLIT}, but metrics.json has {found}")
    (section,) = sections
    metric = run.metrics.metric
    entry = EvalResultEntry(
        dataset_id=match[1],
        task_id=match[2],
        value=round(section.scores[metric], 4),
        notes=f"{metric}, {section.scores['num_clips']} clips of {SPLIT}, scored by avb",
    )
    path = make_folder(folder / EVALUATIONS) / f"{match[1].replace('/', '--')}--{match[2]}.yaml"
    write_text(path, yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True))
    return path
