"""Arguments of the clips: which corpus, how they are prepared and changed, where they are stored."""

from dataclasses import dataclass, field

from audio_avb import AudioPreparation
from avb.arguments.chosen import say_chosen
from avb.arguments.properties import NO_CHANGE
from avb.corpus_arguments import PRIVATE, CorpusArguments


@dataclass
class DataArguments(CorpusArguments):
    _argument_group_name = "data"  # of --help
    peak_db: float | None = field(
        default=AudioPreparation.peak_db, metadata={"help": "Peak level of each clip, dBFS (section IV-A: -3)."}
    )
    trim_top_db: float | None = field(
        default=AudioPreparation.trim_top_db,
        metadata={"help": "Trim leading and trailing parts more than this many dB below the peak."},
    )
    cache_frames: bool = field(
        default=True,
        metadata={
            "help": "Run a frozen encoder or front end once and train on its frames, stored in cache_dir.",
            **NO_CHANGE,
        },
    )
    frames_dtype: str = field(
        default="float16", metadata={"help": "Precision of the frames that cache_frames stores: float16 or float32."}
    )
    augment: list[str] | None = field(
        default=None,
        metadata={
            "help": "Augmentation of training clips: any of rate pitch shift mix noise equalizer gain mixup; noise:0.3 "
            f"sets a probability. {say_chosen('augment', 'none')}"
        },
    )
    augment_prob: float = field(default=0.5, metadata={"help": "Probability of each augmentation, per clip and epoch."})
    teachers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Distillation: teacher models, or tables of their scores for the training clips, written by "
            "predict_avb.py."
        },
    )
    teacher_weight: float = field(
        default=0.5,
        metadata={"help": "Weight of the teachers in each training label; the clip's own label gets the rest."},
    )
    teacher_views: int = field(
        default=1,
        metadata={"help": "Average each teacher model's scores over this many speeds of the clip, 0.88 to 1.14."},
    )
    fold_file: str | None = field(
        default=None,
        metadata={
            "help": "Table with columns speaker and fold, e.g. recipes/emogator/folds.csv. The training speakers of "
            "--fold become the validation split; the corpus's own validation and test splits are not used."
        },
    )
    fold: int | None = field(default=None, metadata={"help": "Fold of fold_file to hold out."})
    folds: str | None = field(
        default=None,
        metadata={
            "help": "Cross-validation: a number of folds, e.g. 5; 'speakers' for one fold per speaker; or a table with "
            "columns id (or speaker) and fold. If the corpus has splits, its train split is divided."
        },
    )
    final_model: bool = field(
        default=False, metadata={"help": "With folds: train one more model on all clips at the end."}
    )
    max_train_clips: int | None = field(default=None, metadata={"help": "Train on this many clips, drawn at random."})
    max_seconds: float = field(
        default=AudioPreparation.max_seconds, metadata={"help": "Longest clip to decode, in seconds."}
    )
    num_decode_workers: int = field(
        default=1, metadata={"help": "Processes that decode audio into the cache.", **NO_CHANGE}
    )
    cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for decoded audio. Default: the cache of datasets.", **PRIVATE},
    )
    strict: bool = field(
        default=False,
        metadata={"help": "Stop at the first clip that cannot be read instead of skipping it.", **NO_CHANGE},
    )

    def preparation(self) -> AudioPreparation:
        """How clips are prepared. Raises an AudioError if a setting is invalid."""
        return AudioPreparation(trim_top_db=self.trim_top_db, peak_db=self.peak_db, max_seconds=self.max_seconds)
