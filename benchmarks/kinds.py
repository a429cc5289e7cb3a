"""The table of docs/encoders.md: how exact each kind of encoder is, from tiny random checkpoints of the stock classes.

    python benchmarks/kinds.py

Differences are the largest absolute ones: of hidden states for a layer, of scores in [0, 1] elsewhere. Step time is a
forward and backward pass of the same layers, two clips of 2.2 s and 3 s padded, ours against the stock class (which
hears the features that its stock extractor made before), medians of `REPEATS` in turn. Needs the test extra.
"""

import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests"), str(Path(__file__).resolve().parents[1])]
from tiny_kinds import STOCK, load, stock_layers  # noqa: E402

from avb.cards.hub_folder import save_hub_folder  # noqa: E402
from avb.encoders.adapters import MARK, add_adapters, merge_adapters  # noqa: E402
from avb.export.writing import write_graph  # noqa: E402
from avb.inference.engines import open_engine  # noqa: E402
from avb.inference.load import load_model  # noqa: E402
from configuration_avb import POOLINGS  # noqa: E402
from feature_extraction_avb import VocalBurstFeatureExtractor  # noqa: E402

REPEATS = 9
HEADER = (
    "| kind | layer k, stock | alone, padded | saved, loaded | torch, ONNX | LoRA (rank 4): share trained "
    "| merged, unmerged | unmerged, base | step, ours / stock |"
)


def main() -> int:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(HEADER, "|" + "---|" * 9, sep="\n")
    for name in STOCK:
        with TemporaryDirectory() as folder:
            print(f"| {name} | {' | '.join(measure(name, Path(folder)))} |", flush=True)
    return 0


def clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, generator=generator) for samples in (400, 5_000, 16_001, 35_200, 48_000)]


def measure(name: str, folder: Path) -> list[str]:
    """The cells of a row, behind its name."""
    stock, waveforms = STOCK[name], clips()
    stock.build().save_pretrained(folder / "plain")
    padded = pad_sequence(waveforms, batch_first=True, padding_value=3.0)
    lengths = torch.tensor(list(map(len, waveforms)))
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()

    model = load(folder / "plain", stock.kind, pooling="attention")
    with torch.inference_mode():
        expected = stock_layers(stock, waveforms[2][None])
        states = model.encode(waveforms[2][None], output_hidden_states=True)[0].hidden_states
        layer = max(largest(ours, theirs) for ours, theirs in zip(states, expected, strict=False))
        dependence = 0.0
        for model.config.pooling in POOLINGS:
            alone = torch.cat([model(clip[None]).logits for clip in waveforms])
            dependence = max(dependence, largest(model(padded, attention_mask=mask).logits, alone))
    model.config.pooling = "attention"
    save_hub_folder(model, VocalBurstFeatureExtractor(peak_db=None), folder / "ours")
    loaded, _ = load_model(str(folder / "ours"), "cpu")
    write_graph(loaded, folder / "model.onnx", "fp32")
    run = open_engine(folder / "model.onnx", "onnx", "fp32")
    with torch.inference_mode():
        scores = model(padded, attention_mask=mask).logits
        again = largest(loaded(padded, attention_mask=mask).logits, scores)
        exported = largest(torch.from_numpy(run(padded.numpy(), mask.numpy())), scores)
        adapted = load(folder / "plain", stock.kind, pooling="attention")
        add_adapters(adapted, 4)
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        share = trained / sum(p.numel() for p in adapted.parameters())
        for key, parameter in adapted.named_parameters():
            if MARK in key:
                parameter.add_(0.1 * torch.randn(parameter.shape))
        unmerged = adapted(padded, attention_mask=mask).logits
        merge_adapters(adapted)
        merged = largest(adapted(padded, attention_mask=mask).logits, unmerged)
    differences = [f"{value:.1g}" for value in (layer, dependence, again, exported)]
    return [
        *differences,
        f"{share:.0%}",
        f"{merged:.1g}",
        f"{largest(unmerged, scores):.1g}",
        step_times(stock, folder),
    ]


def largest(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def step_times(stock, folder: Path) -> str:
    """Milliseconds of a step by each."""
    ours, theirs = load(folder / "plain", stock.kind, encoder_layer=3).base_model.train(), stock.build().train()
    waveforms = clips()[-2:]
    padded = pad_sequence(waveforms, batch_first=True)
    mask = (torch.arange(padded.shape[1]) < torch.tensor([[len(clip)] for clip in waveforms])).long()
    stock_inputs = {"input_values": padded, "attention_mask": mask}
    arrays = [clip.numpy() for clip in waveforms]
    if stock.kind == "wav2vec2-bert":
        stock_inputs = transformers.SeamlessM4TFeatureExtractor()(arrays, sampling_rate=16_000, return_tensors="pt")
    elif stock.kind == "whisper":
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
        two = [array[:32_000] for array in arrays]  # its window of two seconds; ours reads two such windows of each
        stock_inputs = {"input_features": extractor(two, sampling_rate=16_000, return_tensors="pt")["input_features"]}
        theirs = theirs.encoder
        padded, mask = padded[:, :32_000], mask[:, :32_000]
    seconds: dict[str, list[float]] = {"ours": [], "stock": []}
    for _ in range(REPEATS):
        for name, model, inputs in (
            ("ours", ours, {"input_values": padded, "attention_mask": mask}),
            ("stock", theirs, stock_inputs),
        ):
            started = time.perf_counter()
            model(**inputs).last_hidden_state.square().mean().backward()
            seconds[name].append(time.perf_counter() - started)
    return " / ".join(f"{1000 * statistics.median(seconds[name]):.0f}" for name in ("ours", "stock")) + " ms"


if __name__ == "__main__":
    sys.exit(main())
