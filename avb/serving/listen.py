"""A client of avb-serve: sends a recording, or sound from a microphone, and prints each event when it has ended.

    arecord -q -f S16_LE -r 16000 -c 1 -t raw | python -m avb.serving.listen -    # Linux
    sox -q -d -t raw -r 16000 -e signed -b 16 -c 1 - | python -m avb.serving.listen -
    python -m avb.serving.listen evening.wav

Standard input must be raw 16-bit little-endian mono samples at --sampling_rate.
"""

import argparse
import json
import sys
import threading
from collections.abc import Iterator

from audio_avb import SAMPLING_RATE
from avb.commands import as_command
from avb.errors import AvbError

CHUNK_SECONDS = 0.1  # of a microphone
FILE_CHUNK_SECONDS = 1.0  # of a file, which need not be live


@as_command("avb.serving.listen", errors=(OSError,))
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m avb.serving.listen", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="RECORDING", help="audio file, or - for raw samples on standard input")
    parser.add_argument(
        "--url",
        default="ws://127.0.0.1:8000/stream",
        help="address of the server (default: ws://127.0.0.1:8000/stream)",
    )
    parser.add_argument(
        "--sampling_rate", type=int, default=SAMPLING_RATE, help="sampling rate of standard input, Hz (default: 16000)"
    )
    args = parser.parse_args(argv)
    rate = args.sampling_rate if args.source == "-" else SAMPLING_RATE
    chunks = of_stdin(rate) if args.source == "-" else of_file(args.source)
    for event in listen(f"{args.url}?sampling_rate={rate}", chunks):
        best = max(event["scores"], key=lambda score: score["score"])
        times = f"{event['start']:8.2f} {event['end']:8.2f}"
        print(f"{times}  {event['detection']:.2f}  {best['label']} {best['score']:.2f}", flush=True)
    return 0


def listen(url: str, chunks: Iterator[bytes]) -> Iterator[dict]:
    """Events as the server sends them, while another thread sends chunks.

    Raises:
        AvbError: the package websockets is missing, there is no connection, or the server ends the stream.
    """
    try:
        from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
        from websockets.sync.client import connect
    except ImportError as error:
        raise AvbError('websockets is missing: pip install "avb[serve]"') from error
    try:
        socket = connect(url, ping_interval=None)  # files are sent faster than processed: pings would wait
    except InvalidStatus as error:
        raise AvbError(
            f"{url}: refused (HTTP {error.response.status_code}): another kind of server, too many streams at once, or "
            "a sampling rate that it does not take"
        ) from error
    except (WebSocketException, OSError) as error:
        raise AvbError(f"{url}: no connection ({error}); the address is that of /stream of avb-serve") from error
    with socket:
        failures: list[Exception] = []

        def send():
            try:
                for chunk in chunks:
                    socket.send(chunk)
                socket.send("end")
            except ConnectionClosed:  # the reader below says why
                pass
            except Exception as error:  # raised by the reader below, which would otherwise wait for answers
                failures.append(error)
                socket.close()

        threading.Thread(target=send, daemon=True).start()
        try:
            for message in socket:
                event = json.loads(message)
                if event.get("end") is True:
                    return
                yield event
        except ConnectionClosed as error:
            raise AvbError(f"{url}: the server ended the stream: {error.reason if error.rcvd else error}") from error
        raise failures[0] if failures else AvbError(f"{url}: the server ended the stream")


def of_file(path: str) -> Iterator[bytes]:
    from avb.events.reading import read_blocks  # here: --help needs no torch

    for block in read_blocks(path, FILE_CHUNK_SECONDS):
        yield (block * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes()


def of_stdin(rate: int) -> Iterator[bytes]:
    if sys.stdin is None:
        raise AvbError("- reads samples from standard input, which is closed")
    size = 2 * round(rate * CHUNK_SECONDS)
    while chunk := sys.stdin.buffer.read(size):
        yield chunk[: len(chunk) // 2 * 2]


if __name__ == "__main__":
    sys.exit(main())
