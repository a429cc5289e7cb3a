"""Scores a folder of clips of mixed length: predict_avb.py and the stock audio-classification pipeline.

    python benchmarks/score_folder.py                            # 64 clips: does it run?
    python benchmarks/score_folder.py --clips 2000
    python benchmarks/score_folder.py --memory --clips 10000     # peak memory, compared with a tenth of the clips

Both have an encoder of the shape of `recipes/encoders/small.yaml` with random weights, and are timed as whole processes
up to the finished table of scores. Ours is the real command, with the torch model in fp32, in bf16 (`--ours
torch-bf16`) or, with `--ours openvino-bf16`, with an export by `avb.export`; exporting is not timed. Peer: the stock
audio-classification pipeline at batch size 16 with `Wav2Vec2ForSequenceClassification`, clips in the order of the
folder. It would call ffmpeg to decode; here it gets arrays decoded by soundfile.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from clips import make_folder
from harness import ROOT, Command, alternate, append, argument_parser, compared, prepare, set_up
from latency_cpu import EXPORTS

PIPELINE_BATCH = 16


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--clips", type=int, default=64, help="number of clips")
    parser.add_argument("--shortest", type=float, default=0.3, help="shortest clip, s")
    parser.add_argument("--longest", type=float, default=6.0, help="longest clip, s")
    parser.add_argument(
        "--ours", default="torch", choices=("torch", "torch-bf16", *EXPORTS), help="what runs our model"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory of ours, against a tenth of the clips")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of torch on both sides")
    parser.add_argument("--shape", help="taken and not read: gpu.sh gives every benchmark one")
    args = parser.parse_args(argv)
    row = prepare(args)
    row.setting = f"{args.clips} wav clips of {args.shortest:g} to {args.longest:g} s, small encoder, {args.ours}"
    if args.device != "cpu":
        row.setting, row.device = f"{row.setting}, on {args.device}", f"{row.device}, and a GPU"
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        set_up(setup_models, folder=str(folder))
        if args.ours in EXPORTS:
            set_up(setup_export, folder=str(folder), precision=args.ours)
        if args.memory:
            row.benchmark, row.peer = "score_folder_memory", f"itself at {args.clips // 10} clips"
            # Few files under many names: what is measured is the scoring of many clips.
            make_folder(folder / "files", min(args.clips, 500), args.shortest, args.longest)
            sides = [link_clips(folder, number) for number in (args.clips, args.clips // 10)]
            ours, peer = (
                Command(lambda clips=clips: ours_command(folder, clips, args.ours, args.device)) for clips in sides
            )
            ours, peer = alternate(ours, peer, rounds=args.rounds, warmup=0)
            compared(row, ours, peer)
            row.ratio = row.ratio_low = row.ratio_high = row.peak_mib / row.peer_peak_mib
        else:
            row.benchmark, row.peer = (
                "score_folder",
                f"stock pipeline, batch size {PIPELINE_BATCH}, order of the folder",
            )
            clips = make_folder(folder / "clips", args.clips, args.shortest, args.longest)
            ours = Command(lambda: ours_command(folder, clips, args.ours, args.device))
            peer = Command(lambda: [sys.executable, __file__, "--peer", str(folder / "stock"), str(clips), args.device])
            compared(row, *alternate(ours, peer, rounds=args.rounds, warmup=0))
            check_scored(folder, args.clips)
    append(args.results, row)
    return 0


def ours_command(folder: Path, clips: Path, ours: str, device: str) -> list[str]:
    scores = folder / "scores.csv"
    command = [sys.executable, str(ROOT / "predict_avb.py"), str(folder / "ours"), str(clips)]
    command += ["--dtype", "bfloat16"] if ours == "torch-bf16" else []
    command += [] if device == "cpu" else ["--device", device]  # without one, exports run where they can
    return [*command, "--output", str(scores), "--overwrite"]


def check_scored(folder: Path, number: int):
    """Raises where a side did less than all of the work."""
    for name in ("scores.csv", "stock_scores.csv"):
        rows = (folder / name).read_text().splitlines()
        if len(rows) != number + 1:
            raise RuntimeError(f"{name} has {len(rows) - 1} rows, not {number}")


def link_clips(folder: Path, number: int) -> Path:
    clips, files = folder / f"clips{number}", sorted((folder / "files").iterdir())
    clips.mkdir()
    for index in range(number):
        os.link(files[index % len(files)], clips / f"{index:06d}.wav")
    return clips


def setup_export(folder: str, precision: str):
    """Puts an export in the place of our model."""
    from avb.export.exporting import export_model

    ours = Path(folder, "ours")
    backend, precision = precision.split("-")
    export_model(ours, Path(folder, "export"), backend=backend, precision=precision, tolerance=1.0)
    ours.rename(Path(folder, "torch"))
    Path(folder, "export").rename(ours)
    return lambda: None


def setup_models(folder: str):
    """Saves both models: small encoder, attention pooling without RNN for ours, the stock head for the peer."""
    import torch
    from models import NUM_LABELS, small_fields, vocal_burst_config
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    from avb.cards.hub_folder import save_hub_folder
    from feature_extraction_avb import VocalBurstFeatureExtractor
    from modeling_avb import Wav2Vec2ForVocalBurst

    torch.manual_seed(0)
    fields = small_fields()
    config = vocal_burst_config(fields, encoder_layer=fields["num_hidden_layers"], rnn_layers=0, pooling="attention")
    save_hub_folder(Wav2Vec2ForVocalBurst(config), VocalBurstFeatureExtractor(peak_db=-3.0), Path(folder, "ours"))
    stock = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**fields, num_labels=NUM_LABELS))
    stock.save_pretrained(Path(folder, "stock"))
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(Path(folder, "stock"))
    return lambda: None


def run_peer(model: str, folder: str, device: str):
    """What a user of the stock pipeline writes; the scores go to a table too."""
    import csv

    import soundfile
    from transformers import pipeline

    classify = pipeline("audio-classification", model=model, device=device)
    paths = sorted(Path(folder).iterdir())

    def arrays():
        for path in paths:
            waveform, rate = soundfile.read(path, dtype="float32")
            yield {"raw": waveform, "sampling_rate": rate}

    with open(Path(model).parent / "stock_scores.csv", "w", newline="") as file:
        writer = csv.writer(file)
        for path, answer in zip(paths, classify(arrays(), batch_size=PIPELINE_BATCH, top_k=None), strict=True):
            if path == paths[0]:
                labels = sorted(score["label"] for score in answer)
                writer.writerow(["id", *labels])
            scores = {score["label"]: score["score"] for score in answer}
            writer.writerow([path, *(scores[label] for label in labels)])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        sys.exit(run_peer(*sys.argv[2:]))
    sys.exit(main())
