"""Turn a corpus into 16 kHz Parquet shards that load the same way, faster, and as one small set of files.

    python -m avb.corpora.prepare emogator path/to/EmoGator emogator-16k --num-workers 4
    python -m avb.corpora.prepare hume_vb  path/to/release   hume-vb-16k
    python -m avb.corpora.prepare folder   clips.csv         clips-16k --option 'label_range=[1, 7]'

Clips become mono FLAC, 16 bit, at the sampling rate and level asked for: of a 48 kHz release this makes the 16 kHz, -3 dB
version. Labels are those of all tasks the corpus has; hume_vb's four label tables share one copy of the audio. See
`avb.corpora.shards` for the columns. Then `load_bursts("emogator", "emogator-16k")`, and so on.

Each shard is written under a temporary name and moved into place, so the same command run again after an interruption goes
on where it stopped; another command into the same folder is refused. Clips that cannot be decoded are left out, counted and
listed in `bad_clips.csv`.
"""

import argparse
import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
from datasets import Dataset, DatasetDict, Features, Value
from tqdm.auto import tqdm

from avb.audio import SAMPLING_RATE
from avb.corpora import CORPORA, emogator, hume_vb, load_bursts, shards
from avb.corpora.decode import BadClip, decode_clips, fingerprint
from avb.corpora.tables import AUDIO_FEATURE, MISSING_CLASS, Corpus
from avb.errors import AvbError, CorpusError
from avb.tasks import Task

BAD_CLIPS_FILE = "bad_clips.csv"
_BAD_CLIPS_KEY = b"bad_clips"  # in a shard's metadata: known again when the shard is skipped


def main(arguments: list[str] | None = None) -> None:
    """The command; `--help` lists its arguments."""
    args = _parse_arguments(arguments)
    try:
        bad_clips = prepare(
            args.corpus,
            args.root,
            args.out,
            sampling_rate=args.sampling_rate,
            peak_db=args.peak_db,
            trim_top_db=args.trim_top_db,
            num_workers=args.num_workers,
            shard_rows=args.shard_rows,
            strict=args.strict,
            **dict(args.option),
        )
    except AvbError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}; nothing that was finished is lost: run the command again")
    if bad_clips:
        print(f"{len(bad_clips)} clips could not be decoded and were left out: {args.out / BAD_CLIPS_FILE}", file=sys.stderr)


def prepare(
    corpus: str,
    root: Path,
    out: Path,
    *,
    sampling_rate: int = SAMPLING_RATE,
    peak_db: float | None = -3.0,
    trim_top_db: float | None = None,
    num_workers: int | None = None,
    shard_rows: int = 8000,
    strict: bool = False,
    **options,
) -> list[BadClip]:
    """Write the shards of a corpus.

    Args:
        corpus: hume_vb, emogator or folder.
        root: of the corpus.
        out: folder to write, new or left by an interrupted run of the same settings.
        sampling_rate: of the clips, Hz.
        peak_db: see `avb.audio.load_audio`.
        trim_top_db: see `avb.audio.load_audio`.
        num_workers: processes that decode; None is one.
        shard_rows: clips a shard, at most.
        strict: raise at the first clip that cannot be decoded.
        **options: of the corpus's `load` function.

    Returns:
        The clips that were left out.

    Raises:
        AudioError: `strict`, and a clip cannot be decoded.
        CorpusError: the corpus does not load, a split has no clip that can be decoded, or `out` holds something else.
    """
    root, out = Path(root), Path(out)
    if shard_rows < 1:
        raise CorpusError(f"shard_rows must be positive, got {shard_rows}")
    splits, tasks = _label_columns(corpus, root, options)
    audio = {"sampling_rate": sampling_rate, "trim_top_db": trim_top_db, "peak_db": peak_db}
    clips = {split: fingerprint(rows, audio) for split, rows in splits.items()}
    labels = {name: [list(task.labels), columns] for name, (task, columns) in tasks.items()}
    settings = {"corpus": corpus, **audio, "shard_rows": shard_rows, "labels": labels, "clips": clips}
    _start(out, settings)

    bad_clips, counts = [], {}
    for split, rows in splits.items():
        counts[split] = 0
        progress = tqdm(desc=split, total=len(rows), unit="clip", disable=None)
        for number, start in enumerate(range(0, len(rows), shard_rows)):
            path = out / f"{split}-{number:05d}.parquet"
            part = rows.select(range(start, min(start + shard_rows, len(rows))))
            if not path.exists():
                _write_shard(path, split, part, audio, num_workers, strict, progress)
            written = pq.ParquetFile(path)
            counts[split] += written.metadata.num_rows
            bad_clips += [BadClip(*clip) for clip in json.loads(written.schema_arrow.metadata[_BAD_CLIPS_KEY])]
            progress.update(start + len(part) - progress.n)
        progress.close()
        if not counts[split]:
            raise CorpusError(f"split {split!r}: none of its {len(rows)} clips can be decoded; the first: {bad_clips[-1].reason}")

    if corpus == "emogator":
        if (root / emogator.NORMS_FILE).is_file():
            shutil.copyfile(root / emogator.NORMS_FILE, out / emogator.NORMS_FILE)
    else:
        shards.write_tasks(out, tasks)
    if bad_clips:
        with open(out / BAD_CLIPS_FILE, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([BadClip._fields, *bad_clips])
    _write_json(out / shards.SETTINGS_FILE, settings | {"finished": True})
    print(f"{out}: " + ", ".join(f"{split} {count}" for split, count in counts.items()) + " clips")
    return bad_clips


def _label_columns(corpus: str, root: Path, options: dict) -> tuple[DatasetDict, dict[str, tuple[Task, list[str]]]]:
    """The corpus with one column a label, and the tasks these columns belong to."""
    if shards.is_prepared(root):
        raise CorpusError(f"{root}: these are prepared shards already; give the corpus they were made from")
    names = hume_vb.tasks_in(root) if corpus == "hume_vb" else []
    corpora = [load_bursts(corpus, root, name, **options) for name in names or [options.pop("task", None)]]
    if corpus == "emogator":  # its columns `speaker`, `category`, `instance` say it all
        return corpora[0].splits.remove_columns("labels"), {}
    splits, tasks = corpora[0].splits.remove_columns("labels"), {}
    for loaded in corpora:
        columns = list(loaded.task.labels) if loaded.task.kind == "regression" else [_class_column(corpus, loaded.task)]
        tasks[loaded.task.name] = (loaded.task, columns)
        splits = _add_labels(splits, loaded, columns)
    return splits, tasks


def _class_column(corpus: str, task: Task) -> str:
    return hume_vb.CLASS_COLUMN if corpus == "hume_vb" else f"{task.name}_class"


def _add_labels(splits: DatasetDict, loaded: Corpus, columns: list[str]) -> DatasetDict:
    """Add a corpus's labels to rows of the same clips, which another task's table may list in another order."""
    for split, rows in splits.items():
        position_of = {clip_id: i for i, clip_id in enumerate(loaded.splits[split]["id"])} if split in loaded.splits else {}
        ids = rows["id"][:]
        if set(ids) != set(position_of):
            differing = sorted(set(ids) ^ set(position_of))
            raise CorpusError(
                f"the label tables disagree: {len(differing)} clips of split {split!r}, such as {differing[0]!r}, are not "
                f"in the same split for task {loaded.task.name!r}; correct the tables"
            )
        order = [position_of[clip_id] for clip_id in ids]
        labels = loaded.splits[split].with_format("numpy", columns=["labels"])["labels"][:][order]
        for j, column in enumerate(columns):
            if column in rows.column_names:
                raise CorpusError(f"the label {column!r} has the name of another column of the shards; rename it")
            if loaded.task.kind == "regression":
                rows = rows.add_column(column, labels[:, j].astype(np.float32))
            else:
                classes = [None if i == MISSING_CLASS else loaded.task.labels[i] for i in labels]
                rows = rows.add_column(column, classes, feature=Value("string"))
        splits[split] = rows
    return splits


def _start(out: Path, settings: dict) -> None:
    """Make the folder, or make sure that what is in it was made with the same settings."""
    out.mkdir(parents=True, exist_ok=True)
    settings_file = out / shards.SETTINGS_FILE
    if settings_file.is_file():
        before = json.loads(settings_file.read_text(encoding="utf-8"))
        differing = [name for name, value in json.loads(json.dumps(settings)).items() if before.get(name) != value]
        if differing:
            raise CorpusError(
                f"{out}: holds shards made with other {', '.join(differing)}; give another folder, or empty this one"
            )
    elif any(out.iterdir()):
        raise CorpusError(f"{out}: not empty, and not begun by prepare; give another folder, or empty this one")
    _write_json(settings_file, settings | {"finished": False})


def _write_json(path: Path, content: dict) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _write_shard(
    path: Path, split: str, rows: Dataset, audio: dict, num_workers: int | None, strict: bool, progress: tqdm
) -> None:
    kept, encoded, seconds, bad_clips = [], [], [], []
    for position, (waveform, error) in enumerate(decode_clips(rows, **audio, num_proc=num_workers, strict=strict)):
        clip_id, source = rows[position]["id"], rows[position]["audio"]["path"]
        if error is None:
            kept.append(position)
            name = f"{Path(source or clip_id).stem}.flac"
            encoded.append({"bytes": encode_flac(waveform, audio["sampling_rate"]), "path": name})
            seconds.append(len(waveform) / audio["sampling_rate"])
        else:
            bad_clips.append(BadClip(split, clip_id, source or "", error))
        progress.update()

    features = Features({"id": Value("string"), "audio": AUDIO_FEATURE}) | {
        name: feature for name, feature in rows.features.items() if name not in ("id", "audio", "duration")
    }
    table = rows.remove_columns("audio").select(kept).with_format("arrow")[:]
    columns = {"audio": pa.array(encoded, Features({"audio": AUDIO_FEATURE}).arrow_schema.field("audio").type)}
    columns |= {name: table[name] for name in features if name != "audio"}
    table = pa.table({name: columns[name] for name in features} | {"duration": pa.array(seconds, pa.float32())})
    metadata = {_BAD_CLIPS_KEY: json.dumps(bad_clips, ensure_ascii=False).encode()}
    temporary = path.with_name(f"{path.name}.tmp")
    pq.write_table(table.replace_schema_metadata(metadata), temporary, row_group_size=500)
    os.replace(temporary, path)


def encode_flac(waveform: np.ndarray, sampling_rate: int) -> bytes:
    """FLAC, mono, 16 bit; a clip above full scale is scaled down to it, not clipped.

    Args:
        waveform: float32 of shape (samples,).
        sampling_rate: Hz.
    """
    full_scale = 32767 / 32768  # the highest of 16 bits
    peak = np.abs(waveform).max(initial=0.0)
    file = io.BytesIO()
    sf.write(file, waveform * (full_scale / peak) if peak > full_scale else waveform, sampling_rate, "PCM_16", format="FLAC")
    return file.getvalue()


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.corpora.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", choices=CORPORA)
    parser.add_argument("root", type=Path, help="where the corpus lies")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sampling-rate", type=int, default=SAMPLING_RATE, help="of the clips written, Hz (16000)")
    parser.add_argument("--peak-db", type=_number_or_none, default=-3.0, help="peak level, dBFS, or none (-3)")
    parser.add_argument("--trim-top-db", type=_number_or_none, help="cut the ends this far below the loudest frame, dB")
    parser.add_argument("--num-workers", type=int, help="processes that decode (1)")
    parser.add_argument("--shard-rows", type=int, default=8000, help="clips a shard, at most (8000)")
    parser.add_argument("--strict", action="store_true", help="stop at the first clip that cannot be decoded")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="an option of the corpus, its value as JSON or text; may be repeated",
    )
    return parser.parse_args(arguments)


def _number_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


if __name__ == "__main__":
    main()
