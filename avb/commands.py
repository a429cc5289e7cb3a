"""How every command of the project ends, written once: errors, Ctrl-C, signals, and a standard output that is gone.

    @as_command("avb.cards")
    def main(argv: list[str] | None = None) -> int: ...

| what happens                             | standard error                          | exit code           |
|------------------------------------------|-----------------------------------------|---------------------|
| an error that the user can act on        | `NAME: error: MESSAGE`                  | 1                   |
| Ctrl-C; if pressed again, at once        | `NAME: stopped`, and how to continue    | 130                 |
| SIGTERM, SIGHUP, if the command asks     | `NAME: stopped by SIGTERM`, likewise    | 143, 129            |
| the reader has stopped (`\\| head -1`)    | nothing                                 | 141                 |
| standard output cannot be written        | `NAME: error: standard output ...`      | 1                   |

Anything else is a fault of ours and keeps its traceback. This module imports nothing but the standard library before
it is needed: Ctrl-C while torch is imported, which takes seconds, is to find it in place.
"""

import codecs
import contextlib
import errno
import functools
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

INTERRUPTED = 128 + signal.SIGINT  # the exit codes that a shell reports for programs ended by these signals
SIGTERM_EXIT = 128 + signal.SIGTERM
READER_GONE = 128 + 13  # SIGPIPE, which Windows lacks
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ENDING_SIGNALS = (signal.SIGTERM, *([signal.SIGHUP] if sys.platform != "win32" else []))


class Stopped(SystemExit):
    """SIGTERM or SIGHUP arrived; raised in the main thread, so that files are closed and locks released."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


def as_command(
    name: str,
    *,
    errors: tuple[type[Exception], ...] = (),
    resume: str = "",
    signals: tuple[signal.Signals, ...] = (),
) -> Callable:
    """Decorates the `main(argv)` of a command, which then always returns its exit code: see the module's table.

    Notes of the exception (`add_note`) say what is kept, and precede `resume`.

    Args:
        name: begins each line on standard error.
        errors: those that are one line, besides `AvbError`.
        resume: how the user continues after a stop.
        signals: those that stop the command as Ctrl-C does.
    """

    def decorate(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
        @functools.wraps(main)
        def command(argv: list[str] | None = None) -> int:
            _never_fail_at_a_letter()
            try:
                with _stopped_by(signals), _leaving_at_the_second_ctrl_c(f"{name}: stopped{_then(resume)}\n"):
                    try:
                        return main(argv)
                    finally:
                        if sys.stdout is not None:  # closed by the shell: `>&-`
                            sys.stdout.flush()  # here, where a failure can still be answered
            except KeyboardInterrupt as stop:
                _say(name, f"stopped{_then(*_notes(stop), resume)}")
                return INTERRUPTED
            except Stopped as stop:
                _say(name, f"stopped by {stop.name}{_then(*_notes(stop), resume)}")
                return int(stop.code or 0)
            except Exception as error:
                if isinstance(error, BrokenPipeError) and _discard_what_is_gone():
                    return READER_GONE
                if isinstance(error, OSError) and error.errno in _FULL:  # files of ours that are full are an AvbError
                    _discard_what_is_gone()
                    _say(name, f"error: standard output, or a file, cannot be written ({error.strerror}): make room")
                    return 1
                if sys.flags.optimize > 1 and "docstring" in str(error):
                    _say(name, "error: Transformers reads its docstrings, which python -OO leaves out: use -O instead")
                    return 1
                if not isinstance(error, (*errors, _avb_error())):
                    raise
                _say(name, f"error: {error}")
                return 1

        return command

    return decorate


def _never_fail_at_a_letter():
    """Lets the standard streams write any text: a locale without UTF-8 would make a file's name or a ± an error.

    ASCII (`LC_ALL=C` without UTF-8 mode) becomes UTF-8, so that names of files are written as the bytes that they are.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if codecs.lookup(stream.encoding).name == "ascii":
                stream.reconfigure(encoding="utf-8", errors="surrogateescape")
            elif stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")


def _avb_error() -> type[Exception]:
    from avb.errors import AvbError

    return AvbError


def _notes(stop: BaseException) -> list[str]:
    return vars(stop).get("__notes__", [])  # exists once there is a note


def _then(*further: str) -> str:
    return "".join(f"; {part}" for part in further if part)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(name: str, text: str):
    """Prints a line on standard error, unless nobody reads it; of a distributed run, a stop is told once."""
    if _is_first() or not text.startswith("stopped"):
        with contextlib.suppress(OSError):
            print(f"{name}: {text}", file=sys.stderr, flush=True)


def _is_gone(stream: IO) -> bool:
    """Whether writing to a stream fails: what could not be written is still buffered, or the pipe has no reader."""
    try:
        stream.flush()
    except OSError:
        return True
    with contextlib.suppress(OSError, ValueError):  # no file: a test's or a notebook's own stream
        if sys.platform != "win32":
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _discard_what_is_gone() -> bool:
    """Sends streams that cannot be written to nowhere: Python flushes them once more as it exits, and would complain.

    Returns whether there was one.
    """
    gone = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _is_gone(stream)]
    for stream in gone:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return bool(gone)


@contextlib.contextmanager
def _stopped_by(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Within the block, these signals raise `Stopped`, except in processes forked from this one and where ignored."""
    process = os.getpid()

    def stop(number: int, frame):
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Stopped(number)

    with contextlib.ExitStack() as stack:
        for number in signals:
            if signal.getsignal(number) != signal.SIG_IGN:  # SIGHUP of `nohup`
                stack.enter_context(on_signal(number, stop))
        yield


@contextlib.contextmanager
def _leaving_at_the_second_ctrl_c(line: str) -> Iterator[None]:
    """Within the block, Ctrl-C interrupts as usual, and if pressed again, while threads end, leaves at once.

    Otherwise it would interrupt the clean-up, somewhere, with a traceback.
    """
    process, pressed = os.getpid(), False

    def interrupt(number: int, frame):
        nonlocal pressed
        if pressed and os.getpid() == process:
            if _is_first():
                os.write(2, line.encode())  # print may be what was interrupted
            os._exit(INTERRUPTED)
        pressed = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # of a notebook, or ignored behind `&`
        yield
        return
    with on_signal(signal.SIGINT, interrupt):
        yield


@contextlib.contextmanager
def on_signal(number: int, handler: Callable) -> Iterator[None]:
    """Within the block, the signal calls `handler(number, frame)`; afterwards, the previous handler is restored.

    A handler of SIGTERM that is not removed would prevent `kill` from ending this process and its child processes. In
    threads other than the main one this has no effect: Python handles signals only in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if previous is None else previous)


def on_sigterm(handler: Callable) -> contextlib.AbstractContextManager[None]:
    """`on_signal` of SIGTERM, the signal with which clusters and `kill` end a process."""
    return on_signal(signal.SIGTERM, handler)
