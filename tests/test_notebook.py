"""The quickstart runs from its first cell to its last, and ends with a card of what it trained: in CI in this process.

python tests/test_notebook.py     # runs it and keeps what it shows, where something of it has changed
"""

import ast
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
import typed

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
MOST_BYTES = 300_000
# No warning with the path of a package; the commands are those of this Python.
ENVIRONMENT = {
    "PYTHONWARNINGS": "ignore",
    "HF_HUB_OFFLINE": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


def link_project(folder: Path):
    for item in ROOT.iterdir():
        if not item.name.startswith(".") and item.name not in ("runs", "build"):
            (folder / item.name).symlink_to(item)


def execute(folder: Path):
    """The notebook with what its cells show, run in a folder that holds the project's files."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    link_project(folder)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = {"timeout": 250, "record_timing": False, "coalesce_streams": True}
    nbclient.NotebookClient(notebook, **settings, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def shown(notebook: dict) -> list[list[str]]:
    """What each cell of code shows, as text."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    texts = [
        [output.get("text") or list(output.get("data", {}).values()) for output in cell["outputs"]] for cell in cells
    ]
    return [[text if isinstance(text, str) else json.dumps(text) for text in of_cell] for of_cell in texts]


def type_command(command: str):
    """What `!` does, with two steps of a training."""
    typed.call(command, *(["--max_steps", "2", "--report_to", "none"] if "train_avb.py" in command else []))


def run_cell(source: str, names: dict):
    """What the cell's last line shows."""
    source = re.sub(r"^!(.*)$", lambda found: f"type_command({found[1]!r})", source.replace("\\\n", ""), flags=re.M)
    cell, names["shown"] = ast.parse(source), None
    if isinstance(last := cell.body[-1], ast.Expr):
        cell.body[-1] = ast.Assign([ast.Name("shown", ast.Store())], last.value)
    exec(compile(ast.fix_missing_locations(cell), "cell", "exec"), names)
    return names["shown"]


@pytest.mark.slow
def test_quickstart_goes_from_clips_to_a_card(tmp_path, monkeypatch, capsys):
    pytest.importorskip("IPython")
    link_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    names, shown = {"type_command": type_command}, []
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            value = run_cell("".join(cell["source"]), names)
            shown.append((value, capsys.readouterr().out))
            assert value is not None or shown[-1][1]
    metrics = json.loads(Path("runs/quickstart/model/metrics.json").read_text())
    assert f"{metrics['splits']['test']['ccc']:.3f}" in shown[-1][0].data
    assert len(Path("runs/quickstart/scores.csv").read_text().splitlines()) == 241


@pytest.mark.nightly
def test_quickstart_runs_in_a_kernel_as_it_is_printed(tmp_path, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    notebook = execute(tmp_path)
    metrics = json.loads((tmp_path / "runs/quickstart/model/metrics.json").read_text())
    card = notebook.cells[-1].outputs[0]["data"]["text/markdown"]
    assert f"{metrics['splits']['test']['ccc']:.3f}" in card
    assert len((tmp_path / "runs/quickstart/scores.csv").read_text().splitlines()) == 241
    assert all(any(of_cell) for of_cell in shown(notebook))


def test_the_notebook_is_kept_with_what_it_shows_and_without_what_is_of_one_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    cells = shown(json.loads(text))
    assert all(any(of_cell) for of_cell in cells)
    everything = "\n".join(text for of_cell in cells for text in of_cell)
    assert "Traceback" not in everything and "Error" not in everything
    paths = [path for path in re.findall(r"(?<![\w.:/<])/\w+/[\w./-]+", everything) if not path.startswith("/1999/")]
    assert not paths and "\x1b" not in everything


def main():
    os.environ |= ENVIRONMENT
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(Path(folder))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                text = output["text"].replace("\r\n", "\n")  # of a terminal
                output["text"] = re.sub(r"^.*%\|.*\n?", "", text, flags=re.MULTILINE)  # bars
    notebook.metadata["language_info"] = {"name": "python"}
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
