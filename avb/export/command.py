"""Exports a trained model to ONNX for fast prediction on a CPU, and checks that its scores are the same.

    python -m avb.export runs/mine runs/mine-onnx                                     # ONNX Runtime, fp32
    python -m avb.export runs/mine runs/mine-int8 --precision int8 --clips my_clips/
    python -m avb.export runs/mine runs/mine-bf16 --backend openvino --precision bf16  # the fastest on a recent CPU
    python -m avb.export runs/mine runs/mine --hub                    # runs/mine/onnx/: fp32, fp16 and int8, to push

OUT is a self-contained folder: `model.onnx` (any batch size, any length, masking included), `config.json`,
`preprocessor_config.json`, and `export.json` with the measured differences. It can be used wherever a model's folder is
expected. Before OUT is written, the export is compared with the torch model, on synthetic bursts of 0.025 to 6 s and on
the clips given, each alone and in a padded batch; if a difference exceeds the tolerance, the export is refused. With
--hub, OUT has the layout of the Hub and may be the model's own folder: see avb/export/hub.py.
"""

import argparse

from avb.commands import as_command
from avb.errors import AvbError
from avb.inference.clips import find_paths
from avb.inference.precisions import PRECISIONS, TOLERANCES

MAX_CLIPS = 64  # used for the comparison, evenly spaced among those given


@as_command("avb.export")
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    # Imported here, because --help needs no torch.
    from transformers.utils import logging

    from avb.export.check import print_table
    from avb.export.exporting import export_model
    from avb.export.hub import export_hub

    logging.disable_progress_bar()
    clips = find_clips(args.clips)
    shared = {"tolerance": args.tolerance, "clips": clips, "overwrite": args.overwrite}
    if args.hub:
        if args.precision or args.backend:
            raise AvbError("--hub writes fp32, fp16 and int8 for ONNX Runtime: leave --precision and --backend out")
        for file in export_hub(args.model, args.out, **shared):
            print(file.said)
        return 0
    precision, backend = args.precision or "fp32", args.backend or "onnx"
    differences = export_model(args.model, args.out, backend=backend, precision=precision, **shared)
    print_table(differences)
    print(f"{args.out}: {precision} by {backend}")
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.export",
        usage="%(prog)s MODEL OUT [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder written by train_avb.py, a shipped model, or one on the Hub"
    )
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--backend", choices=PRECISIONS, help="engine that runs the export (default: onnx)")
    parser.add_argument(
        "--precision",
        choices=TOLERANCES,
        help="fp16: weights half the size; int8 with onnx, bf16 with openvino (default: fp32)",
    )
    parser.add_argument("--hub", action="store_true", help="write the Hub's layout: OUT/onnx/ with fp32, fp16 and int8")
    tolerances = ", ".join(f"{value:g} for {precision}" for precision, value in TOLERANCES.items())
    parser.add_argument(
        "--tolerance",
        type=float,
        help=f"largest score difference allowed (default: {tolerances})",
    )
    parser.add_argument(
        "--clips", nargs="+", metavar="PATH", default=[], help="audio files, folders or globs to compare scores on"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is an export")
    return parser.parse_args(argv)


def find_clips(paths: list[str]) -> list[str]:
    """Audio files among files, folders and globs, at most `MAX_CLIPS`, evenly spaced.

    Raises:
        AvbError: there is no audio among them.
    """
    found = find_paths(paths)
    if paths and not found:
        raise AvbError(f"--clips {' '.join(paths)}: no audio files found; check the path")
    if len(found) > MAX_CLIPS:
        print(f"compared on {MAX_CLIPS} of {len(found)} clips")
        found = [found[index * len(found) // MAX_CLIPS] for index in range(MAX_CLIPS)]
    return found
