"""What pip installs: both distributions hold what they must, and a wheel works where nothing else of the tree is."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from avb import models as shipped
from avb.cards.shipping import FILES

pytestmark = pytest.mark.slow

# Not by `python -m build`, which would fetch hatchling anew.
BUILD = "import sys; from hatchling import build; getattr(build, f'build_{sys.argv[2]}')(sys.argv[1])"
LEFT_OUT = (".[!n]*", "runs", "build", "dist", "*.egg-info", "__pycache__", "sample", "results", "docs")  # not .npmrc
# What the tests need of the environment must not come from outside it: neither this tree nor a user's site-packages.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def build(source: Path, out: Path, kind: str):
    command = [sys.executable, "-c", BUILD, out, kind]
    done = subprocess.run(command, cwd=source, env=CLEAN, check=True, capture_output=True, text=True, timeout=280)
    assert "arning" not in done.stderr, done.stderr  # pip shows them to whoever types `make demo`


def contents(wheel: Path) -> dict[str, str]:
    """Each file of a wheel and the hash of what is in it."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """A folder with the wheel and the source distribution of a copy of this tree, in which nothing was built before."""
    source, out = tmp_path_factory.mktemp("source") / "avb", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for kind in ("wheel", "sdist"):
        build(source, out, kind)
    return out


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (path,) = dist.glob("avb-*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel and what it depends on, but without the tree."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=280)
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder named in a .pth comes after the environment's own, and the .pth files in it, an editable install's among
    # them, are not read.
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))
    path = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", path, "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run([*pip, "--force-reinstall"], check=True, timeout=280)  # or pip finds that of the tests' environment
    return path


def test_a_wheel_holds_the_package_and_nothing_beside_it(wheel):
    files = set(contents(wheel))
    code = {path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*_avb.py"), *(ROOT / "avb").rglob("*.py")]}
    assert code <= files
    assert {"avb/cards/model_card.md", "avb/reports/analysis/report.html"} <= files
    recipes = [*(ROOT / "recipes").rglob("*.yaml"), ROOT / "recipes" / "paper" / "rows.csv"]
    assert {f"avb/recipe_files/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in recipes} <= files
    page = {path.relative_to(ROOT / "web").as_posix() for path in (ROOT / "web").rglob("*") if path.is_file()}
    page = {name for name in page if not name.startswith("node_modules/")}
    assert {"index.html", "audio/wav.js", "package-lock.json", ".npmrc"} <= page
    assert {f"avb/web_files/{name}" for name in page} <= files
    tops = {name.split("/")[0] for name in files}
    assert {top for top in tops if not top.endswith("_avb.py")} == {"avb", f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_both_distributions_have_the_shipped_models(dist, wheel):
    (sdist,) = dist.glob("avb-*.tar.gz")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert "emogator-small" in shipped.names()
    for name in shipped.names():
        expected = {f"avb/models/{name}/{file}" for file in FILES}
        assert expected <= contents(wheel).keys() and expected <= in_sdist


def test_the_source_distribution_builds_the_same_wheel(dist, wheel, tmp_path):
    (sdist,) = dist.glob("avb-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build(source, tmp_path, "wheel")
    assert contents(tmp_path / wheel.name) == contents(wheel)


def test_an_editable_install_is_found_from_the_folder_around_a_clone(tmp_path):
    """There Python takes the clone for a package without `__init__.py`, unless it finds one that has it on its path."""
    shutil.copytree(ROOT, tmp_path / "avb", ignore=shutil.ignore_patterns(*LEFT_OUT))
    build(tmp_path / "avb", tmp_path / "site", "editable")
    (built,) = (tmp_path / "site").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site")
    script = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); import avb; print(avb.__file__)"
    run = [sys.executable, "-S", "-c", script]
    done = subprocess.run(run, cwd=tmp_path, env=CLEAN, capture_output=True, text=True, timeout=280)
    assert done.stdout.strip() == str(tmp_path / "avb" / "avb" / "__init__.py"), done.stderr


def test_an_installed_wheel_scores_a_clip_far_from_the_tree(python, tmp_path):
    noise = np.random.default_rng(1).standard_normal(16_000).astype(np.float32) / 9
    soundfile.write(tmp_path / "clip.wav", noise, 16_000)
    command = ["avb-predict", "emogator-small", "clip.wav", "--output", "scores.csv"]
    run = [python, "-I", python.with_name(command[0]), *command[1:]]
    done = subprocess.run(run, cwd=tmp_path, env=CLEAN, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines())
    labels = json.loads((shipped.FOLDER / "emogator-small" / "config.json").read_text())["id2label"].values()
    scores = {label: float(row[label]) for label in labels}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-4)
    assert row["prediction"] == max(scores, key=lambda label: scores[label])


def test_an_installed_wheel_is_imported_from_where_it_is_installed_and_has_the_recipes(python, tmp_path):
    script = """
import avb, train_avb
print(avb.__file__, train_avb.__file__, avb.load.__name__)
from avb.command_line import parse_arguments
from avb.encoders.filterbank import read_encoder
from avb.reports.paper import read_paper_rows
model, _, args, command = parse_arguments(["emogator/small", "--use_cpu"])
assert "recipe_files" in model.encoder and read_encoder("encoders/tiny.yaml")
print(command.name, args.output_dir, len(read_paper_rows()), sep="|")
"""
    done = subprocess.run([python, "-I", "-c", script], cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    places, recipe = done.stdout.splitlines()
    assert recipe == "emogator/small|runs/small|48"
    package, command, load = places.split()
    site = python.parents[1].resolve() / "lib"
    assert Path(package).resolve().is_relative_to(site) and Path(command).resolve().is_relative_to(site)
    assert load == "load"


@pytest.mark.nightly
def test_an_installed_wheel_trains_a_recipe_by_name_and_predicts(python, sample, tmp_path):
    def run(*command):
        argv = [python, "-I", python.with_name(command[0]), *command[1:]]
        done = subprocess.run(argv, cwd=tmp_path, env=CLEAN, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr

    run("avb-train", "sample", "--data_dir", sample, "--max_steps", "3", "--output_dir", "run")
    run("avb-predict", "run", next((sample / "audio" / "wav").glob("*.wav")), "--output", "scores.csv")
    (row,) = csv.DictReader((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines())
    assert len(row) == 11 and 0 <= float(row["Awe"]) <= 1  # the id, and ten emotions
    recipe = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert recipe["task"] == "high"
