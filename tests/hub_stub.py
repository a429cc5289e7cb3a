"""A stub of the Hub over HTTP on this machine, for the real `huggingface_hub` client.

It is a stub: it proves which requests the client makes, what it sends and what it makes of the answers; not how the Hub
itself behaves. Repositories live in memory, so what was pushed can be loaded back:

    with HubStub() as hub:                          # or `from hub_stub import hub` and a test's argument `hub`
        hub.put("org/avb-high", folder)             # a repository with all files of a folder, if need be
        run([...], env=hub.environment(tmp_path))   # a subprocess that can push to it and load from it
        assert hub.repos["org/avb-high"].private and set(hub.repos["org/avb-high"].files) == {...}

The client reads HF_ENDPOINT and its like when it is imported, and conftest.py has it offline in the test process: only
a subprocess with `hub.environment(...)` sees the stub. Xet is off there, so uploads go the documented way of Git LFS.

Failures: `hub.fail("PUT", "/lfs/", status=403)`, `hub.fail("PUT", "/lfs/", after_bytes=1000)` (the connection drops),
`hub.stall(...)` (no answer ever comes: wait for `.reached`, then kill the client). What was asked: `hub.requests`.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_stub_http import TOKEN, Handler


@dataclass
class Repo:
    """A repository: its files by path, as they are after the last commit, and each commit's summary and paths."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, list[str]]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(f"{self.commits}{sorted(self.files)}".encode()).hexdigest()


@dataclass
class Fault:
    """What goes wrong with requests of a method whose path holds a pattern, the first `times` of them."""

    method: str
    pattern: str
    status: int | None = None
    after_bytes: int | None = None
    stalls: bool = False
    times: int = 1
    reached: threading.Event = field(default_factory=threading.Event)


class HubStub:
    """A context manager; see the module's docstring.

    Attributes:
        repos: by id ("org/name"; "spaces/org/name" for what is no model).
        blobs: large files by SHA-256, kept though no commit names them yet, as the Hub does.
        requests: (method, path) of every request.
        organisations: namespaces, besides the user's own, that the token may write to.
    """

    def __init__(self, organisations: tuple[str, ...] = ("org",)):
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.organisations = organisations

    def __enter__(self) -> "HubStub":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Variables of a subprocess that talks to the stub, with an empty cache in `home`; None is no token."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        own = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return inherited | own | ({"HF_TOKEN": token} if token else {})

    def put(self, repo_id: str, folder: Path, private: bool = False) -> Repo:
        """A repository with the files of a folder, made without a client."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repos[repo_id] = Repo(private, files, [("put", sorted(files))])
        return self.repos[repo_id]

    def make(self, key: str, private: bool) -> Repo:
        """An empty repository."""
        self.repos[key] = Repo(private)
        return self.repos[key]

    def fail(self, method: str, pattern: str, status: int | None = None, after_bytes: int = 0, times: int = 1) -> Fault:
        """Answers with `status`; without one, drops the connection when so many bytes of the body have come."""
        self.faults.append(Fault(method, pattern, status, after_bytes, times=times))
        return self.faults[-1]

    def stall(self, method: str, pattern: str, after_bytes: int = 0) -> Fault:
        """Reads so many bytes of the body, sets `.reached` and does nothing more until the client hangs up."""
        self.faults.append(Fault(method, pattern, None, after_bytes, stalls=True))
        return self.faults[-1]

    def asked(self, method: str, pattern: str) -> list[str]:
        """Paths of the requests of that method that hold the pattern."""
        return [path for asked, path in self.requests if asked == method and pattern in path]


@pytest.fixture
def hub() -> Iterator[HubStub]:
    with HubStub() as stub:
        yield stub
