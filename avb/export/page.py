"""Builds the page that runs models in a visitor's browser: a folder for any web server, or for a static Space.

    python -m avb.export.page build/web                        # the shipped models
    python -m avb.export.page build/mine runs/mine org/other   # your own models, side by side
    python -m http.server --directory build/web                # http://localhost:8000

What the folder contains, and where its files come from: avb/export/page_folder.py.
"""

import argparse
import sys

from avb.commands import as_command
from avb.models import DETECTOR, names


@as_command("avb.export.page")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m avb.export.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("models", metavar="MODEL", nargs="*", help=f"models to show (default: {' and '.join(names())})")
    parser.add_argument("--ort_dir", help="folder `dist` of the npm package onnxruntime-web; default: npm downloads it")
    parser.add_argument(
        "--detector", default=DETECTOR, help=f"detector of events: a name, a folder, or none (default: {DETECTOR})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is such a page")
    args = parser.parse_args(argv)
    from transformers.utils import logging

    from avb.export.page_folder import build_page, shipped

    logging.disable_progress_bar()
    detector = None if args.detector == "none" else args.detector
    models = build_page(
        args.out, args.models or shipped(), ort_dir=args.ort_dir, detector=detector, overwrite=args.overwrite
    )
    for model in models:
        for file in model.files:
            print(f"{model.name}: {file.said}")
    print(f"python -m http.server --directory {args.out}    # then http://localhost:8000")
    return 0


if __name__ == "__main__":
    sys.exit(main())
