"""The quickstart runs from its first cell to its last, and ends with a card of what it trained."""

import json
import sys

import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


@pytest.mark.slow
def test_quickstart_goes_from_clips_to_a_card(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for item in ROOT.iterdir():
        if not item.name.startswith(".") and item.name not in ("runs", "build"):
            (tmp_path / item.name).symlink_to(item)
    monkeypatch.setenv("PATH", str(sys.prefix) + "/bin", prepend=":")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    metrics = json.loads((tmp_path / "runs/quickstart/model/metrics.json").read_text())
    card = notebook.cells[-1].outputs[0]["data"]["text/markdown"]
    assert f"{metrics['splits']['test']['ccc']:.3f}" in card
    assert len((tmp_path / "runs/quickstart/scores.csv").read_text().splitlines()) == 241


def test_notebook_is_kept_without_output():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
