"""One training step of the whole model, compared with stock Transformers: same batch, same loss.

    python benchmarks/train_step.py                              # tiny, seconds: does it run?
    python benchmarks/train_step.py --shape LARGE                # the paper's size: 20 GB of memory, minutes
    python benchmarks/train_step.py --shape LARGE --bf16 --front_end frozen kept --masks
    python benchmarks/train_step.py --shape LARGE --device cuda --batch_size 128 --bf16

Ours: only the layers that are used, sdpa, frozen convolutions (the `recommended` preset) that run in every step; or
`--front_end kept`: their output is read in half precision, as from the second epoch on; or `trained`: they are trained
too. AdamW in one fused kernel; bf16 if requested. With `--masks`, clips have a quarter to all of `--seconds`, padded to
the longest, with attention masks on both sides. Peer: 24 layers in fp32 with eager attention, `hidden_states[12]`, the
same LSTM and linear layer, every parameter trained by Adam.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from gemm import limit_gflops, synchronize
from harness import Worker, alternate, append, argument_parser, compared, prepare, set_up


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", default="TOY", help="TOY, BASE or LARGE")
    parser.add_argument("--batch_size", type=int, default=16, help="clips (section IV-B: 16)")
    parser.add_argument("--seconds", type=float, default=2.2, help="length of each clip, s")
    parser.add_argument(
        "--front_end", nargs="+", default=["frozen"], choices=("frozen", "kept", "trained"),
        help="our convolutions; several give a row each, against the same peer in the same rounds",
    )  # fmt: skip
    parser.add_argument("--masks", action="store_true", help="clips of mixed lengths, padded, with their mask")
    parser.add_argument("--bf16", action="store_true", help="ours in bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile")
    parser.add_argument("--graph", action="store_true", help="ours as a CUDA graph, as training has it on a GPU")
    parser.add_argument("--alone", action="store_true", help="ours only: for a batch that the peer has no memory for")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args(argv)
    if args.graph and (args.compile or not args.device.startswith("cuda")):
        parser.error("--graph needs --device cuda, and no --compile")
    row = prepare(args)
    row.benchmark = "train_step"
    row.peer = "" if args.alone else "stock Transformers, all layers, fp32, eager, Adam on every parameter"
    with TemporaryDirectory() as folder:
        set_up(setup_folder, folder=folder, shape=args.shape)
        work = {"folder": folder, "shape": args.shape, "batch_size": args.batch_size, "seconds": args.seconds}
        work |= {"device": args.device, "masks": args.masks}
        own = {"bf16": args.bf16, "compile_model": args.compile, "graph": args.graph}
        ours = [Worker(setup_ours, front_end=front_end, **own, **work) for front_end in args.front_end]
        warmup = 5 if args.graph else 2 if args.compile else 1  # three eager steps and one more precede a replay
        peer = [] if args.alone else [Worker(setup_peer, **work)]
        times = alternate(*ours, *peer, rounds=args.rounds, warmup=warmup)
    row.limit_gflops = limit_gflops(dtype="bfloat16" if args.bf16 else "float32", device=args.device)
    for front_end, side in zip(args.front_end, ours, strict=True):
        row.setting = (
            f"{args.shape}, batch {args.batch_size} x {args.seconds:g} s{' at most' if args.masks else ''}, "
            f"front end {front_end}, "
            f"{'bf16' if args.bf16 else 'fp32'}{', compiled' if args.compile else ''}"
            f"{', as a CUDA graph' if args.graph else ''}"
        )
        compared(row, side.times, *times[len(ours) :])
        row.gflops = side.times.value["operations"] / row.ours_s / 1e9
        if args.device.startswith("cuda"):
            row.device = side.times.value["device"]
        append(args.results, row)
    return 0


def setup_folder(folder: str, shape: str, head: str = "random") -> Callable:
    from models import save_stock

    save_stock(Path(folder), shape, head)
    return lambda: None


def setup_ours(
    folder: str,
    shape: str,
    batch_size: int,
    seconds: float,
    device: str,
    masks: bool,
    front_end: str,
    bf16: bool,
    compile_model: bool,
    graph: bool,
) -> Callable[[], dict]:
    """A step of ours; it returns the loss, and how many floating-point operations a step is."""
    import torch
    from models import load_ours

    from avb.training.device_defaults import set_tf32

    if device.startswith("cuda") and bf16:
        set_tf32(True)  # for the products that autocast leaves in fp32, as training has it on a GPU
    model = load_ours(Path(folder), shape).to(device).train()
    if front_end != "trained":
        model.freeze_feature_encoder()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    batch = make_batch(batch_size, seconds, masks, device)
    if front_end == "kept":
        with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            frames, mask = model.wav2vec2.run_front_end(batch["input_values"], batch.get("attention_mask"))
        batch = {"front_end_frames": frames.half().clone(), "frame_mask": mask.clone(), "labels": batch["labels"]}
    if compile_model:
        model.compile()

    def loss_of(inputs: dict) -> torch.Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            return model(**inputs).loss

    def loss_and_gradients(inputs):
        loss = loss_of(inputs)
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    def compute() -> torch.Tensor:
        loss = loss_of(batch)
        loss.backward()
        return loss

    if graph:
        from avb.training.graphs import CudaCapture, GraphedSteps

        steps = GraphedSteps(loss_and_gradients, parameters, CudaCapture(torch.device(device)))
        return _step(lambda: steps(batch), optimizer, parameters, device, counted=compute)
    return _step(compute, optimizer, parameters, device)


def setup_peer(
    folder: str, shape: str, batch_size: int, seconds: float, device: str, masks: bool
) -> Callable[[], dict]:
    import torch
    from models import load_stock

    from modeling_avb import ccc_loss

    model = load_stock(Path(folder), shape).to(device).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-5)
    batch = make_batch(batch_size, seconds, masks, device)
    labels = batch.pop("labels")

    def compute() -> torch.Tensor:
        loss = ccc_loss(model(**batch), labels)
        loss.backward()
        return loss

    return _step(compute, optimizer, parameters, device)


def make_batch(batch_size: int, seconds: float, masks: bool, device: str) -> dict:
    """`input_values` (batch, samples), `labels`, and with masks `attention_mask` of clips down to a quarter as long."""
    import torch
    from models import NUM_LABELS, clips

    waveforms = clips(batch_size, seconds)
    labels = torch.rand(batch_size, NUM_LABELS, generator=torch.Generator().manual_seed(0))
    batch = {"input_values": waveforms, "labels": labels}
    if masks:
        lengths = torch.linspace(0.25, 1, batch_size) * waveforms.shape[1]
        mask = torch.arange(waveforms.shape[1]) < lengths.ceil()[:, None]
        batch |= {"input_values": waveforms * mask, "attention_mask": mask.long()}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _step(compute: Callable, optimizer, parameters: list, device: str, counted: Callable | None = None):
    """A step: `compute` gives the loss and leaves the gradients. Its operations are those of `counted`, if given:
    `FlopCounterMode` of torch 2.11 fails in `torch.autograd.grad`, which steps of graphs call."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import positions_avb

    answer = {"device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device}

    def step() -> dict:
        optimizer.zero_grad()
        if "operations" not in answer:  # in the warm-up: products and convolutions, forwards and back
            longest, positions_avb.LONGEST = positions_avb.LONGEST, 0  # those of the stock form, without spectra
            with FlopCounterMode(display=False) as counter:
                loss = (counted or compute)()
            answer["operations"], positions_avb.LONGEST = counter.get_total_flops(), longest
        else:
            loss = compute()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        synchronize(device)
        return {**answer, "loss": loss.item()}

    return step


if __name__ == "__main__":
    sys.exit(main())
