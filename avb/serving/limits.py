"""What one client may ask for, and all of them together."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Of a server."""

    max_bytes: int = field(default=20 * 2**20, metadata={"help": "of a request, all files together"})
    max_files: int = field(default=32, metadata={"help": "in a request"})
    max_seconds: float = field(default=600.0, metadata={"help": "length of an uploaded recording, s"})
    max_waiting: int = field(default=16, metadata={"help": "requests that wait or are worked on; more are refused"})
    max_streams: int = field(default=4, metadata={"help": "streams at once; more are refused"})
    max_stream_seconds: float = field(default=24 * 3600.0, metadata={"help": "of a stream, s; then it is ended"})
    max_chunk_bytes: int = field(default=2**18, metadata={"help": "of a message of a stream"})
    idle_seconds: float = field(default=30.0, metadata={"help": "without a message, after which a stream is ended, s"})
    request_seconds: float = field(default=120.0, metadata={"help": "that an answer may take, s"})
