"""Unweighted average recall as a module of Hugging Face `evaluate`: `evaluate.load("./metrics/uar")`.

A wrapper of `audmetric.unweighted_average_recall`. `evaluate` scans this file for imports, so there is one a line, and
nothing is imported from the rest of the project: the folder works alone.
"""

import audmetric
import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Unweighted average recall (UAR, macro recall, balanced accuracy), the mean over classes of

    recall_k = TP_k / (TP_k + FN_k)

so that a rare class weighs as much as a frequent one. The mean is over the classes that occur in the references.
"""

_CITATION = """\
@inproceedings{schuller2009interspeech,
  author = {Schuller, Bj{\\"o}rn and Steidl, Stefan and Batliner, Anton},
  title = {The {INTERSPEECH} 2009 Emotion Challenge},
  booktitle = {Proc. Interspeech},
  pages = {312--315},
  year = {2009}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: class indices (clips,); with config_name="multilabel" nested lists (clips, labels), each column a
        classification of its own.
    references: true class indices of the same shape; -100 marks a missing one, which is left out.

Returns:
    uar: the UAR; for several labels the plain mean over them. NaN without a single reference.
    per_label: the UAR of each label, with config_name="multilabel" only.

Raises:
    ValueError: lengths differ, or clips have different numbers of labels.

Examples:
    >>> uar = evaluate.load("./metrics/uar")
    >>> uar.compute(predictions=[0, 0, 1, 1], references=[0, 0, 0, 1])
    {'uar': 0.8333333333333333}
    >>> uar = evaluate.load("./metrics/uar", config_name="multilabel")
    >>> uar.compute(predictions=[[0, 1], [1, 1]], references=[[0, 0], [1, 1]])
    {'uar': 0.75, 'per_label': [1.0, 0.5]}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class UAR(evaluate.Metric):
    def _info(self):
        value = datasets.Value("int64")
        feature = datasets.Sequence(value) if self.config_name == "multilabel" else value
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": feature, "references": feature}),
            reference_urls=["https://doi.org/10.21437/Interspeech.2009-103"],
        )

    def _compute(self, predictions, references):
        predictions, references = np.asarray(predictions), np.asarray(references)
        if predictions.shape != references.shape:
            raise ValueError(f"predictions are {predictions.shape}, references {references.shape}: give equal shapes")
        if self.config_name != "multilabel":
            return {"uar": _one_label(references, predictions)}
        per_label = [_one_label(truth, classes) for truth, classes in zip(references.T, predictions.T, strict=True)]
        return {"uar": float(np.mean(per_label)), "per_label": per_label}


def _one_label(references, predictions):
    present = references != -100
    references, predictions = references[present], predictions[present]
    occurring = np.unique(references)
    if not occurring.size:
        return float("nan")
    # `labels=occurring` would drop the clips predicted as any other class from the recalls' divisor. Without it each
    # class that was only predicted adds a recall of 0 to the mean, which the ratio takes out.
    num_classes = np.union1d(references, predictions).size
    return audmetric.unweighted_average_recall(references, predictions) * num_classes / occurring.size
