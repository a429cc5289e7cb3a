"""A scoring that is stopped loses nothing that it had computed, and holds only so much audio."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import soundfile as sf
from tiny import save_model

import predict_avb
from audio_avb import AudioError
from avb.inference import decode_ahead, score
from avb.inference.decode_ahead import decoded_chunks
from avb.tasks import TASKS

SECONDS = (0.5, 0.2, 0.9, 0.3, 0.7, 0.4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), TASKS["two"])


@pytest.fixture
def clips(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    (tmp_path / "clips").mkdir()
    for number, seconds in enumerate(SECONDS):
        sf.write(tmp_path / "clips" / f"{number}.wav", noise[: int(seconds * 16_000)], 16_000)
    return tmp_path / "clips"


def test_a_run_stopped_in_the_midst_of_a_chunk_keeps_what_it_computed(model, clips, tmp_path, monkeypatch, capsys):
    (clips / "2a.wav").write_text("no audio")
    output, partial = tmp_path / "scores.csv", tmp_path / "scores.csv.partial"
    argv = [str(model), str(clips), "--output", str(output), "--batch_seconds", "0.01"]  # a batch per clip
    assert predict_avb.main(argv) == predict_avb.EXIT_SKIPPED
    whole, errors = output.read_bytes(), (tmp_path / "scores.csv.errors.csv").read_bytes()
    output.unlink()

    original, computed, stop_at = score.scores_from_logits, [], [2, 5]

    def counted(logits, config):
        if len(computed) in stop_at:
            stop_at.remove(len(computed))
            os.kill(os.getpid(), signal.SIGTERM)
        computed.append(len(logits))
        return original(logits, config)

    monkeypatch.setattr(score, "MAX_BATCH_WORKERS", 1)  # in the main thread, where signals arrive
    monkeypatch.setattr(score, "scores_from_logits", counted)
    capsys.readouterr()
    for kept in (3, 6):  # with the clip that cannot be read
        assert predict_avb.main(argv) == 143
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"predict_avb.py: stopped by SIGTERM; {kept} of 7 clips are kept in {partial}; the same command continues "
            "where it stopped"
        )
        assert len(partial.read_text().splitlines()) == 1 + kept and not output.exists()
    assert predict_avb.main(argv) == predict_avb.EXIT_SKIPPED
    assert "6 of 7 clips are scored already" in capsys.readouterr().out
    assert computed == [1] * len(SECONDS)
    assert output.read_bytes() == whole and (tmp_path / "scores.csv.errors.csv").read_bytes() == errors
    assert not partial.exists()


def test_a_journal_of_an_older_version_is_started_anew(model, clips, tmp_path, capsys):
    """Its rows had no numbers."""
    output, partial = tmp_path / "scores.csv", tmp_path / "scores.csv.partial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avb.inference.journal.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict_avb.main([str(model), str(clips), "--output", str(output)])
    lines = partial.read_text().splitlines()
    partial.write_text("\n".join([lines[0].replace(', "lines": "number, row"', ""), '{"id": "x"}', ""]))
    assert predict_avb.main([str(model), str(clips), "--output", str(output)]) == 0
    assert "already" not in capsys.readouterr().out and len(output.read_text().splitlines()) == 1 + len(SECONDS)


def test_a_chunk_ends_at_so_many_clips_or_seconds(monkeypatch):
    monkeypatch.setattr(decode_ahead, "CHUNK_CLIPS", 5)
    seconds = [*[1] * 7, *[250] * 9, 900, 1, AudioError("text, not audio"), 1, 1, 1]

    def decode(number: int):  # a sample per second
        return seconds[number] if isinstance(seconds[number], AudioError) else np.zeros(seconds[number])

    chunks = list(decoded_chunks(range(len(seconds)), decode, 2, 1))
    assert [[number for number, _ in chunk] for chunk in chunks] == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15], [16], [17, 18, 19, 20, 21]
    ]  # fmt: skip
    found = {number: waveform for chunk in chunks for number, waveform in chunk}
    assert found.pop(18) is seconds.pop(18) and list(map(len, found.values())) == seconds


def test_no_more_audio_than_that_is_decoded_ahead(monkeypatch):
    lock, held, most = threading.Lock(), [0], [0]

    def decode(number: int):
        with lock:
            held[0] += 250
            most[0] = max(most[0], held[0])
        return np.zeros(250)

    total = 0
    for chunk in decoded_chunks(range(60), decode, 2, 1):
        time.sleep(0.02)  # while a model would compute; without a limit, the threads decode all meanwhile
        with lock:
            held[0] -= 250 * len(chunk)
        total += len(chunk)
    chunk, ahead, threads = 750, 750, 2 * 250
    assert total == 60 and 750 < most[0] <= chunk + ahead + threads


def test_what_decoding_raises_is_raised_and_nobody_waits_for_the_rest(monkeypatch):
    monkeypatch.setattr(decode_ahead, "CHUNK_SECONDS", 2.0)

    def decode(number: int):
        if number == 3:
            raise ZeroDivisionError
        return np.zeros(3)

    chunks = decoded_chunks(range(1000), decode, 2, 1)
    assert [number for number, _ in next(chunks)] == [0]
    with pytest.raises(ZeroDivisionError):
        list(chunks)
