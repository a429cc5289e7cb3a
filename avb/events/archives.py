"""Unpacks the dialogue of Flight of the Amazon Queen (1995), which its Debian package contains as one file.

The file is a table of names and places, then their contents; recordings are MP3. ScummVM's `queen/resource.cpp` reads
the same format.
"""

import struct
from pathlib import Path

from avb.errors import AvbError
from avb.files import make_folder

HEADER = struct.Struct(">4s6s2xBH")  # "QTBL", version, compression, number of entries
ENTRY = struct.Struct(">12sBII")  # name, ended by zeros; bundle; start and length in bytes
MAGIC, MP3 = b"QTBL", 1
SPEECH = "SB"  # suffix of a spoken line


def unpack_dialogue(archive: Path, folder: Path) -> int:
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
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise AvbError(f"{archive}: no resources of Flight of the Amazon Queen; fetch the package again")
    *_, compression, entries = HEADER.unpack_from(data)
    table = data[HEADER.size : HEADER.size + entries * ENTRY.size]
    if compression != MP3 or len(table) < entries * ENTRY.size:
        raise AvbError(f"{archive}: damaged, or a version whose speech is not MP3; fetch the package again")
    lines = 0
    for name, _, start, length in ENTRY.iter_unpack(table):
        stem, _, kind = name.rstrip(b"\0").decode("ascii", "replace").rpartition(".")
        if kind != SPEECH:
            continue
        if start + length > len(data) or not stem.replace("_", "").isalnum():
            raise AvbError(f"{archive}: damaged at {stem!r}; fetch the package again")
        (make_folder(folder / stem[0]) / f"{stem}.mp3").write_bytes(data[start : start + length])
        lines += 1
    return lines
