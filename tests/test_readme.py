"""Each command of the README and of the pages behind it runs as printed, in a folder that has what they speak of.

The project's files, clips and a table of them, HUME_VB (the layout of the release), EMOGATOR (five of its speakers,
or none: then what needs it skips), encoders of the right shape at tiny width in AVB_ENCODERS, and a stub of the Hub.
Trainings get `--max_steps 2` behind what is printed. A command's `main` is called in this process, where no shell, no
launcher and no address of the Hub has a part in it: each command is started as a process of its own in other tests.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import typed
import warm
from conftest import ROOT, require_bf16_of_openvino
from hub_stub import HubStub

PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("predict", "recordings", "training", "paper", "hub", "serving")),
]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
COMMANDS = list(  # each once, however often it is printed
    dict.fromkeys(
        line.split("#")[0].strip()
        for language, block in BLOCKS
        if language == ""
        for line in block.splitlines()
        if line.strip()
    )
)
PYTHON = [block for language, block in BLOCKS if language == "python"]
# The two commands of a fresh machine are what CI and its reader type; the others wait for a person.
NOT_HERE = {
    "make demo": "installs an environment; its commands are tested in test_training.py and test_prediction.py",
    "make test": "is this",
    "make space": "serves until it is stopped; tested in test_demo.py",
    'pip install -e ".[onnx,openvino]"': "the test extra has both",
    "hf auth login": "asks for a token; the stub's is in the environment",
}
LAUNCHER = ["accelerate", "launch"]
TRAINING = ("train_avb.py", "pretrain_avb.py")


@pytest.fixture(scope="module")
def hub():
    with HubStub(organisations=("ORG",)) as stub:
        yield stub


@pytest.fixture(scope="module")
def environment(hub, checkpoints, tmp_path_factory):
    encoders = tmp_path_factory.mktemp("encoders")
    for name, checkpoint in checkpoints.items():
        (encoders / name).symlink_to(checkpoint)
    return hub.environment(tmp_path_factory.mktemp("home")) | {
        "AVB_ENCODERS": str(encoders),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("datasets")),
    }


@pytest.fixture(scope="module")
def workspace(release, tmp_path_factory) -> Path:
    """The folder in which a reader types; `runs/sample` is trained for two steps."""
    folder = tmp_path_factory.mktemp("workspace")
    for item in ROOT.iterdir():
        if not item.name.startswith(".") and item.name not in ("runs", "build", "results"):
            (folder / item.name).symlink_to(item)
    shutil.copytree(ROOT / "results", folder / "results")  # commands write there
    (folder / "HUME_VB").symlink_to(release)
    write_clips(folder)
    return folder


def write_clips(folder: Path):
    rng = np.random.default_rng(0)
    names = ["laugh.wav", "evening.wav", "folder/a.wav", "more/b.flac", *(f"new_clips/{n}.wav" for n in range(3))]
    names += [f"laughs/{speaker}_{n}.wav" for speaker in "abcdefghij" for n in range(6)]
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        sf.write(path, 0.1 * rng.standard_normal(16_000 * (5 if name == "evening.wav" else 1)), 16_000)
    rows = [f"{name},{Path(name).stem[0]},{rng.random():.2f},{rng.random():.2f}" for name in names if "laughs" in name]
    (folder / "clips.csv").write_text("\n".join(["file,speaker,valence,arousal", *rows]) + "\n")


@pytest.fixture(scope="module")
def emogator_folder(workspace) -> bool:
    """EMOGATOR in the workspace: five speakers of each file, where the corpus is at hand."""
    root = os.environ.get("AVB_EMOGATOR")
    if not root:
        return False
    (workspace / "EMOGATOR").mkdir()
    for path in Path(root).glob("*.parquet"):
        table = pq.read_table(path)
        speakers = pc.unique(table["speaker"]).to_pylist()[:5]  # enough for a step of any recipe
        kept = pc.is_in(table["speaker"], pa.array(speakers))
        pq.write_table(table.filter(kept), workspace / "EMOGATOR" / path.name)
    shutil.copy(Path(root) / "category_norms.csv", workspace / "EMOGATOR")
    return True


def call(command: str, workspace: Path, environment: dict) -> bool:
    """Calls the `main` of a command typed in the workspace; False where it needs a process of its own."""
    words = shlex.split(command)
    if words[:2] == LAUNCHER:  # what it would start
        words = ["python", *words[2:]]
    if words[0] != "python" or {"|", "--ray", "--push_to_hub", "push"} & {*words}:
        return False
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        patch.setenv("AVB_ENCODERS", environment["AVB_ENCODERS"])
        typed.call(words)
    return True


def run(command: list[str] | str, workspace: Path, environment: dict) -> subprocess.CompletedProcess:
    settings, source = {"cwd": workspace, "env": environment}, "true"
    if isinstance(command, str) and "| python " in command:
        source, command = command.split(" | ")
    if isinstance(command, str) and command.startswith("python "):
        command = [sys.executable, *shlex.split(command)[1:]]
    shell = ["sh", "-c", source if isinstance(command, list) else command]
    done = subprocess.run(shell, **settings, capture_output=True, text=True, timeout=280)
    if isinstance(command, list):
        done = warm.run(command, **settings, input=done.stdout)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="module")
def sample_model(workspace, environment) -> Path:
    """`make demo` trains it with its first command."""
    assert call("python train_avb.py recipes/sample.yaml --data_dir HUME_VB --max_steps 2", workspace, environment)
    return workspace / "runs" / "sample"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    # A cluster takes long to start; test_bulk_ray.py starts one for a command like this.
    [pytest.param(command, marks=pytest.mark.nightly if "--ray" in command else []) for command in COMMANDS],
)
def test_command(command, workspace, environment, emogator_folder, sample_model):
    program = command.split(" MODELS")[0]
    if program in NOT_HERE:
        pytest.skip(NOT_HERE[program])
    if "EMOGATOR" in command and not emogator_folder:
        pytest.skip("AVB_EMOGATOR does not name a folder with EmoGator's Parquet shards (data/README.md)")
    if "runs/large-bf16" in command:
        require_bf16_of_openvino()
    if any(name in command for name in TRAINING):
        command += " --max_steps 2 --report_to none"
    if "cards push" in command:
        command += " --yes"
    if not call(command, workspace, environment):
        run(command, workspace, environment)


@pytest.mark.nightly
@pytest.mark.parametrize("command", [command for command in COMMANDS if shlex.split(command)[:2] == LAUNCHER])
def test_a_launcher_starts_the_command(command, workspace, environment):
    run(f"{command} --max_steps 2 --report_to none --output_dir runs/launched", workspace, environment)


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON)
def test_python(code, workspace, environment, sample_model, monkeypatch):
    if "trust_remote_code" in code:  # a process, which knows the project by the model's folder alone
        run([sys.executable, "-c", code], workspace, environment)
    else:
        monkeypatch.chdir(workspace)
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def test_every_block_is_one_of_these():
    assert {language for language, _ in BLOCKS} == {"", "python", "text"}
    assert len(COMMANDS) > 15 and len(PYTHON) == 6
    for command in COMMANDS:
        shlex.split(command)


def test_the_readme_fits_two_screens_and_its_links_lead_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    for page in [*PAGES, ROOT / "docs" / "results.md"]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
