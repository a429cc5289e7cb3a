"""The server application: uploaded bytes in, scores and events out. Paths, addresses and file names are never followed.

- `POST /scores`, `POST /events`: one or several files (`files`, multipart) → one answer per file, in order. A file that
  cannot be read gets an error as its answer; the others are not affected.
- `/stream` (WebSocket): binary messages of 16-bit little-endian mono samples at `?sampling_rate=16000` → a JSON message
  for each event when it has ended; the text `end` requests the remaining events, and is answered by `{"end": true}`.
- `GET /health`: `{"status": "ok", "labels": [...], "streams": ...}`.

Browser requests are accepted only from pages of this machine and from the origins that are given; otherwise any page
that somebody visits could use a server on their machine. Models run one at a time, in their own thread.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import FastAPI, HTTPException, Request, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from audio_avb import SAMPLING_RATE, AvbError, load_audio
from avb.events.detection import EventStream, load_detector
from avb.events.finding import Finder, as_scorer
from avb.events.pipeline import RecordingPipeline
from avb.models import DETECTOR
from avb.serving.limits import Limits
from decoders_avb import Resampler

POLICY, TOO_BIG, TRY_LATER = 1008, 1009, 1013  # WebSocket close codes (RFC 6455, IANA)
LEGAL_RATES = (8_000, 96_000)  # Hz, of a stream
HERE = ("localhost", "127.0.0.1", "::1")


def make_app(
    pipe: RecordingPipeline,
    *,
    detector: str = DETECTOR,
    threshold: float | None = None,
    limits: Limits | None = None,
    origins: tuple[str, ...] = (),
) -> FastAPI:
    """The application.

    Args:
        pipe: what `avb.load` returned.
        detector: see `avb.find`.
        threshold: see `avb.find`.
        limits: see `Limits`.
        origins: origins of other pages that may send requests, such as `https://example.org`.
    """
    limits = limits or Limits()
    finder = Finder(load_detector(detector), as_scorer(pipe), threshold)
    app = FastAPI(title="avb", docs_url=None, redoc_url=None, openapi_url=None)
    worker = ThreadPoolExecutor(1)
    state = {"waiting": 0, "streams": 0}

    @app.middleware("http")
    async def guard(request: Request, call_next):
        if not is_allowed(request.headers.get("origin"), origins):
            return JSONResponse({"detail": "requests from this origin are not allowed; see --origins"}, 403)
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdecimal():  # a body of unknown length would be written to disk first
                return JSONResponse({"detail": "the length of the body (Content-Length) is required"}, 411)
            if int(length) > limits.max_bytes:
                most = f"{limits.max_bytes / 2**20:g} MiB"
                return JSONResponse({"detail": f"the request is larger than {most}; send less at a time"}, 413)
        return await call_next(request)

    async def work(task: Callable[[], Any]) -> Any:
        """Runs a task in the only thread that runs models."""
        if state["waiting"] >= limits.max_waiting:
            raise HTTPException(503, "busy; ask again in a few seconds", {"Retry-After": "5"})
        state["waiting"] += 1
        future = worker.submit(task)
        future.add_done_callback(lambda _: state.update(waiting=state["waiting"] - 1))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), limits.request_seconds)
        except TimeoutError as error:
            raise HTTPException(503, f"no result within {limits.request_seconds:g} s; send less") from error

    async def answers(files: list[UploadFile], answer: Callable[[np.ndarray], dict]) -> list[dict]:
        if len(files) > limits.max_files:
            raise HTTPException(413, f"{len(files)} files; send at most {limits.max_files} in a request")
        found = []
        for file in files:
            content = await file.read()

            def task(content: bytes = content) -> dict:
                try:
                    return answer(load_audio(content, peak_db=None, max_seconds=limits.max_seconds))
                except AvbError as error:  # of audio, or of a model that does not take so long a clip
                    return {"error": str(error)}

            found.append({"file": file.filename, **await work(task)})
        return found

    def scores_of(waveform: np.ndarray) -> dict:
        return {"scores": pipe({"array": waveform, "sampling_rate": pipe.feature_extractor.sampling_rate})}

    def events_of(waveform: np.ndarray) -> dict:
        return {"events": [pipe.event(*found, None) for found in finder.events([waveform])]}

    @app.get("/")
    async def about() -> dict:
        return {
            "labels": finder.labels,
            "POST /scores": "files=@laugh.wav, several if needed: the scores of each",
            "POST /events": "files=@evening.wav: the bursts of each, with start and end in seconds",
            "WebSocket /stream?sampling_rate=16000": "16-bit samples in, events out",
        }

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "labels": finder.labels, "streams": state["streams"]}

    @app.post("/scores")
    async def scores(files: Annotated[list[UploadFile], ...]) -> list[dict]:
        return await answers(files, scores_of)

    @app.post("/events")
    async def events(files: Annotated[list[UploadFile], ...]) -> list[dict]:
        return await answers(files, events_of)

    @app.websocket("/stream")
    async def stream(socket: WebSocket, sampling_rate: int = 16_000):
        if not is_allowed(socket.headers.get("origin"), origins):
            await socket.close(POLICY, "this origin may not ask")
            return
        if not LEGAL_RATES[0] <= sampling_rate <= LEGAL_RATES[1]:
            await socket.close(POLICY, f"sampling_rate is {LEGAL_RATES[0]} to {LEGAL_RATES[1]}")
            return
        if state["streams"] >= limits.max_streams:
            await socket.close(TRY_LATER, "too many streams")
            return
        state["streams"] += 1
        try:
            await socket.accept()
            await serve_stream(socket, Live(finder, pipe, sampling_rate), limits, work)
        except WebSocketDisconnect:
            pass
        except HTTPException as error:
            await socket.close(TRY_LATER, str(error.detail))
        finally:
            state["streams"] -= 1

    return app


class Live:
    """The events of one stream, in bounded memory."""

    def __init__(self, finder: Finder, pipe: RecordingPipeline, sampling_rate: int):
        self.finder, self.pipe = finder, pipe
        self.resampler = Resampler(sampling_rate, SAMPLING_RATE)
        self.events = EventStream(finder.detector, finder.threshold)

    def push(self, chunk: bytes) -> list[dict]:
        samples = np.frombuffer(chunk, "<i2").astype(np.float32) / 32_768
        return self._answer(self.events.push(self.resampler.push(samples)))

    def finish(self) -> list[dict]:
        found = self.events.push(self.resampler.finish())
        return self._answer(found + self.events.finish())

    def _answer(self, found: list) -> list[dict]:
        return [self.pipe.event(detection, scores, None) for detection, scores in self.finder.scored(found)]


async def serve_stream(socket: WebSocket, live: Live, limits: Limits, work: Callable):
    """Receives messages and sends events until the client or a limit ends the stream."""
    most = limits.max_stream_seconds * live.resampler.rate * 2  # bytes
    received = 0
    while True:
        try:
            message = await asyncio.wait_for(socket.receive(), limits.idle_seconds)
        except TimeoutError:
            await socket.close(POLICY, f"no message for {limits.idle_seconds:g} s")
            return
        if message["type"] == "websocket.disconnect":
            return
        chunk = message.get("bytes")
        if chunk is None:
            if message.get("text") != "end":
                await socket.close(POLICY, "send 16-bit samples, or end")
                return
            for event in await work(live.finish):
                await socket.send_json(event)
            await socket.send_json({"end": True})
            await socket.close()
            return
        received += len(chunk)
        if len(chunk) > limits.max_chunk_bytes or len(chunk) % 2:
            await socket.close(TOO_BIG, f"a message has an even number of bytes, at most {limits.max_chunk_bytes}")
            return
        if received > most:
            await socket.close(POLICY, f"longer than {limits.max_stream_seconds:g} s")
            return
        for event in await work(lambda chunk=chunk: live.push(chunk)):
            await socket.send_json(event)


def is_allowed(origin: str | None, origins: tuple[str, ...]) -> bool:
    """Whether a request may be answered: it is from no browser, from a page of this machine, or from one of `origins`.

    Its Host is not checked, because anyone who owns a domain name can point it to this machine.
    """
    return origin is None or origin in origins or urlsplit(origin).hostname in HERE
