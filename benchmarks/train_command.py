"""The whole training command, compared with the plain Transformers recipe: same clips, encoder and epochs.

    python benchmarks/train_command.py                                       # 48 clips: does it run?
    python benchmarks/train_command.py --clips 2000 --epochs 5               # a small encoder
    python benchmarks/train_command.py --shape LARGE --clips 2000 --epochs 3 --device cuda

Both are timed as whole processes up to the saved model: decoding, training, a validation per epoch. Ours is
`train_avb.py` on a table of clips with its default choices and empty caches. Peer: the audio-classification example of
Transformers, `AutoModelForAudioClassification` with a frozen front end and the stock Trainer with its defaults (fp32,
AdamW, no loader workers, clips in random order padded to the longest of the batch), with soundfile as the decoder.
Clips are noise bursts of mixed length in four classes, a tenth of them for validation.
"""

import csv
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from clips import make_folder
from harness import ROOT, Command, alternate, append, argument_parser, compared, prepare, set_up

CLASSES = ("gasp", "laugh", "moan", "sigh")
BATCH = 16


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", default="small", help="small (recipes/encoders/small.yaml), TOY, BASE or LARGE")
    parser.add_argument("--clips", type=int, default=48, help="number of clips")
    parser.add_argument("--epochs", type=int, default=1, help="of both")
    parser.add_argument("--shortest", type=float, default=0.3, help="shortest clip, s")
    parser.add_argument("--longest", type=float, default=6.0, help="longest clip, s")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args(argv)
    row = prepare(args)
    row.benchmark, row.peer = "train_command", "stock Trainer and AutoModelForAudioClassification, defaults"
    row.setting = (
        f"{args.shape} encoder, {args.clips} wav clips of {args.shortest:g} to {args.longest:g} s, "
        f"{args.epochs} epochs, batch {BATCH}, on {args.device}"
    )
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if args.device == "cuda" else ""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        set_up(setup_encoder, folder=str(folder / "encoder"), shape=args.shape)
        write_table(folder, make_folder(folder / "clips", args.clips, args.shortest, args.longest))
        ours = Command(lambda: ours_command(folder, args.epochs))
        peer = Command(lambda: [sys.executable, __file__, "--peer", str(folder), str(args.epochs)])
        compared(row, *alternate(ours, peer, rounds=args.rounds, warmup=0))
        check_trained(folder)
    if args.device.startswith("cuda"):
        row.device += ", and a GPU, whose memory is not counted"
    append(args.results, row)
    return 0


def write_table(folder: Path, clips: Path):
    with open(folder / "clips.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split"])
        for number, path in enumerate(sorted(clips.iterdir())):
            split = "validation" if number % 10 == 9 else "train"
            writer.writerow([path.relative_to(folder), CLASSES[number % len(CLASSES)], split])


def ours_command(folder: Path, epochs: int) -> list[str]:
    shutil.rmtree(folder / "cache", ignore_errors=True)
    settings = {
        "data_dir": folder / "clips.csv", "encoder": folder / "encoder", "output_dir": folder / "ours",
        "cache_dir": folder / "cache", "num_train_epochs": epochs, "per_device_train_batch_size": BATCH,
        "overwrite": "true",
    }  # fmt: skip
    return [sys.executable, str(ROOT / "train_avb.py"), *(f"--{name}={value}" for name, value in settings.items())]


def check_trained(folder: Path):
    """Raises where a side left no model."""
    for name in ("ours", "peer"):
        if not (folder / name / "model.safetensors").exists():
            raise RuntimeError(f"{name} saved no model")


def setup_encoder(folder: str, shape: str):
    import torch
    from models import SHAPES, small_fields
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    fields = small_fields() if shape == "small" else SHAPES[shape][0]
    config = Wav2Vec2Config(**fields, num_labels=len(CLASSES))
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return lambda: None


def run_peer(folder: str, epochs: str):
    """What a user of the stock example runs."""
    import soundfile
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments

    root = Path(folder)
    extractor = AutoFeatureExtractor.from_pretrained(root / "encoder")
    with open(root / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    splits = {name: [row for row in rows if row["split"] == name] for name in ("train", "validation")}

    def collate(rows: list[dict]) -> dict:
        waveforms = [soundfile.read(root / row["file"], dtype="float32")[0] for row in rows]
        batch = extractor(waveforms, sampling_rate=16_000, padding=True, return_tensors="pt")
        labels = torch.tensor([CLASSES.index(row["label"]) for row in rows])
        return {**batch, "labels": labels}

    model = AutoModelForAudioClassification.from_pretrained(root / "encoder")
    model.freeze_feature_encoder()
    arguments = TrainingArguments(
        output_dir=str(root / "peer"),
        num_train_epochs=float(epochs),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=extractor,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        sys.exit(run_peer(*sys.argv[2:]))
    sys.exit(main())
