"""The decoded corpus in a device's memory: what training and evaluation read there instead of rows from a disk.

A small model learns from thousands of clips a second, faster than processes load and change them. So the samples of all
splits lie on the device, in 16 bits with a scale per clip (2 bytes per sample: 115 MB per hour), and all that a step
copies there is which clips it takes and what is drawn for them; changes, normalisation and padding are done there
(`avb.training.batched_changes`). Rounded to 16 bits, a sample moves by at most 1/65,000 of its clip's peak.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from avb.collator import BurstCollator, collate_labels, padded_length
from avb.errors import AvbError
from avb.training.augmentation import AugmentedClips, mix_labels
from avb.training.batched_changes import BATCHED, DrawnBatch, apply, inside, pack
from avb.training.device_defaults import free_bytes
from avb.training.draws import MIXUP, Augmentation, Drawn, read_augmentations

MEMORY_SHARE = 0.4  # share of a device's free memory that the samples may use
AUDIO = "audio"  # key in a batch: a `DrawnBatch`, until `hear` reads it
_LARGEST = 32_767
_EPSILON = 1e-7  # as in `Wav2Vec2FeatureExtractor`


class DeviceAudio:
    """The samples of all clips of some splits, on a device.

    Args:
        splits: decoded rows with `input_values`.
        device: device to store them on.
        normalizes: whether each clip is set to zero mean and unit variance.

    Attributes:
        clip_by_clip: whether clips are read and changed one by one, which is faster on a CPU.
        firsts: split's name → row of its first clip in the corpus.
        num_bytes: size of the samples.
    """

    def __init__(self, splits: Mapping[str, Dataset], device: torch.device, normalizes: bool):
        lengths = {name: np.asarray(split["num_samples"][:], np.int64) for name, split in splits.items()}
        self.device, self.normalizes = device, normalizes
        self.clip_by_clip = device.type == "cpu"
        self.firsts = dict(zip(splits, np.cumsum([0, *map(len, lengths.values())]).tolist(), strict=False))
        ends = np.cumsum(np.concatenate(list(lengths.values())))
        self._starts = torch.from_numpy(ends - np.concatenate(list(lengths.values()))).to(device)
        self._samples = torch.empty(int(ends[-1]), dtype=torch.int16, device=device)
        self.num_bytes = self._samples.nbytes
        scales, start = [], 0
        for split in splits.values():
            for values, scale in _in_16_bits(split):
                self._samples[start : start + len(values)] = torch.from_numpy(values).to(device)
                start += len(values)
                scales.append(scale)
        if start != len(self._samples):
            raise AvbError(f"the clips have {start:,} samples and not the {len(self._samples):,} that num_samples says")
        self._scales = torch.from_numpy(np.concatenate(scales)).to(device)

    def clips(self, splits: Mapping[str, Dataset], augmentation: Augmentation | None) -> dict[str, "DeviceClips"]:
        """The rows of the splits; those of `train` with the changes drawn for them."""
        return {
            name: DeviceClips(split, self.firsts[name], augmentation if name == "train" else None)
            for name, split in splits.items()
        }

    def read(self, clips: torch.Tensor, starts: torch.Tensor, samples: torch.Tensor, width: int) -> torch.Tensor:
        """Waveforms (clips, width) of these rows: `samples` (clips,) samples from `starts` (clips,) on, then zeros."""
        if self.clip_by_clip:
            waveforms = torch.zeros(len(clips), width)
            firsts, counts = (self._starts[clips] + starts).tolist(), samples.tolist()
            for waveform, first, count in zip(waveforms, firsts, counts, strict=True):
                values = self._samples[first : first + count]
                waveform[: len(values)] = values
            return waveforms.mul_(self._scales[clips][:, None])
        places = (self._starts[clips] + starts)[:, None] + torch.arange(width, device=clips.device)
        values = self._samples[places.clamp_(max=len(self._samples) - 1)]
        return values * (self._scales[clips][:, None] * inside(samples, width))

    def hear(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Replaces a batch's `audio` by `input_values` and `attention_mask`, as `BurstCollator` makes them."""
        rest = {name: values for name, values in batch.items() if name != AUDIO}
        drawn: DrawnBatch = batch[AUDIO].to(self.device, non_blocking=True)
        waveforms, samples = apply(drawn, self.read, self.clip_by_clip)
        mask = inside(samples, drawn.padded)
        if self.normalizes:
            waveforms = (waveforms - waveforms.sum(1, keepdim=True) / samples[:, None]) * mask
            variances = waveforms.square().sum(1, keepdim=True) / samples[:, None]
            waveforms = waveforms / (variances + _EPSILON).sqrt()
        return {"input_values": waveforms, "attention_mask": mask.int(), **rest}


def _in_16_bits(split: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Concatenated samples of some clips (samples,), int16, and their scales (clips,): the value of one step."""
    for table in split.select_columns("input_values").with_format("arrow").iter(batch_size=256):
        for chunk in table["input_values"].chunks:
            lengths, values = np.asarray(chunk.value_lengths()), np.asarray(chunk.flatten(), np.float32)
            starts = np.cumsum(lengths) - lengths
            scales = (np.maximum.reduceat(np.abs(values), starts) / _LARGEST).astype(np.float32)
            steps = np.repeat(np.where(scales > 0, scales, 1), lengths)
            yield np.rint(values / steps).astype(np.int16), scales


class DeviceClips(torch.utils.data.Dataset):
    """Rows without audio: the changes drawn for each, its labels, and other columns of the split on request.

    Args:
        rows: decoded split.
        first: row of its first clip in the corpus.
        augmentation: augmentation of train clips.
    """

    def __init__(self, rows: Dataset, first: int, augmentation: Augmentation | None = None):
        self.rows, self.first, self.augmentation = rows, first, augmentation
        self._lengths = np.asarray(rows["num_samples"][:]).tolist()
        kept = [name for name in ("labels", "folds") if name in rows.column_names]
        self._columns = {name: np.asarray(rows[name][:]) for name in kept}

    @property
    def column_names(self) -> list[str]:
        return self.rows.column_names

    def set_epoch(self, epoch: int):
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str):
        if isinstance(key, str):
            return self.rows[key]
        samples = self._lengths[key]
        drawn = Drawn(key, samples, samples, samples, {}) if self.augmentation is None else self.augmentation.draw(key)
        row = {name: values[key] for name, values in self._columns.items()}
        if MIXUP in drawn.changes:
            change = drawn.changes[MIXUP]
            row["labels"] = mix_labels(row["labels"], self._columns["labels"][change.clip], change)
        return row | {"drawn": drawn, "first": self.first}


class DeviceCollator:
    """Collates rows of `DeviceClips` to `audio`, a `DrawnBatch`, and their labels.

    Args:
        lengths: lengths that batches are padded to, as in `BurstCollator`.
    """

    def __init__(self, lengths: Sequence[int] = ()):
        self.lengths = lengths

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        drawn = [row["drawn"] for row in rows]
        padded = padded_length(max(one.changed_samples for one in drawn), self.lengths)
        return {**collate_labels(rows), AUDIO: pack(drawn, rows[0]["first"], padded)}


class Placed(NamedTuple):
    """The data that a Trainer reads.

    Attributes:
        splits: rows to score.
        train: rows to train on.
        collator: collator of both.
        audio: the clips on the device; None if they are read from disk.
        reason: why they are read from disk although they were requested on the device.
    """

    splits: Mapping[str, Any]
    train: Any
    collator: Any
    audio: DeviceAudio | None = None
    reason: str | None = None


def place_clips(
    splits: Mapping[str, Dataset],
    collator,
    names: Sequence[str],
    prob: float,
    seed: int,
    choice: str,
    device: torch.device,
) -> Placed:
    """Places the clips of these splits on the device if requested and possible; otherwise leaves them on disk.

    Args:
        splits: decoded splits, including `train`.
        collator: collator for rows read from disk.
        names: names of the changes of train clips, see `Augmentation`.
        prob: see `Augmentation`.
        seed: see `Augmentation`.
        choice: `true`, `false`, or `auto`: on a GPU with enough free memory.
        device: device used for training.

    Raises:
        AvbError: `choice` is `true` but it is not possible; or as in `Augmentation`.
    """
    reason, train = None, splits["train"]
    if choice == "true" or (choice == "auto" and device.type == "cuda"):
        reasons = gather_object([reason_against(splits, collator, names, device)])
        reason = next(filter(None, reasons), None)  # with several devices, on all or on none
        if reason is None:
            augmentation = Augmentation(train["num_samples"][:], names, prob, seed) if names else None
            audio = DeviceAudio(splits, device, collator.feature_extractor.do_normalize)
            lying = audio.clips(splits, augmentation)
            return Placed(lying, lying["train"], DeviceCollator(), audio)
        if choice == "true":
            raise AvbError(_refusal(reason))
    return Placed(splits, AugmentedClips(train, names, prob, seed) if names else train, collator, reason=reason)


def check_changes(names: Sequence[str]):
    """Checks what can be checked for `--audio_on_device true` before clips are loaded.

    Raises:
        AvbError: one of the changes is unknown or not supported on the device.
    """
    if reason := _reason_in_changes(names):
        raise AvbError(_refusal(reason))


def _refusal(reason: str) -> str:
    return f"--audio_on_device true is not possible: {reason}. With false, clips come from the disk"


def _reason_in_changes(names: Sequence[str]) -> str | None:
    others = sorted(set(read_augmentations(names, 0)) - set(BATCHED))
    return f"--augment {' '.join(others)} is done on a processor, clip by clip" if others else None


def reason_against(splits: Mapping[str, Dataset], collator, names: Sequence[str], device: torch.device) -> str | None:
    """Why the audio of these splits cannot be on a device; None if it can. Arguments as in `place_clips`."""
    if not isinstance(collator, BurstCollator):
        return "the model reads what was computed of them before (frames of a frozen part, or functionals)"
    if reason := _reason_in_changes(names):
        return reason
    if device.type != "cuda":
        return None
    needed = 2 * sum(int(np.sum(split["num_samples"][:])) for split in splits.values())
    free = free_bytes(device)
    if needed > MEMORY_SHARE * free:
        return f"they take {needed / 1e9:.1f} GB, more than {MEMORY_SHARE:.0%} of the {free / 1e9:.1f} GB that are free"
    return None
