"""Free recordings, scenes made of them, and a detector trained on scenes: on made-up pieces, no recording is needed."""

import json
import re
import shutil
from itertools import islice

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch

from audio_avb import load_audio
from avb.errors import AvbError
from avb.events import command, evaluation
from avb.events.arguments import read_arguments
from avb.events.detection import load_detector
from avb.events.pool import HELD_OUT_FOLD, Pool, active_regions, build_pool
from avb.events.scenes import SNR_DB, Scenes, SceneSettings
from avb.events.sources import SOURCES, Source, read_sources
from avb.events.training import add_weights, frame_labels
from configuration_events_avb import BurstEventsConfig
from modeling_events_avb import BurstEventsModel

RATE = 16_000


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory):
    """Chirps are bursts, speech is noise that comes and goes, music is chords."""
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for side in ("train", "test"):
        pieces, rows, stop = [], [], 0
        for kind, groups, count, seconds in (
            ("burst", 4, 3, 0.8),
            ("speech", 3, 4, 2.5),
            ("music", 2, 1, 9.0),
            ("sound", 1, 3, 0.5),
        ):
            for number in range(groups * count):
                time = np.arange(int(seconds * RATE)) / RATE
                if kind == "burst":
                    wave = np.sin(2 * np.pi * (400 + 900 * time + 40 * number) * time) * np.hanning(len(time))
                elif kind == "music":
                    wave = sum(np.sin(2 * np.pi * tone * time) for tone in (220, 277, 330)) / 3
                else:
                    wave = rng.normal(0, 0.3, len(time)) * (np.sin(20 * time) > 0)
                pieces.append((wave * 20_000).clip(-32_768, 32_767).astype(np.int16))
                start, stop = stop, stop + len(time)
                group = f"{kind}-{number % groups}"
                rows.append(
                    {
                        "kind": kind,
                        "group": group,
                        "label": "Awe" if kind == "burst" else "",
                        "start": start,
                        "stop": stop,
                    }
                )
        np.concatenate(pieces).tofile(folder / f"pool_{side}.pcm")
        pd.DataFrame(rows).to_csv(folder / f"pool_{side}.csv", index=False)
    return folder


def test_no_language_is_on_both_sides():
    """And every package says its licence and what is in it; a speaker of two packages is on one side."""
    sources = read_sources()
    assert all(source.licence and source.holds and source.files for source in sources)
    assert {(source.kind, source.side) for source in sources} >= {
        (kind, side) for kind in ("speech", "music", "sound") for side in ("train", "test")
    }
    assert all(source.languages for source in sources if source.kind == "speech")
    voices = {part for source in sources for part in source.files.split("/") if "_Allison" in part}
    assert len(voices) == 2
    assert {source.side for source in sources if "_Allison" in source.files} == {"train"}
    for kind in ("music", "sound"):  # no package is divided but by language
        names = [source.package for source in sources if source.kind == kind]
        assert len(names) == len(set(names))


def test_a_language_on_both_sides_is_refused(tmp_path):
    lines = SOURCES.read_text(encoding="utf-8").replace(",test,it,", ",test,es,")
    (tmp_path / "sources.csv").write_text(lines, encoding="utf-8")
    with pytest.raises(AvbError, match="language 'es' is on both sides"):
        read_sources(tmp_path / "sources.csv")


def test_recordings_of_a_source(tmp_path):
    for name in ("sounds/fr/one.ogg", "sounds/fr/two.ogg", "sounds/de/one.ogg", "sounds/it/one.ogg"):
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).touch()
    source = Source("package", "GPL-2+", "speech", "train", ("de", "fr"), "sounds/{language}/*", "words")
    found = [(path.parent.name, path.stem, group) for path, group in source.recordings(tmp_path)]
    assert found == [("de", "one", "de"), ("fr", "one", "fr"), ("fr", "two", "fr")]
    parts = Source("package", "GPL-2+", "speech", "train", ("fr",), "sounds/{part}/*", "words")
    found = [(path.parent.name, path.stem, group) for path, group in parts.recordings(tmp_path)]
    assert found == [
        ("de", "one", "fr de"), ("fr", "one", "fr fr"), ("fr", "two", "fr fr"), ("it", "one", "fr it"),
    ]  # fmt: skip


def test_scenes_are_the_same_every_time_and_hold_what_they_say(pool_folder):
    pool = Pool.load(pool_folder, "train")
    scenes = Scenes(pool, SceneSettings(20.0), seed=3)
    made = list(islice(scenes, 12))
    for number, scene in enumerate(made):
        again = Scenes(pool, SceneSettings(20.0), seed=3)[number]
        np.testing.assert_array_equal(again.waveform, scene.waveform)
        assert again.events == scene.events and len(scene.events) == 2  # six a minute
        assert scene.waveform.shape == (20 * RATE,) and np.abs(scene.waveform).max() <= 1
        for event in scene.events:
            assert 0 <= event.start < event.end <= 20 and event.end - event.start == pytest.approx(0.8, abs=1e-3)
            assert event.speaker.startswith("burst-") and event.label == "Awe"
        first, second = sorted(scene.events, key=lambda event: event.start)
        assert second.start >= first.end + 0.6
    assert {scene.background for scene in made} > {"speech", "noise"}
    assert not np.array_equal(Scenes(pool, SceneSettings(20.0), seed=4)[0].waveform, made[0].waveform)


def test_bursts_lie_0_to_20_db_above_noise(pool_folder):
    pool = Pool.load(pool_folder, "train")
    scenes = Scenes(pool, SceneSettings(20.0, backgrounds={"noise": 1.0}), seed=0)
    ratios = []
    for scene in islice(scenes, 15):
        inside = np.zeros(len(scene.waveform), bool)
        for event in scene.events:
            inside[int(event.start * RATE) : int(event.end * RATE)] = True
        level = np.square(scene.waveform[~inside]).mean()
        for event in scene.events:
            both = np.square(scene.waveform[int(event.start * RATE) : int(event.end * RATE)]).mean()
            ratios.append(10 * np.log10(max(both / level - 1, 1e-3)))
    assert SNR_DB[0] - 4 < min(ratios) < 4 and 16 < max(ratios) < SNR_DB[1] + 4  # noise swells now and then


def test_frame_labels_are_where_the_model_has_frames(pool_folder):
    scene = Scenes(Pool.load(pool_folder, "train"), SceneSettings(10.24, bursts_per_minute=12), seed=0)[0]
    labels = frame_labels(scene.events, len(scene.waveform))
    assert labels.shape == (257,) and labels.sum() == pytest.approx(2 * 0.8 / 0.04, abs=2)
    for event in scene.events:
        middle = round((event.start + event.end) / 2 / 0.04)
        assert labels[middle] == 1 and labels[int(event.start / 0.04) - 1] == 0


def test_active_regions():
    silence, tone = np.zeros(RATE, np.float32), np.sin(np.arange(RATE // 2)).astype(np.float32)
    found = active_regions(np.concatenate([silence, tone, silence[: RATE // 4], tone, silence, tone]))
    seconds = [(round(start / RATE, 2), round(stop / RATE, 2)) for start, stop in found]
    assert seconds == [(1.0, 2.26), (3.24, 3.75)] or seconds == [(1.0, 2.26), (3.24, 3.74)]
    assert active_regions(np.zeros(10, np.float32)) == []


def test_written_scenes(pool_folder, tmp_path, capsys):
    argv = ["scenes", str(tmp_path), "--pool", str(pool_folder), "--scenes", "2", "--seconds", "20"]
    assert command.main(argv) == 0
    table = pd.read_csv(tmp_path / "events.csv")
    assert list(table.columns) == ["recording", "start", "end", "label", "speaker", "background"] and len(table) == 4
    assert sf.info(tmp_path / "scene-00001.wav").duration == 20
    argv[3] = str(tmp_path)
    assert command.main(argv) == 1
    assert "python -m avb.events prepare makes it" in capsys.readouterr().err


def test_the_threshold_is_the_highest_that_costs_little(pool_folder):
    detector, pool = load_detector(), Pool.load(pool_folder, "train")
    best, rows = evaluation.fit_threshold(detector, pool, scenes=2, most_alarms=1e9)
    given_up, _ = evaluation.fit_threshold(detector, pool, scenes=2, most_alarms=1e9, f1_given_up=1.0)
    assert given_up == max(evaluation.THRESHOLDS)
    highest = max(row["f1"] for row in rows)
    assert best == max(row["threshold"] for row in rows if row["f1"] == highest)
    strict, rows = evaluation.fit_threshold(detector, pool, scenes=2, most_alarms=-1.0)
    fewest = min(row["false_alarms_per_hour"] for row in rows)
    assert strict == min(row["threshold"] for row in rows if row["false_alarms_per_hour"] == fewest)


def test_weights_are_added_with_batch_statistics():
    torch.manual_seed(0)
    one, other = (BurstEventsModel(BurstEventsConfig(channels=8)) for _ in range(2))
    other.band_norm.running_mean += 2.0
    expected = {name: 0.75 * value + 0.25 * other.state_dict()[name] for name, value in one.state_dict().items()}
    add_weights(one, other, 0.25)
    assert one.band_norm.running_mean.mean() == pytest.approx(0.5)
    for name, value in one.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


@pytest.mark.slow
def test_training_learns_and_writes_what_is_measured(pool_folder, tmp_path, capsys):
    output = tmp_path / "run"
    argv = ["train", "--pool", str(pool_folder), "--output_dir", str(output), "--channels", "16", "--max_steps", "100"]
    argv += ["--scene_seconds", "5.12", "--batch_size", "4", "--warmup_steps", "5", "--threshold_scenes", "3"]
    assert command.main(argv) == 0
    log = json.loads((output / "training_log.json").read_text())
    assert log["losses"][1]["loss"] < log["losses"][0]["loss"]
    detector = load_detector(output)
    assert detector.config.threshold in evaluation.THRESHOLDS and len(log["thresholds"]) == len(evaluation.THRESHOLDS)
    report = evaluation.evaluate(detector, Pool.load(pool_folder, "test"), scenes=4, noise_minutes=2)
    assert report["scenes"]["references"] == 24
    assert sum(part["references"] for part in report["by_background"].values()) == 24
    hours = report["false_alarms"]
    assert hours["noise"]["hours"] == pytest.approx(2 / 60) and hours["music"]["hours"] > 0
    assert hours["speech"]["hours"] == pytest.approx(12 * 2.9 / 3600, rel=0.01)


def test_a_mined_piece_is_drawn_more_often(pool_folder, emogator, tmp_path):
    """A piece of speech that the detector takes for a burst, because it is one; only training draws it more often."""
    for path in pool_folder.glob("pool_train.*"):
        shutil.copy(path, tmp_path / path.name)
    table = pd.read_csv(tmp_path / "pool_train.csv", keep_default_na=False)
    samples = np.fromfile(tmp_path / "pool_train.pcm", np.int16)
    clip = next(pq.ParquetFile(emogator / "validation-1.parquet").iter_batches(1, columns=["audio"])).to_pylist()[0]
    burst = (load_audio(clip["audio"]["bytes"]) * 20_000).astype(np.int16)
    mined = int(table.index[table["kind"] == "speech"][4])
    table.loc[mined, ["start", "stop"]] = len(samples), len(samples) + len(burst)
    np.concatenate([samples, burst]).tofile(tmp_path / "pool_train.pcm")
    table.to_csv(tmp_path / "pool_train.csv", index=False)
    pool = Pool.load(tmp_path, "train")
    settings = SceneSettings(10.0, varied=True), SceneSettings(10.0)
    before = [Scenes(pool, chosen) for chosen in settings]
    assert command.main(["mine", "emogator-events", "--pool", str(tmp_path)]) == 0
    pool = Pool.load(tmp_path, "train")
    alarms = pool.pieces["alarms"]
    assert alarms[mined] > 0.5 > alarms.drop(mined).max() and (alarms[pool.pieces["kind"] != "speech"] == 0).all()
    after = [Scenes(pool, chosen) for chosen in settings]

    def count(scenes: Scenes) -> int:
        rng = np.random.default_rng(0)
        return sum(scenes._number("speech", rng)[0] == mined for _ in range(600))

    assert 0 < 2 * count(before[0]) < count(after[0])
    np.testing.assert_array_equal(before[1][0].waveform, after[1][0].waveform)


def test_arguments_of_training(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("max_steps: 7\n")
    args = read_arguments(recipe, {"pool": "p", "output_dir": "o", "seed": 3})
    assert (args.max_steps, args.seed, args.batch_size) == (7, 3, 16)
    recipe.write_text("max_stesp: 7\n")
    with pytest.raises(AvbError, match="unknown argument 'max_stesp'; did you mean 'max_steps'"):
        read_arguments(recipe, {})
    for share in ({"start_share": 0.5}, {"start_share": 1.0, "start_from": "emogator-events"}):
        with pytest.raises(AvbError, match="--start_share .*: give a share from 0 to below 1, and --start_from"):
            read_arguments(None, {"pool": "p", "output_dir": "o", **share})
    with pytest.raises(AvbError, match="--output_dir is missing"):
        read_arguments(None, {"pool": "p"})


@pytest.mark.nightly
def test_pools_keep_to_the_folds(emogator, tmp_path):
    """The held-out fold's speakers are on the testing side, no validation speaker on either."""
    from avb.corpora.folds import read_folds
    from avb.events.pool import FOLDS

    for source in read_sources():
        for language in source.languages or ("x",):
            name = source.files.format(language=language, part="x")
            name = name.replace("**/", "").replace("*", "a")
            name = re.sub(r"\[(!?)(\w)[^]]*\]", lambda found: "z" if found[1] else found[2], name)
            path = tmp_path / "negatives" / source.package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path = path if path.suffix else path.with_suffix(".wav")
            if path.suffix != ".g722":
                sf.write(path, np.random.default_rng(0).normal(0, 0.1, RATE), RATE, format="WAV")
            else:
                path.write_bytes(bytes(range(256)) * 40)
    build_pool(emogator, tmp_path / "negatives", tmp_path / "pool", instances=(1,))
    fold_of = read_folds(FOLDS)
    for side in ("train", "test"):
        pieces = Pool.load(tmp_path / "pool", side).pieces
        speakers = set(pieces.loc[pieces["kind"] == "burst", "group"].astype(str))
        assert {fold_of[speaker] == HELD_OUT_FOLD for speaker in speakers} == {side == "test"}
