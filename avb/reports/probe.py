"""A linear model on fixed features, scored on held-out groups: how well a representation serves a task.

Standardised features are the input of a logistic regression (classes, balanced weights) or a ridge regression (scores).
The strength of regularisation is chosen on inner folds of the training clips. No speaker is on both sides of an inner
or outer fold. Sources: Yang et al. (2021), "SUPERB: Speech processing Universal PERformance Benchmark",
arXiv:2105.01051 (a linear head on frozen frames); Varma & Simon (2006), BMC Bioinformatics 7:91 (why folds are nested).
"""

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avb.corpora.splits import strata_of, stratified_folds
from avb.metrics import ccc, uar
from avb.tasks import Task

STRENGTHS = tuple(10.0**exponent for exponent in range(-5, 2))  # C of the logistic regression, 1 / alpha of the ridge
INNER_FOLDS = 3


def cross_validated_predictions(
    task: Task, features: np.ndarray, labels: np.ndarray, groups: Sequence[str], folds: Sequence[int]
) -> np.ndarray:
    """Predictions for each clip by a linear model trained on the other folds.

    Args:
        task: a single task; it determines what `labels` contains.
        features: (clips, features), finite.
        labels: (clips,) class indices or (clips, labels) scores, none missing.
        groups: each clip's speaker, or its id if speakers are unknown.
        folds: each clip's outer fold; all clips of a group are in the same fold.

    Returns:
        (clips,) class indices or (clips, labels) scores.
    """
    folds, groups = np.asarray(folds), np.asarray(groups)
    predictions = np.zeros_like(labels)
    for fold in np.unique(folds):
        held_out = folds == fold
        model = fit(task, features[~held_out], labels[~held_out], groups[~held_out])
        predictions[held_out] = model.predict(features[held_out])
    return predictions


def fit(task: Task, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> GridSearchCV:
    """Fits the linear model with regularisation chosen on inner folds; arguments as `cross_validated_predictions`."""
    if task.kind == "classification":
        name, settings = "C", STRENGTHS
        head = LogisticRegression(class_weight="balanced", max_iter=3_000)
        scoring = make_scorer(uar)  # over the classes that occur in an inner fold
    else:
        name, settings = "alpha", tuple(1 / strength for strength in STRENGTHS)
        head = Ridge()
        scoring = make_scorer(lambda true, predicted: float(np.nan_to_num(ccc(true, predicted)).mean()))
    inner = stratified_folds(list(groups), strata_of(labels), min(INNER_FOLDS, len(set(groups))), task.name)
    splits = [
        (np.flatnonzero(np.asarray(inner) != fold), np.flatnonzero(np.asarray(inner) == fold)) for fold in set(inner)
    ]
    # Rotating the features does not change a model with an L2 penalty; PCA keeps at most as many features as clips.
    pipeline = make_pipeline(StandardScaler(), PCA(svd_solver="full"), head)
    search = GridSearchCV(pipeline, {f"{type(head).__name__.lower()}__{name}": settings}, scoring=scoring, cv=splits)
    return search.fit(features, labels)
