"""avb-serve: what it answers is what Python gives; what it refuses."""

import io
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile as sf
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from tiny import detector_of_noise
from websockets.sync.server import serve

import avb
from avb.errors import AvbError
from avb.serving import listen
from avb.serving.app import make_app
from avb.serving.command import parse_arguments
from avb.serving.limits import Limits

RATE = 16_000


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("detector")
    detector_of_noise().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pipe():
    return avb.load("emogator-cnn", "cpu")


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """Noise that comes and goes, 16-bit."""
    loud = np.where(np.arange(5 * RATE) // 12_000 % 2, 3, 3_000)
    return (np.random.default_rng(2).normal(0, 1, 5 * RATE) * loud).clip(-32_768, 32_767).astype("<i2")


@pytest.fixture(scope="module")
def wav(waveform) -> bytes:
    file = io.BytesIO()
    sf.write(file, waveform, RATE, format="WAV")
    return file.getvalue()


@pytest.fixture
def client(pipe, detector):
    limits = Limits(max_bytes=300_000, max_files=2, max_seconds=6, max_streams=1, max_chunk_bytes=6_400, idle_seconds=5)
    with TestClient(make_app(pipe, detector=detector, threshold=0.5, limits=limits)) as client:
        yield client


def files(*contents: bytes) -> dict:
    return {"files": [("files", ("../../etc/passwd", content)) for content in contents]}


def test_uploads_are_scored_as_in_python(client, pipe, detector, wav):
    (scored, bad) = client.post("/scores", **files(wav, b"no audio")).json()
    expected = pipe(wav)
    assert [score["label"] for score in scored["scores"]] == [score["label"] for score in expected]
    assert [one["score"] for one in scored["scores"]] == pytest.approx([one["score"] for one in expected], abs=1e-5)
    assert "not audio but text" in bad["error"] and "passwd" not in bad["error"]

    (found,) = client.post("/events", **files(wav)).json()
    expected = list(pipe.events(wav, detector=detector, threshold=0.5))
    assert len(expected) > 1 and [event["start"] for event in found["events"]] == [one["start"] for one in expected]
    assert client.get("/health").json()["streams"] == 0
    assert scored["file"] == bad["file"] == found["file"] == "../../etc/passwd"  # a name to tell answers apart, no path
    paths = {path.split("?")[0].split()[-1] for path in client.get("/").json() if " " in path}
    assert paths == {route.path for route in client.app.routes} - {"/", "/health"}


def test_a_stream_gives_the_events_of_the_recording(client, pipe, detector, waveform, wav):
    expected = list(pipe.events(wav, detector=detector, threshold=0.5))
    with client.websocket_connect("/stream") as socket:
        for start in range(0, len(waveform), 1_600):
            socket.send_bytes(waveform[start : start + 1_600].tobytes())
        assert client.get("/health").json()["streams"] == 1
        socket.send_text("end")
        found = []
        while (message := socket.receive_json())["end"] is not True:
            found.append(message)
    assert [(event["start"], event["end"]) for event in found] == [(event["start"], event["end"]) for event in expected]
    assert found[0]["scores"][0].keys() == {"label", "score"}
    assert client.get("/health").json()["streams"] == 0


def test_what_is_too_much_is_refused(client, wav):
    assert client.post("/scores", **files(wav * 2)).status_code == 413
    assert "at most 2" in client.post("/scores", **files(b"1", b"2", b"3")).json()["detail"]
    assert client.post("/scores", content=(part for part in [b"a", b"b"])).status_code == 411
    long = io.BytesIO()
    sf.write(long, np.zeros(9 * RATE, np.int16), RATE, format="FLAC")
    assert "longer than 6 seconds" in client.post("/events", **files(long.getvalue())).json()[0]["error"]
    for path in ("/docs", "/openapi.json", "/etc/passwd"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "address, message, code",
    [
        ("/stream?sampling_rate=7", None, 1008),
        ("/stream", bytes(6_402), 1009),
        ("/stream", b"odd", 1009),
        ("/stream", "x", 1008),
    ],
)
def test_streams_that_are_ended(client, address, message, code):
    with pytest.raises(WebSocketDisconnect) as stop, client.websocket_connect(address) as socket:
        socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message or b"")
        socket.receive_json()
    assert stop.value.code == code
    assert client.get("/health").json()["streams"] == 0


def test_one_stream_too_many(client):
    with client.websocket_connect("/stream"):
        with pytest.raises(WebSocketDisconnect) as stop, client.websocket_connect("/stream"):
            pass
        assert stop.value.code == 1013


def test_other_peoples_pages_may_not_ask(client, wav, pipe, detector):
    for origin, status in (("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 200)):
        assert client.post("/scores", headers={"origin": origin}, **files(wav)).status_code == status
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/stream", headers={"origin": "https://evil.example"}),
    ):
        pass
    # A name that its owner points to this machine makes page and host the same.
    named = {"origin": "http://evil.example:8000", "host": "evil.example:8000"}
    assert client.post("/scores", headers=named, **files(wav)).status_code == 403
    with TestClient(make_app(pipe, detector=detector, origins=("https://mine.example",))) as other:
        assert other.post("/scores", headers={"origin": "https://mine.example"}, **files(wav)).status_code == 200


def test_it_listens_here_unless_told(capsys):
    args = parse_arguments(["emogator-cnn"])
    assert args.host == "127.0.0.1" and args.max_bytes == Limits().max_bytes
    with pytest.raises(SystemExit):
        parse_arguments(["emogator-cnn", "--max_files", "0"])
    assert "limits must be positive" in capsys.readouterr().err


def test_a_clip_that_the_model_refuses_is_an_answer(pipe, detector, wav, monkeypatch):
    """As an exported model refuses one of more than two minutes; the other files of the request are not affected."""
    app = make_app(pipe, detector=detector)

    def refuse(*args, **kwargs):
        raise AvbError("a clip of 130 s")

    monkeypatch.setattr(pipe, "_forward", refuse)
    with TestClient(app) as client:
        assert [answer["error"] for answer in client.post("/scores", **files(wav, b"")).json()] == [
            "a clip of 130 s",
            "<0 bytes>: the file is empty (0 bytes); copy or record it again",
        ]


class NoWebSocket(BaseHTTPRequestHandler):
    """Answers every request with 501."""

    protocol_version = "HTTP/1.1"


@pytest.fixture
def refusing_server():
    """An HTTP server of another kind."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NoWebSocket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "url, said",
    [
        ("127.0.0.1:8000/stream", r"no connection \(.*isn't a valid URI"),
        ("ws://127.0.0.1:1/stream", r"no connection \(.*refused"),
        ("ws://{}/stream", r"refused \(HTTP 501\): another kind of server"),
    ],
)
def test_the_client_says_why_it_has_no_connection(url, said, refusing_server, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(320))))
    assert listen.main(["-", "--url", url.format(refusing_server)]) == 1
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize("closed", [True, False])
def test_the_client_does_not_wait_for_answers_to_what_it_cannot_send(closed, monkeypatch):
    def chunks():
        if closed:
            monkeypatch.setattr("sys.stdin", None)
            yield from listen.of_stdin(RATE)
        yield b"text, no samples"
        raise RuntimeError("a bug")

    with serve(lambda socket: list(socket), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with pytest.raises(AvbError if closed else RuntimeError, match="which is closed" if closed else "a bug"):
            list(listen.listen(url, chunks()))
