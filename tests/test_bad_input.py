"""Bad input, the whole matrix: each case is seen as expected, and docs/bad_input.md says what is seen."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import soundfile as sf
from bad_input import audio, matrix
from conftest import ROOT

from audio_avb import load_audio
from avb.errors import AudioError

MEMORY = """
import resource, sys, tempfile
from pathlib import Path
sys.path[:0] = ["tests", "."]
from audio_avb import load_audio
from bad_input.audio import wav, zeros
folder = Path(tempfile.mkdtemp())
load_audio(wav("warm.wav", rate=48_000)(folder))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
samples = len(load_audio(zeros(600, 192_000, "bomb.flac")(folder)))
print(samples, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.fixture(scope="module")
def seen() -> dict:
    """What is seen of each case, group by group, as it is first asked for."""
    return {}


def test_the_matrix_is_large_and_its_names_differ():
    for cases, _ in matrix.GROUPS.values():
        names = [case.name for case in cases]
        assert len(set(names)) == len(names)
    assert sum(len(cases) for cases, _ in matrix.GROUPS.values()) >= 80


@pytest.mark.parametrize("group", matrix.GROUPS)
def test_every_case_is_seen_as_expected(group, seen):
    seen[group] = list(matrix.observe(group))
    bad = [
        f"{case.name}: expected {case.expected!r}, seen {one!r}" for case, one in seen[group] if not case.is_met_by(one)
    ]
    assert not bad, "\n".join(bad)


def test_the_table_in_docs_says_what_is_seen(seen, tmp_path):
    for group in matrix.GROUPS:
        if group not in seen:
            seen[group] = list(matrix.observe(group))
    matrix.write(tmp_path / "table.md", {group: seen[group] for group in matrix.GROUPS})
    committed = (ROOT / "docs" / "bad_input.md").read_text(encoding="utf-8")
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == committed, "run python -m tests.bad_input"


def test_a_file_without_permission():
    """Root may read all: the test then is nobody while it reads, in a folder that everybody may enter."""
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = audio.wav("secret.wav")(Path(folder))
        path.chmod(0)
        try:
            if me == 0:
                os.seteuid(65_534)
            with pytest.raises(AudioError, match=r"secret.wav: cannot be read \(Permission denied\); check its perm"):
                load_audio(path)
        finally:
            os.seteuid(me)


@pytest.mark.slow
def test_ten_minutes_at_a_high_rate_take_the_memory_of_ten_minutes(tmp_path):
    """A few kilobytes of FLAC; decoded at its own rate before it is resampled it would be 460 MB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, timeout=280)
    samples, megabytes = map(int, done.stdout.split())
    assert samples == 9_600_000 and megabytes < 200, done.stderr


def test_blocks_change_no_sample(tmp_path, monkeypatch):
    """A long clip is resampled block by block, and gives what it gives at once."""
    import librosa

    import decoders_avb

    path = audio.wav("clip.wav", audio.noise(0.7), 44_100, subtype="FLOAT")(tmp_path)
    once = load_audio(path, peak_db=None)
    monkeypatch.setattr(decoders_avb, "_BLOCK_SAMPLES", 1000)
    waveform, _ = sf.read(path, dtype="float32")
    expected = librosa.resample(waveform, orig_sr=44_100, target_sr=16_000, res_type="soxr_hq")
    assert (load_audio(path, peak_db=None) == once).all() and (once == expected).all()
