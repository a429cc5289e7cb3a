"""Corpora of a few short clips, written to disk as their publishers lay them out."""

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from avb.corpora import load_bursts
from avb.errors import CorpusError
from avb.tasks import TASKS

SPLIT_OF_RELEASE = ["Train", "Train", "Val", "Test", "Train"]
IDS = ["[10119]", "[00023]", "[40001]", "[5]", "[99999]"]


def write_clip(path, seconds=0.1, level=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, level * np.sin(np.arange(int(seconds * 16_000)) / 5), 16_000)


def write_release(root, task="two", **cells):
    """A release of five clips; `cells` replaces a column (a list) of the label table."""
    for clip_id in IDS:
        write_clip(root / "audio" / "wav" / f"{clip_id.strip('[]')}.wav")
    names = ["Voc_Type"] if task == "type" else TASKS[task].labels
    table = {"File_ID": IDS, "Split": SPLIT_OF_RELEASE}
    for j, name in enumerate(names):
        shown = ["Gasp", "Laugh", "Cry", "", "Other"] if task == "type" else [0.1, 0.2, 0.3, "", 0.01 * j]
        table[name] = shown
    table |= cells
    (root / "labels").mkdir(exist_ok=True)
    pd.DataFrame(table).to_csv(root / "labels" / f"{task}_info.csv", index=False)
    return root


def write_table(root, name="clips.csv", clips=10, **columns):
    for i in range(clips):
        write_clip(root / f"c{i}.wav")
    table = pd.DataFrame({"file": [f"c{i}.wav" for i in range(clips)]} | columns)
    if name.endswith(".parquet"):
        table.to_parquet(root / name)
    else:
        table.to_csv(root / name, index=False, sep="\t" if name.endswith(".tsv") else ",")
    return root / name


def message(*args, **options) -> str:
    with pytest.raises(CorpusError) as caught:
        load_bursts(*args, **options)
    return str(caught.value)
