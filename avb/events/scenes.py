"""Scenes: recordings mixed from bursts and speech, music, sounds, noise or silence, with the time of every burst.

A scene depends only on the pool, the settings, the seed and its number, not on the machine. Bursts are 0 to 20 dB above
their background. Unusual, so that the detector learns to detect bursts, not cuts: speech and sounds are inserted in the
same way, at the same levels, and are not events; and the effects of a room, a microphone or a telephone are
applied to the whole scene.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile as sf

from audio_avb import SAMPLING_RATE
from avb.events.acoustics import noise, through_a_channel
from avb.events.pool import ALARMS, Pool
from avb.files import make_folder, write_table

BACKGROUNDS = {"speech": 0.4, "music": 0.2, "sound": 0.12, "noise": 0.18, "silence": 0.1}
SNR_DB = (0.0, 20.0)
FADE = 160  # samples, 10 ms
GAP_SECONDS = 0.6  # minimum between pasted pieces
LEVEL_DB = (-36.0, -1.0)  # of the scene's peak, dBFS
HARDNESS = 8.0  # a piece that raises an alarm is drawn this many times more often than one that raises none
BURST_STRETCH, SPEECH_STRETCH = 0.2, 0.35  # maximum in varied scenes: free recordings have few speakers


@dataclass(frozen=True)
class SceneSettings:
    """Attributes:
    seconds: length of a scene.
    bursts_per_minute: bursts per minute; with `varied`, from none to two and a half times as many.
    varied: vary numbers, pitch, room and band, and also paste sounds that are not bursts; for training.
    backgrounds: weight of each kind.
    """

    seconds: float = 60.0
    bursts_per_minute: float = 6.0
    varied: bool = False
    backgrounds: dict[str, float] = field(default_factory=BACKGROUNDS.copy)


@dataclass(frozen=True)
class Event:
    """A burst: start and end in seconds, EmoGator's category, its speaker."""

    start: float
    end: float
    label: str
    speaker: str


@dataclass(frozen=True)
class Scene:
    """float32 waveform (samples,) at 16 kHz, its events in order, the kind of background."""

    waveform: np.ndarray
    events: list[Event]
    background: str


@dataclass(frozen=True)
class _Groups:
    """Attributes:
    names: of the groups.
    numbers: of each group's pieces.
    shares: how often each of its pieces is drawn; None: all alike.
    cumulative: cumulative probabilities of the groups.
    """

    names: list[str]
    numbers: list[np.ndarray]
    shares: list[np.ndarray | None]
    cumulative: np.ndarray


class Scenes:
    """An endless sequence: `scenes[number]` is a `Scene`."""

    def __init__(self, pool: Pool, settings: SceneSettings, seed: int = 0):
        self.pool, self.settings, self.seed = pool, settings, seed

    @cached_property
    def _groups(self) -> dict[str, _Groups]:
        """The groups of each kind.

        They are drawn by the square root of their length; with `varied` by the cube root, because the small groups have
        speakers and words of their own. With `varied`, in a pool that was mined, pieces that raise alarms and their
        groups are drawn more often.
        """
        groups, root = {}, 3 if self.settings.varied else 2
        is_mined = self.settings.varied and ALARMS in self.pool.pieces
        for kind, pieces in self.pool.pieces.groupby("kind"):
            parts = pieces.groupby("group")
            weights = np.array([(part["stop"] - part["start"]).sum() ** (1 / root) for _, part in parts])
            shares: list[np.ndarray | None] = [None] * len(weights)
            if is_mined:
                hardness = [1 + HARDNESS * part[ALARMS].to_numpy().clip(max=1) for _, part in parts]
                shares = [of_pieces / of_pieces.sum() for of_pieces in hardness]
                weights *= [of_pieces.mean() for of_pieces in hardness]
            names, numbers = [str(name) for name, _ in parts], [part.index.to_numpy() for _, part in parts]
            groups[str(kind)] = _Groups(names, numbers, shares, np.cumsum(weights / weights.sum()))
        return groups

    def __iter__(self) -> Iterator[Scene]:
        number = 0
        while True:
            yield self[number]
            number += 1

    def __getitem__(self, number: int) -> Scene:
        rng = np.random.default_rng((self.seed, number))
        settings = self.settings
        length = round(settings.seconds * SAMPLING_RATE)
        kinds, weights = zip(*settings.backgrounds.items(), strict=True)
        background = str(rng.choice(kinds, p=np.array(weights) / sum(weights)))
        scene = self._background(background, length, rng)
        if rng.random() < 0.3 and background != "silence":
            scene = scene + noise(length, rng) * 10 ** (rng.uniform(-40, -12) / 20)
        clean = scene.copy()
        pasted = self._draw(rng)
        events = []
        for (start, piece), (waveform, label, speaker) in zip(_places(pasted, length, rng), pasted, strict=True):
            scene[start : start + piece] += waveform * _gain(waveform, clean, start, rng)
            if speaker:
                events.append(Event(start / SAMPLING_RATE, (start + piece) / SAMPLING_RATE, label, speaker))
        if settings.varied:
            scene = through_a_channel(scene, rng)
        peak = np.abs(scene).max(initial=1e-9)
        scene = scene * (10 ** (rng.uniform(*LEVEL_DB) / 20) / peak)
        return Scene(scene.astype(np.float32), events, background)

    def _piece(self, kind: str, rng: np.random.Generator, group: str | None = None) -> tuple[np.ndarray, str, str]:
        """Waveform, label and group of a piece."""
        number, group = self._number(kind, rng, group)
        return self.pool.audio(number), self.pool.labels[number], group

    def _number(self, kind: str, rng: np.random.Generator, group: str | None = None) -> tuple[int, str]:
        """Number and group of a piece."""
        groups, group = self._groups[kind], group or self._group(kind, rng)
        place = groups.names.index(group)
        return int(rng.choice(groups.numbers[place], p=groups.shares[place])), group

    def _group(self, kind: str, rng: np.random.Generator) -> str:
        groups = self._groups[kind]
        return groups.names[min(int(np.searchsorted(groups.cumulative, rng.random())), len(groups.names) - 1)]

    def _draw(self, rng: np.random.Generator) -> list[tuple[np.ndarray, str, str]]:
        """The pieces to paste, in random order: waveform, label and, for bursts only, speaker."""
        settings = self.settings
        expected = settings.bursts_per_minute * settings.seconds / 60
        count = round(expected) if not settings.varied else int(rng.integers(0, max(3, int(2.5 * expected)) + 1))
        drawn = [self._piece("burst", rng) for _ in range(count)]
        if settings.varied:
            drawn = [(stretch(burst, _factor(BURST_STRETCH, rng)), label, speaker) for burst, label, speaker in drawn]
            for _ in range(int(rng.integers(0, 5)) if rng.random() < 0.7 else 0):
                waveform, _, _ = self._piece("speech" if rng.random() < 0.75 else "sound", rng)
                most = int(rng.uniform(0.2, 4) * SAMPLING_RATE)
                start = int(rng.integers(0, max(1, len(waveform) - most)))
                drawn.append((stretch(waveform[start : start + most], _factor(SPEECH_STRETCH, rng)), "", ""))
        rng.shuffle(drawn)
        room = round(settings.seconds * SAMPLING_RATE)
        kept = []
        for waveform, label, speaker in drawn:
            room -= len(waveform) + round(GAP_SECONDS * SAMPLING_RATE)
            if room > 0 and len(waveform) > 2 * FADE:
                kept.append((_fade(waveform), label, speaker))
        return kept

    def _background(self, kind: str, length: int, rng: np.random.Generator) -> np.ndarray:
        """float32 of shape (length,), of about unit level."""
        if kind == "noise":
            return noise(length, rng)
        if kind == "silence":
            return noise(length, rng) * 0.003
        track = noise(length, rng) * 10 ** (rng.uniform(-60, -25) / 20)
        if kind == "music":
            return track + self._music(length, rng)
        track += self._row(kind, length, rng)
        if self.settings.varied and rng.random() < 0.15:  # a second speaker, or background music
            other = self._row("speech", length, rng) if rng.random() < 0.5 else self._music(length, rng)
            track += other * 10 ** (rng.uniform(-20, 0) / 20)
        return track

    def _tempo(self, rng: np.random.Generator) -> float:
        """How many times as fast a background is played."""
        return _factor(SPEECH_STRETCH, rng) if self.settings.varied else 1.0

    def _music(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """float32 of shape (length,), of about unit level."""
        number, _ = self._number("music", rng)
        factor = self._tempo(rng)
        needed = length if factor == 1 else int(length * factor) + 2
        start = int(rng.integers(0, max(1, self.pool.length(number) - length)))
        return np.resize(_level(stretch(self.pool.audio(number, start, needed), factor)), length)

    def _row(self, kind: str, length: int, rng: np.random.Generator) -> np.ndarray:
        """Pieces of speech or sounds, one after the other; float32 of shape (length,), of about unit level."""
        track = np.zeros(length, np.float32)
        group = None if rng.random() < 0.2 else self._group(kind, rng)
        factor = self._tempo(rng)
        position = -int(rng.uniform(0, 2) * SAMPLING_RATE)
        while position < length:
            waveform, _, _ = self._piece(kind, rng, group)
            waveform = stretch(waveform, factor)
            if position + len(waveform) > 0:
                piece = _level(waveform)[max(0, -position) :][: length - max(0, position)]
                track[max(0, position) : max(0, position) + len(piece)] += piece
            position += len(waveform) + int(rng.exponential(0.35 if kind == "speech" else 1.0) * SAMPLING_RATE)
        return track


def _level(waveform: np.ndarray) -> np.ndarray:
    """Scales a waveform to unit level, unless it is nearly silent."""
    return waveform / (np.sqrt(np.square(waveform).mean()) + 1e-4)


def _gain(waveform: np.ndarray, background: np.ndarray, start: int, rng: np.random.Generator) -> float:
    """Factor that raises `waveform` 0 to 20 dB above its background; in pauses, above a third of the scene's level."""
    below = background[start : start + len(waveform)]
    level = max(np.sqrt(np.square(below).mean()), 0.3 * np.sqrt(np.square(background).mean()), 1e-4)
    return level * 10 ** (rng.uniform(*SNR_DB) / 20) / (np.sqrt(np.square(waveform).mean()) + 1e-6)


def _places(pasted: list, length: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Start and length of each piece, in order, with at least `GAP_SECONDS` between two."""
    gap = round(GAP_SECONDS * SAMPLING_RATE)
    pieces = [len(waveform) for waveform, _, _ in pasted]
    free = length - sum(pieces) - gap * len(pieces)
    cuts = np.sort(rng.integers(0, max(free, 1), len(pieces)))
    starts = cuts + np.cumsum([0, *(piece + gap for piece in pieces)])[:-1].astype(int) if pieces else []
    return [(int(start), piece) for start, piece in zip(starts, pieces, strict=True)]


def _fade(waveform: np.ndarray) -> np.ndarray:
    ramp = np.linspace(0, 1, FADE, dtype=np.float32)
    waveform = waveform.copy()
    waveform[:FADE] *= ramp
    waveform[-FADE:] *= ramp[::-1]
    return waveform


def _factor(most: float, rng: np.random.Generator) -> float:
    """A random factor from 1 / (1 + most) to 1 + most, as often above 1 as below."""
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(most)))


def stretch(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Plays it `factor` times as fast, which also shifts pitch and formants, like another speaker's voice."""
    if factor == 1:
        return waveform
    places = np.arange(0, len(waveform) - 1, factor)
    return np.interp(places, np.arange(len(waveform)), waveform).astype(np.float32)


def write_scenes(scenes: Scenes, number: int, folder: Path) -> Path:
    """Writes the first scenes as 16-bit WAV, and `events.csv`: recording, start, end, label, speaker, background."""
    make_folder(folder)
    rows = []
    for index in range(number):
        scene, name = scenes[index], f"scene-{index:05d}.wav"
        sf.write(folder / name, scene.waveform, SAMPLING_RATE, subtype="PCM_16")
        rows += [{"recording": name, **asdict(event), "background": scene.background} for event in scene.events]
    path = folder / "events.csv"
    write_table(path, rows, ["recording", "start", "end", "label", "speaker", "background"])
    return path
