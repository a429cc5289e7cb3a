"""Free recordings without vocal bursts: Debian packages, each used for training or for testing.

`recipes/events/sources.csv` states for each package its licence, its contents and its side. No language and no speaker
is on both sides: a package with many languages has a row for each side. The recordings are not part of the project.
"""

import csv
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from avb.errors import AvbError
from avb.events.archives import unpack_recordings
from avb.files import make_folder
from avb.recipes import FOLDER as RECIPES

SOURCES = RECIPES / "events" / "sources.csv"
KINDS = ("speech", "music", "sound")
SIDES = ("train", "test")


@dataclass(frozen=True)
class Source:
    """A row of the table.

    Attributes:
        package: its name in Debian 12.
        licence: of the recordings, as stated in the package's copyright file; several if files differ.
        kind: speech, music or sound.
        side: train or test.
        languages: of speech.
        files: glob below the package's root; `{language}` stands for each of the languages, `{part}` for any folder
            whose recordings form a group of their own.
        holds: what the recordings contain.
    """

    package: str
    licence: str
    kind: str
    side: str
    languages: tuple[str, ...]
    files: str
    holds: str

    def recordings(self, folder: Path) -> Iterator[tuple[Path, str]]:
        """Each file and its group: the language and the part for speech, the package otherwise."""
        for language in self.languages or ("",):
            pattern = self.files.format(language=language, part="*")
            for path in sorted((folder / self.package).glob(pattern)):
                part = f" {path.parent.name}" if "{part}" in self.files else ""
                yield path, f"{language or self.package}{part}"


def read_sources(path: Path = SOURCES) -> list[Source]:
    """The table's rows.

    Raises:
        AvbError: a kind or side is unknown, or a language is on both sides.
    """
    with open(path, encoding="utf-8", newline="") as file:
        rows = [Source(**row | {"languages": tuple(row["languages"].split())}) for row in csv.DictReader(file)]
    sides: dict[str, str] = {}
    for row in rows:
        if row.kind not in KINDS or row.side not in SIDES:
            raise AvbError(f"{path}: {row.package}: kind {row.kind!r}, side {row.side!r}: valid are {KINDS}, {SIDES}")
        for language in {name.partition("_")[0] for name in row.languages}:
            if sides.setdefault(language, row.side) != row.side:
                raise AvbError(f"{path}: {row.package}: language {language!r} is on both sides; move it to one")
    return rows


def fetch(folder: str | Path) -> Path:
    """Downloads the packages with apt-get and unpacks each into its own folder; existing folders are kept.

    Raises:
        AvbError: apt-get is not installed, or it fails.
    """
    folder = make_folder(folder)
    for package in dict.fromkeys(source.package for source in read_sources()):
        if (folder / package).is_dir():
            continue
        downloads = make_folder(folder / "downloads")
        for old in downloads.glob(f"{package}_*.deb"):
            old.unlink()
        _run(["apt-get", "download", package], downloads)
        (archive,) = downloads.glob(f"{package}_*.deb")
        unfinished = folder / "downloads" / package
        _run(["dpkg-deb", "-x", str(archive), str(unfinished)], downloads)
        unpack_recordings(unfinished)
        unfinished.rename(folder / package)
        archive.unlink()
    return folder


def _run(command: list[str], folder: Path):
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise AvbError(
            f"{command[0]}: {error.strerror}; fetch the packages of {SOURCES} on a Debian machine"
        ) from error
    if done.returncode:
        raise AvbError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
