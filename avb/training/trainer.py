"""The Trainer that fits a model, with the loss of the whole batch, however it is divided.

CCC is not a sum over clips, and if labels are missing, cross entropy and squared error are not means of micro-batch
means. So the loss is computed once per step, on the concatenated outputs of all devices and micro-batches, and each
micro-batch back-propagates its own rows of the gradient (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size
under Memory Limited Setup", arXiv:2101.06983). With accumulation, each micro-batch runs forward twice: first without
gradients, for its outputs, then with the same random numbers, for back-propagation. An undivided batch runs once.
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import get_device_states, set_device_states
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.trainer_callback import ProgressCallback

from audio_avb import SAMPLING_RATE
from avb.arguments import AvbTrainingArguments
from avb.collator import BurstCollator
from avb.errors import AvbError
from avb.metrics import best_metric, compute_metrics
from avb.tasks import MultiTask, Task, task_of_config
from avb.training.averaging import AveragingTrainer
from avb.training.batches import STRATEGIES, JoinedBatches
from avb.training.device_audio import AUDIO, DeviceAudio, DeviceCollator
from avb.training.dropout import cheap_dropout
from avb.training.frozen import FrameCollator
from avb.training.graphs import Capture, CudaCapture, GraphedSteps, reason_against
from avb.training.lengths import MAX_LENGTHS, choose_lengths
from avb.training.progress import ProgressLines
from avb.training.teachers import FOLDS_COLUMN, ModelTeachers
from avb.training.timing import expected_seconds
from configuration_avb import MULTITASK
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import VocalBurstModel

logger = logging.getLogger(__name__)


@dataclass
class _Step:
    """The micro-batches of an optimiser step on this device, and their part of the joined loss."""

    micro_batches: list[dict]
    position: int = 0
    random_states: list[tuple] = field(default_factory=list)
    loss: torch.Tensor | None = None
    gradients: Sequence[torch.Tensor] = ()  # of the loss, per micro-batch: (clips, labels)
    own_gradients: Sequence[torch.Tensor] = ()  # of the loss's own parameters


class BurstTrainer(AveragingTrainer):
    """The Trainer with an exact loss at any scale, a learning rate for the encoder, and predictions in order.

        trainer = BurstTrainer(model, AvbTrainingArguments("runs/mine"), train_dataset=train, eval_dataset=validation)

    Args:
        task: the meaning of the labels; None: as in the model's configuration.
        feature_extractor: the model's; None: `VocalBurstFeatureExtractor` with its defaults.
        data_collator: makes batches from rows; None: `BurstCollator`, for rows of decoded clips.
        teachers: soften the labels of each training batch, which are then rows of (labels,) floats.
        audio: where the clips of `DeviceClips` lie, whose collator is a `DeviceCollator`.

    Raises:
        AvbError: the model makes the predictions of a clip depend on its batch, which is cut up here.
    """

    optimizer: torch.optim.Optimizer | None
    loss_is_scaled_for_ga = True  # the stock Trainer would divide it by the number of micro-batches

    def __init__(
        self,
        model,
        args: AvbTrainingArguments,
        task: Task | MultiTask | None = None,
        feature_extractor=None,
        data_collator=None,
        teachers: ModelTeachers | None = None,
        audio: DeviceAudio | None = None,
        **kwargs,
    ):
        task = task or task_of_config(model.config)
        feature_extractor = feature_extractor or VocalBurstFeatureExtractor()
        data_collator = data_collator or BurstCollator(feature_extractor)
        is_cut_up = args.gradient_accumulation_steps > 1 or args.world_size > 1
        if is_cut_up and (reason := batch_dependence(model)):
            raise AvbError(
                f"{reason}: on several devices or with --gradient_accumulation_steps the run would optimise something "
                "else than with one large batch. Train on one device without accumulation, or change that"
            )
        self.lengths = self._few_lengths(model, args, data_collator, kwargs.get("train_dataset"))
        # The weights of several tasks are parameters used only in the loss: every device computes the same gradient.
        learns_weights = model.config.loss == MULTITASK and model.config.task_weighting == "uncertainty"
        self.loss_parameters = {"log_variances": model.log_variances} if learns_weights else {}
        names = [name for key in self.loss_parameters for name in (key, f".{key}")]  # DDP looks for names with a dot
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
        self._step, self.teachers, self.audio = _Step([]), teachers, audio
        args.metric_for_best_model = f"eval_{best_metric(task)}"
        args.greater_is_better = True
        patience = args.early_stopping_patience
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            processing_class=feature_extractor,
            compute_metrics=compute_metrics(task),
            callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
            **kwargs,
        )
        for stock in (ProgressCallback, PrinterCallback):
            self.remove_callback(stock)
        if not args.disable_tqdm:
            self.add_callback(ProgressLines(best_metric(task), lambda: expected_seconds(self, self.graphed)))
        if args.ema_decay is not None:
            self.keep_average()
        if self.loss_parameters and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise AvbError("--task_weighting uncertainty does not work with FSDP or DeepSpeed: use fixed")
        self.graphed = self._capture_steps(is_cut_up)

    def _capture_steps(self, is_cut_up: bool) -> GraphedSteps | None:
        """Runs steps as CUDA graphs, if requested and possible."""
        args, mode = self.args, self.args.cuda_graphs
        # Otherwise almost every batch has its own length, so that nothing would be replayed.
        if mode == "false" or (mode == "auto" and not self.lengths):
            return None
        if reason := reason_against(args, self.model, is_cut_up):
            if mode == "true":
                logger.warning("--cuda_graphs true has no effect: %s", reason)
            return None
        return self.graph_steps(CudaCapture(args.device))

    def graph_steps(self, capture: Capture) -> GraphedSteps:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

        def loss_and_gradients(inputs):
            with self.compute_loss_context_manager():
                logits = self.model_wrapped(**_without_labels(inputs)).logits
                loss = self.accelerator.unwrap_model(self.model).compute_loss(logits, inputs["labels"])
            return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

        return GraphedSteps(loss_and_gradients, parameters, capture, self.model.buffers)

    @staticmethod
    def _few_lengths(model, args: AvbTrainingArguments, data_collator, train_clips) -> list[int]:
        """The lengths in samples that batches are padded to; none on a CPU, where a new length costs nothing."""
        pads = isinstance(data_collator, BurstCollator | FrameCollator | DeviceCollator)
        if not pads or train_clips is None or not (args.torch_compile or args.device.type != "cpu"):
            return []
        if reason := batch_dependence(model):
            if args.torch_compile:
                raise AvbError(f"{reason}, and --torch_compile pads more: leave it out, or change that")
            return []
        lengths = choose_lengths(train_clips[args.length_column_name][:])
        if isinstance(data_collator, FrameCollator):
            is_front_end = data_collator.column == "front_end_frames"
            stride = math.prod(model.config.conv_stride) if is_front_end else model.config.samples_per_frame
            data_collator.lengths = [-(-length // stride) for length in lengths]
        else:
            data_collator.lengths = lengths
        if args.torch_compile:
            # Beyond its limit, torch runs further lengths uncompiled; each counts for training and for evaluation.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * MAX_LENGTHS)
        return lengths

    def _determine_best_metric(self, metrics, trial):
        """Like the stock method, which keeps the first of equally good epochs; `best_on_tie` can choose the last."""
        is_best = super()._determine_best_metric(metrics, trial)
        score = metrics[self.args.metric_for_best_model]
        if not is_best and self.args.best_on_tie == "last" and score == self.state.best_metric:
            self.state.best_global_step = self.state.global_step
            return True
        return is_best

    # ---- batches ----------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset=None):
        data, args = train_dataset or self.train_dataset, self.args
        if args.train_sampling_strategy not in STRATEGIES:
            return super()._get_train_sampler(data)
        is_grouped = args.train_sampling_strategy == "group_by_length"
        sampler = JoinedBatches(
            len(data),
            data[args.length_column_name][:] if is_grouped else None,  # one read: a column reads each item anew
            args.train_sampling_strategy,
            batch_size=self._train_batch_size,
            budget=None if args.batch_seconds is None else args.batch_seconds * SAMPLING_RATE,
            accumulation=args.gradient_accumulation_steps,
            world_size=args.world_size,
            rank=args.process_index,
            drop_last=args.dataloader_drop_last,
            seed=args.seed if args.data_seed is None else args.data_seed,
        )
        if not len(sampler):
            way_out = "lower --batch_seconds or --per_device_train_batch_size, or add --dataloader_drop_last false"
            if not args.dataloader_drop_last:
                way_out = f"there are {args.world_size} devices, and each needs at least one"
            raise AvbError(f"{len(data)} train clips are fewer than one step takes: {way_out}")
        return sampler

    def _run_epoch(self, *, epoch, train_dataloader, **kwargs):
        # accelerate reaches the sampler through at most one wrapper; on several devices, resumed, it has two.
        sampler: Any = train_dataloader.batch_sampler
        while not isinstance(sampler, JoinedBatches) and isinstance(sampler, torch.utils.data.BatchSampler):
            sampler = sampler.batch_sampler  # type: ignore[attr-defined]  # accelerate's wrappers have one
        sampler.set_epoch(epoch)
        if hasattr(self.train_dataset, "set_epoch"):  # what is drawn for its clips
            self.train_dataset.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _get_eval_sampler(self, eval_dataset):
        # The stock sampler of group_by_length also shuffles evaluation: predictions would not be in the rows' order.
        return SequentialSampler(eval_dataset)

    def _get_dataloader(self, *args, is_training=False, **kwargs):
        # The stock Trainer drops the last clips of evaluation along with those of training.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    # ---- loss -------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        micro_batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.audio is not None or self.teachers is not None:
            micro_batches = [self._prepare_inputs(inputs) for inputs in micro_batches]
        if self.teachers is not None:
            with self.compute_loss_context_manager():
                for inputs in micro_batches:
                    inputs["labels"] = self.teachers.soften(inputs)
                    inputs.pop(FOLDS_COLUMN, None)  # the model knows nothing of them
        self._step = _Step(micro_batches)
        return micro_batches, num_items

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        return self.audio.hear(inputs) if self.audio is not None and AUDIO in inputs else inputs

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Back-propagates one micro-batch; returns the step's loss for the first one, zero for the others."""
        with cheap_dropout(self.args):
            return self._training_step(model, inputs, num_items_in_batch)

    def _training_step(self, model, inputs, num_items_in_batch):
        step = self._step
        if self.graphed is not None:
            if not model.training:  # it takes a millisecond to say so to every part
                model.train()
            return self.graphed(self._prepare_inputs(inputs))
        if step.position == 0 and len(step.micro_batches) > 1:
            model.train()
            self._run_without_gradient(model, step)
        super().training_step(model, inputs, num_items_in_batch)
        step.position += 1
        assert step.loss is not None  # the first micro-batch has set it
        return step.loss if step.position == 1 else torch.zeros_like(step.loss)

    @cached_property
    def _model_weights(self) -> int:
        return self.model.num_parameters(exclude_embeddings=True)

    def floating_point_ops(self, inputs) -> int:
        """As the stock method, which counts the weights anew for every batch: a millisecond or more."""
        waveforms = inputs.get(self.model.main_input_name)
        return 0 if waveforms is None else 6 * waveforms.numel() * self._model_weights

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """In training, a number whose gradient is this micro-batch's part of the joined one; otherwise the loss."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs)
        step = self._step
        if step.random_states:
            _set_random_state(step.random_states[step.position])
        outputs = model(**_without_labels(inputs))
        if step.loss is None:  # the batch is not cut up on this device
            self._join(step, [outputs.logits.detach()])
        # Gradients are averaged over devices, but each device has only the part of its own rows.
        share = (outputs.logits * step.gradients[step.position]).sum() * self.accelerator.num_processes
        if step.position == 0:
            parameters = self.loss_parameters.values()
            share = share + sum((p * g).sum() for p, g in zip(parameters, step.own_gradients, strict=True))
        return (share, outputs) if return_outputs else share

    @torch.no_grad()
    def _run_without_gradient(self, model, step: _Step):
        logits = []
        for inputs in step.micro_batches:
            inputs = self._prepare_inputs(inputs)
            step.random_states.append(_random_state(inputs))
            logits.append(model(**_without_labels(inputs)).logits)
        self._join(step, logits)

    def _join(self, step: _Step, logits: list[torch.Tensor]):
        """Computes the loss of all devices' micro-batches, and its gradients. `logits`: (clips, labels) each."""
        labels = [self._prepare_inputs(inputs)["labels"] for inputs in step.micro_batches]
        joined, own_rows = self._gather_rows(torch.cat(logits))
        joined.requires_grad_()
        with torch.enable_grad():
            model = self.accelerator.unwrap_model(self.model)
            loss = model.compute_loss(joined, self._gather_rows(torch.cat(labels))[0])
            gradients = torch.autograd.grad(loss, [joined, *self.loss_parameters.values()])
        step.loss = loss.detach()
        step.gradients = gradients[0][own_rows].split([len(rows) for rows in logits])
        step.own_gradients = gradients[1:]

    def _gather_rows(self, rows: torch.Tensor) -> tuple[torch.Tensor, slice]:
        """Gathers the rows of all devices, whose numbers may differ; also returns which rows are this device's."""
        if self.args.world_size == 1:
            return rows.clone(), slice(None)
        counts = self.accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
        padded = nn.functional.pad(rows, (0, 0) * (rows.ndim - 1) + (0, max(counts) - len(rows)))
        parts = self.accelerator.gather(padded).split(max(counts))
        start = sum(counts[: self.args.process_index])
        joined = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        return joined, slice(start, start + len(rows))

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs):
        """Like the stock method, but with the loss of the whole split, not the mean over batches."""
        with self.averaged_weights():
            output = super().evaluation_loop(
                dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs
            )
            if output.label_ids is not None:
                predictions, labels = (
                    torch.as_tensor(array, device=self.args.device) for array in (output.predictions, output.label_ids)
                )
                with torch.no_grad():
                    loss = self.accelerator.unwrap_model(self.model).compute_loss(predictions, labels)
                output.metrics[f"{metric_key_prefix}_loss"] = loss.item()
        return output

    # ---- optimiser --------------------------------------------------------------------------------------------------

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(self.parameter_groups(), **options)
        return self.optimizer

    def parameter_groups(self) -> list[dict]:
        """The encoder (by layer, if its rate decays) and the head, each with and without weight decay.

        Biases and norms have none, unless `decay_biases` is set.
        """
        names = [name for name, _ in self.model.named_parameters()]
        decayed = set(names if self.args.decay_biases else self.get_decay_parameter_names(self.model))
        groups: dict[tuple[float, str, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                part = "encoder" if name.startswith(f"{self.model.base_model_prefix}.") else "head"
                rate = self.args.learning_rate if part == "head" else self._encoder_rate(name)
                groups.setdefault((rate, part, name in decayed), []).append(parameter)
        return [
            {"params": params, "lr": rate, "weight_decay": self.args.weight_decay if decay else 0.0}
            for (rate, _, decay), params in groups.items()
        ]

    def _encoder_rate(self, name: str) -> float:
        """The learning rate of an encoder weight; with `layer_lr_decay`, lower in lower layers (Howard & Ruder)."""
        decay = self.args.layer_lr_decay
        if decay == 1:
            return self.args.encoder_learning_rate
        layer = re.search(r"(?<!pos_conv_embed\.)\blayers\.(\d+)\.", name)
        depth = int(layer[1]) + 1 if layer else 0
        return self.args.encoder_learning_rate * decay ** (len(self.model.base_model.layers_kept) - depth)


def batch_dependence(model: nn.Module) -> str | None:
    """Why a clip's prediction depends on the other clips of its batch or on padding; None if it does not."""
    # Batch norms of an encoder use the statistics of its pre-training.
    own = {*model.base_model.modules()} if isinstance(model, VocalBurstModel) else set()
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in set(model.modules()) - own):
        return f"{type(model).__name__} normalises over the batch (batch norm)"
    if not isinstance(model, VocalBurstModel):
        return None
    return model.config.batch_dependence


def _without_labels(inputs: dict) -> dict:
    return {name: value for name, value in inputs.items() if name != "labels"}


def _random_state(inputs: dict) -> tuple:
    """The random state of the CPU and of the inputs' devices."""
    return torch.get_rng_state(), get_device_states(*inputs.values())


def _set_random_state(state: tuple):
    torch.set_rng_state(state[0])
    set_device_states(*state[1])
