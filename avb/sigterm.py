"""Temporarily handles SIGTERM, the signal with which clusters and `kill` end a process."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGTERM_EXIT = 128 + signal.SIGTERM  # the exit code that a shell reports for it


@contextmanager
def on_sigterm(handler: Callable) -> Iterator[None]:
    """Within the block, SIGTERM calls `handler(number, frame)`; afterwards, the previous handler is restored.

    A handler that is not removed would prevent `kill` from ending this process and its child processes. In threads
    other than the main one this has no effect: Python handles signals only in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)
