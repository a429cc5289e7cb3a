"""Small models on many clips: an epoch of the real command from the second one on, against a plain script.

    python benchmarks/small_models.py                                        # 64 clips: does it run?
    python benchmarks/small_models.py --clips 24000 --epochs 3 --device cuda \
        --recipes baselines/log_mel_cnn emogator/filterbank
    python benchmarks/small_models.py --clips 400 --epochs 3 --peer disk     # our own command, clips from the disk

Ours: `train_avb.py` with the recipe (its augmentation, batch size and model) and the decoded clips on the device,
without validation or checkpoints. Peer: what one writes oneself where only speed counts: the same model, precision and
batch size, all clips in one padded int16 tensor in the device's memory, random batches of it, changed there in a few
operations (a speed and a pause per clip, one mixture per batch). One unit is an epoch; both say in a line when it ends.
"""

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clips import make_folder
from harness import ROOT, BenchmarkError, Command, alternate, append, argument_parser, compared, prepare

CLASSES = ("gasp", "laugh", "moan", "sigh")
VALIDATION_CLIPS = 8  # a training has some; they are not scored while it is timed
PEERS = {
    "plain": "the same model in a plain loop, all clips in one tensor on the device",
    "disk": "the same command, clips from the disk",
}
_EPOCH = re.compile(r"epoch +[\d.]+ of \d+ ")  # and not the lines within an epoch, which have a colon there


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--recipes", nargs="+", default=["baselines/log_mel_cnn"], help="a row each")
    parser.add_argument("--clips", type=int, default=64, help="number of train clips")
    parser.add_argument("--epochs", type=int, default=2, help="of both; the first is not timed")
    parser.add_argument("--batch_size", type=int, help="of both; left out, the recipe's")
    parser.add_argument("--shape", default="", help="TOY: batches of 8 clips, where no other size is given")
    parser.add_argument("--shortest", type=float, default=0.3, help="shortest clip, s")
    parser.add_argument("--longest", type=float, default=2.0, help="longest clip, s")
    parser.add_argument("--alone", action="store_true", help="ours only, in half of the time")
    parser.add_argument("--peer", choices=PEERS, default="plain", help="; ".join(map(": ".join, PEERS.items())))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args(argv)
    if args.shape == "TOY":
        args.batch_size = args.batch_size or 8
    if args.epochs < 2:
        parser.error("--epochs: 2 or more, as the first is not timed")
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if args.device == "cuda" else ""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = args.clips + VALIDATION_CLIPS
        write_table(folder, make_folder(folder / "clips", count, args.shortest, args.longest))
        for recipe in args.recipes:
            row = prepare(args)
            row.benchmark, row.peer = "small_models", "" if args.alone else PEERS[args.peer]
            batches = f"batch {args.batch_size}, " if args.batch_size else ""
            row.setting = (
                f"{recipe}, augmented, {args.clips} wav clips of {args.shortest:g} to {args.longest:g} s, {batches}"
                f"an epoch from the second on, on {args.device}"
            )
            ours = Epochs(lambda recipe=recipe: command(folder, recipe, args))
            other = command if args.peer == "disk" else peer_command
            peer = Epochs(lambda recipe=recipe, other=other: other(folder, recipe, args, audio_on_device="false"))
            sides = [ours] if args.alone else [ours, peer]
            compared(row, *alternate(*sides, rounds=args.rounds, warmup=0))
            rates = [f"{args.clips / seconds:,.0f} clips per second" for seconds in (row.ours_s, row.peer_s) if seconds]
            row.note = "; ".join(filter(None, [row.note, ", peer ".join(rates)]))
            if args.device.startswith("cuda"):
                row.device += ", and a GPU, whose memory is not counted"
            append(args.results, row)
    return 0


class Epochs(Command):
    """A training that says in a line when an epoch ends; one unit of work is an epoch after the first."""

    def run(self) -> tuple[float, float]:
        arguments, ends = self.command(), []
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as child,
        ):
            for line in child.stdout:
                if _EPOCH.match(line):
                    ends.append((time.perf_counter(), cpu_seconds(child.pid)))
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            if child.returncode or len(ends) < 2:
                said = f"exit code {child.returncode} after {len(ends)} epochs:\n{errors.read()[-2000:]}"
                raise BenchmarkError(f"{' '.join(map(str, arguments))}: {said}")
        self.times.peak_mib = max(self.times.peak_mib, usage.ru_maxrss / 1024)
        (start, cpu_start), (end, cpu_end) = ends[0], ends[-1]
        return (end - start) / (len(ends) - 1), (cpu_end - cpu_start) / (len(ends) - 1)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and those that it has started, so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:  # it has ended
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own, and that of children that have ended
    return own + sum(map(cpu_seconds, map(int, children)))


def write_table(folder: Path, clips: Path):
    with open(folder / "clips.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split"])
        for number, path in enumerate(sorted(clips.iterdir())):
            split = "validation" if number < VALIDATION_CLIPS else "train"
            writer.writerow([path.relative_to(folder), CLASSES[number % len(CLASSES)], split])


def settings(folder: Path, recipe: str, args, audio_on_device: str = "true") -> list[str]:
    """The recipe and what goes over it, the same for both sides: a table of clips as they are, nothing but training."""
    values = {
        "corpus": "folder", "task": "none", "instances": "none", "data_dir": folder / "clips.csv",
        "trim_top_db": "none", "cache_dir": folder / "cache", "output_dir": folder / "ours", "overwrite": "true",
        "num_decode_workers": os.cpu_count(), "num_train_epochs": args.epochs, "audio_on_device": audio_on_device,
        "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false",
    }  # fmt: skip
    if args.batch_size:
        values["per_device_train_batch_size"] = args.batch_size
    return [recipe, *(f"--{name}={value}" for name, value in values.items())]


def command(folder: Path, recipe: str, args, **changes) -> list[str]:
    return [sys.executable, str(ROOT / "train_avb.py"), *settings(folder, recipe, args, **changes)]


def peer_command(folder: Path, recipe: str, args, **changes) -> list[str]:
    return [sys.executable, __file__, "--as_peer", *settings(folder, recipe, args, **changes)]


def run_peer(argv: list[str]):
    """A training loop as short as it can be."""
    import torch

    from avb.command_line import parse_arguments
    from avb.tasks import Task
    from avb.training.build import build_model
    from avb.training.device_defaults import set_tf32

    model_args, data_args, args, _ = parse_arguments(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, _ = build_model(model_args, data_args, Task("label", "classification", CLASSES), None)
    model.to(device).train()
    set_tf32(device == "cuda")
    in_bf16 = device == "cuda" and model_args.model == "wav2vec2"  # as ours chooses
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, fused=True)
    samples, counts, labels = (values.to(device) for values in read_clips(Path(data_args.data_dir)))
    size = args.per_device_train_batch_size
    for epoch in range(1, int(args.num_train_epochs) + 1):
        losses = torch.zeros((), device=device)
        order = torch.randperm(len(counts), device=device)
        for rows in order.split(size)[: len(counts) // size]:
            waveforms, mask, targets = change(samples[rows], counts[rows], labels[rows])
            with torch.autocast(device, torch.bfloat16, enabled=in_bf16):
                logits = model(waveforms, mask).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            losses += loss.detach()
        loss = losses.item() / (len(counts) // size)
        print(f"epoch {epoch} of {args.num_train_epochs:g}   loss {loss:.3f}", flush=True)


def read_clips(table: Path):
    """Of train clips: int16 (clips, longest), samples (clips,), labels (clips, classes)."""
    import soundfile
    import torch

    with open(table, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    waveforms = [torch.from_numpy(soundfile.read(table.parent / row["file"], dtype="int16")[0]) for row in rows]
    labels = torch.tensor([CLASSES.index(row["label"]) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    counts = torch.tensor([len(waveform) for waveform in waveforms])
    return padded, counts, torch.nn.functional.one_hot(labels, len(CLASSES)).float()


def change(samples, counts, labels, rate=0.15, pause=3200, alpha=0.4):
    """Each clip faster or slower by up to `rate`, up to `pause` samples later, and mixed with another one of its batch.

    Waveforms (clips, longest) of zero mean and unit variance, their mask, and mixed labels.
    """
    import torch

    width, device = samples.shape[1], samples.device
    rates = 1 + rate * (2 * torch.rand(len(samples), 1, device=device) - 1)
    positions = (torch.arange(width, device=device) - pause * torch.rand(len(samples), 1, device=device)) * rates
    before = positions.floor().clamp(0, width - 2).long()
    after = positions - before
    waveforms = torch.lerp(samples.gather(1, before).float(), samples.gather(1, before + 1).float(), after)
    mask = (positions < counts[:, None]).to(waveforms.dtype)
    waveforms = waveforms * (mask * (positions >= 0))
    share = torch.distributions.Beta(alpha, alpha).sample()
    waveforms = share * waveforms + (1 - share) * waveforms.roll(1, 0) * mask
    mean = waveforms.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    centred = (waveforms - mean) * mask
    deviation = (centred.square().sum(1, keepdim=True) / mask.sum(1, keepdim=True)).sqrt()
    return centred / (deviation + 1e-5), mask.long(), share * labels + (1 - share) * labels.roll(1, 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as_peer"]:
        sys.path.insert(0, str(ROOT))
        sys.exit(run_peer(sys.argv[2:]))
    sys.exit(main())
