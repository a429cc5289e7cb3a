"""From 48 kHz mp3 to trimmed 16 kHz waveforms: decoded once into an Arrow file, compared with librosa in every epoch.

    python benchmarks/data_pipeline.py                                        # 40 generated clips
    python benchmarks/data_pipeline.py --folder EMOGATOR/original/data/mp3    # your own files

Two rows: the first epoch, which decodes, and a later one, which reads the memory-mapped file. Ours also checks each
file for damage and sets its level. Peer: `librosa.load(path, sr=16000)` and `librosa.effects.trim`, the usual loop.
Both return every waveform as an array; the row contains both total lengths of audio.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from clips import make_folder
from harness import Worker, alternate, append, argument_parser, compared, prepare

TOP_DB = 30


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--clips", type=int, default=40, help="clips to generate")
    parser.add_argument("--folder", help="folder of audio files to use instead")
    args = parser.parse_args(argv)
    with TemporaryDirectory() as temporary:
        folder = (
            Path(args.folder)
            if args.folder
            else make_folder(Path(temporary, "clips"), args.clips, 1.0, 3.0, rate=48_000, suffix=".mp3")
        )
        number = sum(1 for _ in folder.iterdir())
        for epoch in ("first", "later"):
            row = prepare(args)
            row.benchmark = f"data_pipeline_{epoch}_epoch"
            row.setting = f"{number} {'given files' if args.folder else 'generated 48 kHz mp3 of 1 to 3 s'}"
            row.peer = "librosa.load and trim in a loop"
            ours = Worker(setup_ours, folder=str(folder), cache_dir=str(Path(temporary, "cache", epoch)), epoch=epoch)
            peer = Worker(setup_peer, folder=str(folder))
            compared(row, *alternate(ours, peer, rounds=args.rounds))
            lengths = [side.times.value / 16_000 for side in (ours, peer)]
            row.setting += f", {lengths[0]:.0f} s of audio (peer: {lengths[1]:.0f} s)"
            append(args.results, row)
    return 0


def setup_ours(folder: str, cache_dir: str, epoch: str) -> Callable[[], int]:
    """An epoch: every waveform once, decoded before where `epoch` is "later"; returns the number of samples."""
    import shutil

    from datasets import Dataset, DatasetDict

    from audio_avb import AudioPreparation
    from avb.corpora.decode import decode_splits

    paths = sorted(str(path) for path in Path(folder).iterdir())
    audio = [{"bytes": None, "path": path} for path in paths]
    splits = DatasetDict(train=Dataset.from_dict({"id": paths, "audio": audio}))

    def decode() -> Dataset:
        return decode_splits(splits, AudioPreparation(trim_top_db=TOP_DB), cache_dir=cache_dir)[0]["train"]

    decoded = decode()

    def epoch_of_audio() -> int:
        rows = decoded
        if epoch == "first":
            shutil.rmtree(cache_dir)
            rows = decode()
        return sum(len(row["input_values"]) for row in rows)

    return epoch_of_audio


def setup_peer(folder: str) -> Callable[[], int]:
    import librosa

    paths = sorted(Path(folder).iterdir())

    def epoch_of_audio() -> int:
        samples = 0
        for path in paths:
            waveform, _ = librosa.load(path, sr=16_000)
            waveform, _ = librosa.effects.trim(waveform, top_db=TOP_DB)
            samples += len(waveform)
        return samples

    return epoch_of_audio


if __name__ == "__main__":
    sys.exit(main())
