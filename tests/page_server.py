"""A folder served on this machine, as a static host does: what was asked for, and how many bytes went out."""

import functools
import http.server
import threading
from pathlib import Path


class PageServer:
    """A context manager.

    Args:
        folder: what it serves.
        headers: sent with every file.

    Attributes:
        folder: what it serves.
        address: of the folder's index.html.
        sent: bytes by path.
    """

    def __init__(self, folder: Path, headers: dict[str, str]):
        self.folder = folder
        self.sent: dict[str, int] = {}
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def end_headers(self):
                for header in headers.items():
                    self.send_header(*header)
                super().end_headers()

            def copyfile(self, source, outputfile):
                content = source.read()
                server.sent[self.path] = len(content)
                outputfile.write(content)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.address = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self) -> "PageServer":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
