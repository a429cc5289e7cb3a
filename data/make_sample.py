"""Generates a small SYNTHETIC corpus of vocal bursts in HUME-VB's layout, so the demo and tests need no download.

    python data/make_sample.py OUT [--clips 600] [--seed 0]

No person was recorded and nobody rated anything: every clip is synthetic, and every label is a formula of the eight
cues from which the clip was generated. A model can really learn these labels from the audio, but nothing it learns says
anything about people.

Clips are made by source-filter synthesis: glottal pulses and breath noise pass through an amplitude envelope (pulsed
for a laugh or a pant) and formants. Each of the eight call types is a family of cue values. The 24 synthetic speakers
differ in vocal-tract length and base pitch; 16 are in Train, 5 in Val, 3 in Test, none in two splits. As in the
release, the labels of Test are withheld (empty): Val is the unseen split that can be scored.

    OUT/audio/wav/NNNNN.wav                        16 kHz mono PCM16, 0.3-1.6 s, peak -3 dB
    OUT/labels/{high,two,culture,type}_info.csv    File_ID as [NNNNN], Split, the labels in the official order
    OUT/labels/speakers.csv                        File_ID, Subject_ID (the release's label files have no speaker)
    OUT/SYNTHETIC.txt                              what this folder is, and what made it

The same arguments give the same bytes on the same machine and NumPy.
"""

import argparse
import csv
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf

SAMPLING_RATE = 16_000
PEAK = 10 ** (-3 / 20)
SPEAKERS = {"Train": 16, "Val": 5, "Test": 3}
MIN_CLIPS = sum(SPEAKERS.values())  # one clip a speaker

# What is heard, each cue in [0, 1]: pitch within the speaker's range, its slope (0 falls, 1 rises), vocal effort
# (brightness, attack), roughness (amplitude modulation, jitter), breathiness, repetition rate, duration, open mouth.
CUES = ["pitch", "slope", "effort", "rough", "breath", "rate", "length", "open"]
CALL_TYPES = {  # the centre of each family; a clip lies around it with standard deviation SPREAD
    "Gasp":   [0.60, 0.70, 0.50, 0.10, 0.85, 0.05, 0.15, 0.60],
    "Laugh":  [0.55, 0.40, 0.60, 0.15, 0.35, 0.80, 0.55, 0.65],
    "Cry":    [0.65, 0.20, 0.45, 0.40, 0.35, 0.45, 0.80, 0.40],
    "Scream": [0.90, 0.50, 0.90, 0.60, 0.15, 0.05, 0.60, 0.90],
    "Grunt":  [0.15, 0.35, 0.60, 0.75, 0.25, 0.05, 0.10, 0.30],
    "Groan":  [0.20, 0.20, 0.30, 0.55, 0.30, 0.10, 0.85, 0.35],
    "Pant":   [0.40, 0.50, 0.30, 0.10, 0.90, 0.75, 0.65, 0.50],
    "Other":  [0.40, 0.70, 0.30, 0.10, 0.15, 0.10, 0.50, 0.25],
}  # fmt: skip
SPREAD = 0.14

# label = sigmoid(2 * weights @ (cues - 0.5) + bias); the columns are CUES, then the bias.
TWO = {
    "Valence":     [0.8, 1.0, 0.0, -2.0, 0.0, 1.5, -0.5, 1.0, 0.3],
    "Arousal":     [1.2, 0.0, 2.5, 1.0, -0.5, 0.8, 0.0, 0.5, 0.3],
}  # fmt: skip
HIGH = {
    "Awe":         [0.0, 0.5, 0.0, -1.5, 1.0, -1.0, 1.5, 1.5, -0.8],
    "Excitement":  [1.2, 1.0, 1.5, -1.0, 0.0, 1.0, 0.0, 0.5, -0.3],
    "Amusement":   [0.5, 0.0, 0.5, -1.0, 0.0, 2.5, 0.5, 0.5, 0.0],
    "Awkwardness": [0.0, 0.5, -2.0, 0.0, -0.5, 0.5, -0.5, -1.5, -0.5],
    "Fear":        [1.5, 0.5, 0.0, 0.5, 1.5, 0.0, -0.5, 0.0, -0.4],
    "Horror":      [1.0, 0.0, 1.5, 1.5, 0.5, -0.5, 0.5, 0.5, -0.4],
    "Distress":    [0.5, -1.0, 0.5, 1.5, 0.0, 0.5, 1.0, 0.0, -0.2],
    "Triumph":     [0.5, 0.5, 1.5, 0.0, -1.5, 0.0, 0.5, 1.5, -0.3],
    "Sadness":     [-0.5, -1.5, -1.5, 0.0, 0.0, 0.0, 1.5, -0.5, -0.4],
    "Surprise":    [1.0, 1.5, 0.0, -0.5, 0.5, -0.5, -2.0, 0.5, -0.2],
}  # fmt: skip
# culture: the same emotion with a gain of the listener's country, and a little more weight on one cue.
COUNTRIES = {
    "China": (0.80, "pitch"),
    "United States": (1.00, "effort"),
    "South Africa": (0.90, "open"),
    "Venezuela": (0.70, "rate"),
}
# The release's column order: nine emotions per country, then the four Surprise columns.
CULTURE = [(c, e) for c in COUNTRIES for e in list(HIGH)[:-1]] + [(c, "Surprise") for c in COUNTRIES]
COLUMNS = {
    "high": list(HIGH),
    "two": list(TWO),
    "culture": [f"{country}_{emotion}" for country, emotion in CULTURE],
    "type": ["Voc_Type"],
}

NOTICE = """\
SYNTHETIC VOCAL BURSTS: no person was recorded, nobody rated them.

Every clip in this folder was computed by data/make_sample.py, and every label is a formula of the synthesis
parameters. They exist to try out a pipeline in the layout of the HUME-VB release and say nothing about people,
cultures or emotions. No score on them says anything about a model's accuracy on real vocal bursts.

clips {clips}
seed {seed}
generator {digest}
"""


def rate_label(weights: list[float], cues: np.ndarray, more: dict[str, float] | None = None) -> float:
    """The label in (0, 1) of a clip with `cues` (8,): a sigmoid of weighted cues; `more` adds to a cue's weight."""
    *slopes, bias = weights
    slopes = np.array(slopes) + [(more or {}).get(cue, 0.0) for cue in CUES]
    return float(1 / (1 + np.exp(-(2 * slopes @ (cues - 0.5) + bias))))


def make_labels(call_type: str, cues: np.ndarray) -> dict[str, list[str]]:
    """Every task's label cells for a clip, in the order of COLUMNS."""
    culture = []
    for country, emotion in CULTURE:
        gain, cue = COUNTRIES[country]
        culture.append(gain * rate_label(HIGH[emotion], cues, {cue: 0.5}))
    scores = {
        "high": [rate_label(weights, cues) for weights in HIGH.values()],
        "two": [rate_label(weights, cues) for weights in TWO.values()],
        "culture": culture,
    }
    return {task: [f"{score:.4f}" for score in row] for task, row in scores.items()} | {"type": [call_type]}


def filter_formants(source: np.ndarray, openness: float, tract: float) -> np.ndarray:
    """`source` (samples,) through eight resonances: a closed mouth's to an open one's, higher for a shorter tract."""
    closed = np.array([320.0, 850.0, 2300.0, 3400.0, 4500.0, 5500.0, 6500.0, 7500.0])  # Hz
    opened = np.array([820.0, 1300.0, 2700.0, 3700.0, 4500.0, 5500.0, 6500.0, 7500.0])
    formants = (closed + openness * (opened - closed)) / tract
    size = 1 << (len(source) + 1024 - 1).bit_length()  # room for the ringing, which would wrap around
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
    response = np.ones(len(frequencies), dtype=complex)
    for formant in formants:
        bandwidth = 60 + 0.05 * formant
        response *= formant**2 / (formant**2 - frequencies**2 + 1j * frequencies * bandwidth)
    return np.fft.irfft(np.fft.rfft(source, size) * response, size)[: len(source)]


def synthesize(cues: np.ndarray, base_pitch: float, tract: float, rng: np.random.Generator) -> np.ndarray:
    """One burst.

    Args:
        cues: (8,), in the order of CUES, each in [0, 1].
        base_pitch: the speaker's lowest comfortable pitch, in Hz.
        tract: the speaker's vocal-tract length, 1 = average.
        rng: the source of breath noise, jitter, phases and silences.

    Returns:
        (samples,) at 16 kHz, peak -3 dB, with 20-150 ms of near-silence at either end.
    """
    pitch, slope, effort, rough, breath, rate, length, openness = cues
    samples = int((0.25 + 1.05 * length) * SAMPLING_RATE)
    time = np.arange(samples) / SAMPLING_RATE  # seconds
    progress = time / time[-1]  # 0 ... 1

    # Repetition: 2 to 7 pulses a second, from hardly audible to fully separate.
    cycle = (2 + 5 * rate) * time
    pulses = np.maximum(0.0, np.cos(2 * np.pi * (cycle - 0.25))) ** 0.7
    depth = np.clip(2.2 * rate - 0.2, 0.0, 1.0)
    attack, release = 0.15 - 0.12 * effort, 0.12 + 0.1 * length  # seconds: effort makes the onset sharp
    envelope = np.minimum(1.0, time / attack) * np.minimum(1.0, (time[-1] - time) / release)
    envelope *= (1 - depth + depth * pulses) * (1 - 0.5 * progress * (1 - effort))

    # Pitch: two octaves of range, 0.8 octave of rise or fall, a 5.5 Hz vibrato, jitter with roughness.
    vibrato = 0.03 * np.sin(2 * np.pi * (5.5 * time + rng.random()))
    octaves = 2.0 * pitch + 1.6 * (slope - 0.5) * (progress - 0.5) + vibrato
    octaves += rough * 0.04 * np.repeat(rng.standard_normal(samples // 80 + 1), 80)[:samples]  # a new value each 5 ms
    frequency = base_pitch * 2**octaves  # Hz
    phase = 2 * np.pi * (np.cumsum(frequency) / SAMPLING_RATE + rng.random())
    # Harmonic k has amplitude decay**k = exp(-k f0 / tilt), summed in closed form: brighter with effort.
    decay = np.exp(-frequency / (350 + 1500 * effort))
    voice = (1 - decay * np.cos(phase)) / (1 - 2 * decay * np.cos(phase) + decay**2) - 1
    voice *= 1 - 0.8 * rough * (0.5 + 0.5 * np.sin(2 * np.pi * (70 * time + rng.random())))

    noise = rng.standard_normal(samples)
    voiced, breathy = (filter_formants(x * envelope, openness, tract) for x in (voice, np.diff(noise, prepend=0.0)))
    burst = (1 - breath) * voiced / np.sqrt(np.mean(voiced**2)) + breath * breathy / np.sqrt(np.mean(breathy**2))
    burst *= PEAK / np.abs(burst).max()
    lead, trail = (rng.uniform(0.02, 0.15, size=2) * SAMPLING_RATE).astype(int)
    clip = np.pad(burst, (lead, trail))
    clip += 10 ** (rng.uniform(-65, -50) / 20) * rng.standard_normal(len(clip))  # the room, 50-65 dB down
    return clip * PEAK / np.abs(clip).max()


def is_sample(out: Path) -> bool:
    """Whether `out` holds what this file writes and nothing else, so that replacing it loses nothing."""
    notice, title = out / "SYNTHETIC.txt", NOTICE.splitlines()[0].encode()
    made_here = notice.is_file() and notice.read_bytes().startswith(title)
    return made_here and {path.name for path in out.iterdir()} <= {"audio", "labels", "SYNTHETIC.txt"}


def write_sample(folder: Path, clips: int, seed: int) -> None:
    """Synthesize `clips` bursts and write audio and label files into `folder`, which is empty."""
    (folder / "audio" / "wav").mkdir(parents=True)
    (folder / "labels").mkdir()
    rng = np.random.default_rng(seed)
    ids = 10_000 + rng.choice(90_000, size=clips, replace=False)
    splits = [split for split, count in SPEAKERS.items() for _ in range(count)]
    # Base pitches evenly over 1.2 octaves, in an order that gives every split low and high voices.
    spots = (0.618034 * np.arange(len(splits)) + rng.random()) % 1.0
    base_pitches = 90 * 2 ** (1.2 * spots)  # Hz
    tracts = 1.12 - 0.24 * spots + rng.uniform(-0.04, 0.04, size=len(splits))  # a higher voice, a shorter tract

    rows = []
    for index in range(clips):
        speaker = index % len(splits)
        call_type = list(CALL_TYPES)[(index + index // len(splits)) % len(CALL_TYPES)]  # balanced in every speaker
        clip_rng = np.random.default_rng([seed, index])
        cues = np.clip(CALL_TYPES[call_type] + SPREAD * clip_rng.standard_normal(len(CUES)), 0.0, 1.0)
        wave = synthesize(cues, base_pitches[speaker], tracts[speaker], clip_rng)
        pcm = np.round(wave * 32767).astype(np.int16)
        sf.write(folder / "audio" / "wav" / f"{ids[index]}.wav", pcm, SAMPLING_RATE, subtype="PCM_16")
        rows.append((f"[{ids[index]}]", splits[speaker], f"S{speaker:02d}", make_labels(call_type, cues)))
    rows.sort(key=lambda row: row[0])

    for task, columns in COLUMNS.items():
        cells = [
            [file_id, split, *([""] * len(columns) if split == "Test" else labels[task])]
            for file_id, split, _, labels in rows
        ]
        write_csv(folder / "labels" / f"{task}_info.csv", [["File_ID", "Split", *columns], *cells])
    speakers = [[file_id, speaker] for file_id, _, speaker, _ in rows]
    write_csv(folder / "labels" / "speakers.csv", [["File_ID", "Subject_ID"], *speakers])


def write_csv(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def make_sample(out: str | Path, clips: int = 600, seed: int = 0) -> Path:
    """Write the sample corpus to `out` and return it; a sample of the same clips and seed is left as it is.

    An older sample in `out` is replaced. The new one appears whole or not at all: it is made beside `out`, then moved.

    Raises:
        ValueError: `clips` is below 24 (one a speaker) or above the 90,000 five-digit ids, or `seed` is negative.
        FileExistsError: `out` is a file, or holds anything but a sample.
    """
    out = Path(out).resolve()
    if not MIN_CLIPS <= clips <= 90_000:
        raise ValueError(f"--clips {clips} is invalid: it must be {MIN_CLIPS} (one per speaker) to 90000")
    if seed < 0:
        raise ValueError(f"--seed {seed} is invalid: it must be at least 0")
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]  # a changed generator makes a new sample
    notice = NOTICE.format(clips=clips, seed=seed, digest=digest)
    if out.is_file():
        raise FileExistsError(f"{out} is a file, not a folder")
    if out.is_dir() and any(out.iterdir()):
        if not is_sample(out):
            raise FileExistsError(f"{out} is not empty and not a sample made here: choose another folder")
        same = (out / "SYNTHETIC.txt").read_bytes() == notice.encode()
        if same and len(list(out.glob("audio/wav/*.wav"))) == clips and len(list(out.glob("labels/*.csv"))) == 5:
            return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".make_sample-", dir=out.parent) as scratch:
        fresh = Path(scratch) / "sample"
        fresh.mkdir()
        write_sample(fresh, clips, seed)
        (fresh / "SYNTHETIC.txt").write_bytes(notice.encode())
        if out.exists():
            shutil.rmtree(out)
        os.replace(fresh, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write; it must be new, empty or an older sample")
    parser.add_argument("--clips", type=int, default=600, help="number of clips (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of clips and speakers (default: 0)")
    arguments = parser.parse_args()
    try:
        make_sample(arguments.out, arguments.clips, arguments.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"make_sample: {error}")
    print(f"{arguments.clips} synthetic clips in {arguments.out}")


if __name__ == "__main__":
    main()
