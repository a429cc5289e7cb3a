"""Makes a trained and evaluated detector the one shipped with the project: half precision, and its card."""

import json
import shutil
from pathlib import Path

import torch
from transformers import Wav2Vec2FeatureExtractor

from avb.errors import AvbError
from avb.events.detection import load_detector
from avb.events.sources import Source, read_sources
from avb.files import make_folder, read_json, write_text
from avb.models import DETECTOR, FOLDER
from avb.recipes import read_yaml

CARDS = Path(__file__).resolve().parents[2] / "model_cards"
EVALUATION = "evaluation.json"
KEPT = ("config.json", "model.safetensors", "preprocessor_config.json")
MAX_BYTES = 4 * 2**20
FEWEST_HOURS = 0.2  # minimum for a package and language to have its own row on the card


def ship(run: str | Path, name: str = DETECTOR) -> Path:
    """Copies a run of `python -m avb.events train`, with its evaluation, into the package, and writes its card.

    Raises:
        AvbError: the run has not been evaluated, or the model is larger than 4 MiB.
    """
    run = Path(run)
    report = read_json(run / EVALUATION, f"python -m avb.events evaluate {run} --output {run / EVALUATION}")
    steps = read_json(run / "training_log.json", "train it again")["losses"][-1]["step"]
    continued = bool(read_yaml(run / "recipe.yaml").get("start_from"))
    model = load_detector(run)
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    model.to(torch.float16).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    for path in folder.iterdir():
        if path.name in KEPT:
            path.chmod(0o644)
        else:  # not needed: the project's own code reads the model
            path.unlink()
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > MAX_BYTES:
        raise AvbError(f"{run}: {size / 2**20:.1f} MiB in half precision; a shipped detector may have at most 4 MiB")
    write_text(folder / EVALUATION, json.dumps(report, indent=1) + "\n")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    write_text(CARDS / f"{name}.md", card(name, report, parameters, steps, continued))
    return folder


def card(name: str, report: dict, parameters: int, steps: int, continued: bool = False) -> str:
    """The model card, in Markdown; every number comes from the report."""
    scenes, alarms = report["scenes"], report["false_alarms"]
    low, high = scenes["f1_interval"]
    shown = [
        f"{scenes['f1']:.3f}",
        f"{low:.3f} to {high:.3f}",
        *(f"{scenes[key]:.3f}" for key in ("precision", "recall")),
    ]
    shown += [f"{scenes[key]:.3f} s" for key in ("onset_error", "offset_error")]
    kinds = [kind for kind in ("speech", "music", "sound", "noise") if kind in alarms]
    languages = sorted({code for source in read_sources() if source.side == "test" for code in source.languages})
    backgrounds = "\n".join(
        f"| {kind} | {part['f1']:.3f} | {part['precision']:.3f} | {part['recall']:.3f} | {part['references']} |"
        for kind, part in report["by_background"].items()
    )
    groups = [name for name, part in alarms.items() if " " in name and part["hours"] >= FEWEST_HOURS]
    per_hour = "\n".join(
        f"| {' '.join(dict.fromkeys(kind.split()))} | {alarms[kind]['per_hour']:.1f} | "
        f"{alarms[kind]['interval'][0]:.1f} to {alarms[kind]['interval'][1]:.1f} | {alarms[kind]['hours']:.2f} |"
        for kind in [*kinds, *groups]
    )
    return f"""---
library_name: transformers
license: apache-2.0
tags:
- audio
- vocal-bursts
- sound-event-detection
- vocal-burst-events
---

# {name}

Detects vocal bursts (laughs, cries, gasps, screams) in a recording: one probability per 40 ms, from a frame-wise
network of {parameters:,} parameters on log-mel spectrograms. `avb.find` then scores each event with an emotion model:

```python
import avb

avb.find("interview.wav")  # DataFrame: start, end, detection, one column per emotion
```

**Do not use it** to judge a person's state of mind, for clinical purposes or for surveillance.

## Scores

The threshold is {report["threshold"]:.2f}, chosen on training scenes. All scores below are on speakers, languages and
packages that were not used in training; intervals are 95 % bootstrap intervals by recording.

The test scenes last one minute and contain six bursts each, 0 to 20 dB above their background
({scenes["references"]} bursts, EmoGator's fold 4). A detection counts if its onset is within .2 s,
and its offset within .2 s or half the event's length:

| event F1 | 95 % interval | precision | recall | onset error | offset error |
|---|---|---|---|---|---|
| {" | ".join(shown)} |

| bursts on | event F1 | precision | recall | bursts |
|---|---|---|---|---|
{backgrounds}

False alarms on recordings without bursts, first by kind, then by package and language. Speech is in
{", ".join(languages)}. (Single letters, syllables and words, as in klettres and
ktuberling, raise more alarms than sentences. Nobody has checked the acted dialogue of fillets-ng for laughs.)

| recordings of | false alarms per hour | 95 % interval | hours |
|---|---|---|---|
{per_hour}

The targets were an F1 of .85, two false alarms per hour of speech, and one per hour of music or noise. Where the
tables fall short of them, use the detector to find candidates, not to count bursts.

## Training

{steps:,} steps (`recipes/events/events.yaml`{", which says what they continue" if continued else ""}), on scenes
generated during training: bursts of EmoGator's training speakers except fold 4, mixed into the training recordings of
`recipes/events/sources.csv` and into generated noise.
`python -m avb.events` downloads, prepares, trains and evaluates.

Not covered: coughs, sneezes, snoring, singing close to the microphone, infants, animals nearby, and rooms with long
reverberation. Bursts are acted (EmoGator), and each is one event: laughter in several bouts gives several events.

## Licence

The weights are licensed under Apache-2.0, like the code and EmoGator, on whose bursts they were trained. The other
training recordings may be redistributed under the licences below. The weights contain none of these
recordings, and none can be recovered from them, so this project does not regard the weights as a copy or an
adaptation. If you disagree, or if you redistribute the recordings, read the copyright file of each package.

| package | licence | content |
|---|---|---|
{_packages(read_sources())}
"""


def _packages(sources: list[Source]) -> str:
    rows = {(source.package, source.licence, source.holds): None for source in sources if source.side == "train"}
    return "\n".join(f"| {package} | {licence} | {holds} |" for package, licence, holds in rows)
