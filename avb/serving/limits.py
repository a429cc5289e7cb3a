"""Limits on what one client, and all clients together, may request."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Limits of a server."""

    max_bytes: int = field(default=20 * 2**20, metadata={"help": "size of a request, all files together, bytes"})
    max_files: int = field(default=32, metadata={"help": "files per request"})
    max_seconds: float = field(default=600.0, metadata={"help": "length of an uploaded recording, s"})
    max_waiting: int = field(default=16, metadata={"help": "requests waiting or in progress; further ones are refused"})
    max_streams: int = field(default=4, metadata={"help": "simultaneous streams; further ones are refused"})
    max_stream_seconds: float = field(
        default=24 * 3600.0, metadata={"help": "longest duration of a stream, s; then it is closed"}
    )
    max_chunk_bytes: int = field(default=2**18, metadata={"help": "size of a stream's message, bytes"})
    idle_seconds: float = field(
        default=30.0, metadata={"help": "close a stream after this many seconds without a message"}
    )
    request_seconds: float = field(default=120.0, metadata={"help": "time limit for an answer, s"})
