"""What an audio file says of its own length, and a second decoder for what libsndfile does not read.

Self-contained code for the Hub, used by `audio_avb.py`; PyAV (`av`, FFmpeg in a wheel) is imported only where a file
needs it. libsndfile shortens most truncated files without a word, so the promise of the header is read here, from the
few bytes of each container that hold it.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

UNKNOWN = -1  # a length that the container leaves open, as of a recording that was written to a pipe
_STREAMED_BYTES = 0x7FFF0000  # a WAV written to a pipe claims at least this much data
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
# No playlists, which name other files.
_AV_FORMATS = "aac,ac3,eac3,aiff,amr,amrnb,amrwb,asf,asf_o,au,caf,flac,g722,matroska,mov,mp3,mpegts,ogg,rm,w64,wav"
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


@dataclass(frozen=True)
class Promise:
    """What a header says.

    Attributes:
        start: byte at which the promised part starts.
        length: its bytes, or UNKNOWN.
        joined: whether more recordings follow the first one, as in a chained Ogg file.
        exact: whether no byte may lack: what is lost of a page is the page.
        unended: whether an Ogg file stops at a page that is not marked as its last.
    """

    start: int
    length: int
    joined: bool = False
    exact: bool = False
    unended: bool = False


def read_promise(file: BinaryIO, size: int) -> Promise | None:
    """The promise of a file of `size` bytes; None where its container states none, or is not known here."""
    head = _at(file, 0, 128)
    magic, form = head[:4], head[8:12]
    if magic in (b"RIFF", b"RIFX", b"RF64") and form == b"WAVE":
        return _riff(file, size, "<" if magic != b"RIFX" else ">")
    if magic == b"FORM" and form in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return _chunks(file, size, 12, ">4sI", (b"SSND", b"BODY"), pad=2)
    if magic == b"caff":
        return _chunks(file, size, 8, ">4sq", (b"data",))
    if magic == b"riff" and head[28:40] == _W64_TAIL:
        return _chunks(file, size, 40, "<16sq", (b"data" + _W64_TAIL,), pad=8, counts_itself=True)
    if magic in (b".snd", b"dns."):
        start, length = struct.unpack_from(">II" if magic == b".snd" else "<II", head.ljust(12, b"\0"), 4)
        return Promise(start, UNKNOWN if length == 0xFFFFFFFF else length)
    if magic == b"2BIT":
        stereo, bits = struct.unpack_from(">HH", head.ljust(128, b"\0"), 12)
        (frames,) = struct.unpack_from(">I", head.ljust(128, b"\0"), 26)
        return Promise(128, frames * (2 if stereo else 1) * bits // 8)
    if head[:7] == b"NIST_1A":
        return _nist(_at(file, 0, 1024))
    if head[:19] == b"Creative Voice File":
        return _voc(file, size, int.from_bytes(head[20:22], "little"))
    if magic[:2] == b"\xf0\x7e" and head[3:4] == b"\x01":
        return _sds(head)
    if magic == b"OggS":
        return _ogg(file, size)
    if magic == b"\x1aE\xdf\xa3":
        return _matroska(_at(file, 0, 4096))
    if head[4:8] in _MP4_BOXES:
        return _boxes(file, size)
    if head[:16] == _ASF_HEADER:
        return _chunks(file, size, 0, "<16sq", (), counts_itself=True)
    return None


def is_joined_mp3(file: BinaryIO, size: int) -> bool:
    """Whether audio follows the end of the MP3 that its first frame (Xing, Info) states."""
    start, head = mp3_head(file)
    mark = max(head.find(b"Xing", 0, 200), head.find(b"Info", 0, 200))
    if mark < 0 or len(head) < mark + 16 or head[0] != 0xFF:
        return False
    (flags,) = struct.unpack_from(">I", head, mark + 4)
    if not flags & 2:
        return False
    (length,) = struct.unpack_from(">I", head, mark + (12 if flags & 1 else 8))
    rest = _at(file, start + length, 8192) if 0 < length < size else b""
    # The same version, layer and rate of samples; a tag of a title (TAG, APETAGEX) has no such frames.
    return len(rest) > 1000 and (rest[:3] == b"ID3" or rest.find(head[:2], 0, 2048) >= 0)


def flac_states_length(file: BinaryIO) -> bool:
    """Whether it is a FLAC that says how many samples it has; one that was written to a pipe says 0."""
    head = mp3_head(file)[1]
    return head[:4] == b"fLaC" and bool(head[21] & 15 or any(head[22:26])) if len(head) >= 26 else head[:4] == b"fLaC"


def mp3_head(file: BinaryIO) -> tuple[int, bytes]:
    """Where an MP3's frames start, behind its tag of titles and pictures, and its first bytes from there."""
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
        return Promise(promise.start, struct.unpack("<Q", _at(file, 28, 8).ljust(8, b"\0"))[0])
    if promise.length >= _STREAMED_BYTES:
        return Promise(promise.start, UNKNOWN)
    if promise.length == 0 and promise.start < size:
        following = _at(file, promise.start, 8)
        is_chunk = len(following) == 8 and following[:4].decode("latin-1").isprintable()
        is_chunk = is_chunk and promise.start + 8 + struct.unpack(f"{order}I", following[4:])[0] <= size
        return promise if is_chunk else Promise(promise.start, UNKNOWN)
    return promise


def _chunks(
    file: BinaryIO, size: int, start: int, layout: str, wanted: tuple, pad: int = 1, counts_itself: bool = False
) -> Promise | None:
    """The first chunk of a wanted name, or the last one there is where none is wanted.

    Args:
        file: open.
        size: its bytes.
        start: of the first chunk.
        layout: of a chunk's head: name, length.
        wanted: names.
        pad: chunks start at multiples of this many bytes.
        counts_itself: whether the length includes the chunk's head.
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
        length = int(fields["sample_count"]) * int(fields["channel_count"]) * int(fields["sample_n_bytes"])
    except (KeyError, IndexError, ValueError):
        return None
    return Promise(start, length) if start > 0 <= length else None


def _sds(head: bytes) -> Promise:
    """MIDI's sample dump: packets of 127 bytes, 120 of them samples of 7 bits a byte."""
    bits, words = head[6], head[10] | head[11] << 7 | head[12] << 14
    return Promise(21, 127 * -(-words // (120 // max(1, -(-bits // 7)))))


def _voc(file: BinaryIO, size: int, start: int) -> Promise | None:
    last = None
    while 0 < start < size and (head := _at(file, start, 4)) and head[0] != 0 and len(head) == 4:
        last = Promise(start + 4, int.from_bytes(head[1:], "little"))
        start = last.start + last.length
    return last


def _boxes(file: BinaryIO, size: int) -> Promise:
    start, last = 0, Promise(0, UNKNOWN)
    while start + 8 <= size:
        length, name = struct.unpack(">I4s", _at(file, start, 8))
        if length == 1:
            length = int.from_bytes(_at(file, start + 8, 8), "big")
        if length < 8:  # 0: to the end of the file
            return Promise(start, UNKNOWN)
        last = Promise(start, length)
        start += length
    return last


def _matroska(head: bytes) -> Promise | None:
    place = head.find(b"\x18\x53\x80\x67") + 4
    if place < 4 or place >= len(head) or not head[place]:
        return None
    width = 9 - head[place].bit_length()
    length = int.from_bytes(head[place : place + width], "big") & ((1 << 7 * width) - 1)
    return Promise(place + width, UNKNOWN if length == (1 << 7 * width) - 1 else length)


def _ogg(file: BinaryIO, size: int) -> Promise | None:
    start, flags, links, was_first = 0, 0, 0, False
    while start < size:
        head = _at(file, start, 27 + 255)
        if head[:4] != b"OggS"[: len(head)]:
            return Promise(0, UNKNOWN, links > 1)  # damaged, or something behind it: for the decoder to say
        if len(head) < 27 or len(head) < 27 + head[26]:
            return Promise(0, size + 1, links > 1, exact=True)  # cut in the head of a page
        flags = head[5]
        links += bool(flags & 2) and not was_first
        was_first = bool(flags & 2)
        start += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return Promise(0, start, links > 1, exact=True, unended=not flags & 4)


class AvBlocks:
    """The samples of a file that PyAV decodes, block by block, averaged over channels.

    Attributes:
        rate: Hz.
        format: FFmpeg's name of the container.
        damaged: whether the last packet could not be decoded.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: no audio that FFmpeg reads.
    """

    def __init__(self, handle: bytes | BinaryIO):
        try:
            import av
        except ImportError as error:
            raise ImportError("pip install av") from error

        self._av: Any = av
        file = os.fsdecode(handle) if isinstance(handle, bytes) else handle
        if not isinstance(file, str):
            file.seek(0)
        # A path is opened by name: file: keeps a colon in it from being taken for a protocol.
        name = f"file:{file}" if isinstance(file, str) else file
        try:
            self._container: Any = av.open(name, metadata_errors="ignore", options={"format_whitelist": _AV_FORMATS})
        except (av.error.FFmpegError, ValueError) as error:
            raise ValueError(getattr(error, "strerror", None) or str(error)) from error
        if not any(stream.codec_context for stream in self._container.streams.audio[:1]):
            self.close()
            raise ValueError("no sound in it, or of an unknown kind")
        self.rate = self._container.streams.audio[0].rate
        self.format = self._container.format.name
        self.damaged = False

    def close(self):
        self._container.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """float32 of shape (samples,), never empty."""
        errors = self._av.error.FFmpegError
        stream, kind = self._container.streams.audio[0], None
        resampler: Any = None
        try:
            for packet in self._container.demux(stream):
                frames = self._decode(packet)
                if self.damaged and frames and packet.size:
                    raise ValueError("a part of it is damaged")
                for frame in frames:
                    new = (frame.rate, frame.format.name, frame.layout.name)
                    if new != kind:  # of a joined file each part may have its own
                        yield from _mono(resampler.resample(None) if resampler else [])
                        resampler, kind = self._av.AudioResampler("fltp", frame.layout, self.rate), new
                    frame.pts = None
                    yield from _mono(resampler.resample(frame))
            yield from _mono(resampler.resample(None) if resampler else [])
        except errors as error:
            raise ValueError(error.strerror) from error

    def _decode(self, packet) -> list:
        try:
            return packet.decode()
        except self._av.error.EOFError:
            return []
        except self._av.error.InvalidDataError:
            self.damaged = True
            return []


def _mono(frames: list) -> Iterator[np.ndarray]:
    for frame in frames:
        if frame.samples:
            yield frame.to_ndarray().mean(axis=0, dtype=np.float32)
