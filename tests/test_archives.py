"""The recordings of games, as their packages contain them."""

import struct
import zipfile

import numpy as np
import pytest
import soundfile as sf

from avb.errors import AvbError
from avb.events.archives import SKY_HEADER, SKY_LINES, unpack_queen, unpack_recordings, unpack_sky, unpack_zip
from avb.events.propack import DamagedError, unpack


def dialogue(*entries: tuple[str, bytes], compression: int = 1) -> bytes:
    """A file like that of Flight of the Amazon Queen: its table, and what the entries contain."""
    start = 15 + 21 * len(entries)
    table, contents = b"QTBLCEM10\0\0\0" + struct.pack(">BH", compression, len(entries)), b""
    for name, content in entries:
        table += struct.pack(">12sBII", name.encode(), 1, start + len(contents), len(content))
        contents += content
    return table + contents


def test_dialogue_is_unpacked_by_part(tmp_path):
    archive = tmp_path / "queen.1c"
    archive.write_bytes(dialogue(("120406P1.SB", b"one"), ("C103F242.SB", b"two!"), ("ZOMBIE.ACT", b"picture")))
    assert unpack_queen(archive, tmp_path / "en") == 2
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.mp3")}
    assert found == {"en/1/120406P1.mp3": b"one", "en/C/C103F242.mp3": b"two!"}
    whole = archive.read_bytes()
    for damaged in (b"", b"MZ" + whole, whole[:40], whole[:60], dialogue(("A.SB", b"1"), compression=3)):
        archive.write_bytes(damaged)
        with pytest.raises(AvbError, match=r"queen\.1c: .*fetch the package again"):
            unpack_queen(archive, tmp_path / "again")
    archive.write_bytes(dialogue(("../../x.SB", b"1")))
    with pytest.raises(AvbError, match="damaged at '../../x'"):
        unpack_queen(archive, tmp_path / "again")


class Packer:
    """Writes RNC ProPack as its decoder reads it: a word of 16 bits has its place where its first bit is written."""

    def __init__(self):
        self.data, self.word, self.used = bytearray(), 0, 16

    def bits(self, value: int, number: int):
        for place in range(number):
            if self.used == 16:
                self.word, self.used = len(self.data), 0
                self.data += bytes(2)
            bit = (value >> place & 1) << self.used
            self.data[self.word] |= bit & 255
            self.data[self.word + 1] |= bit >> 8
            self.used += 1

    def codes(self, widths: list[int]):
        self.bits(len(widths), 5)
        for width in widths:
            self.bits(width, 4)


def packed(contents: bytes, body: bytes, chunks: int) -> bytes:
    crc = 0
    for byte in contents:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return b"RNC\x01" + struct.pack(">IIHHBB", len(contents), len(body), crc, 0, 0, chunks) + body


def example() -> tuple[bytes, bytes]:
    """Contents and packed form: two chunks; the first repeats, with a copy that overlaps itself."""
    packer = Packer()
    packer.bits(0, 2)
    packer.codes([2, 0, 2, 1])  # literals: class 3 (4 to 7 bytes) is 0, class 0 is 01, class 2 (2 or 3 bytes) is 11
    packer.codes([0, 1])  # distances: class 1, a distance of 2
    packer.codes([0, 0, 0, 1])  # repetitions: class 3, 4 + 2 bits + 2
    packer.bits(2, 16)
    packer.bits(0, 1)
    packer.bits(1, 2)  # 5 bytes
    packer.data += b"laugh"
    packer.bits(0, 1)
    packer.bits(0, 1)
    packer.bits(3, 2)  # 9 bytes from 2 before
    packer.bits(3, 2)
    packer.bits(1, 1)  # 3 bytes
    packer.data += b"cry"
    packer.codes([0, 0, 1])
    packer.codes([])
    packer.codes([])
    packer.bits(1, 16)
    packer.bits(0, 1)
    packer.bits(0, 1)  # 2 bytes
    packer.data += b"oh"
    contents = b"laugh" + b"ghghghghg" + b"cryoh"
    return contents, packed(contents, bytes(packer.data), 2)


def test_propack_is_unpacked_and_checked():
    contents, data = example()
    assert unpack(data) == unpack(data + b"what follows") == contents
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.integers(18, len(data))] ^= 1 << rng.integers(8)
        try:  # a bit that is not used may change nothing
            assert unpack(bytes(damaged)) == contents
        except DamagedError:
            pass
    for damaged in (b"", b"RNC\x02" + data[4:], data[:18], data[:30], data[:8] + data[9:]):
        with pytest.raises(DamagedError):
            unpack(damaged)


def test_a_package_is_unpacked_by_what_it_contains(tmp_path):
    contents, data = example()
    line = bytes(SKY_HEADER) + data
    begin = 64  # in units of 16 bytes where the highest bit of a place says so
    entries = [(SKY_LINES[0], begin >> 4 | 1 << 23), (SKY_LINES[501], begin), (49_999, 0), (59_500, 0)]
    table = b"".join(
        struct.pack("<HIH", number, place | (len(line) & 255) << 24, len(line) >> 8) for number, place in entries
    )
    games = tmp_path / "usr" / "share" / "scummvm" / "sky"
    games.mkdir(parents=True)
    (games / "sky.dnr").write_bytes(struct.pack("<I", len(entries)) + table)
    (games / "sky.dsk").write_bytes(bytes(begin) + line)
    (games / "queen.1c").write_bytes(dialogue(("J.SB", b"hello")))
    with zipfile.ZipFile(games / "data.pk3", "w") as archive:
        for name in ("sound/a.ogg", "models/b.md3", "../c.wav"):
            archive.writestr(name, name)
    unpack_recordings(tmp_path)
    found = sorted(path.relative_to(games).as_posix() for path in (games / "data").rglob("*.*"))
    assert found == ["data/c.wav", "data/sound/a.ogg"]  # no name leads out of the folder
    found = sorted(path.relative_to(games).as_posix() for path in games.rglob("en/**/*.*"))
    assert found == ["en/100/50000.wav", "en/101/50501.wav", "en/J/J.mp3"]
    waveform, rate = sf.read(games / "en" / "101" / "50501.wav")
    assert rate == 11_025
    np.testing.assert_array_equal(waveform * 128 + 128, list(contents))
    (games / "sky.dsk").write_bytes(bytes(begin) + line[:40])
    with pytest.raises(AvbError, match=r"sky\.dsk: line 50000 is damaged; fetch the package again"):
        unpack_sky(games / "sky.dsk", tmp_path / "again")
    (games / "data.pk3").write_bytes((games / "data.pk3").read_bytes()[:-30])
    with pytest.raises(AvbError, match=r"data\.pk3: damaged \(.*fetch the package again"):
        unpack_zip(games / "data.pk3", tmp_path / "again")
    (games / "sky.dnr").unlink()
    with pytest.raises(AvbError, match=r"sky\.dnr: missing or damaged"):
        unpack_sky(games / "sky.dsk", tmp_path / "again")
