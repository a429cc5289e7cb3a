"""Reads the length that an audio file declares, and whether another recording is appended to it.

Self-contained code for the Hub, used by `audio_avb.py`. libsndfile silently shortens most truncated files, and reads
only the first of several concatenated recordings. Both cases are therefore detected here, from a few bytes of each
container.
"""

import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

UNKNOWN = -1  # a length that the container does not state, e.g. of a recording written to a pipe
_STREAMED_BYTES = 0x7FFF0000  # a WAV written to a pipe claims at least this much data
_STREAMED_LONG = 2**62  # the same for 64-bit lengths
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


@dataclass(frozen=True)
class Promise:
    """What a header declares.

    Attributes:
        start: byte at which the declared part starts.
        length: its length in bytes, or UNKNOWN.
        exact: whether no byte may be missing; if part of a page is missing, the whole page is lost.
        unended: whether the file ends with a page or fragment that is not marked as the last one.
        repair: if a header declares nothing, a position in it and the bytes that libsndfile should read there instead.
    """

    start: int
    length: int
    exact: bool = False
    unended: bool = False
    repair: tuple[int, bytes] | None = None


def read_promise(file: BinaryIO, size: int) -> Promise | None:
    """Reads the declared length of a file of `size` bytes; None if its container declares none or is unknown here."""
    head = _at(file, 0, 256).ljust(256, b"\0")
    magic, form = head[:4], head[8:12]
    if magic in (b"RIFF", b"RIFX", b"RF64") and form == b"WAVE":
        return _riff(file, size, "<" if magic != b"RIFX" else ">")
    if magic == b"RIFF" and form == b"AVI ":
        (length,) = struct.unpack_from("<I", head, 4)
        return Promise(8, length or UNKNOWN)
    if magic == b"FORM" and form in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        promise = _chunks(file, size, 12, ">4sI", (b"SSND", b"BODY"), pad=2)
        return promise and _open_where_it_lies(file, size, promise, ">I", 8 if form[:3] == b"AIF" else 0)
    if magic == b"caff":
        promise = _chunks(file, size, 8, ">4sq", (b"data",))
        return promise and _open_where_it_lies(file, size, promise, ">q", 4)
    if magic == b"riff" and head[28:40] == _W64_TAIL:
        promise = _chunks(file, size, 40, "<16sq", (b"data" + _W64_TAIL,), pad=8, counts_itself=True)
        return promise and _open_where_it_lies(file, size, promise, "<q", 0)
    if magic in (b".snd", b"dns."):
        start, length = struct.unpack_from(">II" if magic == b".snd" else "<II", head, 4)
        if length == 0 and start < size:
            return Promise(start, UNKNOWN, repair=(8, b"\xff" * 4))
        return Promise(start, UNKNOWN if length == 0xFFFFFFFF else length)
    if magic == b"2BIT":
        stereo, bits = struct.unpack_from(">HH", head, 12)
        (frames,) = struct.unpack_from(">I", head, 26)
        return Promise(128, frames * (2 if stereo else 1) * bits // 8 or UNKNOWN)
    if head[:7] == b"NIST_1A":
        return _nist(_at(file, 0, 1024))
    if head[:19] == b"Creative Voice File":
        return _voc(file, size, int.from_bytes(head[20:22], "little"))
    if magic[:2] == b"\xf0\x7e" and head[3:4] == b"\x01":
        return _sds(head)
    if head[:13] == b"ALawSoundFile":
        return Promise(32, int.from_bytes(head[18:22], "big"))
    if magic[:2] == b"\x01\x04" and head[21] < 2 and size >= 42:  # MPC 2000
        return Promise(42, int.from_bytes(head[30:34], "little") * 2 * (head[21] + 1))
    if magic in (bytes(4), b"\0\0\3\xe8") and head[20:30] == b"samplerate":
        return _mat4(head, ">" if any(magic) else "<")
    if head[:10] == b"MATLAB 5.0":
        promise = _chunks(file, size, 128, ">II" if head[126:128] == b"MI" else "<II", (), pad=8)
        return promise and replace(promise, length=promise.length - 8)  # libsndfile counts too many by this number
    if magic == b"OggS":
        return _ogg(file, size)[0]
    if magic == b"\x1aE\xdf\xa3":
        return _matroska(_at(file, 0, 4096))
    if head[4:8] in _MP4_BOXES:
        return _boxes(file, size)
    if head[:16] == _ASF_HEADER:
        promise = _chunks(file, size, 0, "<16sq", (_ASF_DATA,), counts_itself=True)
        if promise is None or promise.length <= 26:  # 50 with its head: to the end
            return promise and replace(promise, length=UNKNOWN)
        return _chunks(file, size, 0, "<16sq", (), counts_itself=True)
    return None


def end_of_first(file: BinaryIO, size: int) -> int:
    """The end of the first of several concatenated recordings; `size` if there is only one, or the end is unknown.

    Concatenated by `cat`, or as an Ogg chain: RIFF, AIFF, AU, MP4, Ogg, and MP3 whose first frame states its length.
    """
    head = _at(file, 0, 12)
    if head[:4] == b"OggS":
        return _ogg(file, size)[1]
    if head[4:8] == b"ftyp":
        return _boxes_end(file, size)
    if head[:4] in (b"RIFF", b"RIFX", b"FORM") and len(head) == 12:
        (length,) = struct.unpack("<I" if head[:4] == b"RIFF" else ">I", head[4:8])
        end = 8 + length + length % 2
    elif head[:4] == b".snd" and len(head) == 12:
        end = sum(struct.unpack(">II", head[4:12]))
    else:
        return _mp3_end(file, size)
    return end if 12 < end < size and _at(file, end, 4) == head[:4] else size


def _mp3_end(file: BinaryIO, size: int) -> int:
    start, head = mp3_head(file)
    mark = max(head.find(b"Xing", 0, 200), head.find(b"Info", 0, 200))
    if mark < 0 or len(head) < mark + 16 or head[0] != 0xFF:
        return size
    (flags,) = struct.unpack_from(">I", head, mark + 4)
    if not flags & 2:
        return size
    (length,) = struct.unpack_from(">I", head, mark + (12 if flags & 1 else 8))
    end = start + length
    if not 0 < length < size - start:
        return size
    rest = _at(file, end, 8192)
    if rest[:3] == b"TAG":  # the title (128 bytes) of the first one
        end, rest = end + 128, rest[128:]
    if rest[:3] == b"ID3":
        return end
    # A recording follows if there is a frame, followed by another of the same kind, at any rate.
    frame = rest.find(b"\xff", 0, 16)
    kind = rest[frame : frame + 2]
    is_frame = 0 <= frame and len(kind) == 2 and kind[1] & 0xE6 == 0xE2 and len(rest) > 200
    return end if is_frame and rest.find(kind, frame + 4, 4096) >= 0 else size


def flac_states_length(file: BinaryIO) -> bool:
    """Whether it is a FLAC file that states its number of samples; one written to a pipe states 0."""
    head = mp3_head(file)[1]
    return head[:4] == b"fLaC" and bool(head[21] & 15 or any(head[22:26])) if len(head) >= 26 else head[:4] == b"fLaC"


def states_length(file: BinaryIO) -> bool:
    """Whether an MP3 or FLAC file states its number of samples."""
    return flac_states_length(file) or any(mark + bytes(3) in mp3_head(file)[1] for mark in (b"Xing", b"Info"))


def mp3_head(file: BinaryIO) -> tuple[int, bytes]:
    """Where the frames of an MP3 start, after its ID3 tag, and the first bytes from there."""
    tag = _at(file, 0, 10)
    start = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        start = 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])
    return start, _at(file, start, 4096)


def _at(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)


def _riff(file: BinaryIO, size: int, order: str) -> Promise | None:
    promise = _chunks(file, size, 12, f"{order}4sI", (b"data",), pad=2)
    if promise is None:
        return None
    if promise.length == 0xFFFFFFFF and _at(file, 12, 4) == b"ds64":
        (length,) = struct.unpack("<Q", _at(file, 28, 8).ljust(8, b"\0"))
        if 0 < length < _STREAMED_LONG or promise.start >= size:
            return Promise(promise.start, length)
        return Promise(promise.start, UNKNOWN, repair=(28, struct.pack("<Q", size - promise.start)))
    if promise.length >= _STREAMED_BYTES:
        return Promise(promise.start, UNKNOWN)
    return _open_where_it_lies(file, size, promise, f"{order}I", 0)


def _open_where_it_lies(file: BinaryIO, size: int, promise: Promise, layout: str, counted: int) -> Promise:
    """The declared length; UNKNOWN if it is at most `counted` bytes, or impossibly long, although audio follows.

    Args:
        file: open.
        size: its bytes.
        promise: what a chunk's header declares.
        layout: of the chunk's length, which precedes its content.
        counted: bytes of the content that are not audio.
    """
    most = _STREAMED_LONG if struct.calcsize(layout) == 8 else _STREAMED_BYTES
    if promise.length >= most:
        length = struct.pack(layout, min(size - promise.start, most - 1))
        return replace(promise, length=UNKNOWN, repair=(promise.start - len(length), length))
    audio = promise.start + max(0, promise.length)
    if promise.length > counted or audio >= size:
        return promise
    following = _at(file, audio, 8)
    is_chunk = len(following) == 8 and following[:4].decode("latin-1").isprintable()
    if is_chunk and audio + 8 + struct.unpack(f"{layout[0]}I", following[4:])[0] <= size:
        return promise  # an empty recording
    length = struct.pack(layout, size - promise.start) if layout != ">q" else b"\xff" * 8
    return replace(promise, length=UNKNOWN, repair=(promise.start - len(length), length))


def _chunks(
    file: BinaryIO, size: int, start: int, layout: str, wanted: tuple, pad: int = 1, counts_itself: bool = False
) -> Promise | None:
    """Finds the first chunk with a wanted name, or the last chunk if no names are given.

    Args:
        file: open.
        size: its bytes.
        start: of the first chunk.
        layout: of a chunk's header: name, length.
        wanted: names.
        pad: chunks start at multiples of this many bytes.
        counts_itself: whether the length includes the chunk's header.
    """
    head, last = struct.calcsize(layout), None
    while start + head <= size:
        content = _at(file, start, head)
        if len(content) < head:
            break
        name, length = struct.unpack(layout, content)
        length -= head if counts_itself else 0
        if name in wanted:
            return Promise(start + head, length if length >= 0 else UNKNOWN)
        if length < 0:
            break
        last = Promise(start + head, length)
        start += head + length + -length % pad
    return last if last and (not wanted or last.start + last.length > size) else None


def _nist(head: bytes) -> Promise | None:
    words = [line.split() for line in head.decode("latin-1").split("\n")]
    fields = {word[0]: word[2] for word in words if len(word) == 3}
    try:
        start = int(words[1][0])
        samples = int(fields.get("sample_count", 0))
        length = samples * int(fields.get("channel_count", 1)) * int(fields["sample_n_bytes"])
    except (KeyError, IndexError, ValueError):
        return None
    return Promise(start, length or UNKNOWN) if start > 0 <= length else None


def _mat4(head: bytes, order: str) -> Promise | None:
    """The second matrix: the first is the rate."""
    place = 20 + struct.unpack_from(f"{order}I", head, 16)[0] + 8
    if place > 200:
        return None
    kind, rows, columns, _, name = struct.unpack_from(f"{order}5I", head, place)
    width = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}.get(kind // 10 % 10, 1)
    return Promise(place + 20 + name, rows * columns * width)


def _sds(head: bytes) -> Promise:
    """MIDI sample dump: packets of 127 bytes, 120 of which are samples with 7 bits per byte."""
    bits, words = head[6], head[10] | head[11] << 7 | head[12] << 14
    return Promise(21, 127 * -(-words // (120 // max(1, -(-bits // 7)))))


def _voc(file: BinaryIO, size: int, start: int) -> Promise | None:
    last = None
    while 0 < start < size and (head := _at(file, start, 4)) and head[0] != 0 and len(head) == 4:
        last = Promise(start + 4, int.from_bytes(head[1:], "little"))
        start = last.start + last.length
    return last and replace(last, unended=start >= size)  # a byte of 0 marks the end


def _boxes(file: BinaryIO, size: int) -> Promise:
    start, last, names = 0, Promise(0, UNKNOWN), set[bytes]()
    while start + 8 <= size:
        length, name = struct.unpack(">I4s", _at(file, start, 8))
        if length == 1:
            length = int.from_bytes(_at(file, start + 8, 8), "big")
        if length < 8:  # 0: to the end of the file
            return Promise(start, UNKNOWN)
        last = Promise(start, length)
        names.add(name)
        start += length
    # In fragments, as recorded by browsers: an index of them is at the end.
    return replace(last, unended=b"moof" in names and b"mfra" not in names)


def _boxes_end(file: BinaryIO, size: int) -> int:
    start, names = 0, set[bytes]()
    while start + 8 <= size:
        length, name = struct.unpack(">I4s", _at(file, start, 8))
        if name == b"ftyp" and {b"moov", b"mdat"} <= names:
            return start
        names.add(name)
        if length == 1:
            length = int.from_bytes(_at(file, start + 8, 8), "big")
        if length < 8:
            break
        start += length
    return size


def _matroska(head: bytes) -> Promise | None:
    place = head.find(b"\x18\x53\x80\x67") + 4
    if place < 4 or place >= len(head) or not head[place]:
        return None
    width = 9 - head[place].bit_length()
    length = int.from_bytes(head[place : place + width], "big") & ((1 << 7 * width) - 1)
    return Promise(place + width, UNKNOWN if length == (1 << 7 * width) - 1 else length)


def _ogg(file: BinaryIO, size: int) -> tuple[Promise, int]:
    """The length declared by its pages, and the end of the first link of a chain."""
    start, flags, end, was_first = 0, 0, size, True
    while start < size:
        head = _at(file, start, 27 + 255)
        if head[:4] != b"OggS"[: len(head)]:
            return Promise(0, UNKNOWN), end  # damaged, or followed by something: the decoder reports it
        if len(head) < 27 or len(head) < 27 + head[26]:
            return Promise(0, size + 1, exact=True), end  # truncated in the header of a page
        flags = head[5]
        is_first = bool(flags & 2)
        if is_first and not was_first and end == size:
            end = start
        was_first = is_first
        start += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return Promise(0, start, exact=True, unended=not flags & 4), end
