"""A training that was killed, stopped, or ran out of disk goes on as if nothing had happened."""

import csv
import functools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import warm
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from scaled_run import make_trainer
from trainings import EVERY_STEP, NOISY, is_same, log, weights
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import get_last_checkpoint

import train_avb
from avb.commands import SIGTERM_EXIT
from avb.errors import AvbError
from avb.files import write_text
from avb.training.checkpoints import MANIFEST, UNFINISHED, is_whole, last_checkpoint, starting_point
from avb.training.resumption import Terminated
from avb.training.settings import changed_settings, check_unchanged

SHORT = {"num_clips": 14, "missing": 2, "per_device_train_batch_size": 4, "max_steps": 7, "model": NOISY, **EVERY_STEP}


def stop_at(trainer, step: int, action):
    """Calls `action` when the optimiser has taken so many steps."""
    original = trainer.sigterm.on_step_end

    def on_step_end(args, state, control, **kwargs):
        if state.global_step == step:
            action()
        return original(args, state, control, **kwargs)

    trainer.sigterm.on_step_end = on_step_end


# ---- from every checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        {"logging_strategy": "epoch", "train_sampling_strategy": "random"},
        {"logging_steps": 3, "train_sampling_strategy": "random", "dataloader_drop_last": False},
    ],
)
def test_every_checkpoint_leads_to_the_same_end(settings, tmp_path):
    """In mid-epoch and at an epoch's end, with dropout and SpecAugment: weights, best epoch and log are identical."""
    settings = {**SHORT, **settings}
    undisturbed = make_trainer(tmp_path, **settings)
    undisturbed.train()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 7 and not (tmp_path / UNFINISHED).exists()
    for step in (1, 3, 5, 7):
        resumed = make_trainer(tmp_path, **settings)
        resumed.train(str(tmp_path / f"checkpoint-{step}"))
        assert resumed.state.global_step == 7
        assert is_same(weights(undisturbed), weights(resumed)), step
        assert log(undisturbed.state.log_history) == log(resumed.state.log_history), step
        assert undisturbed.state.best_global_step == resumed.state.best_global_step


@pytest.mark.slow
def test_a_run_that_had_stopped_early_has_stopped(tmp_path):
    """Killed after its last checkpoint: the stock Trainer would forget the counter, and train on."""
    fields = {**SHORT, "max_steps": 12, "early_stopping_patience": 2, "learning_rate": 0.3}
    fields |= {"encoder_learning_rate": 0.3, "lr_scheduler_type": "constant"}
    undisturbed = make_trainer(tmp_path, **fields)
    undisturbed.train()
    last = undisturbed.state.global_step
    assert last < 12
    for step in (last - 1, last):
        resumed = make_trainer(tmp_path, **fields)
        resumed.train(str(tmp_path / f"checkpoint-{step}"))
        assert resumed.state.global_step == last
        assert is_same(weights(undisturbed), weights(resumed))
        counters = [
            callback.early_stopping_patience_counter
            for callback in resumed.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        ]
        assert counters == [2]


@pytest.mark.slow
def test_a_folder_that_was_moved_keeps_its_best_checkpoint(tmp_path):
    # At this rate the best step is an early one.
    fields = {**SHORT, "learning_rate": 0.3, "encoder_learning_rate": 0.3, "lr_scheduler_type": "constant"}
    undisturbed = make_trainer(tmp_path / "a", **fields)
    undisturbed.train()
    shutil.move(tmp_path / "a", tmp_path / "b")
    resumed = make_trainer(tmp_path / "b", **fields)
    resumed.train(last_checkpoint(tmp_path / "b"))
    assert is_same(weights(undisturbed), weights(resumed))
    assert resumed.state.best_global_step < 7
    shutil.rmtree(tmp_path / "b" / f"checkpoint-{resumed.state.best_global_step}")
    with pytest.raises(AvbError, match="the best checkpoint so far, is missing"):
        make_trainer(tmp_path / "b", **fields).train(str(tmp_path / "b" / "checkpoint-7"))


# ---- whole or absent ------------------------------------------------------------------------------------------------


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    make_trainer(tmp_path, **SHORT).train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-7")
    with open(tmp_path / "checkpoint-7" / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    (tmp_path / "checkpoint-6" / "optimizer.pt").unlink()
    (tmp_path / "checkpoint-5" / MANIFEST).write_text('{"files": {')
    (tmp_path / "checkpoint-4" / MANIFEST).unlink()
    (tmp_path / "checkpoint-9").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    assert last_checkpoint(tmp_path / "nothing") is None


def test_nothing_looks_like_a_checkpoint_while_one_is_written(tmp_path):
    """At the last moment before the move all files are there, under a name that the stock Trainer passes over too."""
    trainer = make_trainer(tmp_path, **{**SHORT, "max_steps": 2})
    seen = []

    def look(output_dir):
        type(trainer)._save_rng_state(trainer, output_dir)
        seen.append((get_last_checkpoint(tmp_path), sorted(os.listdir(output_dir))))

    trainer._save_rng_state = look
    trainer.train()
    first, second = seen
    assert first[0] is None and second[0] == str(tmp_path / "checkpoint-1")
    assert "model.safetensors" in second[1] and is_whole(tmp_path / "checkpoint-2")


@pytest.mark.parametrize(
    ("limit", "kept"), [pytest.param(1, 1, marks=pytest.mark.slow), (2, 2), pytest.param(3, 3, marks=pytest.mark.slow)]
)
def test_older_checkpoints_go(limit, kept, tmp_path):
    trainer = make_trainer(tmp_path, **{**SHORT, "save_total_limit": limit})
    (tmp_path / "checkpoint-99").mkdir()  # not ours
    trainer.train()
    names = {path.name for path in tmp_path.glob("checkpoint-*")} - {"checkpoint-99"}
    assert len(names) == kept and f"checkpoint-{trainer.state.best_global_step}" in names
    assert (tmp_path / "checkpoint-99").is_dir()


@pytest.mark.slow
def test_no_room_for_a_checkpoint(tmp_path):
    """Files may not grow past 100 kB from step 3 on, as on a full disk: one clear error, the one before intact."""
    undisturbed = make_trainer(tmp_path / "a", **SHORT)
    undisturbed.train()
    trainer = make_trainer(tmp_path / "b", **{**SHORT, "save_total_limit": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    stop_at(trainer, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard)))
    try:
        with pytest.raises(
            AvbError, match=r"checkpoint of step 3 could not be written .*checkpoint-2 is complete"
        ) as error:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value).count("\n") == 0
    assert last_checkpoint(tmp_path / "b") == str(tmp_path / "b" / "checkpoint-2")
    assert not (tmp_path / "b" / UNFINISHED).exists()
    resumed = make_trainer(tmp_path / "b", **{**SHORT, "save_total_limit": 1})
    resumed.train(last_checkpoint(tmp_path / "b"))
    assert is_same(weights(undisturbed), weights(resumed))


def test_where_a_run_starts(tmp_path):
    assert starting_point(tmp_path, resume=False, overwrite=False) is None
    assert starting_point(tmp_path, resume=True, overwrite=False) is None
    with pytest.raises(AvbError, match="give one of them"):
        starting_point(tmp_path, resume=True, overwrite=True)
    make_trainer(tmp_path, **{**SHORT, "max_steps": 1}).train()
    with pytest.raises(
        AvbError, match="contains an unfinished run: --resume true continues, --overwrite true starts over"
    ):
        starting_point(tmp_path, resume=False, overwrite=False)
    assert starting_point(tmp_path, resume=True, overwrite=False) == str(tmp_path / "checkpoint-1")
    assert starting_point(tmp_path, resume=False, overwrite=True) is None


# ---- SIGTERM --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 3, 6, 7])
@pytest.mark.parametrize(
    "strategy",
    [pytest.param("epoch", marks=pytest.mark.slow), pytest.param("steps", marks=pytest.mark.nightly)],
)
def test_sigterm_ends_the_step_with_a_checkpoint(step, strategy, tmp_path, capsys):
    """Steps 3 and 6 end an epoch, 7 ends training: what belongs to that end is not lost."""
    fields = {**SHORT, "save_strategy": strategy, "eval_strategy": strategy}
    fields |= {"logging_strategy": strategy, "logging_steps": 2, "save_steps": 100, "eval_steps": 100}
    undisturbed = make_trainer(tmp_path / "a", **fields)
    undisturbed.train()
    handler = signal.getsignal(signal.SIGTERM)
    stopped = make_trainer(tmp_path / "b", **fields)
    stop_at(stopped, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated) as exit_:
        stopped.train()
    assert exit_.value.code == SIGTERM_EXIT == 143 and signal.getsignal(signal.SIGTERM) == handler
    assert f"stopped by SIGTERM after step {step}; the same command with --resume true" in capsys.readouterr().out
    assert last_checkpoint(tmp_path / "b") == str(tmp_path / "b" / f"checkpoint-{step}")
    resumed = make_trainer(tmp_path / "b", **fields)
    resumed.train(last_checkpoint(tmp_path / "b"))
    assert is_same(weights(undisturbed), weights(resumed))
    assert log(undisturbed.state.log_history) == log(resumed.state.log_history)


def test_sigterm_ends_the_process_again_after_a_training_that_failed(tmp_path):
    """Left in place, the handler would also keep alive what is forked later, as the processes of a pool."""
    handler = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(tmp_path, **{**SHORT, "max_steps": 2})

    def fail():
        assert signal.getsignal(signal.SIGTERM) == trainer.sigterm._flag
        raise RuntimeError("out of memory")

    stop_at(trainer, 1, fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_training_in_a_thread_needs_no_signal(tmp_path):
    """As from a server or a notebook's widget: Python lets only the main thread handle signals."""
    trainer = make_trainer(tmp_path, **{**SHORT, "max_steps": 2})
    with ThreadPoolExecutor(1) as executor:
        executor.submit(trainer.train).result()
    assert trainer.state.global_step == 2


# ---- the command, killed --------------------------------------------------------------------------------------------


def command(output_dir: Path, table: Path, processes: int, *more: str) -> list[str]:
    arguments = {
        "corpus": "folder", "data_dir": table, "output_dir": output_dir, "label_columns": ["Valence", "Arousal"],
        "encoder": ROOT / "recipes/encoders/tiny.yaml", "encoder_layer": 1, "freeze": "none", "rnn_layers": 1,
        "rnn_hidden_size": 16, "head_dropout": 0.2, "mask_time_prob": 0.2, "learning_rate": 1e-3,
        "augment": ["rate", "pitch", "shift", "mix", "noise", "gain"],
        "per_device_train_batch_size": 8 // processes, "num_train_epochs": 3, "early_stopping_patience": 3,
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "logging_strategy":
        "steps", "logging_steps": 1, "report_to": "none", "cache_dir": table.parent / "cache",
    }  # fmt: skip
    words = []
    for name, value in arguments.items():
        words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return [sys.executable, str(ROOT / "train_avb.py"), *words, *more]


def start(words: list[str], processes: int) -> list[warm.Started]:
    return warm.start_ranks(words, processes, {**os.environ, "OMP_NUM_THREADS": "1"})


def finish(words: list[str], processes: int):
    """Runs a command to its end: one process in this one, several as they are."""
    if processes == 1:
        assert train_avb.main(words[2:]) == 0
        return
    for done in [rank.wait() for rank in start(words, processes)]:
        assert done.returncode == 0, done.stderr


def wait_for_steps(process: warm.Started, steps: int) -> bool:
    """Until so many steps have their line; False if the process ended before."""
    while len(re.findall(r"^epoch +[\d.]+ of \d+ +loss ", process.stdout, flags=re.MULTILINE)) < steps:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def result(output_dir: Path) -> tuple:
    metrics = json.loads((output_dir / "metrics.json").read_text())
    del metrics["train_seconds"], metrics["run_id"]
    history = log(json.loads((output_dir / "trainer_state.json").read_text())["log_history"])
    predictions = (output_dir / "predictions_validation.csv").read_bytes()
    return load_file(output_dir / "model.safetensors"), metrics, history, predictions


def assert_same_result(first: tuple, second: tuple):
    assert is_same(first[0], second[0])
    assert first[1:] == second[1:]


@pytest.fixture(scope="module")
def table(request, sample, tmp_path_factory) -> Path:
    """32 train and 12 validation clips with two labels: EmoGator's where it is at hand, else the sample's."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    if os.environ.get("AVB_EMOGATOR"):
        root = Path(os.environ["AVB_EMOGATOR"])
        for split, count in (("train", 32), ("validation", 12)):
            shard = pq.ParquetFile(root / f"{split}-1.parquet")
            for number, clip in enumerate(next(shard.iter_batches(count)).to_pylist()):
                path = folder / f"{split}-{number}.mp3"
                path.write_bytes(clip["audio"]["bytes"])
                rows.append([path.name, split, round(number % 30 / 30, 3), round(clip["duration"] / 3, 3)])
    else:
        wavs = sorted((sample / "audio" / "wav").glob("*.wav"))[:44]
        for number, path in enumerate(wavs):
            shutil.copy(path, folder)
            rows.append([path.name, "train" if number < 32 else "validation", number % 30 / 30, number % 7 / 7])
    with open(folder / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "split", "Valence", "Arousal"], *rows])
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def undisturbed(table, tmp_path_factory) -> Callable[[int], Path]:
    """The output folder of a run that nothing disturbs, on so many processes."""

    @functools.cache
    def train(processes: int) -> Path:
        folder = tmp_path_factory.mktemp(f"undisturbed-{processes}") / "run"
        finish(command(folder, table, processes), processes)
        return folder

    return train


def kill_and_resume(output_dir: Path, table: Path, processes: int, seed: int):
    """Kills all processes at once, somewhere between the first logged step and the end; perhaps again; then lets go."""
    moment = random.Random(seed)
    for number in range(moment.choice([1, 1, 2])):
        ranks = start(command(output_dir, table, processes, "--resume", "true"), processes)
        is_at_work = wait_for_steps(ranks[0], moment.randint(1, 8))
        assert is_at_work or number > 0, "the first process ended before it was killed"
        if is_at_work:
            time.sleep(moment.random() * 0.5)
        for rank in ranks:
            os.killpg(rank.pid, signal.SIGKILL)
        for rank in ranks:
            rank.wait()
    finish(command(output_dir, table, processes, "--resume", "true"), processes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("AVB_KILLS", "1"))))
def test_killed_at_a_random_moment(seed, table, undisturbed, tmp_path):
    """Weights, metrics, predictions and log are those of the undisturbed run, to the bit."""
    kill_and_resume(tmp_path / "run", table, 1, seed)
    assert_same_result(result(undisturbed(1)), result(tmp_path / "run"))


@pytest.mark.nightly
def test_two_processes_killed_at_a_random_moment(table, undisturbed, tmp_path):
    kill_and_resume(tmp_path / "run", table, 2, seed=100)
    assert_same_result(result(undisturbed(2)), result(tmp_path / "run"))


@pytest.mark.slow
def test_two_processes_are_sent_sigterm(table, tmp_path):
    """As by a launcher, which passes it on; they agree on a step, write one checkpoint, and say how to go on."""
    stop_two_processes(tmp_path / "run", table)


@pytest.mark.nightly
def test_two_processes_that_were_sent_sigterm_go_on(table, undisturbed, tmp_path):
    stop_two_processes(tmp_path / "run", table)
    finish(command(tmp_path / "run", table, 2, "--resume", "true"), 2)
    assert_same_result(result(undisturbed(2)), result(tmp_path / "run"))


def stop_two_processes(output_dir: Path, table: Path):
    ranks = start(command(output_dir, table, 2), 2)
    assert wait_for_steps(ranks[0], 3), ranks[0].stderr
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    done = [rank.wait() for rank in ranks]
    printed = "".join(rank.stdout for rank in done)
    assert [rank.returncode for rank in done] == [SIGTERM_EXIT] * 2, [rank.stderr for rank in done]
    assert printed.count("stopped by SIGTERM after step") == 1, printed
    assert last_checkpoint(output_dir) in printed
    assert is_whole(Path(last_checkpoint(output_dir)))


@pytest.mark.slow
def test_ctrl_c_is_one_line(table, tmp_path):
    (process,) = start(command(tmp_path / "run", table, 1), 1)
    assert wait_for_steps(process, 3), process.stderr
    process.send_signal(signal.SIGINT)
    done = process.wait()
    assert done.returncode == 130 and "Traceback" not in done.stdout + done.stderr, done.stderr
    assert done.stderr.splitlines()[-1] == "train_avb.py: stopped; --resume true continues from the last checkpoint"
    assert last_checkpoint(tmp_path / "run")


def test_a_run_is_resumed_only_with_the_settings_it_began_with(tmp_path):
    began = {"learning_rate": 1e-3, "augment": ["shift", "mixup"], "encoder": "/a/tiny.yaml", "peak_db": "none"}
    chosen = {"num_train_epochs": 20, "pooling": "avg"}  # by the run itself
    write_text(tmp_path / "recipe.yaml", yaml.safe_dump(began | chosen | {"data_dir": "here", "save_steps": 5}))
    moved = began | {"learning_rate": "1e-3", "encoder": "/b/tiny.yaml", "data_dir": "there", "save_steps": 1}
    assert changed_settings(tmp_path, moved) == [] == changed_settings(tmp_path / "none", {"seed": 3})
    others = {"learning_rate": 2e-3, "augment": ["shift"], "encoder": "/a/tiny.yaml", "seed": 3, "pooling": "max"}
    found = changed_settings(tmp_path, others)
    assert found[0] == "learning_rate 0.002, and 0.001 before" and len(found) == 5
    assert "seed 3, and not given before" in found and "peak_db not given, and none before" in found

    check_unchanged(tmp_path, others)  # nothing is kept
    (tmp_path / "folds").mkdir()
    check_unchanged(tmp_path, moved)
    with pytest.raises(AvbError, match=r"begun with other settings \(learning_rate 0.002, and 0.001 before; "):
        check_unchanged(tmp_path, others)


@pytest.mark.slow
def test_resume_says_what_there_is_to_resume(table, tmp_path, capsys):
    words = command(tmp_path / "run", table, 1, "--resume", "true", "--max_steps", "2")[2:]
    assert train_avb.main(words) == 0
    assert "has no checkpoint to resume from: training starts over" in capsys.readouterr().out
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert train_avb.main(words) == 0
    assert "contains a finished run: nothing to resume" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
