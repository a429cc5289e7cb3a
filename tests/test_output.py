"""A file of results is there as a whole, or not at all."""

import resource

import pytest

from avb.errors import AvbError
from avb.files import SUFFIXES, files_below, locked, write_json, write_table, writing

ROWS = [{"id": f"clip-{number}", "score": number / 7} for number in range(20_000)]
NAMES = [f"table{suffix}" for suffix in SUFFIXES] + ["metrics.json"]


def write(path, rows=ROWS):
    write_json(path, rows) if path.suffix == ".json" else write_table(path, rows, ["id", "score"])


@pytest.fixture
def full_disk():
    """No file may grow past 10 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_what_was_there(name, tmp_path, full_disk):
    path = tmp_path / name
    write(path, ROWS[:3])
    before = path.read_bytes()
    with pytest.raises(AvbError, match=rf"{name}: cannot be written \(.*large.*\): make room"):
        write(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_in_the_way_is_one_clear_error(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(AvbError, match=rf"{name}: cannot be written \(Is a directory\)"):
        write(tmp_path / name)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_two_commands_do_not_write_the_same_file(tmp_path):
    path = tmp_path / "scores.csv.partial"
    with locked(path):
        with pytest.raises(AvbError, match="scores.csv.partial: another command is writing there: wait"), locked(path):
            pass
        path.unlink()
    with locked(path):
        pass


def test_a_file_that_cannot_be_opened_is_one_clear_error(tmp_path):
    with (
        pytest.raises(AvbError, match=r"n{300}: cannot be written \(File name too long\)"),
        locked(tmp_path / ("n" * 300)),
    ):
        pass
    with pytest.raises(AvbError, match=r"full: cannot be written \(No space left on device\)"), writing("full"):
        raise OSError(28, "No space left on device")


def test_a_folder_is_searched_behind_links_too(tmp_path):
    """Clips often lie on another disk; each is found once, by its name without links if it has one."""
    for name in ("top/b/1.wav", "top/c/2.wav", "elsewhere/deep/3.wav", "elsewhere/4.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    top = tmp_path / "top"
    (top / "a").symlink_to(top / "c")
    (top / "b" / "other").symlink_to("../../elsewhere")
    (top / "b" / "5.wav").symlink_to("1.wav")
    (tmp_path / "elsewhere" / "round").symlink_to(top)
    (top / "c" / "up").symlink_to(tmp_path)
    found = sorted(path.relative_to(top).as_posix() for path in files_below(top))
    assert found == ["b/1.wav", "b/5.wav", "b/other/4.wav", "b/other/deep/3.wav", "c/2.wav"]


def test_a_folder_that_cannot_be_listed_is_not_left_out_in_silence(tmp_path):
    with pytest.raises(AvbError, match=r"gone: cannot be listed \(No such file or directory\): change its permissions"):
        list(files_below(tmp_path / "gone"))
