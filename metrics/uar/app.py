"""The metric as a Gradio Space: type predictions and references, read the score.

`evaluate.utils.launch_gradio_widget` does this for gradio 3 only, so the page is made here, of evaluate's own parts.
"""

from pathlib import Path

import evaluate
import gradio
import pandas as pd
from evaluate.utils.gradio import infer_gradio_input_types, parse_gradio_data, parse_readme

HERE = Path(__file__).resolve().parent
METRIC = evaluate.load(str(HERE / "uar.py"))
INPUT_TYPES = infer_gradio_input_types(METRIC.features.values())
EXAMPLE = pd.DataFrame([[0, 0], [0, 0], [1, 0], [1, 1]], columns=list(METRIC.features))


def compute(table: pd.DataFrame) -> dict:
    """The score of a table with a column of predictions and one of references; empty rows are left out."""
    return METRIC.compute(**parse_gradio_data(table.copy(), INPUT_TYPES))


page = gradio.Interface(
    fn=compute,
    inputs=gradio.Dataframe(value=EXAMPLE, datatype=INPUT_TYPES, label="one row per clip"),
    outputs=gradio.JSON(label=METRIC.name),
    title=METRIC.name,
    description=METRIC.info.description,
    article=parse_readme(HERE / "README.md"),
)

if __name__ == "__main__":
    page.launch()
