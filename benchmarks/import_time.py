"""From the start of the process to its end, with one prediction of a small model: ours and a stock pipeline script.

    python benchmarks/import_time.py --rounds 5
    python -X importtime predict_avb.py MODEL CLIP --output scores.csv     # where the time goes

Two rows: a script with `avb.load`, and the command predict_avb.py. Peer: a script with
`pipeline("audio-classification")` and `Wav2Vec2ForSequenceClassification` with an encoder of the same shape; soundfile
decodes the clip.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from clips import make_folder
from harness import ROOT, Command, alternate, append, argument_parser, compared, prepare, set_up
from score_folder import setup_models

OURS = """
import sys, avb
print(avb.load(sys.argv[1])(sys.argv[2]))
"""
PEER = """
import sys, soundfile
from transformers import pipeline
waveform, rate = soundfile.read(sys.argv[2], dtype="float32")
print(pipeline("audio-classification", model=sys.argv[1])({"raw": waveform, "sampling_rate": rate}))
"""


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--warmup", type=int, default=1, help="untimed rounds before them (default: 1)")
    args = parser.parse_args(argv)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = next(make_folder(folder / "clips", 1, 2.0, 2.0).iterdir())
        models = [folder / name for name in ("ours", "stock")]
        script = [sys.executable, "-c", OURS, models[0], clip]
        scores = folder / "scores.csv"
        command = [sys.executable, ROOT / "predict_avb.py", models[0], clip, "--output", scores, "--overwrite"]
        peer_script = [sys.executable, "-c", PEER, models[1], clip]
        for name, ours in (("avb.load", script), ("predict_avb.py", command)):
            row = prepare(args)
            if name == "avb.load":
                set_up(setup_models, folder=str(folder))
            row.benchmark, row.setting = "import_time", f"{name}, small encoder, one clip of 2 s"
            row.peer = "stock pipeline script"
            sides = [Command(lambda words=words: [str(word) for word in words]) for words in (ours, peer_script)]
            append(args.results, compared(row, *alternate(*sides, rounds=args.rounds, warmup=args.warmup)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
