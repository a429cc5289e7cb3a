"""`python -m avb.corpora.prepare`: what it writes loads as what it read, once interrupted too."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from audio_avb import AudioPreparation, load_audio
from avb.corpora import load_bursts
from avb.corpora.conversion import prepare
from avb.corpora.decode import decode_splits
from avb.corpora.prepare import main
from avb.corpora.shards import SETTINGS_FILE, TASKS_FILE, encode_flac
from avb.errors import AudioError, CorpusError
from avb.tasks import TASKS


def write_clip(path, rate=48_000, hertz=300.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, 0.2 * np.sin(2 * np.pi * hertz * np.arange(rate // 10) / rate), rate)


@pytest.fixture
def release(tmp_path):
    """Six clips at 48 kHz, all four tasks, test labels withheld."""
    root = tmp_path / "release"
    ids = [f"[{10_000 + i}]" for i in range(6)]
    splits = ["Train", "Train", "Train", "Val", "Val", "Test"]
    for i, clip_id in enumerate(ids):
        write_clip(root / "audio" / "wav" / f"{clip_id[1:-1]}.wav", hertz=300 + 50 * i)
    (root / "labels").mkdir()
    rng = np.random.default_rng(0)
    for name, task in TASKS.items():
        table = pd.DataFrame({"File_ID": ids, "Split": splits, "Subject_ID": list("aabbcc")})
        if name == "type":
            table["Voc_Type"] = ["Gasp", "Laugh", "Cry", "Other", "Pant", None]
        else:
            labels = pd.DataFrame(rng.uniform(size=(6, task.num_labels)).round(4), columns=task.labels)
            labels.iloc[5] = np.nan
            table = pd.concat([table, labels], axis=1)
        # The order of the rows differs from task to task: labels are matched by id.
        table.sample(frac=1, random_state=len(name)).to_csv(root / "labels" / f"{name}_info.csv", index=False)
    return root


def labels_of(splits):
    return {(name, row["id"]): np.float32(row["labels"]) for name, split in splits.items() for row in split}


def assert_same_labels(splits, others):
    expected, found = labels_of(splits), labels_of(others)
    assert expected.keys() == found.keys()
    for key in expected:
        np.testing.assert_array_equal(expected[key], found[key])


@pytest.mark.parametrize("corpus", ["hume_vb", "folder"])
def test_release_loads_the_same_way(tmp_path, release, corpus):
    main(["hume_vb", str(release), str(tmp_path / "out"), "--shard-rows", "2"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    shards = ["test-00000.parquet", "train-00000.parquet", "train-00001.parquet", "validation-00000.parquet"]
    assert names == sorted(["prepare.json", "tasks.json", *shards])
    for name, task in TASKS.items():
        before = load_bursts("hume_vb", release, name)
        after = load_bursts(corpus, tmp_path / "out", name, cache_dir=str(tmp_path / "cache"))
        assert after.task == task
        assert_same_labels(before.splits, after.splits)
        assert set(after.splits["train"].column_names) == {"id", "audio", "labels", "speaker", "duration"}
    row = after.splits["train"][0]
    audio, rate = sf.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
    assert rate == 16_000 and row["duration"] == pytest.approx(0.1) and audio.shape == (1600,)
    assert row["audio"]["path"] == f"{row['id'][1:-1]}.flac"
    expected = load_audio(release / "audio" / "wav" / f"{row['id'][1:-1]}.wav")
    np.testing.assert_allclose(audio, expected, atol=2**-15)
    decoded, bad = decode_splits(after.splits, cache_dir=tmp_path / "decoded")
    assert not bad and decoded["train"][0]["num_samples"] == 1600


def test_a_task_must_be_chosen(tmp_path, release):
    prepare("hume_vb", release, tmp_path / "out", tasks=["two", "type"])
    with pytest.raises(CorpusError, match="give a task. Tasks here: two, type"):
        load_bursts("folder", tmp_path / "out")
    with pytest.raises(CorpusError, match="no task 'tpye'; did you mean 'type'?"):
        load_bursts("folder", tmp_path / "out", "tpye")
    with pytest.raises(CorpusError, match="these are prepared shards"):
        load_bursts("folder", tmp_path / "out", "two", label_columns=["Valence"])


def test_damaged_shards_are_refused(tmp_path, release):
    out = tmp_path / "out"
    prepare("hume_vb", release, out, tasks=["two"])
    tasks, settings = out / TASKS_FILE, out / SETTINGS_FILE

    def refusal(file, text) -> str:
        """What loading says while `file` holds `text`."""
        kept = file.read_bytes()
        file.write_text(text)
        with pytest.raises(CorpusError) as error:
            load_bursts("folder", out)
        file.write_bytes(kept)
        return str(error.value)

    assert "cannot be read as JSON" in refusal(tasks, "{")
    assert "not written by prepare ('columns')" in refusal(tasks, '[{"name": "two"}]')
    assert "not written by prepare" in refusal(settings, "[]")
    assert "prepare was interrupted here" in refusal(settings, '{"finished": false}')
    assert "not a Parquet file" in refusal(out / "train-00000.parquet", "no table")
    shard = pq.read_table(out / "train-00000.parquet")
    audio = pa.array([{"bytes": None, "path": "/etc/passwd"}] * len(shard), shard.schema.field("audio").type)
    place = shard.schema.get_field_index("audio")
    pq.write_table(shard.set_column(place, shard.schema.field("audio"), audio), out / "train-00000.parquet")
    with pytest.raises(CorpusError, match="row 1: its audio has no bytes, only a path, which is not followed"):
        load_bursts("folder", out)
    tasks.unlink()
    with pytest.raises(CorpusError, match="load them as 'emogator'"):
        load_bursts("folder", out)


def test_folder(tmp_path):
    for i in range(10):
        write_clip(tmp_path / "clips" / f"{i}.wav", rate=22_050)
    table = {"file": [f"{i}.wav" for i in range(10)], "joy": np.linspace(1, 7, 10), "speaker": list("aabbccddee")}
    pd.DataFrame(table).to_csv(tmp_path / "clips" / "rated.csv", index=False)
    root, out = tmp_path / "clips", tmp_path / "out"
    main(["folder", str(root), str(out), "--label_range", "1", "7"])
    before = load_bursts("folder", root, label_range=(1, 7))
    after = load_bursts("folder", out, cache_dir=str(tmp_path / "cache"))
    assert after.task == before.task and after.task.label_range == (1, 7)
    assert_same_labels(before.splits, after.splits)
    assert after.splits["train"]["speaker"][:] == before.splits["train"]["speaker"][:]


def test_audiofolder_classes(tmp_path):
    for i in range(6):
        write_clip(tmp_path / "clips" / "laugh" / f"{i}.wav")
        write_clip(tmp_path / "clips" / "cry" / f"{i}.wav")
    prepare("folder", tmp_path / "clips", tmp_path / "out", num_workers=2)
    before = load_bursts("folder", tmp_path / "clips")
    after = load_bursts("folder", tmp_path / "out", cache_dir=str(tmp_path / "cache"))
    assert after.task == before.task and after.task.labels == ("cry", "laugh")
    assert_same_labels(before.splits, after.splits)


def test_emogator_tree(tmp_path):
    for speaker in ("000001", "000005", "000010"):
        for number in (1, 2):
            write_clip(tmp_path / "tree" / "data" / "mp3" / f"{speaker}-0{number}-1.mp3")
    prepare("emogator", tmp_path / "tree", tmp_path / "out", AudioPreparation(trim_top_db=60))
    before = load_bursts("emogator", tmp_path / "tree").splits
    after = load_bursts("emogator", tmp_path / "out", cache_dir=str(tmp_path / "cache")).splits
    assert_same_labels(before, after)
    form = {"audio", "speaker", "category", "instance", "duration"}  # of the shards that load, plus the id
    assert set(pq.read_schema(tmp_path / "out" / "train-00000.parquet").names) == form | {"id"}
    with pytest.raises(CorpusError, match="load them as 'emogator'"):
        load_bursts("folder", tmp_path / "out")


def test_level_and_rate(tmp_path, release):
    prepare("hume_vb", release, tmp_path / "out", AudioPreparation(8000, peak_db=None), tasks=["two"])
    row = load_bursts("hume_vb", tmp_path / "out", "two", cache_dir=str(tmp_path / "cache")).splits["train"][0]
    audio, rate = sf.read(io.BytesIO(row["audio"]["bytes"]))
    assert rate == 8000 and len(audio) == 800
    assert np.abs(audio).max() == pytest.approx(0.2, abs=0.01)


def test_flac_does_not_clip():
    loud = np.array([2.0, -1.0, 0.5], np.float32)
    audio, _ = sf.read(io.BytesIO(encode_flac(loud, 16_000)), dtype="float32")
    np.testing.assert_allclose(audio, loud / 2, atol=1e-4)
    quiet = np.array([3, -5, 32767, -32767], np.float32) / 32768
    np.testing.assert_array_equal(sf.read(io.BytesIO(encode_flac(quiet, 16_000)), dtype="float32")[0], quiet)


# ---------------------------------------------------------------------------------------------------- bad clips


@pytest.mark.slow
def test_bad_clips(tmp_path, release, capsys):
    bad_path = release / "audio" / "wav" / "10001.wav"
    bad_path.write_text("no audio")
    out = tmp_path / "out"
    with pytest.raises(AudioError, match=r"10001\.wav: not audio but text"):
        prepare("hume_vb", release, out, strict=True)
    for _ in range(2):  # the second run skips the finished shards, and still knows
        main(["hume_vb", str(release), str(out), "--shard-rows", "8000"])
        assert "clips left out because they could not be decoded: 1, see" in capsys.readouterr().err
        report = pd.read_csv(out / "bad_clips.csv")
        assert list(report.columns) == ["split", "id", "path", "reason"]
        assert report.iloc[0, :3].tolist() == ["train", "[10001]", str(bad_path)]
    assert len(load_bursts("hume_vb", out, "two", cache_dir=str(tmp_path / "cache")).splits["train"]) == 2
    (release / "audio" / "wav" / "10005.wav").write_text("no audio")
    assert main(["hume_vb", str(release), str(tmp_path / "other")]) == 1
    assert "split 'test': none of its 1 clips can be decoded" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- interruption


def test_resume(tmp_path, release):
    out = tmp_path / "out"
    prepare("hume_vb", release, out, shard_rows=1)
    first = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    kept_time = (out / "train-00000.parquet").stat().st_mtime_ns
    (out / "train-00001.parquet").unlink()
    settings = json.loads((out / "prepare.json").read_text())
    (out / "prepare.json").write_text(json.dumps(settings | {"finished": False}))
    with pytest.raises(CorpusError, match="prepare was interrupted here; run the same command again"):
        load_bursts("hume_vb", out, "two")
    prepare("hume_vb", release, out, shard_rows=1)
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == first
    assert (out / "train-00000.parquet").stat().st_mtime_ns == kept_time
    assert not list(out.glob("*.tmp"))


def test_other_settings_are_refused(tmp_path, release):
    out = tmp_path / "out"
    prepare("hume_vb", release, out)
    with pytest.raises(CorpusError, match="contains shards made with other settings \\(peak_db"):
        prepare("hume_vb", release, out, AudioPreparation(peak_db=-6))
    labels = release / "labels" / "two_info.csv"
    table = pd.read_csv(labels)
    table.loc[table.Split == "Train", "Valence"] = 0.5
    table.to_csv(labels, index=False)
    with pytest.raises(CorpusError, match="contains shards made with other settings \\(inputs"):
        prepare("hume_vb", release, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(CorpusError, match="full: not empty, and not written by prepare"):
        prepare("hume_vb", release, tmp_path / "full")
    with pytest.raises(CorpusError, match="already prepared shards"):
        prepare("hume_vb", out, tmp_path / "twice")
    with pytest.raises(CorpusError, match="shard_rows must be positive"):
        prepare("hume_vb", release, tmp_path / "none", shard_rows=0)


def test_tables_that_disagree(tmp_path, release):
    path = release / "labels" / "two_info.csv"
    path.write_text(path.read_text().replace(",Val,", ",Train,"))
    with pytest.raises(CorpusError, match=r"the label tables disagree: 2 clips .*'\[10003\]'.* task 'two'"):
        prepare("hume_vb", release, tmp_path / "out")


def test_command_errors(tmp_path, capsys):
    (tmp_path / "file").touch()
    write_clip(tmp_path / "clips" / "laugh" / "1.wav")
    write_clip(tmp_path / "clips" / "laugh" / "2.wav")
    write_clip(tmp_path / "clips" / "cry" / "1.wav")
    for argv, said in [
        (["hume_vb", str(tmp_path / "nowhere"), str(tmp_path / "out")], "nowhere: no such folder"),
        (
            ["folder", str(tmp_path), str(tmp_path / "out"), "--option", "label_rang=[1, 7]"],
            "no option 'label_rang'; did you mean 'label_range'",
        ),
        (["folder", str(tmp_path / "clips"), str(tmp_path / "file" / "out")], "Not a directory"),
    ]:
        assert main(argv) == 1
        printed = capsys.readouterr().err
        assert printed.startswith("avb.corpora.prepare: error: ") and said in printed and printed.count("\n") == 1
