"""How commands end: one line and an exit code, whatever stops them, and never a traceback."""

import argparse
import ast
import importlib
import os
import signal
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
from conftest import ROOT

from avb import commands
from avb.commands import as_command
from avb.errors import AvbError

TRAINING = "; --resume true continues from the last checkpoint"
COMMANDS = {  # the module of each, its name on standard error, and how a stop ends
    "train_avb": ("train_avb.py", TRAINING),
    "pretrain_avb": ("pretrain_avb.py", TRAINING),
    "predict_avb": ("predict_avb.py", "; the same command continues where it stopped"),
    "avb.calibration.command": ("avb.calibration", ""),
    "avb.cards.command": ("avb.cards", ""),
    "avb.corpora.prepare": (
        "avb.corpora.prepare",
        "; the finished shards are kept: run the same command again to continue",
    ),
    "avb.corpora.submission": ("avb.corpora.submission", ""),
    "avb.events.command": ("avb.events", ""),
    "avb.export.command": ("avb.export", ""),
    "avb.export.page": ("avb.export.page", ""),
    "avb.reports.command": ("avb.reports", ""),
    "avb.serving.command": ("avb-serve", ""),
    "avb.serving.listen": ("avb.serving.listen", ""),
    "avb.training.queue": ("queue", "; the same command continues"),
    "make_space": ("make_space.py", ""),
}
WITH_GRADIO = {"app"}  # test_demo.py, where it is imported


def test_every_command_is_here_and_ends_by_its_exit_code():
    found = {target.partition(":")[0] for target in scripts().values()}
    for path in [*ROOT.glob("*.py"), *(ROOT / "avb").rglob("*.py"), *(ROOT / "demo").glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("demo.")
        if path.name == "__main__.py":
            module = module.replace("__main__", "command")
            last = tree.body[-1]
        elif isinstance(tree.body[-1], ast.If) and ast.unparse(tree.body[-1].test) == "__name__ == '__main__'":
            (last,) = tree.body[-1].body
            (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
            assert [ast.unparse(one).startswith("as_command(") for one in main.decorator_list] == [True], module
        else:
            continue
        assert ast.unparse(last) == "sys.exit(main())", module
        found.add(module)
    assert found == COMMANDS.keys() | WITH_GRADIO


def scripts() -> dict[str, str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_in_every_ending(module, monkeypatch, capsys):
    main, (name, resume) = importlib.import_module(module).main, COMMANDS[module]
    for ending, code, said in [
        (AvbError("clips.csv: no such file"), 1, "error: clips.csv: no such file"),
        (KeyboardInterrupt(), 130, f"stopped{resume}"),
        (OSError(28, "No space left on device"), 1, "error: standard output, or a file, cannot be written (No space"),
    ]:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", raising(ending))
        assert main(["--seed", "1"]) == code
        printed = capsys.readouterr().err
        assert printed.startswith(f"{name}: {said}") and printed.count("\n") == 1
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        main(["--seed", "1"])


def raising(error: BaseException):
    def raises(*_):
        raise error

    return raises


def command(work, **settings):
    return as_command("test", resume="again", **settings)(lambda argv: work())


def test_a_connection_that_breaks_is_not_taken_for_a_reader_that_stopped():
    with pytest.raises(BrokenPipeError):
        command(raising(BrokenPipeError(32, "Broken pipe")))()


def test_signals_stop_a_command_that_asks_and_are_as_before_afterwards(capsys, request):
    def stopped(number):
        os.kill(os.getpid(), number)
        raise AssertionError("still here")

    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, the tests ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, inherited))
    before = [signal.getsignal(number) for number in commands.ENDING_SIGNALS]
    for number, name, code in ((signal.SIGTERM, "SIGTERM", 143), (signal.SIGHUP, "SIGHUP", 129)):
        assert command(lambda number=number: stopped(number), signals=commands.ENDING_SIGNALS)() == code
        assert capsys.readouterr().err == f"test: stopped by {name}; again\n"
    assert [signal.getsignal(number) for number in commands.ENDING_SIGNALS] == before


def test_nohup_and_forked_processes_keep_their_signals():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        work = lambda: os.kill(os.getpid(), signal.SIGHUP) or 7  # noqa: E731
        assert command(work, signals=commands.ENDING_SIGNALS)() == 7
    finally:
        signal.signal(signal.SIGHUP, previous)

    def fork():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert command(fork, signals=commands.ENDING_SIGNALS)() == -signal.SIGTERM


def test_what_is_kept_is_said_and_one_process_of_several_says_it(monkeypatch, capsys):
    def stop():
        error = KeyboardInterrupt()
        error.add_note("3 clips are kept")
        raise error

    assert command(stop)() == 130 and capsys.readouterr().err == "test: stopped; 3 clips are kept; again\n"
    monkeypatch.setenv("RANK", "1")
    assert command(stop)() == 130 and capsys.readouterr().err == ""
    assert command(raising(AvbError("bad")))() == 1 and capsys.readouterr().err == "test: error: bad\n"


def test_without_docstrings_the_way_out_is_said(monkeypatch, capsys):
    """Transformers' own message, as `python -OO predict_avb.py` meets it after 20 seconds of imports."""
    failing = command(raising(ValueError("No `Args` section is found in the docstring of `ModelOutput`.")))
    with pytest.raises(ValueError):
        failing()
    monkeypatch.setattr(commands, "sys", SimpleNamespace(**vars(sys) | {"flags": SimpleNamespace(optimize=2)}))
    assert failing() == 1
    assert capsys.readouterr().err == (
        "test: error: Transformers reads its docstrings, which python -OO leaves out: use -O instead\n"
    )


PRINTS = "import sys; from avb.commands import as_command; main = as_command('test')(lambda argv: print('x' * {}) or 0)"


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 1_000_000])  # fits into Python's buffer, and does not
@pytest.mark.parametrize("options", [[], ["-u"]])
def test_a_standard_output_that_is_gone(size, options):
    """A process of its own: Python writes once more as it exits, and its complaint is what must not be seen."""
    argv = [sys.executable, *options, "-c", f"{PRINTS.format(size)}; sys.exit(main())"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    shared = {"cwd": ROOT, "env": environment, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run(argv, stdout=writer, **shared)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, stdout=full, **shared)
    said = "test: error: standard output, or a file, cannot be written (No space left on device): make room\n"
    assert (done.returncode, done.stderr) == (1, said)
    if size == 10 and not options:
        done = subprocess.run(argv, preexec_fn=lambda: os.close(1), **shared)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_ctrl_c_pressed_again_leaves_at_once():
    """While threads end, say, where it was a traceback; in a process of its own, which it ends."""
    code = (
        "import os, signal, sys, time; from avb.commands import as_command\n"
        "def main(argv):\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "    finally: os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "sys.exit(as_command('test', resume='again')(main)())"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, preexec_fn=with_ctrl_c)
    assert (done.returncode, done.stderr) == (130, "test: stopped; again\n")


def with_ctrl_c():
    """A shell that starts pytest in the background has it ignore Ctrl-C, and all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train_avb", "pretrain_avb"])
def test_ctrl_c_while_the_packages_are_imported(module, tmp_path):
    """Transformers, torch and more take seconds; here the first of them is one that presses Ctrl-C."""
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    argv = [sys.executable, "-m", module, "--seed", "1"]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, preexec_fn=with_ctrl_c)
    assert (done.returncode, done.stderr) == (130, f"{module}.py: stopped{TRAINING}\n")


@pytest.mark.slow
def test_any_letter_in_a_locale_of_ascii():
    """The help of predict_avb.py has a …, tables of reports a ±, and names of files what their owner likes."""
    code = (
        "import sys; from avb.commands import as_command; from avb.errors import AvbError\n"
        "def main(argv):\n"
        "    print('\\xb1\\u2026', sys.argv[1])\n"
        "    raise AvbError(f'{sys.argv[1]}: no such file \\xb1')\n"
        "sys.exit(as_command('test')(main)())"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, "lächeln.wav"], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 1
    assert done.stdout.decode() == "±… lächeln.wav\n"
    assert done.stderr.decode() == "test: error: lächeln.wav: no such file ±\n"
