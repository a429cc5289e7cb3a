"""A file of results is there as a whole, or not at all."""

import resource

import pytest

from avb.errors import AvbError
from avb.files import SUFFIXES, write_json, write_table

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
