"""Unpacks the recordings of games whose Debian packages contain them in archives.

A `.pk3` is a zip file. Two games have formats of their own, which ScummVM (`queen/resource.cpp`, `sky/disk.cpp`) reads
too: Flight of the Amazon Queen (1995) has a table of names and places, then their contents, and its recordings are MP3.
Beneath a Steel Sky (1994) has its table in a second file, and its recordings are packed, with 8 bits at 11,025 Hz.
"""

import struct
import zipfile
from pathlib import Path

import numpy as np
import soundfile as sf

from avb.errors import AvbError
from avb.events.propack import DamagedError, unpack
from avb.files import make_folder

QUEEN_HEADER = struct.Struct(">4s6s2xBH")  # "QTBL", version, compression, number of entries
QUEEN_ENTRY = struct.Struct(">12sBII")  # name, ended by zeros; bundle; start and length in bytes
QUEEN_MAGIC, QUEEN_MP3 = b"QTBL", 1
QUEEN_SPEECH = "SB"  # suffix of a spoken line

SKY_ENTRY = struct.Struct("<HIH")  # number; place: 24 bits; length and flags: 24 bits
SKY_LINES = range(50_000, 56_000)  # numbers of spoken lines; from 59,000 on, pictures are among them
SKY_HEADER = 22  # bytes, before each packed recording
SKY_RATE = 11_025


def unpack_recordings(package: Path):
    """Unpacks the archives of an unpacked Debian package, if it is one of these games.

    Raises:
        AvbError: a file is damaged.
    """
    for archive in package.rglob("queen.1c"):
        unpack_queen(archive, archive.parent / "en")
    for archive in package.rglob("sky.dsk"):
        unpack_sky(archive, archive.parent / "en")
    for archive in package.rglob("*.pk3"):
        unpack_zip(archive, archive.with_suffix(""))


def unpack_zip(archive: Path, folder: Path) -> int:
    """Writes the recordings of a zip file into `folder`, by their names in the archive; returns their number.

    Raises:
        AvbError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as contents:
            names = [name for name in contents.namelist() if Path(name).suffix in (".ogg", ".wav")]
            contents.extractall(folder, names)
    except (zipfile.BadZipFile, OSError) as error:
        raise AvbError(f"{archive}: damaged ({error}); fetch the package again") from error
    return len(names)


def unpack_queen(archive: Path, folder: Path) -> int:
    """Writes each spoken line as `PART/NAME.mp3`, where a part has the lines whose names begin with the same character.

    Names begin with the number of a room, with C for a cut scene, or with the name of a speaker. So a part has fewer
    speakers than the whole, and the lines of few speakers occur together in a scene.

    Args:
        archive: `queen.1c`.
        folder: where to write.

    Returns:
        The number of lines.

    Raises:
        AvbError: it is no such file, or it is incomplete.
    """
    data = archive.read_bytes()
    if len(data) < QUEEN_HEADER.size or not data.startswith(QUEEN_MAGIC):
        raise AvbError(f"{archive}: no resources of Flight of the Amazon Queen; fetch the package again")
    *_, compression, entries = QUEEN_HEADER.unpack_from(data)
    table = data[QUEEN_HEADER.size : QUEEN_HEADER.size + entries * QUEEN_ENTRY.size]
    if compression != QUEEN_MP3 or len(table) < entries * QUEEN_ENTRY.size:
        raise AvbError(f"{archive}: damaged, or a version whose speech is not MP3; fetch the package again")
    lines = 0
    for name, _, start, length in QUEEN_ENTRY.iter_unpack(table):
        stem, _, kind = name.rstrip(b"\0").decode("ascii", "replace").rpartition(".")
        if kind != QUEEN_SPEECH:
            continue
        if start + length > len(data) or not stem.replace("_", "").isalnum():
            raise AvbError(f"{archive}: damaged at {stem!r}; fetch the package again")
        (make_folder(folder / stem[0]) / f"{stem}.mp3").write_bytes(data[start : start + length])
        lines += 1
    return lines


def unpack_sky(archive: Path, folder: Path) -> int:
    """Writes each spoken line as `PART/NUMBER.wav`; a part, up to 500 consecutive numbers, is a place of the game.

    Args:
        archive: `sky.dsk`; its table, `sky.dnr`, is next to it.
        folder: where to write.

    Returns:
        The number of lines.

    Raises:
        AvbError: a file is damaged, or the table is missing.
    """
    data = archive.read_bytes()
    index = archive.with_suffix(".dnr")
    table = index.read_bytes()[4:] if index.is_file() else b""  # after the number of entries
    if not table or len(table) % SKY_ENTRY.size:
        raise AvbError(f"{index}: missing or damaged; fetch the package again")
    lines = 0
    for number, place, high in SKY_ENTRY.iter_unpack(table):
        if number not in SKY_LINES:
            continue
        length = (place >> 24 | high << 8) & 0x3FFFFF
        start = place & 0x7FFFFF  # the next bit: in units of 16 bytes
        start <<= 4 if place >> 23 & 1 else 0
        try:
            line = unpack(data[start + SKY_HEADER : start + length])
        except DamagedError as error:
            raise AvbError(f"{archive}: line {number} is damaged; fetch the package again") from error
        path = make_folder(folder / str(number // 500)) / f"{number}.wav"
        sf.write(path, (np.frombuffer(line, np.uint8).astype(np.float32) - 128) / 128, SKY_RATE, subtype="PCM_U8")
        lines += 1
    return lines
