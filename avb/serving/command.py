"""Serves a model: scores and events of uploaded recordings, and live events of streams.

    avb-serve emogator-small
    curl -F files=@laugh.wav -F files=@cry.wav http://127.0.0.1:8000/events

The server listens on this machine only, unless --host is given, and stores nothing that it receives. There is no login:
to make it accessible to others, put a proxy with a login in front of it.
"""

import argparse
import sys
from dataclasses import fields

from avb.commands import as_command
from avb.errors import AvbError
from avb.models import DETECTOR
from avb.serving.limits import Limits


@as_command("avb-serve")
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        app = build(args)
        import uvicorn
    except ImportError as error:
        raise AvbError(f'{error.name} is missing: pip install "avb[serve]"') from error
    # No pings: if a client sends faster than it is answered, its pong waits behind the samples. Streams without
    # messages are ended by idle_seconds.
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        ws_max_size=args.max_chunk_bytes,
        ws_ping_interval=None,
        log_level="info",  # it says where it listens, once it does
        access_log=False,
    )
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="avb-serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="anything that avb.load takes")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    parser.add_argument("--detector", default=DETECTOR, help=f"detector of events (default: {DETECTOR})")
    parser.add_argument(
        "--threshold", type=float, help="least median probability of an event (default: the detector's own)"
    )
    parser.add_argument(
        "--origins", nargs="*", default=[], help="other web origins allowed to connect, e.g. https://example.org"
    )
    limits = parser.add_argument_group("limits")
    for limit in fields(Limits):
        kind = int if limit.type is int else float
        text = f"{limit.metadata['help']} (default: {limit.default:g})"
        limits.add_argument(f"--{limit.name}", type=kind, default=limit.default, help=text)
    args = parser.parse_args(argv)
    if min(getattr(args, limit.name) for limit in fields(Limits)) <= 0:
        parser.error("limits must be positive")
    return args


def build(args: argparse.Namespace):
    """The application specified by the arguments."""
    from avb.events.pipeline import load
    from avb.serving.app import make_app

    limits = Limits(**{limit.name: getattr(args, limit.name) for limit in fields(Limits)})
    return make_app(
        load(args.model, args.device), detector=args.detector, threshold=args.threshold, limits=limits,
        origins=tuple(args.origins),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
