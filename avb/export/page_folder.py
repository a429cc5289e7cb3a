"""Builds the folder of the page that runs models in a visitor's browser; the command is avb/export/page.py.

The page's files are in `web/` in the source tree and in `avb/web_files/` once installed. The folder also contains the
models, exported in the Hub's layout (avb/export/hub.py), and ONNX Runtime Web: its npm package, at the version and hash
pinned in `package-lock.json`, or a folder with its files (--ort_dir).
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from avb.errors import AvbError
from avb.events.detection import load_detector
from avb.events.export import export as export_detector
from avb.export.exporting import copy_calibration, move_folder
from avb.export.hub import WEIGHTS, HubFile, export_hub
from avb.export.weight_storage import store_exact_halves
from avb.files import make_folder, read_json, write_json, write_text
from avb.inference.engines import HUB_FOLDER, REPORT_FILE, import_package
from avb.models import DETECTOR, FOLDER, names
from calibration_avb import CALIBRATION_FILE, RATES

_INSTALLED = Path(__file__).resolve().parents[1] / "web_files"
PAGE = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "web"
NOT_SERVED = ("package.json", "package-lock.json", ".npmrc", "space.md")
MODELS_FILE = "models.json"
EVENTS_FILE = "events.onnx"  # and events.json, which web/models.js reads too
REJECTION = {"rates": RATES, "false_alarms_per_hour": RATES[-1]}  # few bursts may be "probably not a burst"
# For WebAssembly and for WebGPU; a visitor loads one of the two pairs.
RUNTIME_FILES = (
    "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
)  # fmt: skip
NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
NPM_SECONDS = 300
HEADERS = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp"}  # for threads


@dataclass(frozen=True)
class PageModel:
    """A model on the page: its name there, its folder relative to the page's, its files, and its name on the Hub."""

    name: str
    folder: str
    files: list[HubFile]
    is_calibrated: bool
    link: str | None = None

    def entry(self) -> dict:
        """Its entry in models.json."""
        kept = ("precision", "bytes", "max_difference")
        files = [{key: getattr(file, key) for key in kept} for file in self.files if not file.is_left_out]
        facts = {"name": self.name, "folder": self.folder, "link": self.link}
        return {**facts, "is_calibrated": self.is_calibrated, "files": files}


def shipped() -> list[str]:
    """The models that come with the project, the largest first: the page opens the first one."""
    return sorted(names(), key=lambda name: -(FOLDER / name / WEIGHTS).stat().st_size)


def build_page(
    out: str | os.PathLike,
    models: Sequence[str | os.PathLike],
    *,
    ort_dir: str | os.PathLike | None = None,
    detector: str | os.PathLike | None = DETECTOR,
    links: dict[str, str] | None = None,
    title: str = "Emotion in vocal bursts",
    overwrite: bool = False,
) -> list[PageModel]:
    """Writes the page's folder, with a README.md that makes it a static Space.

    Args:
        out: the folder to write; it appears only when complete.
        models: folders, shipped models or names on the Hub. A folder's own export is used if it has one.
        ort_dir: folder of the runtime's files; None: npm downloads them.
        detector: detector of events; None: a page without events.
        links: names on the Hub, by model as given in `models`.
        title: title of the Space.
        overwrite: replace `out` if it is such a page.

    Raises:
        AvbError: `out` exists, a model cannot be exported, two have the same name, or the runtime's files are missing.
    """
    out = Path(out)
    if os.path.lexists(out) and not (overwrite and (out / MODELS_FILE).is_file()):
        raise AvbError(f"{out} exists: give another name{', or --overwrite' * (out / MODELS_FILE).is_file()}")
    make_folder(out.parent)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        page = Path(temporary) / "page"
        shutil.copytree(PAGE, page, ignore=shutil.ignore_patterns(*NOT_SERVED, "node_modules", "__pycache__"))
        copy_runtime(page / "ort", ort_dir)  # first: it fails within seconds
        made = [_add_model(page, model, (links or {}).get(str(model))) for model in models]
        entries = [model.entry() for model in made]
        found = None if detector is None else _add_detector(page, detector)
        write_json(page / MODELS_FILE, {"models": entries, "detector": found, "rejection": REJECTION})
        write_text(page / "README.md", space_card(made, title))
        move_folder(page, out)
    return made


def _add_model(page: Path, source: str | os.PathLike, link: str | None) -> PageModel:
    name = Path(source).resolve().name if Path(source).is_dir() else str(source)
    folder = page / "models" / name.replace("/", "--")
    if folder.exists():
        raise AvbError(f"two models are called {name}: rename a folder, or build two pages")
    own = Path(source) / HUB_FOLDER
    if (own / REPORT_FILE).is_file():
        report = read_json(own / REPORT_FILE, "export the model again")
        files = [HubFile(**file) for file in report["files"]]
        shutil.copytree(own, folder / HUB_FOLDER)
        for settings in ("config.json", "preprocessor_config.json"):
            shutil.copyfile(Path(source) / settings, folder / settings)
        copy_calibration(source, report["weights"], folder)
    else:
        files = export_hub(source, folder)
        for path in folder.glob("*.py"):  # a browser does not run them
            path.unlink()
    is_calibrated = (folder / CALIBRATION_FILE).is_file()
    return PageModel(name, folder.relative_to(page).as_posix(), files, is_calibrated, link)


def _add_detector(page: Path, source: str | os.PathLike) -> dict:
    """Exports a detector into the page's folder; returns its entry in models.json."""
    name = Path(source).name
    path = export_detector(load_detector(source), page / "detectors" / name / EVENTS_FILE)
    store_exact_halves(path)
    return {"name": name, "folder": path.parent.relative_to(page).as_posix(), "bytes": path.stat().st_size}


def copy_runtime(folder: Path, ort_dir: str | os.PathLike | None = None):
    """Puts ONNX Runtime Web's files into a new folder: those of `ort_dir`, or of the pinned npm package.

    Raises:
        AvbError: a file is missing; npm is not installed, or cannot fetch the package.
    """
    with TemporaryDirectory() as temporary:
        source = Path(temporary, "node_modules", "onnxruntime-web", "dist") if ort_dir is None else Path(ort_dir)
        if ort_dir is None:
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(PAGE / name, Path(temporary, name))
            _install(temporary)
        missing = [name for name in RUNTIME_FILES if not (source / name).is_file()]
        if missing:
            raise AvbError(f"{source}: no {', '.join(missing)}; give `dist` of the npm package onnxruntime-web")
        folder.mkdir()
        for name in RUNTIME_FILES:
            shutil.copyfile(source / name, folder / name)


def _install(folder: str):
    way = "or give --ort_dir, `dist` of the package onnxruntime-web"
    try:
        done = subprocess.run(NPM, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS)
    except FileNotFoundError as error:
        raise AvbError(f"npm, which fetches ONNX Runtime Web, is not installed: install Node.js, {way}") from error
    except subprocess.TimeoutExpired as error:
        raise AvbError(f"npm has not fetched ONNX Runtime Web in {NPM_SECONDS} s: try again, {way}") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise AvbError(f"npm cannot fetch ONNX Runtime Web ({reason:.300}): check the network, {way}")


def runtime_version() -> str:
    """The pinned version of ONNX Runtime Web."""
    return json.loads((PAGE / "package.json").read_text(encoding="utf-8"))["dependencies"]["onnxruntime-web"]


def space_card(models: Sequence[PageModel], title: str) -> str:
    """README.md of a static Space: its settings, including the headers that threads need, and its description."""
    jinja2 = import_package("jinja2", "train")
    settings = {
        "title": title,
        "sdk": "static",
        "app_file": "index.html",
        "short_description": "Hears emotion in laughs, cries and screams, in your browser",
        "license": "apache-2.0",
        "models": [model.link for model in models if model.link],
        "custom_headers": HEADERS,
    }
    template = jinja2.Template((PAGE / "space.md").read_text(encoding="utf-8"))
    return template.render(
        front_matter=yaml.safe_dump({key: value for key, value in settings.items() if value}, sort_keys=False).strip(),
        title=title,
        names=" and ".join(model.name for model in models),
        models=[model.entry() for model in models],
        runtime=runtime_version(),
    )
