"""Trains the detector: scenes are generated as needed, with one binary cross-entropy per frame.

It is a separate command instead of a recipe of train_avb.py because there are no clips, splits or task labels here, but
an endless sequence of scenes with a label per frame. So that command's corpora, batches, metrics and card do not apply.
"""

import time
from dataclasses import fields
from pathlib import Path
from typing import cast

import numpy as np
import torch
import yaml
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from transformers import Wav2Vec2FeatureExtractor, set_seed

from audio_avb import SAMPLING_RATE
from avb.events.arguments import TrainingArguments
from avb.events.detection import load_detector
from avb.events.evaluation import fit_threshold
from avb.events.pool import Pool
from avb.events.scenes import Event, Scenes, SceneSettings
from avb.files import make_folder, write_json
from configuration_events_avb import BurstEventsConfig
from modeling_events_avb import FRAME_SAMPLES, BurstEventsModel

LOG_STEPS, SAVE_STEPS = 50, 500


def train(args: TrainingArguments) -> Path:
    """Trains and saves a detector with its feature extractor; returns its folder."""
    set_seed(args.seed)
    folder = make_folder(args.output_dir)
    pool = Pool.load(args.pool, "train")
    model = BurstEventsModel(BurstEventsConfig(channels=args.channels, dropout=args.dropout))
    if args.start_from:
        model = load_detector(args.start_from)
    model.train()
    # The moving average of weights and batch statistics is saved, because the weights of single steps fluctuate.
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(args.ema_decay), use_buffers=True)
    averaged = cast(BurstEventsModel, average.module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    begin, losses, log = time.monotonic(), [], []
    progress = 0.0
    for step, (waveforms, labels) in enumerate(_batches(pool, args)):
        progress = step / args.max_steps
        if args.max_minutes:
            progress = max(progress, (time.monotonic() - begin) / 60 / args.max_minutes)
        if progress >= 1:
            break
        rise = min(1.0, (step + 1) / args.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * rise * 0.5 * (1 + np.cos(np.pi * progress))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = model(waveforms, labels=labels).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        losses.append(loss.item())
        if (step + 1) % LOG_STEPS == 0:
            log.append({"step": step + 1, "loss": float(np.mean(losses[-LOG_STEPS:]))})
            minutes = (time.monotonic() - begin) / 60
            print(f"step {step + 1}: loss {log[-1]['loss']:.4f}, {minutes:.1f} min", flush=True)
        if (step + 1) % SAVE_STEPS == 0:
            averaged.save_pretrained(folder)
    model = averaged.eval()
    if args.start_share:
        add_weights(model, load_detector(args.start_from), args.start_share)
    model.config.threshold, tried = fit_threshold(
        model, pool, args.threshold_scenes, most_alarms=args.most_alarms, f1_given_up=args.f1_given_up
    )
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({f.name: getattr(args, f.name) for f in fields(args) if f.name not in ("pool", "output_dir")})
    )
    write_json(folder / "training_log.json", {"losses": log, "thresholds": tried})
    return folder


@torch.no_grad()
def add_weights(model: BurstEventsModel, other: BurstEventsModel, share: float):
    """Makes weights and batch statistics of `model` a weighted mean: `share` of the other's, the rest its own.

    A detector and one that was trained on from it are better together than alone (Wortsman et al. 2022,
    arXiv:2203.05482).
    """
    others = other.state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.lerp_(others[name], share)


class _Batches(Dataset):
    """Batch n contains the scenes from n * batch_size on, so it is the same with any number of workers."""

    def __init__(self, pool: Pool, args: TrainingArguments):
        self.scenes = Scenes(pool, SceneSettings(args.scene_seconds, varied=True), args.seed)
        self.size, self.steps = args.batch_size, args.max_steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, samples) waveforms and (batch, frames) labels."""
        batch = [self.scenes[step * self.size + number] for number in range(self.size)]
        waveforms = torch.from_numpy(np.stack([scene.waveform for scene in batch]))
        return waveforms, torch.stack([frame_labels(scene.events, waveforms.shape[1]) for scene in batch])


def _batches(pool: Pool, args: TrainingArguments) -> DataLoader:
    return DataLoader(_Batches(pool, args), batch_size=None, shuffle=False, num_workers=args.workers)


def frame_labels(events: list[Event], samples: int) -> torch.Tensor:
    """(frames,): 1 where a frame's middle lies in an event; as many as the model outputs for this many samples."""
    frames = samples // FRAME_SAMPLES + 1
    labels = torch.zeros(frames)
    for event in events:
        first, last = (int(np.ceil(time * SAMPLING_RATE / FRAME_SAMPLES)) for time in (event.start, event.end))
        labels[first:last] = 1
    return labels
