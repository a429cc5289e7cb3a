"""Collects the files of a Gradio Space in one folder: the app, and the modules of this project that it imports.

    python demo/make_space.py space_folder
    hf upload USER/avb-demo space_folder . --repo-type space

A Space installs `requirements.txt` before its own files exist, so the project cannot be installed from them. Instead,
its modules are beside `app.py`, where Python finds them first.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from avb.commands import as_command
from avb.errors import AvbError

DEMO = Path(__file__).resolve().parent
ROOT = DEMO.parent
APP_FILES = ("app.py", "answers.py", "examples.py", "figures.py", "README.md", "requirements.txt")
SAMPLE_MAKER = "data/make_sample.py"  # computes the sounds to try


@as_command("make_space.py")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write; it must not exist")
    args = parser.parse_args(argv)
    make_space(args.folder)
    print(f"{args.folder}: ready for hf upload USER/NAME {args.folder} . --repo-type space")
    return 0


def make_space(folder: Path):
    """Writes the Space's files to `folder`, all or none.

    Raises:
        AvbError: the folder exists or cannot be made.
    """
    if folder.exists():
        raise AvbError(f"{folder} exists: give another name, or remove it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            made = Path(temporary) / "space"
            made.mkdir()
            for source in [*(DEMO / name for name in APP_FILES), *ROOT.glob("*_avb.py"), ROOT / "LICENSE"]:
                if source.stem not in ("train_avb", "predict_avb", "pretrain_avb"):
                    shutil.copyfile(source, made / source.name)
            (made / SAMPLE_MAKER).parent.mkdir()
            shutil.copyfile(ROOT / SAMPLE_MAKER, made / SAMPLE_MAKER)
            shutil.copytree(ROOT / "avb", made / "avb", ignore=shutil.ignore_patterns("__pycache__"))
            made.rename(folder)
    except OSError as error:
        raise AvbError(f"{folder}: cannot be written ({error.strerror}): choose another folder") from error


if __name__ == "__main__":
    sys.exit(main())
