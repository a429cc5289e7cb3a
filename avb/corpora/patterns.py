"""Reads speakers, labels and groups from file names, with a regular expression or the name of a well-known corpus.

    vivae                S01_achievement_low_01.wav → S01, achievement
    "^([^/]+)/"          anna/laugh1.wav → anna

The expression is searched in the clip's path relative to the folder, without suffix; its only group is the value. The
built-in patterns follow the file naming that each corpus documents; they were tested on made-up names of this form, not
on the corpora. The options are `--speaker_pattern`, `--label_pattern` and `--group_pattern`.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from audio_avb import AUDIO_SUFFIXES
from avb.corpora.emogator import CATEGORIES
from avb.errors import CorpusError, did_you_mean, fold

logger = logging.getLogger(__name__)


class NamePatterns(NamedTuple):
    """What is read from file names: each an expression or a key of `PATTERNS`; None if it is not read."""

    speaker: str | None = None
    label: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class NamePattern:
    """How a corpus names its clips.

    Attributes:
        speaker: expression whose group captures the speaker.
        label: expression whose group captures the class or its code.
        classes: class of each code; empty if the names spell the classes out.
        source: where the corpus documents it.
    """

    speaker: str
    label: str
    source: str
    classes: dict[str, str] = field(default_factory=dict)


PATTERNS = {
    "asvp-esd": NamePattern(
        speaker=r"(?:^|/)\d\d-0[12]-\d\d-\d\d-\d\d-(\d+)-",
        label=r"(?:^|/)\d\d-0[12]-(\d\d)-",
        classes={
            "01": "boredom", "02": "neutral", "03": "happiness", "04": "sadness", "05": "anger", "06": "fear",
            "07": "disgust", "08": "surprise", "09": "excitement", "10": "pleasure", "11": "pain",
            "12": "disappointment", "13": "breath",
        },
        source="Landry et al. 2020, doi:10.5281/zenodo.3782416",
    ),
    "crema-d": NamePattern(
        speaker=r"(?:^|/)(\d{4})_[A-Z]{3}_[A-Z]{3}_",
        label=r"(?:^|/)\d{4}_[A-Z]{3}_([A-Z]{3})_",
        classes={
            "ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness",
        },
        source="Cao et al. 2014, doi:10.1109/TAFFC.2014.2336244",
    ),
    "emodb": NamePattern(
        speaker=r"(?:^|/)(\d\d)[ab]\d\d[A-Z]\w?$",
        label=r"(?:^|/)\d\d[ab]\d\d([A-Z])\w?$",
        classes={
            "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral",
        },
        source="Burkhardt et al. 2005, Interspeech",
    ),
    "emogator": NamePattern(
        speaker=r"(?:^|/)(\d{6})-\d\d-\d$",
        label=r"(?:^|/)\d{6}-(\d\d)-\d$",
        classes={f"{number:02d}": category for number, category in enumerate(CATEGORIES, start=1)},
        source="Buhl 2023, arXiv:2301.00508",
    ),
    "ravdess": NamePattern(
        speaker=r"(?:^|/)(?:\d\d-){6}(\d\d)$",
        label=r"(?:^|/)0[123]-0[12]-(\d\d)-(?:\d\d-){3}\d\d$",
        classes={
            "01": "neutral", "02": "calm", "03": "happiness", "04": "sadness", "05": "anger", "06": "fear",
            "07": "disgust", "08": "surprise",
        },
        source="Livingstone & Russo 2018, doi:10.1371/journal.pone.0196391",
    ),
    "savee": NamePattern(
        speaker=r"(?:^|/)(DC|JE|JK|KL)[_/](?:sa|su|[adfhn])\d\d$",
        label=r"(?:^|/)(?:DC|JE|JK|KL)[_/](sa|su|[adfhn])\d\d$",
        classes={
            "a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "n": "neutral", "sa": "sadness",
            "su": "surprise",
        },
        source="Jackson & Haq 2014, University of Surrey",
    ),
    "tess": NamePattern(
        speaker=r"(?:^|/)(OAF|YAF)_\w+_[a-z]+$",
        label=r"(?:^|/)(?:OAF|YAF)_\w+_([a-z]+)$",
        classes={
            "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness", "neutral": "neutral",
            "ps": "surprise", "sad": "sadness",
        },
        source="Pichora-Fuller & Dupuis 2020, doi:10.5683/SP2/E8H2MF",
    ),
    "vivae": NamePattern(
        speaker=r"(?:^|/)(S\d\d)_[a-z]+_[a-z]+_\d\d$",
        label=r"(?:^|/)S\d\d_([a-z]+)_[a-z]+_\d\d$",
        source="Holz et al. 2022, Emotion 22(1)",
    ),
    "vocalsound": NamePattern(
        speaker=r"(?:^|/)([fm]\d{4})_\d+_[a-z]+$",
        label=r"(?:^|/)[fm]\d{4}_\d+_([a-z]+)$",
        source="Gong et al. 2022, arXiv:2205.03433",
    ),
}  # fmt: skip
_OF_CLASSES = {"class", "cls", "label", "emotion", "category", "type", "level", "rating", "score", "cluster", "take"}
# What differs between the cuts of one recording: a number at the end of a name.
_RUNNING_NUMBER = re.compile(r"[ _.-]*\(?\d+\)?$")


def without_suffix(name: str) -> str:
    """The text that patterns are searched in: a path with `/`, without the suffix of an audio file."""
    name = name.replace("\\", "/")
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in AUDIO_SUFFIXES else name


def read_speakers(names: Sequence[str], pattern: str, where: str) -> list[str]:
    """The speaker of each clip.

    Args:
        names: paths relative to the corpus's folder; the pattern is searched in `without_suffix` of each.
        pattern: a key of `PATTERNS`, or a regular expression with one group.
        where: the corpus, for messages.

    Raises:
        CorpusError: the expression is invalid, or a name does not match it.
    """
    ready = PATTERNS.get(pattern)
    return _read(names, ready.speaker if ready else pattern, pattern, "speaker_pattern", where)


def read_classes(names: Sequence[str], pattern: str, where: str) -> list[str]:
    """The class of each clip. Arguments and errors as in `read_speakers`; also raises on an unknown code."""
    ready = PATTERNS.get(pattern)
    found = _read(names, ready.label if ready else pattern, pattern, "label_pattern", where)
    if ready is None or not ready.classes:
        return found
    for name, code in zip(names, found, strict=True):
        if code not in ready.classes:
            raise CorpusError(f"{where}: {name}: {code!r} is not a class of {pattern}: {', '.join(ready.classes)}")
    return [ready.classes[code] for code in found]


def read_groups(names: Sequence[str], pattern: str, where: str) -> list[str]:
    """The group of each clip: the recording it was cut from. Arguments and errors as in `read_speakers`."""
    return _read(names, pattern, pattern, "group_pattern", where)


def cuts_of_recordings(names: Sequence[str]) -> list[list[str]]:
    """Groups of names that differ only in a running number (`laugh_0`), perhaps cuts of a recording; largest first."""
    stems = [_RUNNING_NUMBER.sub("", name) for name in names]
    alike: dict[str, list[str]] = {}
    for name, stem in zip(names, stems, strict=True):
        alike.setdefault(stem, []).append(name)
    # A name that is only a number, such as 00001, tells nothing about the recording.
    groups = [group for stem, group in alike.items() if len(group) > 1 and re.search(r"\w", stem.rpartition("/")[2])]
    # clip_001, clip_002, …: a numbered corpus, perhaps with some other names.
    groups = [group for group in groups if len(group) <= len(names) / 2 or len(group) < 3]
    return sorted(groups, key=len, reverse=True)


def warn_of_speakers_as_classes(class_of: Sequence[str], names: Sequence[str], where: str):
    """Warns if classes are numbered under one name, `Actor_01`, `Actor_02`, as the folders of speakers are.

    Args:
        class_of: each clip's class, found without a pattern.
        names: the clips' paths relative to the corpus's folder.
        where: the corpus, for the message.
    """
    classes = sorted(set(class_of))
    number_of = {name: match for name in classes if (match := re.fullmatch(r"(.*?)[ _.-]*(\d+)", name))}
    stems = {fold(match[1]) for match in number_of.values()}
    are_alike = len(stems) == 1 or stems == {"f", "m"}  # women and men
    are_padded = any(match[2].startswith("0") and len(match[2]) > 1 for match in number_of.values())
    if len(number_of) < len(classes) or not are_alike or stems & _OF_CLASSES or (stems == {""} and not are_padded):
        return

    def reads_them(pattern: NamePattern) -> bool:
        for name, text in zip(class_of, map(without_suffix, names), strict=True):
            speaker = re.search(pattern.speaker, text)
            if not (speaker and re.search(pattern.label, text) and speaker[1].endswith(number_of[name][2])):
                return False
        return True

    known = next((name for name, pattern in PATTERNS.items() if reads_them(pattern)), None)
    logger.warning(
        "%s: its %d classes are called %s to %s, as speakers are; if they are, %s",
        where,
        len(classes),
        classes[0],
        classes[-1],
        f"--label_pattern {known} --speaker_pattern {known} reads emotions and speakers from the names of the files"
        if known
        else "--label_pattern and --speaker_pattern read classes and speakers from the names of the files",
    )


def _read(names: Sequence[str], expression: str, given: str, option: str, where: str) -> list[str]:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise CorpusError(f"--{option} {given}: not a valid regular expression ({error}); correct it") from error
    if compiled.groups != 1:
        hint = did_you_mean(given, PATTERNS, "Ready ones")
        raise CorpusError(f"--{option} {given}: it needs one group, such as ^([^/]+)/ for the first folder{hint}")
    names = [without_suffix(name) for name in names]
    matches = [compiled.search(name) for name in names]
    unfit = [name for name, match in zip(names, matches, strict=True) if not (match and match[1])]
    if unfit:
        raise CorpusError(
            f"{where}: --{option} {given} does not match {len(unfit)} of {len(names)} names, such as {unfit[0]}; "
            "correct it, or leave these clips out"
        )
    return [match[1] for match in matches if match]
