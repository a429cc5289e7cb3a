"""Temporarily handles SIGTERM, the signal with which clusters and `kill` end a process."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGTERM_EXIT = 128 + signal.SIGTERM  # the exit code that a shell gives it


@contextmanager
def on_sigterm(handler: Callable) -> Iterator[None]:
    """Inside, SIGTERM calls `handler(number, frame)`; afterwards, also after an error, it does what it did before.

    A handler left behind would keep this process, and those that it forks, from being ended by `kill`. In a thread
    that is not the main one nothing changes: Python lets no other handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)
