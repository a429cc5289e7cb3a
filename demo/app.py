"""The demo: the waveform and all scores of a recording, for several models side by side; or a table of many files.

    python demo/app.py --models runs/sample

A Gradio app that runs the same here and in a Space (see README.md beside it). It listens on this machine only, unless
`--host` or GRADIO_SERVER_NAME (set by a Space) is given. It opens no public link and sends no usage statistics.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

import figures
import gradio as gr
from answers import Answer, load_models, score_recording, score_recordings, table, with_progress, write_csv
from examples import write_examples

from avb.commands import as_command
from avb.errors import AudioError
from pipeline_avb import VocalBurstPipeline

MODELS_VARIABLE = "AVB_DEMO_MODELS"
DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "runs" / "sample"  # what `make demo` trains

MAX_SECONDS = 120.0  # of a recording
MAX_FILES = 50  # in the table
MAX_FILE_SIZE = "20mb"  # two minutes of 16-bit stereo at 44.1 kHz are 20 MiB
WINDOW_SECONDS = 5.0  # longer recordings are cut into windows, unless the slider says otherwise
CONCURRENCY = 1  # recordings scored at the same time
QUEUE = 32  # people waiting; the next one is told to come back
KEEP_SECONDS = 3600  # uploads and tables are deleted after that

HINT = "Record a vocal burst (a laugh, a gasp, a sigh) or drop an audio file: wav, flac, ogg or mp3."
ABOUT = f"""
**What this is not.** The models learned from bursts acted by people of a few countries, and use the labels of that
study. A score estimates how its listeners would have rated the sound, not what anyone feels. Do not use it clinically,
for surveillance, for hiring, or for any decision about a person.

Recordings are limited to {MAX_SECONDS:g} s and {MAX_FILE_SIZE.upper()}, and are deleted from the server within
{2 * KEEP_SECONDS // 3600} hours. Record or upload only what you are allowed to share.
"""


@as_command("app.py")
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    pipes = load_models(args.models)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or the tables below would be left behind
    with tempfile.TemporaryDirectory(prefix="avb-demo-") as folder:
        build(pipes, Path(folder)).launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            max_file_size=MAX_FILE_SIZE,
            ssr_mode=False,
            footer_links=["api", "gradio"],
            theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # none is downloaded
            css=figures.CSS,
        )
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        help=f"folders written by train_avb.py, or models on the Hub (default: the names in {MODELS_VARIABLE}, "
        "separated by spaces or commas; if it is not set, runs/sample, which `make demo` trains)",
    )
    parser.add_argument("--host", help="address to listen on (default: GRADIO_SERVER_NAME, or 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default: GRADIO_SERVER_PORT, or the first free one from 7860)")
    args = parser.parse_args(argv)
    if args.models is None:
        args.models = os.environ.get(MODELS_VARIABLE, "").replace(",", " ").split()
    if not args.models and DEFAULT_MODEL.is_dir():
        args.models = [str(DEFAULT_MODEL)]
    if not args.models:
        parser.exit(
            1,
            f"app.py: error: no model to show: name folders or models on the Hub with --models or in "
            f"{MODELS_VARIABLE}; `make demo` trains one, runs/sample\n",
        )
    return args


def build(pipes: dict[str, VocalBurstPipeline], folder: Path) -> gr.Blocks:
    """The app of these models; tables for download, and sounds to try it with, are written to `folder`."""
    names = list(pipes)
    with gr.Blocks(title="Vocal bursts", analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)) as blocks:
        gr.Markdown("# Emotion in vocal bursts\nWhat models hear in a laugh, a cry, a gasp or a scream.")
        with gr.Tab("One recording"):
            build_one(pipes, names, folder)
        with gr.Tab("Many files"):
            build_many(pipes, names, folder)
        gr.Markdown(ABOUT)
    return blocks.queue(max_size=QUEUE, default_concurrency_limit=CONCURRENCY)


def window_slider() -> gr.Slider:
    return gr.Slider(
        1, 10, WINDOW_SECONDS, step=0.5, label="Window (s)", info="A longer recording is scored window by window"
    )


def build_one(pipes: dict[str, VocalBurstPipeline], names: list[str], folder: Path):
    sounds = write_examples(folder)
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            audio = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Recording",
                elem_id="recording",
                buttons=["download"],  # and not "share", which would publish the recording
            )
            gr.Examples(
                [str(path) for path in sounds.values()],
                audio,
                example_labels=list(sounds),
                label="Or try a synthetic sound",
                elem_id="examples",
            )
            chosen = gr.CheckboxGroup(names, value=names, label="Models", visible=len(names) > 1)
            window = window_slider()
        with gr.Column(scale=2, min_width=320):
            result = gr.HTML(figures.hint(HINT), elem_id="result")
            lines = [gr.LinePlot(x="seconds", y="score", color="label", height=260, visible=False) for _ in names]

    def answer(path: str | None, shown: list[str], window_seconds: float) -> list:
        no_lines = [gr.LinePlot(visible=False) for _ in names]
        if path is None:
            return [figures.hint(HINT), *no_lines]
        if not shown:
            return [figures.error("No model selected: tick at least one."), *no_lines]
        try:
            answers = {
                name: score_recording(pipes[name], path, window_seconds, MAX_SECONDS, with_events=True)
                for name in names
                if name in shown
            }
        except AudioError as error:
            return [figures.error(str(error)), *no_lines]
        plots = [
            line_plot(name, answers[name])
            if name in answers and len(answers[name].spans) > 1
            else gr.LinePlot(visible=False)
            for name in names
        ]
        return [figures.cards(answers), *plots]

    gr.on(
        [audio.change, chosen.change, window.release],
        answer,
        [audio, chosen, window],
        [result, *lines],
        concurrency_id="models",
        api_name="score",
    )


def line_plot(name: str, answer: Answer) -> gr.LinePlot:
    shown = min(len(answer.labels), figures.TIMELINE_LABELS)
    some = f", the {shown} labels with the highest windows" if shown < len(answer.labels) else ""
    return gr.LinePlot(
        figures.timeline(answer),
        title=f"{name}{some}",
        x_lim=[0, answer.seconds],
        y_lim=list(answer.score_range),
        visible=True,
    )


def build_many(pipes: dict[str, VocalBurstPipeline], names: list[str], folder: Path):
    with gr.Row():
        files = gr.File(file_count="multiple", label=f"Audio files, at most {MAX_FILES}", elem_id="files", scale=2)
        with gr.Column(scale=1):
            model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
            window = window_slider()
            button = gr.Button("Score", variant="primary", elem_id="score")
    status = gr.HTML(elem_id="status")
    rows = gr.Dataframe(visible=False, interactive=False, label="Scores", elem_id="table", pinned_columns=1)
    download = gr.DownloadButton("Download CSV", visible=False, elem_id="download")

    # Gradio knows a progress bar by its default value.
    def answer(paths: list[str] | None, name: str, window_seconds: float, progress=gr.Progress()) -> list:  # noqa: B008
        hidden = [gr.Dataframe(visible=False), gr.DownloadButton(visible=False)]
        if not paths:
            return [figures.error("No files selected: drop audio files above."), *hidden]
        if len(paths) > MAX_FILES:
            return [figures.error(f"{len(paths)} files are too many: score at most {MAX_FILES} at a time."), *hidden]
        pipe = pipes[name]
        results = with_progress(
            score_recordings(pipe, paths, window_seconds, MAX_SECONDS), len(paths), lambda done: progress(done)
        )
        frame = table(pipe, results)
        bad = int(frame["error"].notna().sum())
        said = f"{len(frame) - bad} of {len(frame)} files scored by {name}"
        if bad:
            said += f"; {bad} could not be read: see the column 'error'"
        path = write_csv(frame, new_file(folder))
        return [
            figures.error(said) if bad else said,
            gr.Dataframe(frame.round(3), visible=True),
            gr.DownloadButton(value=path, visible=True),
        ]

    button.click(
        answer, [files, model, window], [status, rows, download], concurrency_id="models", api_name="score_files"
    )


def new_file(folder: Path) -> Path:
    """Where the next table goes, `scores.csv` in a folder of its own; tables nobody fetched are deleted."""
    for old in folder.glob("*/scores.csv"):
        if time.time() - old.stat().st_mtime > KEEP_SECONDS:
            old.unlink(missing_ok=True)
            old.parent.rmdir()
    path = folder / uuid.uuid4().hex / "scores.csv"
    path.parent.mkdir()
    return path


if __name__ == "__main__":
    sys.exit(main())
