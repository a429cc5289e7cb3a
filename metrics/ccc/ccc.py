"""Concordance correlation coefficient as a module of Hugging Face `evaluate`: `evaluate.load("./metrics/ccc")`.

A wrapper of `audmetric.concordance_cc`. `evaluate` scans this file for imports, so there is one a line, and nothing is
imported from the rest of the project: the folder works alone.
"""

import audmetric
import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Concordance correlation coefficient (CCC), the agreement of two series in correlation, scale and mean:

    CCC = 2 s_xy / (s_x^2 + s_y^2 + (mean_x - mean_y)^2)

with population moments (divisor n). It lies in [-1, 1] and is 1 for equal series only.
"""

_CITATION = """\
@article{lin1989concordance,
  author = {Lin, Lawrence I-Kuei},
  title = {A Concordance Correlation Coefficient to Evaluate Reproducibility},
  journal = {Biometrics},
  volume = {45},
  number = {1},
  pages = {255--268},
  year = {1989}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: floats (clips,); with config_name="multilabel" nested lists (clips, labels).
    references: targets of the same shape; a NaN target is left out of its label.

Returns:
    ccc: the CCC; for several labels the plain mean over them. NaN where undefined: fewer than two pairs, or both
        series the same constant.
    per_label: the CCC of each label, with config_name="multilabel" only.

Raises:
    ValueError: lengths differ, or clips have different numbers of labels.

Examples:
    >>> ccc = evaluate.load("./metrics/ccc")
    >>> ccc.compute(predictions=[0.0, 1.0, 1.0], references=[0.0, 1.0, 2.0])
    {'ccc': 0.6666666666666665}
    >>> ccc = evaluate.load("./metrics/ccc", config_name="multilabel")
    >>> ccc.compute(predictions=[[0.0, 1.0], [1.0, 2.0], [1.0, 3.0]], references=[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    {'ccc': 0.8333333333333333, 'per_label': [0.6666666666666665, 1.0]}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CCC(evaluate.Metric):
    def _info(self):
        value = datasets.Value("float64")
        feature = datasets.Sequence(value) if self.config_name == "multilabel" else value
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": feature, "references": feature}),
            reference_urls=["https://doi.org/10.2307/2532051"],
        )

    def _compute(self, predictions, references):
        predictions, references = np.asarray(predictions), np.asarray(references)
        if predictions.shape != references.shape:
            raise ValueError(f"predictions are {predictions.shape}, references {references.shape}: give equal shapes")
        if self.config_name != "multilabel":
            return {"ccc": _one_label(references, predictions)}
        per_label = [_one_label(truth, scores) for truth, scores in zip(references.T, predictions.T, strict=True)]
        return {"ccc": float(np.mean(per_label)), "per_label": per_label}


def _one_label(references, predictions):
    # Not `ignore_nan`: it would drop the clips of NaN predictions too, and so hide a model that diverged.
    present = ~np.isnan(references)
    return audmetric.concordance_cc(references[present], predictions[present])
