"""Clips: silent, damaged, mislabelled, enormous; and names that trip programs up."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf
from recordings import by_av

from bad_input.case import Case

RATE = 16_000


def tone(seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """(samples, channels) of a tone, another one in each channel."""
    time = np.arange(round(seconds * rate))[:, None] / rate
    return 0.5 * np.sin(2 * np.pi * 220 * (1 + np.arange(channels)) * time)


def wav(name: str, samples: np.ndarray | None = None, rate: int = RATE, **settings) -> Callable[[Path], Path]:
    """Builds an audio file; the suffix of `name` is its format unless `format` says another."""

    def build(folder: Path) -> Path:
        path = folder / name
        sf.write(path, tone() if samples is None else samples, rate, **settings)
        return path

    return build


def raw(name: str, content: bytes) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def changed(build: Callable[[Path], Path], change: Callable[[bytearray], bytes]) -> Callable[[Path], Path]:
    """A file whose bytes are changed once it is written."""

    def build_changed(folder: Path) -> Path:
        path = build(folder)
        path.write_bytes(change(bytearray(path.read_bytes())))
        return path

    return build_changed


def cut(share: float) -> Callable[[bytearray], bytes]:
    return lambda content: bytes(content[: int(len(content) * share)])


def patch(position: int, *fields: bytes) -> Callable[[bytearray], bytes]:
    def change(content: bytearray) -> bytes:
        new = b"".join(fields)
        content[position : position + len(new)] = new
        return bytes(content)

    return change


def noise(seconds: float = 2.0) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE))


def with_sample(value: float) -> np.ndarray:
    samples = tone()
    samples[123] = value
    return samples


def link(name: str, target: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        os.symlink(target, folder / name)
        return folder / name

    return build


def link_to_clip(folder: Path) -> Path:
    wav("target.wav")(folder)
    return link("link.wav", "target.wav")(folder)


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.wav")
    return folder / "pipe.wav"


def subfolder(folder: Path) -> Path:
    (folder / "folder.wav").mkdir()
    (folder / "folder.wav" / "inside.txt").write_text("no audio")
    return folder / "folder.wav" / "inside.txt"


def zeros(seconds: float, rate: int, name: str) -> Callable[[Path], Path]:
    """A FLAC of silence: minutes of it are a few kilobytes. Written in blocks, as it would not fit otherwise."""

    def build(folder: Path) -> Path:
        with sf.SoundFile(folder / name, "w", rate, 1) as file:
            for start in range(0, round(seconds * rate), 2**20):
                file.write(np.zeros(min(2**20, round(seconds * rate) - start), np.int16))
        return folder / name

    return build


LONG_NAME = "x" * 300 + ".wav"
FLAC_CLAIM = patch(21, b"\x0f\xff\xff\xff\xff")  # 2^36 - 1 samples

CASES = [
    Case("one sample", wav("one.wav", tone()[:1]), "scored"),
    Case("one sample at 48 kHz", wav("one48.wav", tone()[:1], 48_000), "scored"),
    Case("ten minutes", zeros(600, 8_000, "ten.flac"), "scored"),
    Case("ten minutes and a second", zeros(601, 8_000, "ten1.flac"), "skipped: longer than 600 seconds"),
    Case("all zeros", wav("zeros.wav", np.zeros(8000)), "scored"),
    Case("a constant (DC)", wav("dc.wav", np.full(8000, 0.5)), "scored"),
    Case("clipped at full scale", wav("clipped.wav", np.clip(8 * tone(), -1, 1)), "scored"),
    Case("far above full scale (float)", wav("loud.wav", 1e30 * tone(), subtype="FLOAT"), "scored"),
    Case("almost silent (float, 1e-40)", wav("faint.wav", 1e-40 * tone(), subtype="FLOAT"), "scored"),
    Case("NaN", wav("nan.wav", with_sample(np.nan), subtype="FLOAT"), "skipped: sample 123 is NaN or infinite"),
    Case("infinity", wav("inf.wav", with_sample(np.inf), subtype="DOUBLE"), "skipped: sample 123 is NaN or infinite"),
    *[
        Case(f"{rate:,} Hz", wav(f"rate{rate}.wav", tone(0.5, rate), rate), "scored")
        for rate in (1_000, 8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000, 384_000)
    ],
    *[
        Case(f"{channels} channels", wav(f"channels{channels}.wav", tone(channels=channels)), "scored")
        for channels in (2, 3, 6, 8)
    ],
    *[
        Case(f"wav, {subtype}", wav(f"{subtype}.wav", subtype=subtype), "scored")
        for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")
    ],
    *[
        Case(name, wav(f"clip.{name}", format="OGG" if name == "opus" else None), "scored")
        for name in ("flac", "ogg", "mp3", "aiff", "au", "w64")
    ],
    Case("opus", wav("clip.opus", format="OGG", subtype="OPUS"), "scored"),
    Case("mp3 called .wav", wav("mp3.wav", format="MP3"), "scored"),
    Case("wav called .mp3", wav("wav.mp3", format="WAV"), "scored"),
    Case("wav called .raw", wav("wav.raw", format="WAV", subtype="PCM_16"), "skipped: cannot be decoded"),
    Case("wav called .txt", wav("wav.txt", format="WAV"), "scored"),
    Case("name with spaces", wav("a b  c.wav"), "scored"),
    Case("name with a newline", wav("a\nb.wav"), "scored"),
    Case("name in other scripts", wav("笑い-смех-\u0301.wav"), "scored"),
    Case("name with a leading dash", wav("-rf.wav"), "scored"),
    Case("name with quotes and commas", wav("a\"b',c;d.wav"), "scored"),
    Case("name with glob signs", wav("a[1]*?.wav"), "scored"),
    Case("name of a formula", wav("=cmd.wav"), "scored"),
    Case("name too long for a file", lambda folder: folder / LONG_NAME, "skipped: no such file"),
    Case("no such file", lambda folder: folder / "gone.wav", "skipped: no such file"),
    Case("a link to a clip", link_to_clip, "scored"),
    Case("a link to nothing", link("dangling.wav", "nowhere.wav"), "skipped: no such file"),
    Case("a link to itself", link("loop.wav", "loop.wav"), "skipped: no such file"),
    Case("a pipe", pipe, "skipped: not a regular file"),
    Case("a device", link("zero.wav", "/dev/zero"), "skipped: not a regular file"),
    Case("a file that fails when read", link("mem.wav", "/proc/self/mem"), "skipped: cannot be read"),
    Case("0 bytes", raw("empty.wav", b""), "skipped: the file is empty"),
    Case("a header without samples", wav("none.wav", np.zeros(0)), "skipped: contains no samples"),
    Case("header cut after 20 bytes", changed(wav("head.wav"), lambda content: content[:20]), "skipped: truncated"),
    Case("wav cut in half", changed(wav("half.wav"), cut(0.5)), "skipped: truncated"),
    Case("flac cut in half", changed(wav("half.flac", noise()), cut(0.5)), "skipped: truncated"),
    Case("ogg cut in half", changed(wav("half.ogg", noise()), cut(0.5)), "skipped: truncated"),
    Case("mp3 cut in half", changed(wav("half.mp3", noise()), cut(0.5)), "skipped: truncated"),
    Case("mp3 cut after 100 bytes", changed(wav("stub.mp3", noise()), lambda c: c[:100]), "skipped: cannot be decoded"),
    Case("zeros from an interrupted copy", raw("blank.wav", bytes(5000)), "skipped: the file starts with zeros"),
    Case("text called .wav", raw("notes.wav", b"eggs, bread, milk\n" * 9), "skipped: not audio but text"),
    Case("a web page called .mp3", raw("page.mp3", b"<!doctype html><title>404"), "skipped: not audio but text"),
    Case("random bytes", raw("random.wav", np.random.default_rng(0).bytes(5000)), "skipped: cannot be decoded"),
    Case("a zip archive called .wav", raw("zip.wav", b"PK\x03\x04" + bytes(2000)), "skipped: cannot be decoded"),
    Case("m4a without sound", raw("v.m4a", b"\0\0\0\x20ftypM4A " + bytes(2000)), "skipped: cannot be decoded"),
    Case("webm damaged, called .wav", raw("webm.wav", b"\x1aE\xdf\xa3" + bytes(2000)), "skipped: cannot be decoded"),
    *[
        Case(f"{recording.kind}{what}", raw(f"{number}{name}", change(bytearray(recording.content))), expected)
        for number, recording in enumerate(by_av(0.5))
        for what, name, change, expected in (
            ("", "whole", bytes, "scored"),
            (", cut in half", "half", cut(0.5), "skipped: truncated" if recording.states_length else "scored"),
        )
    ],
    *[
        Case(f"{name} cut at 90 %", changed(wav(f"cut.{name}", noise()), cut(0.9)), "skipped: truncated")
        for name in ("rf64", "w64", "aiff", "au", "voc", "nist", "avr", "svx", "caf", "flac", "ogg", "mp3")
    ],
    Case("wav that claims no data", changed(wav("nodata.wav"), patch(40, bytes(4))), "scored"),
    Case("wav 44 bytes short", changed(wav("short.wav"), lambda content: bytes(content[:-44])), "scored"),
    Case("flac of unknown length (a pipe's)", changed(wav("pipe.flac"), patch(22, bytes(4))), "scored"),
    Case("two mp3 in one file", changed(wav("two.mp3", noise()), lambda content: bytes(content * 2)), "scored"),
    Case("two ogg in one file", changed(wav("two.ogg", noise()), lambda content: bytes(content * 2)), "scored"),
    Case(
        "wav that claims 2^31 bytes less 64 KiB",
        changed(wav("claim.wav"), patch(40, struct.pack("<I", 0x7FFE_FFFF))),
        "skipped: truncated",
    ),
    Case("wav of unknown length (a pipe's)", changed(wav("stream.wav"), patch(40, b"\xff" * 4)), "scored"),
    Case("flac that claims 2^36 samples", changed(wav("claim.flac"), FLAC_CLAIM), "skipped: truncated"),
    Case("au that claims 2^32 bytes", changed(wav("claim.au"), patch(8, b"\xff\xff\xff\xfe")), "skipped: truncated"),
    Case("0 Hz", changed(wav("0hz.wav"), patch(24, struct.pack("<I", 0))), "skipped: "),
    Case("2 GHz", changed(wav("2ghz.wav"), patch(24, struct.pack("<I", 2**31 - 1))), "skipped: header says"),
    Case("0 channels", changed(wav("0ch.wav"), patch(22, b"\0\0")), "skipped: cannot be decoded"),
    Case("65,535 channels", changed(wav("65535ch.wav"), patch(22, b"\xff\xff")), "skipped: cannot be decoded"),
    Case("20 seconds at 384 kHz in a few kB", zeros(20, 384_000, "bomb.flac"), "scored"),
    Case("an hour in a few kB", zeros(3600, 8_000, "hour.flac"), "skipped: longer than 600 seconds"),
    Case(
        "damaged, with a newline in its name",
        raw("a\nb2.wav", b"eggs, bread, milk\n" * 9),
        "skipped: a\\nb2.wav: not audio",
    ),
]
