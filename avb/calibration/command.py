"""Fits a model's calibration.json: a temperature, and label sets or intervals with the requested coverage.

    python -m avb.calibration runs/mine clips.csv                        # on the validation split of the run
    python -m avb.calibration emogator-small DIR --corpus emogator

`predict_avb.py MODEL ... --coverage 0.9` then adds label sets or score intervals. Their coverage and size, measured on
speakers left out of the fit, are printed and stored in the file.
"""

import argparse

from avb.commands import as_command
from avb.corpus_arguments import OPTIONS, given_options
from avb.corpus_arguments import add_arguments as add_corpus_arguments


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder written by train_avb.py, where calibration.json is written"
    )
    parser.add_argument("data_dir", metavar="DATA", help="the corpus: a value of --data_dir")
    parser.add_argument("--split", default="validation", help="validation or test; default: validation")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument(
        "--num_decode_workers", type=int, default=2, metavar="N", help="threads that decode audio; default: 2"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first clip that cannot be read")
    add_corpus_arguments(parser, ["corpus", "task", *OPTIONS])
    return parser.parse_args(argv)


@as_command("avb.calibration")
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    from avb.calibration.model import calibrate  # here, so that --help does not import torch

    calibration = calibrate(
        args.model,
        args.data_dir,
        corpus=args.corpus or "folder",
        task=args.task,
        split=args.split,
        device=args.device,
        num_decode_workers=args.num_decode_workers,
        strict=args.strict,
        **given_options(args),
    )
    fitted = calibration.fitted_on
    speakers = f" of {fitted['speakers']} speakers" if fitted["speakers"] else ""
    print(f"fitted on {fitted['clips']} clips{speakers} ({fitted['split']})")
    for name, task in calibration.tasks.items():
        facts = {"temperature": task.temperature} if task.set_thresholds else {}
        shown = ", ".join(f"{key} {value:g}" for key, value in (facts | task.measured).items())
        print(f"{f'{name}: ' if name else ''}{shown or 'too few speakers to measure it on held-out ones'}")
    return 0
