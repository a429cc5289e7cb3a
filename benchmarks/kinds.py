"""The table of docs/encoders.md: how exact each kind of encoder is, with tiny random checkpoints of the stock classes.

    python benchmarks/kinds.py

Differences are maximum absolute differences: of hidden states for a layer, of scores in [0, 1] otherwise. Saved folders
are read by a process that cannot import this project. The step time is that of forward and backward through the same
layers, for two clips of 2.2 s and 3 s, padded. Ours and the stock class (with features computed beforehand by its
stock extractor) alternate `REPEATS` times; the result is the median ratio, which a busy machine affects less than
times. Needs the extras test and openvino.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile as sf
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
from feature_extraction_avb import VocalBurstFeatureExtractor  # noqa: E402
from pooling_avb import POOLINGS  # noqa: E402

REPEATS = 15
READER = Path(__file__).resolve().parents[1] / "tests" / "remote_code_reader.py"
HEADER = (
    "| kind | layer k vs. stock | alone vs. padded | saved vs. reloaded elsewhere | torch vs. ONNX | torch vs. OpenVINO"
    " | torch vs. int8 | LoRA (rank 4): share trained | merged vs. unmerged | unmerged vs. base "
    "| time per step, ours / stock |"
)


def main() -> int:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        rows = {name: measure(name, Path(folder) / name.replace(", ", "-")) for name in STOCK}
        read = read_elsewhere({name: Path(folder) / name.replace(", ", "-") / "ours" for name in STOCK}, Path(folder))
    print(HEADER, "|" + "---|" * HEADER.count(" |"), sep="\n")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join([*cells[:2], f'{read[name]:.1g}', *cells[2:]])} |")
    return 0


def read_elsewhere(folders: dict[str, Path], place: Path) -> dict[str, float]:
    """By name: what scores of saved models differ by in a process where this project cannot be imported."""
    path = place / "clip.wav"
    sf.write(path, clips()[2].numpy() / 8, 16_000, subtype="FLOAT")
    done = subprocess.run(
        [sys.executable, "-I", READER, json.dumps(list(map(str, folders.values()))), path],
        cwd=place, check=True, capture_output=True, text=True,
    )  # fmt: skip
    answers = json.loads(done.stdout.splitlines()[-1])
    differences = {}
    for name, folder in folders.items():
        model, feature_extractor = load_model(str(folder), "cpu")
        waveform = sf.read(path, dtype="float32")[0]
        inputs = feature_extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**inputs).logits[0].softmax(-1) if model.config.loss == "ce" else model(**inputs).logits[0]
        found = torch.tensor(list(answers[str(folder)]["AutoModel"][0].values()))
        differences[name] = largest(found, expected)
    return differences


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
    with torch.inference_mode():
        scores = loaded(padded, attention_mask=mask).logits
        exported = []
        for engine, precision in (("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8")):
            write_graph(loaded, folder / f"{precision}.onnx", precision)
            run = open_engine(folder / f"{precision}.onnx", engine, precision)
            exported.append(largest(torch.from_numpy(run(padded.numpy(), mask.numpy())), scores))
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
    differences = [f"{value:.1g}" for value in (layer, dependence, *exported)]
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
    """How many times as long a step of ours takes."""
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
    ratios = []
    for _ in range(REPEATS):
        seconds = []
        for model, inputs in ((ours, {"input_values": padded, "attention_mask": mask}), (theirs, stock_inputs)):
            started = time.perf_counter()
            model(**inputs).last_hidden_state.square().mean().backward()
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    sys.exit(main())
