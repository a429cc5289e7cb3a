"""Unpacks RNC ProPack, method 1: LZ77 with Huffman codes, in which games of the 1990s keep their sounds.

Bits come in words of 16, the lowest bit first. Bytes that are copied as they are lie between the words: after the word
whose bits were begun last. No maintained Python package reads the format; ScummVM's `common/compression/rnc_deco.cpp`
does.
"""

import struct
from functools import cache

HEADER = struct.Struct(">4sIIHHBB")  # magic, length, length packed, CRC, CRC packed, (unused), number of chunks
MAGIC = b"RNC\x01"


class DamagedError(ValueError):
    """The data is not as the format demands."""


def unpack(data: bytes) -> bytes:
    """The contents of a packed file.

    Raises:
        DamagedError: it is no such file, incomplete, or its contents fail their CRC.
    """
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise DamagedError("not packed by method 1 of RNC ProPack")
    _, length, packed, crc, _, _, chunks = HEADER.unpack_from(data)
    try:
        contents = _unpack(_Bits(data[HEADER.size : HEADER.size + packed]), chunks, length)
    except (IndexError, TypeError) as error:  # past the end; a code that no value has
        raise DamagedError("damaged") from error
    if len(contents) != length or _crc(contents) != crc:
        raise DamagedError("damaged")
    return bytes(contents)


def _unpack(bits: "_Bits", chunks: int, length: int) -> bytearray:
    contents = bytearray()
    bits.read(2)
    for _ in range(chunks):
        literals, distances, lengths = (_Codes(bits) for _ in range(3))
        for remaining in range(bits.read(16) - 1, -1, -1):
            contents += bits.copy(literals.read(bits))
            if remaining and len(contents) <= length:
                distance, repeated = distances.read(bits) + 1, lengths.read(bits) + 2
                block = contents[len(contents) - distance :][:repeated]
                contents += (block * (repeated // distance + 1))[:repeated]  # a copy may overlap what it makes
    return contents


class _Bits:
    """Reads bits and bytes; one word is read ahead, of which the place is known only when its bits are needed."""

    def __init__(self, data: bytes):
        self._data, self._place = data + bytes(4), 0  # it reads up to two words more
        self.ahead, self._number = data[0] | data[1] << 8, 16

    def read(self, number: int) -> int:
        """The next bits, up to 16, as an integer."""
        value = self.ahead & ((1 << number) - 1)
        self.ahead >>= number
        self._number -= number
        if self._number < 16:
            self._place += 2
            self._add_word()
        return value

    def copy(self, number: int) -> bytes:
        """The next whole bytes."""
        if number == 0:
            return b""
        copied = self._data[self._place : self._place + number]
        self._place += number
        self._number -= 16
        self.ahead &= (1 << self._number) - 1
        self._add_word()
        return copied

    def _add_word(self):
        self.ahead |= (self._data[self._place] | self._data[self._place + 1] << 8) << self._number
        self._number += 16


class _Codes:
    """A canonical Huffman code of classes; class n > 1 stands for n - 1 more bits under a highest bit of 1."""

    def __init__(self, bits: _Bits):
        widths = [bits.read(4) for _ in range(bits.read(5))]
        widest = max(widths, default=0)
        self._mask = (1 << widest) - 1
        self._found: list[tuple[int, int] | None] = [None] * (1 << widest)  # by the next `widest` bits
        code = 0
        for width in range(1, widest + 1):
            for name in (name for name, own in enumerate(widths) if own == width):
                first = int(f"{code:0{width}b}"[::-1], 2)
                for place in range(first, 1 << widest, 1 << width):
                    self._found[place] = (width, name)
                code += 1
            code <<= 1

    def read(self, bits: _Bits) -> int:
        width, name = self._found[bits.ahead & self._mask]  # type: ignore[misc]  # None: damaged, a TypeError
        bits.read(width)
        return name if name < 2 else 1 << (name - 1) | bits.read(name - 1)


@cache
def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        table.append(value)
    return table


def _crc(data: bytes | bytearray) -> int:
    """CRC-16/ARC."""
    crc, table = 0, _crc_table()
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc
