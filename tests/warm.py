"""Python commands as processes of their own, without what each would import anew: seconds of torch, a hundred times.

    done = warm.run([sys.executable, "-m", "avb.cards", "push", folder], env=hub.environment(home))
    process = warm.start([sys.executable, "train_avb.py", ...])
    process.send_signal(signal.SIGTERM)

They are `subprocess.run` and `Popen` of a Python command, with all that it prints captured as text. The process is
forked from one that has imported the packages below and nothing of Hugging Face's or of this project: what reads
variables of the environment as it is imported does so in the process itself. It computes in one thread, as tests do.

Not for a test of what is imported or installed, or of a launcher: those start an interpreter.
"""

import atexit
import functools
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = (
    "torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "torch.utils.checkpoint", "sympy",
    "scipy.optimize", "scipy.signal", "scipy.stats", "pandas", "pyarrow.parquet", "yaml", "jinja2", "PIL.Image",
)  # fmt: skip


class Started:
    """A command that runs.

    Attributes:
        pid: of the process, which leads a session of its own: `os.killpg` reaches all that it starts.
    """

    def __init__(self, command: list, cwd, env: dict[str, str] | None, input: str):
        self.command = [str(word) for word in command]
        assert self.command[0] == sys.executable
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("in", "out", "err")]
        self._files[0].write_text(input)
        for file in self._files[1:]:
            file.touch()
        env = dict(os.environ if env is None else env)
        arguments = (self.command[1:], str(cwd), env, list(map(str, self._files)), _path())
        self._process = _context().Process(target=_become, args=arguments)
        with mock.patch.dict(sys.modules, {"__main__": types.ModuleType("__main__")}):  # or pytest is imported there
            self._process.start()
        self.pid = self._process.pid
        atexit.register(self._process.kill)  # what a test that failed has left

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._files[1].read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self._files[2].read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int):
        os.kill(self.pid, number)

    def wait(self) -> subprocess.CompletedProcess:
        """Lets it end; what it had to say is printed and it is killed where pytest's time limit comes first."""
        try:
            self._process.join()
        finally:
            if self._process.exitcode is None:
                print(self.command, self.stdout[-3000:], self.stderr[-3000:], sep="\n")
                os.killpg(self.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(self.command, self._process.exitcode, self.stdout, self.stderr)


def start(command: list, *, cwd=ROOT, env: dict[str, str] | None = None, input: str = "") -> Started:
    """Starts a Python command.

    Args:
        command: `sys.executable`, -I or nothing, then -c CODE, -m MODULE or a script, and the arguments.
        cwd: where.
        env: its environment; None is that of the tests.
        input: what it reads.
    """
    return Started(command, cwd, env, input)


def run(command: list, *, cwd=ROOT, env: dict[str, str] | None = None, input: str = "") -> subprocess.CompletedProcess:
    """Runs a Python command to its end; see `start`."""
    return start(command, cwd=cwd, env=env, input=input).wait()


def start_ranks(command: list, ranks: int, env: dict[str, str], cwd=ROOT) -> list[Started]:
    """The processes of one distributed run, with the variables that `torch.distributed.run` would give them."""
    if ranks == 1:
        return [start(command, cwd=cwd, env=env)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = env | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return [start(command, cwd=cwd, env=env | {"RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(ranks)]


@functools.cache
def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


@functools.cache
def _path() -> list[str]:
    """Where a new interpreter looks, but for the folder that it is started in or that its script is in."""
    script = "import json, sys; print(json.dumps(sys.path))"
    return json.loads(subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True).stdout)


def _become(words: list[str], cwd: str, env: dict[str, str], files: list[str], path: list[str]):
    import torch

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
    for number, (file, flags) in enumerate(zip(files, (os.O_RDONLY, *[os.O_WRONLY] * 2), strict=True)):
        os.dup2(os.open(file, flags), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (open(number, "w", 1, encoding="utf-8", closefd=False) for number in (1, 2))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(1)
    is_isolated = words[0] == "-I"
    words = words[is_isolated:]
    here = {"-c": "", "-m": cwd}.get(words[0], os.path.dirname(os.path.abspath(words[0])))
    more = env.get("PYTHONPATH", "").split(os.pathsep) if env.get("PYTHONPATH") else []
    sys.path[:] = path if is_isolated else [here, *more, *path]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    try:
        if words[0] == "-m":
            sys.argv[:] = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv[:] = ["-c", *words[2:]]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), vars(sys.modules["__main__"]))
        else:
            sys.argv[:] = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
