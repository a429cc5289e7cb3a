"""Speakers and classes from file names, on names made up after each corpus's description of its own."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT

from avb.arguments import AvbTrainingArguments, DataArguments
from avb.command_line import parse_arguments
from avb.corpora import load_bursts
from avb.corpora.grouping import units_of
from avb.corpora.patterns import (
    PATTERNS,
    cuts_of_recordings,
    read_classes,
    read_groups,
    read_speakers,
    warn_of_speakers_as_classes,
    without_suffix,
)
from avb.errors import CorpusError
from avb.recipes import recipe_arguments
from avb.training.loading import load_clips

# A name of each corpus as it describes them, and what it says.
NAMES = {
    "asvp-esd": ("actor_12/03-02-06-01-02-12-02-01-01-16", "12", "fear"),
    "crema-d": ("AudioWAV/1001_DFA_ANG_XX", "1001", "anger"),
    "emodb": ("wav/03a01Fa", "03", "happiness"),
    "emogator": ("data/mp3/000010-01-1", "000010", "Adoration"),
    "ravdess": ("Actor_12/03-01-06-01-02-01-12", "12", "fear"),
    "savee": ("DC_su03", "DC", "surprise"),
    "tess": ("OAF_Pleasant_surprise/OAF_back_ps", "OAF", "surprise"),
    "vivae": ("core_set/S01_achievement_low_01", "S01", "achievement"),
    "vocalsound": ("audio_16k/f0003_0_throatclearing", "f0003", "throatclearing"),
}


def test_every_ready_pattern_has_a_name_here():
    assert NAMES.keys() == PATTERNS.keys()


@pytest.mark.parametrize("corpus", NAMES)
def test_ready_patterns(corpus):
    name, speaker, label = NAMES[corpus]
    for spelled in (name, name.rpartition("/")[2]):  # in its folders, or in one with all the clips
        assert read_speakers([spelled], corpus, "here") == [speaker]
        assert read_classes([spelled], corpus, "here") == [label]


def test_an_expression_of_ones_own():
    names = ["anna/laugh1", "ben/cry_2"]
    assert read_speakers(names, "^([^/]+)/", "here") == ["anna", "ben"]
    assert read_classes(names, r"/([a-z]+)_?\d$", "here") == ["laugh", "cry"]
    assert read_groups(["day1_laugh_0", "day1_cry_1"], "^(day.)", "here") == ["day1", "day1"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"--speaker_pattern \(: not a valid regular expression"),
        ("vivea", r"needs one group, such as .* for the first folder; did you mean 'vivae'\?"),
        ("^(x)", r"here: --speaker_pattern \^\(x\) does not match 2 of 3 names, such as anna/laugh1"),
        ("vivae", "does not match 3 of 3 names"),
    ],
)
def test_what_is_said_of_a_pattern_that_does_not_fit(pattern, message):
    with pytest.raises(CorpusError, match=message):
        read_speakers(["anna/laugh1", "ben/cry_2", "x"], pattern, "here")


def test_a_code_that_the_corpus_does_not_know():
    with pytest.raises(CorpusError, match="'09' is not a class of ravdess: 01, 02"):
        read_classes(["03-01-09-01-02-01-12"], "ravdess", "here")


def test_cuts_of_one_recording():
    names = ["laugh_0", "laugh_1", "laugh (2)", "cry_take-1", "scream", "00001", "00002"]
    assert cuts_of_recordings(names) == [["laugh_0", "laugh_1", "laugh (2)"]]
    assert cuts_of_recordings(["a/x_1", "b/x_1", "b/x_2"]) == [["b/x_1", "b/x_2"]]
    assert cuts_of_recordings([f"clip_{number:03d}" for number in range(9)]) == []


# How the files of each corpus lie below its folder: names of speakers and classes (or their codes) are filled in.
TREES = {
    "asvp-esd": ("actor_{0}/03-02-{1}-01-02-{0}-02-01-01-16.wav", "10 11 12 13", "03 06"),
    "crema-d": ("AudioWAV/{0}_DFA_{1}_XX.wav", "1001 1002 1003 1004", "ANG SAD"),
    "emodb": ("wav/{0}a01{1}a.wav", "03 08 09 10", "F W"),
    "emogator": ("data/mp3/{0}-{1}-1.mp3", "000010 000011 000012 000013", "01 03"),
    "ravdess": ("Actor_{0}/03-01-{1}-01-02-01-{0}.wav", "01 02 03 04", "05 08"),
    "savee": ("AudioData/{0}/{1}03.wav", "DC JE JK KL", "d su"),
    "tess": ("{0}_x/{0}_back_{1}.wav", "OAF YAF", "ps angry"),
    "vivae": ("core_set/{0}_{1}_low_01.wav", "S01 S02 S03 S04", "fear pain"),
    "vocalsound": ("audio_16k/{0}_0_{1}.wav", "f0003 m0004 f0005 m0006", "cough throatclearing"),
}


@pytest.mark.parametrize("corpus", PATTERNS)
def test_the_tree_of_each_corpus(corpus, tmp_path):
    template, speakers, codes = TREES[corpus]
    for speaker in speakers.split():
        for code in codes.split():
            path = tmp_path / template.format(speaker, code)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "about.csv").write_text("speaker,age\n1,2\n")  # as some have beside the clips
    (tmp_path / "more.csv").touch()
    if corpus == "tess":  # of two speakers
        with pytest.raises(CorpusError, match="at least 3 speakers \\(or clips\\) are needed"):
            load_bursts("folder", tmp_path, speaker_pattern=corpus, label_pattern=corpus)
        return
    task, splits = load_bursts("folder", tmp_path, speaker_pattern=corpus, label_pattern=corpus)
    classes = PATTERNS[corpus].classes
    assert task.labels == tuple(sorted(classes[code] if classes else code for code in codes.split()))
    found = {name: set(rows["speaker"][:]) for name, rows in splits.items()}
    assert sorted(sum(map(list, found.values()), [])) == sorted(speakers.split())  # none is in two splits
    assert splits.num_rows == {"train": 4, "validation": 2, "test": 2}


NONSPEECH7K = "Filename,File ID,Duration in ms,Class ID,Classname,augmentation id,Augmentation type,source"


@pytest.fixture
def corpora(tmp_path):
    """Trees of made-up clips by the names that docs/training.md gives them."""
    tones = iter(range(1, 999))
    for corpus, folder in (("vivae", "VIVAE"), ("asvp-esd", "ASVP_ESD"), ("vocalsound", "VOCALSOUND")):
        template, speakers, codes = TREES[corpus]
        for name in (template.format(speaker, code) for speaker in speakers.split() for code in codes.split()):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, 0.1 * np.sin(np.arange(800) * 0.01 * next(tones)), 16_000)
    (tmp_path / "NONSPEECH7K" / "train").mkdir(parents=True)
    rows = [NONSPEECH7K]
    for number in range(24):
        name, label = f"{number}.wav", ("breath", "yawn")[number % 2]
        sf.write(tmp_path / "NONSPEECH7K" / "train" / name, 0.1 * np.sin(np.arange(800) * 0.01 * next(tones)), 16_000)
        rows.append(f"{name},recording-{number // 4},50,{number % 2},{label},0,none,freesound")
    (tmp_path / "NONSPEECH7K" / "metadata of train set .csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_the_commands_of_public_corpora_find_their_clips(corpora, monkeypatch):
    commands = re.findall("`python (train_avb.py corpora/.+?)`", (ROOT / "docs" / "training.md").read_text())
    assert {shlex.split(command)[1] for command in commands} == {
        f"corpora/{path.stem}" for path in (ROOT / "recipes" / "corpora").glob("*.yaml")
    }
    monkeypatch.chdir(corpora)
    found = {}
    for command in commands:
        _, recipe, *rest = shlex.split(command)
        _, data_args, args, _ = parse_arguments([recipe, *rest, "--cache_dir", "cache", "--output_dir", recipe])
        Path(recipe).mkdir(parents=True)
        clips = load_clips(data_args, args)
        splits = clips.splits.values()
        speakers = [set(split["speaker"][:]) for split in splits]
        assert sum(map(len, speakers)) == len(set().union(*speakers)) and not clips.bad
        found[recipe] = clips.task.labels, sum(map(len, splits)), data_args.folds
    assert found == {
        "corpora/vivae": (("fear", "pain"), 8, "5"),
        "corpora/asvp-esd": (("fear", "happiness"), 8, None),
        "corpora/vocalsound": (("cough", "throatclearing"), 8, None),
        "corpora/nonspeech7k": (("breath", "yawn"), 24, None),
    }


def test_patterns_in_training_on_clips_without_folders(tmp_path, caplog):
    for number in range(24):
        name = f"{'abcdef'[number % 6]}-{('laugh', 'cry')[number % 2]}-{number // 6}.wav"
        sf.write(tmp_path / name, 0.1 * np.sin(np.arange(800) * 0.01 * (number + 1)), 16_000)
    options = {"label_pattern": r"-(\w+)-", "group_pattern": r"^(\w)-", "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "run").mkdir()
    args = AvbTrainingArguments(output_dir=str(tmp_path / "run"), report_to="none")
    task, splits, *_ = load_clips(DataArguments(data_dir=str(tmp_path), **options), args)
    assert task.labels == ("cry", "laugh") and sum(splits.num_rows.values()) == 24
    groups = [set(rows["group"][:]) for rows in splits.values()]
    assert sum(map(len, groups)) == 6 and "speaker" not in splits["train"].column_names
    assert "splits are made group by group" in caplog.text and "running number" not in caplog.text


def test_a_pattern_may_begin_with_a_dash(capsys):
    recipe = {"label_pattern": r"-(\w+)-", "speaker_pattern": r"^(\w)-"}
    argv = recipe_arguments(recipe, recipe.keys())
    _, data_args, _, command = parse_arguments(argv)
    assert (data_args.label_pattern, data_args.speaker_pattern) == tuple(recipe.values())
    assert command.recipe["label_pattern"] == recipe["label_pattern"]
    with pytest.raises(SystemExit):
        parse_arguments(["--label_pattern", r"-(\w+)-"])
    assert "write a value that begins with - as --NAME=VALUE" in capsys.readouterr().err


def table(folder, *rows: str):
    for row in rows[1:]:
        (folder / row.split(",")[0]).touch()
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


def test_patterns_beside_the_columns_of_a_table(tmp_path):
    rows = [f"s{number % 4}_{('cry', 'laugh')[number % 2]}{number}.wav,x{number},0.5" for number in range(12)]
    path = table(tmp_path, "file,speaker,joy", *rows)
    task, splits = load_bursts("folder", path, speaker_pattern="^(s.)_")
    assert task.labels == ("joy",) and set(splits["train"]["speaker"][:]) < {"s0", "s1", "s2", "s3"}
    task, splits = load_bursts("folder", path, label_pattern="_([a-z]+)")
    assert task.labels == ("cry", "laugh") and set(splits["train"]["speaker"][:]) < {f"x{n}" for n in range(12)}
    for options, message in [
        ({"speaker_pattern": "^(s.)", "speaker_column": "speaker"}, "both give the speakers"),
        ({"label_pattern": "_([a-z]+)", "label_columns": ["joy"]}, "both give the labels"),
        (
            {"group_pattern": "(y)"},
            r"clips.csv: --group_pattern \(y\) does not match 6 of 12 names, such as s1_laugh1;",
        ),
        ({"label_pattern": "^(s)"}, r"1 class \(\['s'\]\); at least two are needed"),
    ]:
        with pytest.raises(CorpusError, match=message):
            load_bursts("folder", path, **options)
    with pytest.raises(CorpusError, match="leave out --label_columns"):
        load_bursts("folder", tmp_path, label_pattern="_([a-z]+)", label_columns=["joy"])
    with pytest.raises(CorpusError, match=r"finds 1 class \(\['s'\]\) in the names of 12 clips"):
        load_bursts("folder", tmp_path, label_pattern="^(s)")


def test_cuts_in_two_splits_are_told_and_a_group_pattern_keeps_them_together(tmp_path, caplog):
    rows = [f"{kind}{n}_{cut}.wav,{kind}" for kind in ("cry", "laugh") for n in "abcde" for cut in range(3)]
    path = table(tmp_path, "file,emotion", *rows)
    load_bursts("folder", path, speaker_column="")
    assert len(caplog.records) == 1 and "differ only in a running number, such as" in caplog.text
    caplog.clear()
    splits = load_bursts("folder", path, speaker_column="", group_pattern=r"^(.+?)[ _.-]*\d*$").splits
    groups = [set(rows["group"][:]) for rows in splits.values()]
    assert not caplog.text and sum(map(len, groups)) == 10 and len(splits) == 3


def test_nothing_is_told_of_numbers_that_are_no_cuts(tmp_path, caplog):
    """One person's clips are never separated, and a corpus whose names are numbers has no groups to keep together."""
    cuts = [f"{n}_{cut}.wav,s{n}{cut},{('cry', 'laugh')[cut % 2]}" for n in "abcde" for cut in range(6)]
    load_bursts("folder", table(tmp_path, "file,speaker,emotion", *cuts))
    numbered = [f"REC_{n}.wav,{('cry', 'laugh')[n % 2]}" for n in range(20)]
    load_bursts(
        "folder", table(tmp_path, "file,emotion", *numbered, "intro.wav,cry", "end.wav,laugh"), speaker_column=""
    )
    assert not caplog.text


def test_what_stays_together():
    ids = ["1", "2", "3", "4", "5", "6"]
    assert units_of(ids) == [f"clip {clip}" for clip in ids]
    assert units_of(ids, ["a", "b", "", "a", "c", ""]) == ["a", "b", "clip 3", "a", "c", "clip 6"]
    # x joins a and b, y the third clip to c; the last stands alone.
    assert units_of(ids, ["a", "b", "", "a", "c", ""], ["x", "x", "y", "", "y", ""]) == [
        *["a", "a", "c", "a", "c", "clip 6"]
    ]
    assert without_suffix("a\\b/c.1.MP3") == "a/b/c.1" and without_suffix("a/b.1") == "a/b.1"


RAVDESS = [f"Actor_{actor:02d}/03-01-0{emotion}-01-02-01-{actor:02d}" for actor in (1, 2, 12) for emotion in (1, 6)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            RAVDESS,
            "its 3 classes are called Actor_01 to Actor_12, as speakers are; if they are, --label_pattern ravdess ",
        ),
        (["S1/a", "S2/b"], "if they are, --label_pattern and --speaker_pattern read classes and speakers"),
        (["F01/a", "M02/b"], "F01 to M02, as speakers are"),
        (["01/a", "02/b"], "01 to 02, as speakers are"),
        (["0/a", "1/b"], None),
        (["class_1/a", "class_2/b"], None),
        (["laugh/1", "cry/2"], None),
        (["laugh1/1", "cry2/2"], None),
    ],
)
def test_classes_called_as_speakers_are(names, said, caplog):
    """A folder per actor is how RAVDESS comes; a model would learn to tell actors apart, with good scores."""
    warn_of_speakers_as_classes([name.partition("/")[0] for name in names], names, "here")
    assert [said in record.message for record in caplog.records] == ([True] if said else [])


def test_the_hint_is_given_of_folders_and_tables_without_a_pattern(tmp_path, caplog):
    for name in RAVDESS * 3:
        for more in range(4):
            path = tmp_path / "clips" / name.replace("-01-02-", f"-0{more}-02-")
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path.with_suffix(".wav"), np.zeros(800), 16_000)
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.wav"))
    rows = [f"{path},{path.split('/')[1]}" for path in paths]
    (tmp_path / "clips.csv").write_text("\n".join(["file,label", *rows]))
    hint = "--label_pattern ravdess --speaker_pattern ravdess reads emotions and speakers"
    for root in ("clips", "clips.csv"):
        caplog.clear()
        load_bursts("folder", tmp_path / root)
        assert sum(hint in record.message for record in caplog.records) == 1
        caplog.clear()
        task, _ = load_bursts("folder", tmp_path / root, label_pattern="ravdess")
        assert task.labels == ("fear", "neutral") and "as speakers are" not in caplog.text
