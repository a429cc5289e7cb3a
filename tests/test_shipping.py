"""A finished run becomes a model that comes with the project, and is found by its name."""

import shutil

import numpy as np
import pytest
from finished_run import make_run
from safetensors.torch import load_file

import avb
from avb import models as shipped
from avb.cards import shipping
from avb.cards.card import write_card
from avb.encoders.names import resolve
from avb.errors import AvbError
from avb.models import locate


@pytest.fixture
def run(tmp_path):
    """A finished run with its card."""
    folder = make_run(tmp_path / "run")
    write_card(folder)
    return folder


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for module in (shipped, shipping):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "models")
    monkeypatch.setattr(shipping, "CARDS", tmp_path)
    return tmp_path


def test_a_run_is_shipped_in_half_precision_with_its_card(run, folders):
    folder = shipping.ship(run, "mini")
    assert {path.name for path in folder.iterdir()} == set(shipping.FILES)
    weights = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values() if tensor.is_floating_point()} == {"torch.float16"}
    assert "ORG/THIS-MODEL" in (run / "README.md").read_text()
    assert "ORG/THIS-MODEL" not in (folders / "mini.md").read_text()
    assert "\n# mini\n" in (folders / "mini.md").read_text() and "- name: mini" in (folders / "mini.md").read_text()
    assert 'avb.load("mini")' in (folders / "mini.md").read_text()
    assert "trust_remote_code" not in (folders / "mini.md").read_text()
    assert shipped.names() == ["mini"]

    clip = {"array": np.random.default_rng(1).standard_normal(16_000).astype(np.float32) / 9, "sampling_rate": 16_000}
    half, full = avb.load("mini")(clip), avb.load(str(run))(clip)
    for one, other in zip(half, full, strict=True):
        assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=shipping.TOLERANCE)
    assert shipping.ship(run, "mini") == folder  # again: replaced


def test_a_folder_of_that_name_comes_first(run, folders, monkeypatch):
    shipping.ship(run, "mini")
    monkeypatch.chdir(folders)
    assert locate("mini") == str(folders / "models" / "mini")
    (folders / "mini").mkdir()
    assert locate("mini") == "mini"
    assert locate("models/mini") == "models/mini"
    with pytest.raises(AvbError, match="minni: no such model; did you mean 'mini'"):  # the Hub is not asked
        locate("minni")


def test_a_mistyped_folder_of_runs_is_no_name_on_the_hub(run, tmp_path, monkeypatch):
    """Without a network the Hub would be asked for more than a minute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert locate("runs/mien") == "runs/mien"  # no folder of models: it may be on the Hub
    shutil.copytree(run, tmp_path / "runs" / "mine")
    for find in (locate, resolve):
        with pytest.raises(AvbError, match="runs/mien: no such folder; did you mean 'mine'\\? In runs there are: mine"):
            find("runs/mien")
        assert find("runs/mine") == "runs/mine" and find("org/avb-high") == "org/avb-high"


def test_what_cannot_be_shipped(run, folders, monkeypatch):
    broken = folders / "broken"
    shutil.copytree(run, broken)
    (broken / "README.md").unlink()
    with pytest.raises(AvbError, match="no README.md; ship a finished run"):
        shipping.ship(broken, "mini")
    monkeypatch.setattr(shipping, "MAX_BYTES", 1000)
    with pytest.raises(AvbError, match="MiB in half precision"):
        shipping.ship(run, "mini")
    assert shipped.names() == []
