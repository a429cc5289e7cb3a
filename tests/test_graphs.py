"""Steps as CUDA graphs: what is captured asks the device for nothing, and trains as eager steps do.

A stand-in for capture runs the function again at each replay, from the static inputs into the static gradients, as a
graph would.
"""

import logging
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from conftest import GROUP_NORM, LAYER_NORM, TINY
from scaled_run import make_trainer
from tiny_kinds import STOCK
from torch._subclasses.fake_tensor import FakeTensorMode
from trainings import NOISY, SYNCHRONISING, Again, Operations, difference, weights

from avb.arguments import AvbTrainingArguments
from avb.baselines.emo18 import Emo18, Emo18Config
from avb.encoders.kinds import encoder_class
from avb.errors import AvbError
from avb.training.graphs import FIRST_STEPS, CudaCapture, GraphedSteps, reason_against
from configuration_avb import Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst
from spectrum_avb import kaldi_filters, whisper_filters

# ---- what is captured ------------------------------------------------------------------------------------------------

HEADS = {
    "ccc, lstm": {"loss": "ccc", "pooling": "last"},
    "ce, weighed": {"loss": "ce", "class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1, "pooling": "attention"},
    "mse, max": {"loss": "mse", "pooling": "max", "rnn_layers": 0},
    "several tasks": {
        "loss": "multitask", "pooling": "avg", "task_weights": [1.0, 0.5],
        "tasks": [
            {"name": "two", "loss": "ccc", "num_labels": 2, "label_range": [0.0, 1.0]},
            {"name": "kind", "loss": "ce", "num_labels": 3},
        ],
    },
}  # fmt: skip


def wav2vec2(shape: dict, head: dict):
    noise = {"mask_time_prob": 0.2, "mask_feature_prob": 0.1, "hidden_dropout": 0.1, "rnn_hidden_size": 16}
    layers = {"num_hidden_layers": 2, "encoder_layer": 2}
    labels = {"num_labels": 5 if "tasks" in head else 3}
    return Wav2Vec2ForVocalBurst(Wav2Vec2VocalBurstConfig(**{**TINY, **shape, **layers, **noise, **labels, **head}))


def other_kind(stock):
    model_class = encoder_class(stock.kind)
    fields = {**stock.fields, "encoder_layer": 2, "num_labels": 3, "rnn_hidden_size": 16, "layerdrop": 0.0}
    return model_class(model_class.config_class(**fields))


MODELS = {
    **{f"layer norm, {name}": lambda head=head: wav2vec2(LAYER_NORM, head) for name, head in HEADS.items()},
    "group norm": lambda: wav2vec2(GROUP_NORM, HEADS["ccc, lstm"]),
    **{name: lambda stock=stock: other_kind(stock) for name, stock in STOCK.items()},
}


# The same without autocast is in test_meta_steps.py.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if "weighed" in name else pytest.mark.nightly) for name in MODELS]
)
def test_a_step_asks_the_device_for_nothing(name):
    """On tensors without values a question about one raises, and so does a look at it from NumPy."""
    kaldi_filters(torch.device("cpu")), whisper_filters(80, torch.device("cpu"))  # the first step makes these
    with FakeTensorMode(allow_non_fake_inputs=True), Operations() as seen:
        model = MODELS[name]().train()
        seen.names.clear()  # of what it is built of
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        mask = torch.ones(4, 8000, dtype=torch.long)
        classes = model.config.loss == "ce"
        labels = torch.zeros(4, dtype=torch.long) if classes else torch.zeros(4, 3)  # (batch,), or (batch, labels)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.compute_loss(model(torch.empty(4, 8000), mask).logits, labels)
        torch.autograd.grad(loss, parameters, allow_unused=True)
    assert "native_layer_norm" in seen.names
    assert not seen.names & {*SYNCHRONISING, "lift_fresh"}


def test_what_asks_is_noticed():
    for asks in (lambda x: bool(x.any()), lambda x: x[x > 0], lambda x: x.sum().item(), lambda x: x.tolist()):
        with pytest.raises(Exception), FakeTensorMode(), Operations() as seen:  # noqa: B017
            asks(torch.ones(3))
            assert not seen.names & {*SYNCHRONISING}
    with FakeTensorMode(), Operations() as seen:
        torch.ones(3) * torch.tensor([1.0, 2.0, 3.0])
    assert "lift_fresh" in seen.names


# ---- how it trains ---------------------------------------------------------------------------------------------------

TRAININGS = {
    "missing labels, clips on the device": {
        "missing": 20, "audio_on_device": "true", "augment": ["rate", "shift", "noise"],
    },
    "classes, some missing, weighed": {
        "task": "type", "missing": 7, "model": {"class_weights": "balanced", "pooling": "attention"},
    },
    "several tasks": {"task": "two+type", "model": {"task_weighting": "uncertainty", "rnn_layers": 2}},
}  # fmt: skip


def training(folder, capture=None, **settings):
    """20 steps of mixed lengths, with dropout and SpecAugment, a last smaller batch in each epoch."""
    model = {**NOISY, "mask_feature_prob": 0.1, **settings.pop("model", {})}
    fields = {"num_clips": 30, "per_device_train_batch_size": 8, "max_steps": 20, "dataloader_drop_last": False}
    trainer = make_trainer(folder, model=model, **{**fields, **settings})
    trainer.data_collator.lengths = [3200, 4800, 6400]
    trainer.graphed = None if capture is None else trainer.graph_steps(capture)
    trainer.train()
    return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if "tasks" in name else []) for name in TRAININGS]
)
def test_weights_are_those_of_eager_steps(name, tmp_path):
    eager, losses = training(tmp_path / "eager", **TRAININGS[name])
    drawn = torch.get_rng_state()
    capture = Again()
    graphed, own_losses = training(tmp_path / "graphed", capture, **TRAININGS[name])
    assert capture.captures >= 2 and capture.replays >= 8
    assert difference(weights(eager), weights(graphed)) < 1e-6
    assert own_losses == pytest.approx(losses, abs=1e-6)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_capture_that_fails_is_said_once_and_changes_nothing(tmp_path, caplog):
    short = {"max_steps": 14}
    eager, _ = training(tmp_path / "eager", **short)
    with caplog.at_level(logging.WARNING):
        broken, _ = training(tmp_path / "broken", capture := Again(fails_at=2), **short)
    said = [record.message for record in caplog.records if "cannot be captured" in record.message]
    assert len(said) == 1 and "not permitted when stream is capturing" in said[0]
    assert capture.captures == 2 and capture.replays > 0 and not broken.graphed.graphs
    assert difference(weights(eager), weights(broken)) < 1e-6


def test_after_a_capture_that_breaks_the_device_is_as_before(monkeypatch):
    """The stand-in's capture ends as that of torch.cuda.graph, which raises before it puts the stream back."""
    device, drawn = {"stream": "current", "random": "before"}, []

    @contextmanager
    def graph(graph, pool, stream, capture_error_mode):
        device["stream"] = stream
        try:
            yield
        finally:
            raise torch.AcceleratorError("operation failed due to a previous error during capture")

    generator = SimpleNamespace(clone_state=lambda: "clone", graphsafe_set_state=drawn.append)
    for name, stand_in in {
        "Stream": lambda device: "side",
        "graph_pool_handle": lambda: None,
        "CUDAGraph": SimpleNamespace,
        "graph": graph,
        "current_stream": lambda of: device["stream"],
        "set_stream": lambda stream: device.update(stream=stream),
        "get_rng_state": lambda of: device["random"],
        "set_rng_state": lambda state, of: device.update(random=state),
        "default_generators": [generator],
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)

    def step():
        device["random"] = "half-way"

    with pytest.raises(RuntimeError, match="previous error"):
        CudaCapture(torch.device("cuda:0"))(step)
    assert device == {"stream": "current", "random": "before"} and drawn == ["clone"]


def test_a_graph_keeps_what_it_reads_where_the_model_replaces_it():
    """A graph knows addresses only: of relative positions that were made anew, it would read freed memory."""
    model = torch.nn.Linear(2, 1)
    model.register_buffer("positions", torch.ones(2))

    def function(inputs):
        loss = model(inputs["x"] + model.positions).sum()
        return loss.detach(), torch.autograd.grad(loss, [*model.parameters()])

    steps = GraphedSteps(function, [*model.parameters()], Again(), model.buffers)
    for _ in range(FIRST_STEPS + 1):
        steps({"x": torch.ones(3, 2)})
    read = weakref.ref(model.positions)
    model.positions = torch.ones(4)[:2]
    assert len(steps.graphs) == 1 and read() is not None


def test_graphs_are_few_and_share_their_gradients():
    parameter, idle = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))

    def function(inputs):
        loss = (inputs["x"] * parameter).sum()
        return loss.detach(), torch.autograd.grad(loss, [parameter, idle], allow_unused=True)

    steps = GraphedSteps(function, [parameter, idle], capture := Again(), limit=2)
    for round in range(4):
        for clips in (1, 2, 3):
            loss = steps({"x": torch.full((clips, 2), float(round + clips))})
            assert loss == 2 * clips * (round + clips)
            assert parameter.grad.tolist() == [clips * (round + clips)] * 2 and idle.grad is None
    assert FIRST_STEPS == 3 and capture.captures == 2 and capture.replays == 6
    assert len({id(parameter.grad) for parameter.grad in steps._gradients[:1]}) == 1


# ---- where it is on --------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny():
    return wav2vec2(LAYER_NORM, HEADS["ccc, lstm"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"bf16": True}, None),
        ({"gradient_checkpointing": True}, "--gradient_checkpointing"),
        ({"optim": "galore_adamw_layerwise"}, "takes gradients away"),
        ({"optim": "schedule_free_adamw"}, "has its own training mode"),
        ({"torch_compile": True}, "--torch_compile"),
    ],
)
def test_where_steps_cannot_be_captured(settings, reason, tiny, tmp_path, monkeypatch):
    args = AvbTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    assert reason_against(args, tiny, False) == "the device is cpu"
    monkeypatch.setattr(AvbTrainingArguments, "device", property(lambda self: torch.device("cuda")))
    found = reason_against(args, tiny, False)
    assert found is None if reason is None else reason in found
    assert "micro-batches" in reason_against(args, tiny, True)
    assert reason_against(args, Emo18(Emo18Config(num_labels=3)), False) == (
        found or "its batch norm leaves out padding, whose length the processor looks up"
    )
    tiny.config.layerdrop = 0.1
    assert reason_against(args, tiny, False) == (found or "--layerdrop draws on the processor")


def test_on_a_cpu_it_is_off_and_said_where_it_was_asked_for(tmp_path, caplog):
    assert make_trainer(tmp_path).graphed is None and not caplog.records
    assert make_trainer(tmp_path, cuda_graphs="true").graphed is None
    assert "--cuda_graphs true has no effect: the device is cpu" in caplog.text
    with pytest.raises(AvbError, match="must be auto, true or false"):
        AvbTrainingArguments(output_dir=str(tmp_path), cuda_graphs="often")
