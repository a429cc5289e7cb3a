"""Runs forward, loss and backward of a step as CUDA graphs: one launch instead of thousands of kernel launches.

With 16 clips per batch, a GPU executes kernels faster than the CPU can launch them. A captured step is launched at
once. Each batch shape (length and number of clips) has its own graph, with static inputs and static gradients;
clipping, optimiser and learning rate are outside the graph.

Unusual:
- A shape is run eagerly the first time, as a warm-up that is also an ordinary step, and captured the second time. A
  capture runs nothing, so random numbers are those of eager training: a replay advances torch's generator as much as an
  eager step does.
- All graphs share one memory pool and leave nothing in it, so together they need only as much as the largest one.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from avb.training.lengths import MAX_LENGTHS

MAX_GRAPHS = 2 * MAX_LENGTHS  # each stores its kernels' arguments, a few MB, in addition to the shared memory
FIRST_STEPS = 3  # eager steps before any capture, during which libraries choose and load their kernels
_HOST_LENGTHS = ("emo18",)

Inputs = Mapping[str, torch.Tensor]
LossAndGradients = Callable[[Inputs], tuple[torch.Tensor, Sequence[torch.Tensor | None]]]

logger = logging.getLogger(__name__)


class Capture(Protocol):
    """Turns a function without arguments or results, which works on static tensors, into one that can be replayed."""

    def warm_up(self, function: Callable):
        """Runs the function where it will be captured, and returns what it returns."""

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Captures the function without running it. On failure, raises a RuntimeError and changes nothing."""


class CudaCapture:
    """Captures CUDA graphs on a separate stream, as required by `torch.cuda.graph`."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Callable):
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            outputs = function()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return outputs

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        state, graph = torch.cuda.get_rng_state(self.device), torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.device)
        try:
            # Only for this thread: the loader's thread, which pins memory, must not break a capture.
            mode = "thread_local"
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode=mode):
                function()
        except RuntimeError:
            torch.cuda.set_stream(current)  # `torch.cuda.graph` does not restore it if the end of the capture raises
            # Otherwise the generator would still consider itself captured and refuse to draw.
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            generator = torch.cuda.default_generators[index]
            generator.graphsafe_set_state(generator.clone_state())
            torch.cuda.set_rng_state(state, self.device)
            raise
        return graph.replay


class _Graph(NamedTuple):
    inputs: dict[str, torch.Tensor]
    replay: Callable[[], None]
    kept: tuple[torch.Tensor, ...]  # alive


class GraphedSteps:
    """The steps of one model: called with a batch, it returns the loss and leaves the gradients in the parameters.

    Args:
        function: a batch → its loss, a scalar, and the gradient of each parameter, or None. Nothing that the host does
            may depend on the values in the batch.
        parameters: parameters that the gradients belong to.
        capture: how a step is captured.
        buffers: the model's tensors without gradients. A graph reads those of its capture, wherever the model has
            replaced one since (relative positions, for a longer clip), so they must not be freed.
        limit: maximum number of graphs; further shapes run eagerly.
    """

    def __init__(
        self,
        function: LossAndGradients,
        parameters: Sequence[nn.Parameter],
        capture: Capture,
        buffers: Callable[[], Iterable[torch.Tensor]] = tuple,
        limit: int = MAX_GRAPHS,
    ):
        self.function, self.parameters, self.capture, self.limit = function, list(parameters), capture, limit
        self.buffers = buffers
        self.graphs: dict[tuple, _Graph] = {}
        self.is_on = True
        self.is_captured = False  # whether the last step's shape has a graph
        self._seen: set[tuple] = set()
        self._eager_steps = 0
        self._loss: torch.Tensor | None = None
        self._gradients: list[torch.Tensor | None] = []  # static; None for parameters without a gradient

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        """The loss of a batch, a scalar; sets the `grad` of every parameter."""
        key = tuple((name, tensor.shape, tensor.dtype) for name, tensor in sorted(inputs.items()))
        is_due = key in self._seen and self._eager_steps >= FIRST_STEPS and len(self.graphs) < self.limit
        if self.is_on and key not in self.graphs and is_due:
            self._add(key, inputs)
        self.is_captured = key in self.graphs
        if not self.is_captured:
            return self._run_eagerly(key, inputs)
        graph = self.graphs[key]
        for name, static in graph.inputs.items():
            static.copy_(inputs[name], non_blocking=True)
        graph.replay()
        self._set_gradients(self._gradients)
        assert self._loss is not None  # set, because a graph exists
        return self._loss.clone()

    def _run_eagerly(self, key: tuple, inputs: Inputs) -> torch.Tensor:
        if not self.is_on:
            loss, gradients = self.function(inputs)
        else:
            loss, gradients = self.capture.warm_up(lambda: self.function(inputs))
            self._seen.add(key)
            self._eager_steps += 1
            self._reserve(loss, gradients)
        pairs = zip(self.parameters, gradients, strict=True)
        self._set_gradients([None if own is None else _laid_out_as(parameter, own) for parameter, own in pairs])
        return loss

    def _reserve(self, loss: torch.Tensor, gradients: Sequence[torch.Tensor | None]):
        """Static tensors for the results of all graphs, outside their pool."""
        if self._loss is None:
            self._loss = torch.empty_like(loss)
            pairs = zip(self.parameters, gradients, strict=True)
            self._gradients = [None if own is None else torch.empty_like(parameter) for parameter, own in pairs]

    def _add(self, key: tuple, inputs: Inputs):
        static = {name: tensor.clone() for name, tensor in inputs.items()}

        def step():
            loss, gradients = self.function(static)
            if [gradient is None for gradient in gradients] != [gradient is None for gradient in self._gradients]:
                raise RuntimeError("the parameters with gradients differ from those of the step before")
            assert self._loss is not None  # set by an earlier eager step
            self._loss.copy_(loss)
            own = [gradient for gradient in self._gradients if gradient is not None]
            torch._foreach_copy_(own, [gradient for gradient in gradients if gradient is not None])

        state = torch.get_rng_state()
        try:
            self.graphs[key] = _Graph(static, self.capture(step), tuple(self.buffers()))
        except RuntimeError as error:
            logger.warning(
                "CUDA graphs: this model's step cannot be captured (%s); training goes on without them, at the same "
                "numbers", " ".join(str(error).split())[:200],
            )  # fmt: skip
            self.is_on = False
            self.graphs.clear()
            self._loss, self._gradients = None, []
        finally:
            torch.set_rng_state(state)

    def _set_gradients(self, gradients: Sequence[torch.Tensor | None]):
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient


def _laid_out_as(parameter: nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient in its parameter's memory layout, as from `backward`: fused optimisers read both in that order."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def reason_against(args: TrainingArguments, model: PreTrainedModel, is_cut_up: bool) -> str | None:
    """Why the steps of a training cannot be captured; None if they can.

    Args:
        args: the run's training arguments.
        model: the model as it will be trained.
        is_cut_up: whether a step is divided into several micro-batches or devices.
    """
    optimizer = str(getattr(args.optim, "value", args.optim))
    config = model.config
    drops_layers = getattr(config, "layerdrop", 0) and any(
        parameter.requires_grad for parameter in model.base_model.parameters()
    )
    reasons = {
        f"the device is {args.device.type}": args.device.type != "cuda",
        "a step has several micro-batches or devices": is_cut_up or args.n_gpu > 1,
        "--torch_compile captures its own graphs": args.torch_compile,
        "--fp16 adapts the scale of the loss to earlier gradients": args.fp16,
        "--gradient_checkpointing runs parts of the model twice": args.gradient_checkpointing,
        "--deepspeed and --fsdp manage gradients themselves": bool(args.deepspeed or args.fsdp),
        f"--optim {optimizer} takes gradients away while they come": optimizer.endswith(("layerwise", "lomo")),
        f"--optim {optimizer} has its own training mode": optimizer.startswith("schedule_free"),
        "--layerdrop draws on the processor": bool(drops_layers),
        "its batch norm leaves out padding, whose length the processor looks up": config.model_type in _HOST_LENGTHS,
        "flash_attention_2 looks for padding on the processor": config._attn_implementation == "flash_attention_2",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
