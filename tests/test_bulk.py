"""`predict_avb.py --output FOLDER`: shards hold what the one table holds, however often the run was broken off."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import warm
from conftest import ROOT
from tiny import save_model

import predict_avb
from avb.errors import AvbError
from avb.inference import shards as bulk
from avb.inference.clips import CorpusClips, PathClips
from avb.inference.scorer import Scorer, is_unreadable
from avb.tasks import TASKS

BAD = ("03.wav", "07.wav", "08.wav")  # with three clips a shard, 06 to 08: one shard has a single good clip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), TASKS["two"])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Eleven clips, three of them bad."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(11):
        samples = 2000 + 1500 * number
        sf.write(folder / f"{number:02d}.wav", 0.5 * np.sin(np.arange(samples) * 0.01 * (number + 1)), 16_000)
    for name in BAD:
        (folder / name).write_text("this is no audio")
    return folder


@pytest.fixture
def command(model, clips, tmp_path):
    return [str(model), str(clips), "--output", str(tmp_path / "scores"), "--shard_clips", "3"]


def read_errors(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [(row["id"], row["error"]) for row in csv.DictReader(file)]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def test_shards_hold_the_rows_of_the_table(command, clips, tmp_path, capsys):
    assert predict_avb.main(command) == predict_avb.EXIT_SKIPPED
    assert predict_avb.main([*command[:2], "--output", str(tmp_path / "scores.parquet")]) == predict_avb.EXIT_SKIPPED
    scores = tmp_path / "scores"
    shards = [pd.read_parquet(scores / f"part-{number:05d}.parquet") for number in range(4)]
    assert [len(shard) for shard in shards] == [3, 2, 1, 2]
    table = pd.read_parquet(tmp_path / "scores.parquet")
    # Batches are made of other clips: scores differ by rounding.
    pd.testing.assert_frame_equal(pd.concat(shards, ignore_index=True), table, atol=2e-6, rtol=0)
    assert table["Valence"].std() > 1e-3
    pd.testing.assert_frame_equal(pd.read_parquet(scores), table, atol=2e-6, rtol=0)  # the folder as one table
    assert json.loads((scores / "_finished.json").read_text()) == {"shards": 4, "scored": 8, "skipped": 3}
    errors = read_errors(tmp_path / "scores.errors.csv")
    assert [name for name, _ in errors] == [str(clips / name) for name in BAD]
    assert errors == read_errors(tmp_path / "scores.parquet.errors.csv")
    assert "3 clips skipped" in capsys.readouterr().err


def test_the_same_command_makes_what_is_missing_and_nothing_else(command, tmp_path, capsys):
    scores = tmp_path / "scores"
    assert predict_avb.main(command) == predict_avb.EXIT_SKIPPED
    whole, errors = contents(scores), read_errors(tmp_path / "scores.errors.csv")

    (scores / "part-00001.parquet").unlink()
    half = whole["part-00002.parquet"][:200]  # what a full disk or a lost machine may leave, under either name
    (scores / ".part-00001.parquet.0123").write_bytes(half)
    (scores / "part-00002.parquet").write_bytes(half)
    untouched = (scores / "part-00003.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert predict_avb.main(command) == predict_avb.EXIT_SKIPPED
    assert "5 of 11 clips are scored already, in 2 shards" in capsys.readouterr().out
    assert contents(scores) == whole and read_errors(tmp_path / "scores.errors.csv") == errors
    assert (scores / "part-00003.parquet").stat().st_mtime_ns == untouched
    assert not list(scores.glob(".*"))

    # Nothing is left to do, and the skipped clips are reported again.
    assert predict_avb.main(command) == predict_avb.EXIT_SKIPPED
    assert "11 of 11 clips are scored already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_command_goes_on(command, tmp_path):
    """SIGKILL as soon as there is a shard."""
    process = warm.start([sys.executable, ROOT / "predict_avb.py", *command[:-1], "1"])
    scores = tmp_path / "scores"
    while not (scores / "part-00000.parquet").exists():
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = contents(scores)
    assert predict_avb.main([*command[:-1], "1"]) == predict_avb.EXIT_SKIPPED
    assert made.items() <= contents(scores).items() and len(contents(scores)) == 11
    assert not list(scores.glob(".*")) and len(read_errors(tmp_path / "scores.errors.csv")) == 3


def test_shards_of_other_clips_are_not_mixed_in(command, clips, tmp_path, capsys):
    scores = tmp_path / "scores"
    assert predict_avb.main(command) == predict_avb.EXIT_SKIPPED
    whole = contents(scores)
    fewer = [command[0], str(clips / "00.wav"), str(clips / "01.wav"), *command[2:]]
    assert predict_avb.main(fewer) == 1
    assert "part-00000.parquet is of another model, other clips" in capsys.readouterr().err
    assert contents(scores) == whole
    assert predict_avb.main([*fewer, "--overwrite"]) == 0
    assert list(pd.read_parquet(scores)["id"]) == fewer[1:3] and len(contents(scores)) == 1
    assert not (tmp_path / "scores.errors.csv").exists()


def test_another_model_is_noticed(command, tmp_path, capsys):
    assert predict_avb.main(command) == predict_avb.EXIT_SKIPPED
    other = save_model(tmp_path / "other", TASKS["two"], pooling="avg")
    assert predict_avb.main([str(other), *command[1:]]) == 1
    assert "of another model" in capsys.readouterr().err


def test_a_parquet_file_of_another_program_is_not_overwritten(command, tmp_path, capsys):
    (tmp_path / "scores").mkdir()
    pd.DataFrame({"mine": [1]}).to_parquet(tmp_path / "scores" / "part-00000.parquet")
    assert predict_avb.main(command) == 1
    assert "part-00000.parquet is of another model" in capsys.readouterr().err
    assert list(pd.read_parquet(tmp_path / "scores").columns) == ["mine"]


def test_a_shard_of_bad_clips_only_has_the_columns_of_the_others(clips, tmp_path):
    model = save_model(tmp_path / "model", TASKS["type"])
    paths = [str(clips / name) for name in (*BAD[:2], "00.wav")]
    output = tmp_path / "scores"
    argv = [str(model), *paths, "--output", str(output), "--shard_clips", "2"]
    assert predict_avb.main(argv) == predict_avb.EXIT_SKIPPED
    empty, full = (pq.read_table(output / f"part-0000{number}.parquet") for number in range(2))
    assert empty.schema.equals(full.schema) and (len(empty), len(full)) == (0, 1)
    assert full.column_names == ["id", "prediction", "confidence", *TASKS["type"].labels]
    assert {str(full.schema.field(name).type) for name in full.column_names[2:]} == {"double"}


def test_a_split_of_a_corpus(sample, tmp_path):
    model = save_model(tmp_path / "model", TASKS["high"])
    corpus = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "high", "--split", "test"]
    assert predict_avb.main([str(model), *corpus, "--output", str(tmp_path / "scores"), "--shard_clips", "7"]) == 0
    assert predict_avb.main([str(model), *corpus, "--output", str(tmp_path / "scores.parquet")]) == 0
    table = pd.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores"), table, atol=2e-6, rtol=0)
    assert len(contents(tmp_path / "scores")) == -(-len(table) // 7) > 1


def test_parts_of_a_corpus_and_of_paths(sample):
    corpus = CorpusClips("hume_vb", str(sample), "high", "test")
    ids = list(corpus.ids())
    part = corpus.part(3, 9).part(2, 4)
    assert list(part.ids()) == ids[5:7] == [clip.id for clip in part.clips()] and part.count() == 2
    assert [clip.read() for clip in part.clips()] == [clip.read() for clip in corpus.clips()][5:7]
    paths = PathClips(["a", "/b", "c"], "/folder").part(0, 2)
    assert [(clip.id, clip.read()) for clip in paths.clips()] == [("a", "/folder/a"), ("/b", "/b")]


def test_a_worker_that_sees_other_clips_is_refused(model, clips, tmp_path):
    """As where a cluster's machines do not share the folder."""
    scorer = Scorer.load(str(model), "cpu", batch_seconds=64, num_workers=1)
    (shard,) = bulk.plan(tmp_path, PathClips([str(clips / "00.wav")]), scorer.key, 10)
    with pytest.raises(AvbError, match="is not the one the run began with"):
        bulk.score_shard(scorer, shard, PathClips([str(clips / "01.wav")]))
    assert not list(tmp_path.iterdir())


def test_a_label_called_error_is_no_unreadable_clip():
    assert is_unreadable({"id": "a", "error": "a: the file is empty"})
    assert not is_unreadable({"id": "a", "error": 0.5}) and not is_unreadable({"id": "a", "awe": 0.5})


def test_missing_shards_are_an_error_at_the_end(model, clips, tmp_path):
    scorer = Scorer.load(str(model), "cpu", batch_seconds=64, num_workers=1)
    paths = PathClips([str(clips / name) for name in ("00.wav", "01.wav")])
    shards = bulk.plan(tmp_path, paths, scorer.key, 1)
    bulk.score_shard(scorer, shards[0], paths.part(0, 1))
    with pytest.raises(AvbError, match=r"1 of 2 shards are missing, such as part-00001.parquet \(clips 1 to 1\)"):
        bulk.finish(tmp_path, shards)
    assert not (tmp_path / bulk.FINISHED_FILE).exists()


def test_a_folder_with_other_files_is_refused(command, clips, tmp_path, capsys):
    shutil.copytree(clips, tmp_path / "scores")
    assert predict_avb.main(command) == 1
    assert "contains other files, such as 00.wav" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strict"], "--strict is for a table of clips"),
        (["--shard_clips", "0"], "must be positive"),
        (["--ray", "--output", "scores.csv"], "--ray is for a folder of shards"),
        (["--ray", "--device", "cuda:1"], "Ray selects the device of each worker"),
        (["--ray", str(ROOT)], "is a path: put --ray after the PATHs"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message, command, capsys):
    with pytest.raises(SystemExit):
        predict_avb.main([*command, *arguments])
    assert message in capsys.readouterr().err


def test_without_ray_one_line_names_the_extra(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import of a package that is not there meets
    assert predict_avb.main([*command, "--ray"]) == 1
    printed = capsys.readouterr().err
    assert printed == 'predict_avb.py: error: ray, which --ray needs, is missing: pip install "avb[scale]"\n'
    assert not (tmp_path / "scores").exists()


@pytest.mark.slow
def test_the_command_loads_neither_ray_nor_datasets_before_they_are_used():
    unused = {"ray", "datasets", "pandas", "avb.corpora", "avb.inference.cluster"}
    code = f"import sys, predict_avb; print({unused} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
