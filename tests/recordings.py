"""Recordings in every container that libsndfile and PyAV write, made here: none is committed."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
import soundfile as sf

RATE = 16_000
# What states no length: it is read to wherever it ends, and a line says so. HTK's length is checked by libsndfile.
UNSTATED = {"IRCAM", "PAF", "PVF", "XI", "adts", "ac3", "mp2", "rm"}
# Container, codec, rate, options of the muxer.
BY_AV = [
    ("ipod", "aac", RATE, {}),
    ("ipod", "alac", RATE, {}),
    ("3gp", "aac", RATE, {}),
    ("adts", "aac", RATE, {}),
    ("webm", "libopus", 48_000, {}),
    ("matroska", "aac", RATE, {}),
    ("caf", "alac", RATE, {}),
    ("caf", "adpcm_ima_qt", RATE, {}),
    ("ac3", "ac3", 32_000, {}),
    ("mp2", "mp2", RATE, {}),
    ("asf", "wmav2", RATE, {}),
    ("wav", "libmp3lame", RATE, {}),
    ("mp3", "libmp3lame", RATE, {}),
    ("wv", "wavpack", RATE, {}),
    ("tta", "tta", RATE, {}),
    ("avi", "pcm_s16le", RATE, {}),
    ("flv", "libmp3lame", 44_100, {}),
    ("rm", "real_144", 8_000, {}),
    ("voc", "pcm_u8", RATE, {}),
    ("3gp", "libopencore_amrnb", 8_000, {}),
    ("amr", "libopencore_amrnb", 8_000, {}),
]


class Recording(NamedTuple):
    """A whole file, and whether its container states how long it is."""

    kind: str
    content: bytes
    states_length: bool


def noise(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """float32 of shape (samples,): a tone in noise, so that no codec makes nothing of it."""
    samples = round(seconds * rate)
    draw = np.random.default_rng(0).uniform(-0.1, 0.1, samples)
    return (draw + 0.4 * np.sin(2 * np.pi * 220 * np.arange(samples) / rate)).astype(np.float32)


def by_libsndfile(seconds: float = 1.0) -> Iterator[Recording]:
    """One for each container, kind of samples and order of bytes that it writes to memory."""
    for container in sf.available_formats():
        for subtype in sf.available_subtypes(container):
            for endian in ("FILE", "BIG", "LITTLE"):
                if container in ("RAW", "SD2") or not sf.check_format(container, subtype, endian):
                    continue
                file = io.BytesIO()
                try:
                    rate = 8000 if container == "WVE" else RATE
                    sf.write(file, noise(seconds, rate), rate, subtype, endian, container)
                except (sf.SoundFileError, ValueError):  # it says it can, and cannot
                    continue
                kind = f"{container} {subtype} {endian}"
                yield Recording(kind, file.getvalue(), container not in UNSTATED)


def by_av(seconds: float = 1.0) -> Iterator[Recording]:
    """One for each of BY_AV whose codec this wheel has."""
    for container, codec, rate, options in BY_AV:
        if codec in av.codecs_available:
            content = encode(container, codec, noise(seconds, rate), rate, options)
            yield Recording(f"{container} {codec}", content, container not in UNSTATED | {"amr"})


def encode(container: str, codec: str, waveform: np.ndarray, rate: int, options: dict | None = None) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = "mono"
        stream.bit_rate = 12_200 if "amr" in codec else 32_000
        stream.codec_context.open()
        kind = stream.codec_context.format.name
        resampler = av.AudioResampler(kind, "mono", rate, frame_size=stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(waveform[None], "fltp", "mono")
        frame.sample_rate = rate
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()
