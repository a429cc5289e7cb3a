"""Runs the matrix, each group through its entry point, and writes it as a table."""

import contextlib
import csv
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import predict_avb
from avb.arguments import AvbTrainingArguments, DataArguments
from avb.command_line import parse_arguments
from avb.corpora import load_bursts
from avb.errors import AvbError
from avb.training.loading import load_clips
from bad_input import audio, checkpoints, encoders, options, recipes, tables
from bad_input.case import Case

ABOUT = """# Bad input: what is seen

Made by `python -m tests.bad_input`, which builds each input and gives it to the command or function that reads it; a
test runs it again and compares. Paths are shortened. A skipped clip is listed in `OUTPUT.errors.csv`, the others are
scored, and the exit code of `predict_avb.py` is 3. An error is one line, without a traceback, and the exit code is 1 or
2. Nothing here waits for an answer, follows a path out of its folder because a file says so, runs code of a model's
folder or fills the memory: the largest takes what ten minutes of audio take.

What a file may name:

- A label table: files in its own folder, or in the one that its user gives (`--audio_root`, which may be `/`: absolute
  paths are then legal). Links in that folder are the user's own, and are followed. An id names no file: a `File_ID` of
  HUME-VB is looked up among the names in `audio/wav`, and ids never become names of files that are written.
- Prepared shards: nothing. They hold the audio itself; a path without it is refused.
- A recipe: what a command line may, any folder of the machine, and it is as much to be trusted as one. What it
  `extends` is another recipe, a relative path that ends in `.yaml`.
- A model's folder: its own safetensors. Its Python files are run only where Transformers is told so
  (`trust_remote_code=True`); `avb.load`, the commands and the demo never do. Encoders to start training from are often
  published as `pytorch_model.bin`: Transformers reads tensors from those (`weights_only=True`), and runs nothing.
"""


def observe_clips(cases: list[Case], folder: Path) -> Iterator[str]:
    """All clips in one run of `predict_avb.py`, good and bad beside each other."""
    paths = []
    for number, case in enumerate(cases):
        place = folder / str(number)
        place.mkdir()
        paths.append(str(case.build(place)))
    model, output = checkpoints.save_model(folder / "model"), folder / "scores.csv"
    code, said = run(predict_avb.main, [str(model), *paths, "--output", str(output)])
    if code not in (0, predict_avb.EXIT_SKIPPED):
        raise AssertionError(f"predict_avb.py stopped with {code}: {said}")
    scored, skipped = read(output), {row["id"]: row["error"] for row in read(Path(f"{output}.errors.csv"))}
    if len(scored) + len(skipped) != len(cases):
        raise AssertionError(f"{len(cases)} clips went in, {len(scored)} + {len(skipped)} came out")
    scored = {row["id"] for row in scored}
    for number, path in enumerate(paths):
        seen = "scored" if path in scored else f"skipped: {skipped[path]}"
        yield shorten(seen, folder / str(number))


def in_a_table(cases: list[Case]) -> list[Case]:
    """Those whose file is there: the others are the tables' own cases."""
    missing = ("no such file", "not a regular file")
    found = [case for case in cases if not any(words in case.expected for words in missing)]
    return [replace(case, expected=case.expected.replace("scored", "decoded")) for case in found]


def observe_decoding(cases: list[Case], folder: Path) -> Iterator[str]:
    """All clips in one table, as `train_avb.py` and `pretrain_avb.py` read it; both must see the same."""
    rows = []
    for number, case in enumerate(cases):
        place = folder / str(number)
        place.mkdir()
        rows.append([case.build(place), number, "ab"[number % 2], "train"])
    rows.append([audio.wav("good.wav")(folder), "good", "a", "dev"])
    with open(folder / "clips.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "id", "feeling", "split"), *rows])
    (folder / "run").mkdir()
    seen = []
    for reads_labels in (True, False):
        data = DataArguments(data_dir=str(folder / "clips.csv"), audio_root="/", cache_dir=str(folder / "cache"))
        training = AvbTrainingArguments(output_dir=str(folder / "run"))
        clips = load_clips(data, training, reads_labels)
        outcome = dict.fromkeys(clips.splits["train"]["id"][:], "decoded")
        seen.append(outcome | {clip.id: f"skipped: {clip.reason}" for clip in clips.bad})
    if seen[0] != seen[1]:
        raise AssertionError("training and pre-training differ")
    for number in range(len(cases)):
        yield shorten(seen[0][str(number)], folder / str(number))


def observe_option(case: Case, folder: Path) -> str:
    """The outcome of a call or command, in one line."""
    try:
        case.build(folder)()
    except AvbError as error:
        return f"error: {error}"
    return "done"


def observe_table(case: Case, folder: Path) -> str:
    arguments, options = case.build(folder)
    try:
        splits = load_bursts(*arguments, **options).splits
    except AvbError as error:
        return f"error: {error}"
    return "loaded: " + ", ".join(f"{len(rows)} {name}" for name, rows in splits.items())


def observe_recipe(case: Case, folder: Path) -> str:
    code, said = run(parse_arguments, case.build(folder))
    return "parsed" if code is None else said


def observe_model(case: Case, folder: Path) -> str:
    """A prediction of one clip with the model."""
    place = folder / "input"
    place.mkdir()
    clip = str(audio.wav("clip.wav")(folder))
    code, said = run(predict_avb.main, [*case.build(place), clip, "--output", str(folder / "scores.csv")])
    if (place / "ran").exists():
        raise AssertionError("code of the model's folder ran")
    return "scored" if code == 0 else said.replace(str(place), "MODEL")


def run(command: Callable, argv: list[str]) -> tuple[int | None, str]:
    """A command's exit code, or None where it returns no code, and its last line on standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = command(argv)
        except SystemExit as stop:
            code = stop.code
    said = (
        errors.getvalue().strip().rpartition("\n")[2] if command is not parse_arguments else errors.getvalue().strip()
    )
    return code if isinstance(code, int) else None, said.partition(": ")[2]


def read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shorten(seen: str, folder: Path) -> str:
    return seen.replace(f"{folder}/", "").replace(str(folder), ".")


TOGETHER = (observe_clips, observe_decoding)  # of all cases of a group in one run
GROUPS: dict[str, tuple[list[Case], Callable]] = {
    "Audio, through `predict_avb.py`": (audio.CASES, observe_clips),
    "Audio in a table, through `train_avb.py` and `pretrain_avb.py`": (in_a_table(audio.CASES), observe_decoding),
    "Devices and options, in every command": (options.CASES, observe_option),
    "Label tables and corpora, through `load_bursts`": (tables.CASES, observe_table),
    "Recipes, through the arguments of `train_avb.py`": (recipes.CASES, observe_recipe),
    "Models, through `predict_avb.py`": (checkpoints.CASES, observe_model),
    "Encoders, through `--encoder` of `train_avb.py` and `pretrain_avb.py`": (encoders.CASES, encoders.observe),
}


def observe(group: str) -> Iterator[tuple[Case, str]]:
    """The cases of a group and what is seen of each."""
    cases, observe_one = GROUPS[group]
    with tempfile.TemporaryDirectory(prefix="avb-bad-input-") as root:
        if observe_one in TOGETHER:
            yield from zip(cases, observe_one(cases, Path(root)), strict=True)
            return
        for number, case in enumerate(cases):
            folder = Path(root, str(number))
            folder.mkdir()
            yield case, shorten(observe_one(case, folder), folder)


def write(path: Path, seen: dict[str, list[tuple[Case, str]]]):
    """The table, in Markdown."""
    lines = [ABOUT]
    for group, rows in seen.items():
        lines += [f"## {group}", "", "| case | expected | seen |", "|---|---|---|"]
        lines += [f"| {escape(case.name)} | {escape(case.expected)} | {escape(one)} |" for case, one in rows]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


def escape(text: str) -> str:
    """One cell of a table: 300 signs at most, nothing that Markdown or HTML would take for its own."""
    text = text if len(text) <= 300 else f"{text[:300]} …"
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return text


def main() -> int:
    seen = {group: list(observe(group)) for group in GROUPS}
    bad = [(case, one) for rows in seen.values() for case, one in rows if not case.is_met_by(one)]
    for case, one in bad:
        print(f"{case.name}: expected {case.expected!r}, seen {one!r}", file=sys.stderr)
    path = Path(__file__).resolve().parents[2] / "docs" / "bad_input.md"
    write(path, seen)
    print(f"{sum(map(len, seen.values()))} cases, {len(bad)} not as expected: {path}")
    return 1 if bad else 0
