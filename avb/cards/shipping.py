"""Makes a finished run one of the models shipped with the project: half precision, and its card in model_cards/.

    python -m avb.cards ship RUN NAME

It is then a file of the package: `avb.load(NAME)`.
"""

import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import PreTrainedModel

from avb.cards.card import build_card
from avb.cards.hub_folder import NEEDED_FILES, REPO_PLACEHOLDER, hub_files
from avb.cards.run import read_run
from avb.errors import AvbError
from avb.inference.load import load_model
from avb.inference.score import score_waveforms
from avb.models import FOLDER
from avb.run_files import CARD, METRICS, TRAIN_SET
from calibration_avb import CALIBRATION_FILE

CARDS = Path(__file__).resolve().parents[2] / "model_cards"
MAX_BYTES = 16 * 2**20
TOLERANCE = 0.01  # largest change of a score on a second of noise: half precision must not change a prediction
USE = re.compile(r"## Use\n.*?(?=^## )", re.DOTALL | re.MULTILINE)  # replaced in the card: this model is not on the Hub
HOW_TO_USE = """## Use

The model is shipped with the project, in half precision, and needs no network:

    python predict_avb.py {name} laugh.wav --output scores.csv

or `avb.load("{name}")("laugh.wav")`.

"""
FILES = (*NEEDED_FILES, METRICS, TRAIN_SET)


def ship(run: str | os.PathLike, name: str) -> Path:
    """Writes the model of a finished run to `FOLDER/name` in half precision, and its card to `model_cards/name.md`.

    Raises:
        AvbError: the run is not finished, the file would be larger than `MAX_BYTES`, or half precision changes scores.
    """
    run = Path(run)
    lacking = sorted({*FILES, CARD} - set(hub_files(run)))
    if lacking:
        raise AvbError(f"{run}: no {', '.join(lacking)}; ship a finished run of train_avb.py")
    model, feature_extractor = load_model(str(run), "cpu")
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    expected = score_waveforms(model, feature_extractor, [noise])
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=FOLDER, prefix=".") as temporary:
        assert isinstance(model, PreTrainedModel)  # an export has no model.safetensors
        model.to(torch.float16).save_pretrained(temporary)
        for path in Path(temporary).glob("*.py"):  # the project's own code loads the model
            path.unlink()
        for file in set(FILES) - {"config.json", "model.safetensors"}:
            shutil.copyfile(run / file, Path(temporary, file))
        if (run / CALIBRATION_FILE).is_file():
            shutil.copyfile(run / CALIBRATION_FILE, Path(temporary, CALIBRATION_FILE))
        size = Path(temporary, "model.safetensors").stat().st_size
        if size > MAX_BYTES:
            raise AvbError(f"{run}: {size / 2**20:.1f} MiB in half precision; a shipped model may have at most 16 MiB")
        difference = np.abs(score_waveforms(*load_model(temporary, "cpu"), [noise]) - expected).max()
        if not difference <= TOLERANCE:
            raise AvbError(f"{run}: half precision changes its scores by {difference:.3g}, too much for shipping")
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        os.chmod(shutil.move(temporary, FOLDER / name), 0o755)
        Path(temporary).mkdir()  # the context manager removes it
    for path in (FOLDER / name).iterdir():
        path.chmod(0o644)
    card = str(build_card(read_run(run), name)).replace(REPO_PLACEHOLDER, name).rstrip() + "\n"
    (CARDS / f"{name}.md").write_text(USE.sub(HOW_TO_USE.format(name=name), card), encoding="utf-8")
    return FOLDER / name
