"""Latency of one clip on a CPU, and whether its scores stay the same.

    python benchmarks/latency_cpu.py                                  # tiny, seconds: does it run?
    python benchmarks/latency_cpu.py --shape LARGE --ours bf16        # the paper's size

Ours, with the weights of the peer: `fp32` (only the layers that are used, sdpa), `bf16` (the same in bfloat16), or an
export by `avb.export`: `onnx-fp32`, `onnx-int8`, `openvino-fp32`, `openvino-bf16`. Peer: the full stock encoder in fp32
with eager attention, `hidden_states[12]`, LSTM, linear layer.

The largest difference of predictions is measured on clips that the head was not trained on. The head is trained for a
minute on frames of the frozen random encoder, so that its scores differ between clips; a random head would give nearly
the same scores for every clip with any engine. Instead, `--head stretched` scales the outputs of a random head to a
standard deviation of 1, which also scales what all clips have in common.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from gemm import limit_gflops
from harness import Worker, alternate, append, argument_parser, compared, prepare, set_up
from train_step import setup_folder

NUM_CLIPS = 8  # that predictions are compared on
EXPORTS = ("onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-bf16")


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", default="TOY", help="TOY, BASE or LARGE")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the clip, s")
    parser.add_argument("--ours", default="fp32", choices=("fp32", "bf16", *EXPORTS), help="how ours runs")
    parser.add_argument("--head", default="trained", choices=("trained", "stretched"), help="where scores come from")
    args = parser.parse_args(argv)
    row = prepare(args)
    row.benchmark = "latency_cpu"
    row.setting = f"{args.shape}, one clip of {args.seconds:g} s, {args.ours}, {args.head} head"
    row.peer = "stock Transformers, all layers, fp32, eager"
    with TemporaryDirectory() as folder:
        set_up(setup_folder, folder=folder, shape=args.shape, head=args.head)
        work = {"folder": folder, "shape": args.shape, "seconds": args.seconds}
        ours = Worker(setup_ours, precision=args.ours, **work)
        peer = Worker(setup_peer, **work)
        compared(row, *alternate(ours, peer, rounds=args.rounds))
    scores, reference = ours.times.value["scores"], peer.times.value["scores"]
    row.max_difference = float(abs(scores - reference).max())
    row.note = f"scores spread over {reference.min():.2f} to {reference.max():.2f}{'; ' * bool(row.note)}{row.note}"
    if "operations" in ours.times.value:  # an engine does not tell
        row.gflops = ours.times.value["operations"] / row.ours_s / 1e9
    row.limit_gflops = limit_gflops(dtype="bfloat16" if args.ours.endswith("bf16") else "float32")
    append(args.results, row)
    return 0


def setup_ours(folder: str, shape: str, seconds: float, precision: str) -> Callable[[], dict]:
    import torch
    from models import load_ours

    model = load_ours(Path(folder), shape).eval()
    if precision in EXPORTS:
        exported = export(model, Path(folder), *precision.split("-"))
        return _step(lambda clip: exported(clip).logits, seconds, counted=False)
    if precision == "bf16":
        model = model.to(torch.bfloat16)
        return _step(lambda clip: model(clip.bfloat16()).logits.float(), seconds)
    return _step(lambda clip: model(clip).logits, seconds)


def export(model, folder: Path, backend: str, precision: str):
    """The model through `avb.export`, refused by no tolerance: the difference is part of what is reported."""
    from avb.cards.hub_folder import save_hub_folder
    from avb.export.exporting import export_model
    from avb.inference.load import load_model
    from feature_extraction_avb import VocalBurstFeatureExtractor

    saved = save_hub_folder(model, VocalBurstFeatureExtractor(), folder / "ours")
    export_model(saved, folder / "export", backend=backend, precision=precision, tolerance=1.0)
    return load_model(str(folder / "export"))[0]


def setup_peer(folder: str, shape: str, seconds: float) -> Callable[[], dict]:
    from models import load_stock

    return _step(load_stock(Path(folder), shape).eval(), seconds)


def _step(score: Callable, seconds: float, counted: bool = True) -> Callable[[], dict]:
    """Scores the first clip; the first call also scores all of them, and counts operations."""
    import torch
    from models import clips
    from torch.utils.flop_counter import FlopCounterMode

    waveforms = clips(NUM_CLIPS, seconds)
    answer = {}

    def step() -> dict:
        with torch.inference_mode():
            if not answer:
                answer["scores"] = torch.cat([score(waveform[None]) for waveform in waveforms]).numpy()
                if counted:
                    with torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
                        score(waveforms[:1].clone())
                    answer["operations"] = counter.get_total_flops()
            score(waveforms[:1])
        return answer

    return step


if __name__ == "__main__":
    sys.exit(main())
