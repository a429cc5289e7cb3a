"""What a training prints while it runs."""

from types import SimpleNamespace

import pytest

from avb.training import progress
from avb.training.progress import ProgressLines, duration, metric_name

STEPS = "40 steps in 4 epochs; the first steps show how long it will take"


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def progress_lines(metric, seconds=None):
    return ProgressLines(metric, lambda: seconds)


def state(step=0, epoch=0.0, **fields):
    fields = {"max_steps": 40, "num_train_epochs": 4, "log_history": [], "is_world_process_zero": True, **fields}
    return SimpleNamespace(global_step=step, epoch=epoch, **fields)


def epoch(lines, step, number, loss, score=None):
    control = SimpleNamespace(should_evaluate=score is not None)
    lines.on_log(None, state(step, number), control, logs={"loss": loss})
    if score is not None:
        lines.on_evaluate(None, state(step, number), control, metrics={"eval_uar_present": score, "eval_loss": 1.0})


def test_a_line_per_epoch_with_loss_score_best_and_time_left(clock, capsys):
    lines = progress_lines("uar_present")
    lines.on_train_begin(None, state(), None)
    for number, (loss, score) in enumerate([(0.9, 0.3), (0.8, 0.5), (0.7, 0.4)], start=1):
        clock.now += 25
        epoch(lines, 10 * number, number, loss, score)
    assert capsys.readouterr().out.splitlines() == [
        STEPS,
        "epoch 1 of 4   loss 0.900   validation UAR 0.300 (best 0.300, epoch 1)   1 min 15 s left",
        "epoch 2 of 4   loss 0.800   validation UAR 0.500 (best 0.500, epoch 2)   50 s left",
        "epoch 3 of 4   loss 0.700   validation UAR 0.400 (best 0.500, epoch 2)   25 s left",
    ]


def test_an_undefined_score_is_never_the_best(clock, capsys):
    lines = progress_lines("uar_present")
    lines.on_train_begin(None, state(), None)
    epoch(lines, 10, 1, 0.9, float("nan"))
    epoch(lines, 20, 2, 0.8, 0.2)
    _, first, second = capsys.readouterr().out.splitlines()
    assert "validation UAR nan   " in first and "UAR 0.200 (best 0.200, epoch 2)" in second


def test_without_evaluation_the_loss_has_its_line(clock, capsys):
    lines = progress_lines("ccc")
    lines.on_train_begin(None, state(), None)
    clock.now += 10
    epoch(lines, 10, 1, 0.9)
    assert capsys.readouterr().out == STEPS + "\nepoch 1 of 4   loss 0.900   30 s left\n"


def test_a_long_epoch_shows_that_it_lives(clock, capsys):
    lines = progress_lines("ccc")
    lines.on_train_begin(None, state(), None)
    for step in range(1, 8):
        clock.now += 10
        lines.on_step_end(None, state(step), None)
    assert capsys.readouterr().out.splitlines() == [
        STEPS,
        "about 6 min 40 s for 40 steps, without validation",
        "epoch 1 of 4: step 7 of 10   5 min 30 s left",
    ]


def test_the_last_step_of_an_epoch_leaves_the_word_to_its_line(clock, capsys):
    lines = progress_lines("uar_present", 400.0)
    lines.on_train_begin(None, state(), None)
    clock.now += 40
    lines.on_step_end(None, state(10), None)
    epoch(lines, 10, 1, 0.9, 0.3)
    _, *others = capsys.readouterr().out.splitlines()
    assert others == ["epoch 1 of 4   loss 0.900   validation UAR 0.300 (best 0.300, epoch 1)   2 min 0 s left"]


def test_how_long_it_will_take_is_said_early_and_not_of_a_short_training(clock, capsys):
    for seconds, said in [(1.0, ["about 40 s for 40 steps, without validation"]), (0.1, [])]:
        lines = progress_lines("ccc")
        lines.on_train_begin(None, state(), None)
        clock.now += 100  # the first step loads what the others have
        for step in range(1, 9):
            lines.on_step_end(None, state(step), None)
            clock.now += seconds
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("about")] == said


def test_what_was_timed_before_is_said_before_the_first_step_and_once(clock, capsys):
    lines = progress_lines("ccc", 75.0)
    lines.on_train_begin(None, state(), None)
    for step in range(1, 9):
        clock.now += 2
        lines.on_step_end(None, state(step), None)
    assert capsys.readouterr().out == "40 steps in 4 epochs: about 1 min 15 s, including validation\n"


def test_of_a_loss_the_lowest_is_the_best(clock, capsys):
    lines = progress_lines("loss")
    lines.on_train_begin(None, state(), None)
    control = SimpleNamespace(should_evaluate=True)
    for number, loss in enumerate((0.9, 0.7, 0.8), start=1):
        lines.on_evaluate(None, state(10 * number, number), control, metrics={"eval_loss": loss})
    assert "validation loss 0.800 (best 0.700, epoch 2)" in capsys.readouterr().out.splitlines()[-1]


def test_a_run_that_goes_on_knows_its_best_epoch_and_measures_its_own_time(clock, capsys):
    log = [{"epoch": 1.0, "loss": 0.9}, {"epoch": 1.0, "eval_ccc": 0.6}]
    lines = progress_lines("ccc")
    lines.on_train_begin(None, state(20, 2.0, log_history=log), None)
    clock.now += 10
    control = SimpleNamespace(should_evaluate=True)
    lines.on_evaluate(None, state(30, 3.0), control, metrics={"eval_ccc": 0.5})
    lines.on_train_end(None, state(40, 4.0), None)
    lines.on_evaluate(None, state(40, 4.0), control, metrics={"eval_ccc": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        STEPS.replace(";", ", 20 of them done;"),
        "epoch 3 of 4   validation CCC 0.500 (best 0.600, epoch 1)   10 s left",
    ]


def test_other_processes_are_silent(clock, capsys):
    lines = progress_lines("ccc")
    lines.on_train_begin(None, state(is_world_process_zero=False), None)
    lines.on_log(None, state(10, is_world_process_zero=False), SimpleNamespace(should_evaluate=False), {"loss": 1.0})
    assert capsys.readouterr().out == ""


def test_words():
    assert [duration(seconds) for seconds in (0.4, 59, 61, 3700)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]
    assert [metric_name(name) for name in ("uar_present", "ccc", "mean_score")] == ["UAR", "CCC", "mean score"]
