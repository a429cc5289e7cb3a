"""Speakers and classes from file names, on names made up after each corpus's description of its own."""

import pytest

from avb.corpora.patterns import PATTERNS, cuts_of_recordings, read_classes, read_groups, read_speakers
from avb.errors import CorpusError

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
        ("(", r"--speaker_pattern \(: no regular expression"),
        ("vivea", r"needs one group, such as .* for the first folder; did you mean 'vivae'\?"),
        ("^(x)", r"here: --speaker_pattern \^\(x\) does not fit 2 of 3 names, such as anna/laugh1"),
        ("vivae", "does not fit 3 of 3 names"),
    ],
)
def test_what_is_said_of_a_pattern_that_does_not_fit(pattern, message):
    with pytest.raises(CorpusError, match=message):
        read_speakers(["anna/laugh1", "ben/cry_2", "x"], pattern, "here")


def test_a_code_that_the_corpus_does_not_know():
    with pytest.raises(CorpusError, match="'09' is no class of ravdess: 01, 02"):
        read_classes(["03-01-09-01-02-01-12"], "ravdess", "here")


def test_cuts_of_one_recording():
    names = ["laugh_0", "laugh_1", "laugh (2)", "cry_take-1", "scream", "00001", "00002"]
    assert cuts_of_recordings(names) == [["laugh_0", "laugh_1", "laugh (2)"]]
    assert cuts_of_recordings(["a/x_1", "b/x_1", "b/x_2"]) == [["b/x_1", "b/x_2"]]
    assert cuts_of_recordings([f"clip_{number:03d}" for number in range(9)]) == []
