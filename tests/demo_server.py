"""The demo's real server, in a process of its own, for as long as a `with` block lasts."""

import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import warm

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def serving(model: str | Path, folder: Path, seconds: float = 240) -> Iterator[tuple[str, int]]:
    """Address and process id of `demo/app.py`.

    Args:
        model: the one that is shown.
        folder: for uploads, tables and the log.
        seconds: that its start may take.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "TMPDIR": str(folder)}
    command = [sys.executable, "demo/app.py", "--models", str(model), "--port", str(port)]
    process = warm.start(command, env=environment)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the demo did not start: {process.stderr}") from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
