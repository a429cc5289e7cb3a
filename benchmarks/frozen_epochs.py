"""Twenty epochs of train_avb.py with a frozen encoder: frames stored on disk, compared with recomputed frames.

    python benchmarks/frozen_epochs.py                                  # tiny, two epochs: does it run?
    python benchmarks/frozen_epochs.py --shape BASE --epochs 20 --clips 64

Wall time from the start of the command to the saved model, including decoding and the single pass of the encoder: every
run has an empty cache. Peer: the same command with `--cache_frames false`, as in the authors' code.
"""

import csv
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from clips import make_folder
from harness import ROOT, Command, alternate, append, argument_parser, compared, prepare, set_up

LABELS = ("valence", "arousal")


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", default="TOY", help="TOY, BASE or LARGE")
    parser.add_argument("--epochs", type=int, default=2, help="epochs (section IV-B: 20)")
    parser.add_argument("--clips", type=int, default=40, help="clips, half of them for validation, as of HUME-VB")
    parser.add_argument("--seconds", type=float, default=2.2, help="length of each clip, s")
    parser.add_argument("--rnn_layers", type=int, default=2, help="LSTM layers (section IV-B: 2; 0: without RNN)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args(argv)
    if args.clips < 32:
        parser.error(f"--clips {args.clips}: give 32 or more, half of which are a training batch of 16")
    row = prepare(args)
    row.benchmark = "frozen_epochs"
    row.setting = (
        f"{args.shape}, {args.epochs} epochs, {args.clips} clips of {args.seconds:g} s, half for validation, "
        f"{args.rnn_layers} LSTM layers, no checkpoints"
    )
    row.peer = "itself with --cache_frames false: the encoder runs in every epoch"
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        set_up(setup_encoder, folder=str(folder / "encoder"), shape=args.shape)
        make_corpus(folder, args.clips, args.seconds)
        ours, peer = (Command(lambda cache=cache: train_command(folder, args, cache)) for cache in ("true", "false"))
        compared(row, *alternate(ours, peer, rounds=args.rounds, warmup=0))
    if args.device.startswith("cuda"):
        row.device += ", and a GPU, whose memory is not counted"
    append(args.results, row)
    return 0


def make_corpus(folder: Path, count: int, seconds: float):
    clips = sorted(make_folder(folder / "clips", count, seconds, seconds).iterdir())
    with open(folder / "clips.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split", *LABELS])
        for number, clip in enumerate(clips):
            split = "validation" if number % 2 == 0 else "train"
            writer.writerow([clip.relative_to(folder), split, number / count, number * 7 % count / count])


def train_command(folder: Path, args, cache_frames: str) -> list[str]:
    shutil.rmtree(folder / "cache", ignore_errors=True)
    options = {
        "data_dir": folder / "clips.csv",
        "encoder": folder / "encoder",
        "encoder_layer": 2 if args.shape == "TOY" else 12,
        "rnn_layers": args.rnn_layers,
        "freeze": "encoder",
        "cache_frames": cache_frames,
        "cache_dir": folder / "cache",
        "output_dir": folder / "run",
        "overwrite": "true",
        "num_train_epochs": args.epochs,
        "learning_rate": 1e-3,
        "save_strategy": "no",  # a checkpoint an epoch costs both sides the same, and is no part of what is compared
        "load_best_model_at_end": "false",
        "report_to": "none",
        "disable_tqdm": "true",
        "use_cpu": "false" if args.device.startswith("cuda") else "true",
    }
    return [
        sys.executable,
        str(ROOT / "train_avb.py"),
        *(str(part) for o in options.items() for part in (f"--{o[0]}", o[1])),
    ]


def setup_encoder(folder: str, shape: str):
    from models import save_stock
    from transformers import Wav2Vec2FeatureExtractor

    save_stock(Path(folder), shape)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return lambda: None


if __name__ == "__main__":
    sys.exit(main())
