"""Fits and evaluates a classifier that tells vocal bursts from other sounds by the scores of an emotion model.

It is a network with one hidden layer on the logarithms of the scores. A logistic regression on the pooled embedding of
`emogator-cnn` (384 numbers) is no better on sources left out of the fit, and exported models do not output it. Several
small networks are averaged into one, because a single one depends on its initial weights.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np

from avb.metrics.classification import uar
from calibration_avb import RATES, BurstCheck, burst_scores

WINDOW_SECONDS, HOP_SECONDS = 2.0, 1.0  # false alarms are counted per window
BURST = "burst"  # a kind of sound
UNITS, NETWORKS = 16, 4  # hidden units per network; number of networks
PENALTY = 0.0017  # on squared weights, relative to the mean loss: best of .0002, .0017, .008 on packages left out
FOLDS = 5
DIGITS = 6  # significant digits per weight in the file
RESAMPLES = 1000


@dataclass(frozen=True)
class Sounds:
    """Sounds as a model hears them.

    Attributes:
        features: `log_scores`, (sounds, labels).
        kinds: (sounds,): `BURST`, speech, music, ...
        sources: (sounds,): the speaker of a burst, a package and its language, ...
    """

    features: np.ndarray
    kinds: np.ndarray
    sources: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def are_bursts(self) -> np.ndarray:
        return self.kinds == BURST

    def part(self, rows: np.ndarray) -> "Sounds":
        return Sounds(self.features[rows], self.kinds[rows], self.sources[rows])

    def weights(self, counts: np.ndarray | None = None) -> np.ndarray:
        """(sounds,) with a mean of 1: bursts weigh as much as all other sounds; the other kinds weigh the same.

        Args:
            counts: how often each sound occurs, (sounds,); None: once.
        """
        weights = np.ones(len(self)) if counts is None else counts.astype(float)
        kinds = [kind for kind in np.unique(self.kinds) if kind != BURST]
        for kind in (BURST, *kinds):
            is_kind = self.kinds == kind
            weights[is_kind] *= (1 if kind == BURST else 1 / len(kinds)) / max(weights[is_kind].sum(), 1e-9)
        return weights * len(self) / weights.sum()


def fit(sounds: Sounds) -> BurstCheck:
    """Fits the classifier, and a threshold for each of `RATES` on packages that are left out of the fit in turn."""
    from sklearn.model_selection import StratifiedGroupKFold

    scores = np.zeros(len(sounds))
    packages = np.array([source.split(" ")[0] for source in sounds.sources])
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(sounds.features, sounds.kinds, packages)
    for kept, left_out in folds:
        scores[left_out] = burst_scores(fit_network(sounds.part(kept)), sounds.features[left_out])
    others = ~sounds.are_bursts
    return replace(fit_network(sounds), thresholds=alarm_thresholds(scores[others], sounds.weights()[others]))


def alarm_thresholds(scores: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """A threshold for each of `RATES` (false alarms per hour), from scores (windows,) of windows without bursts."""
    per_window = np.array(RATES) / (3600 / HOP_SECONDS)
    found = np.quantile(scores, 1 - per_window, weights=weights, method="inverted_cdf")
    found = np.nextafter(found, 1)  # the window at the quantile itself would be one too many
    return tuple(float(value) for value in found)


def fit_network(sounds: Sounds) -> BurstCheck:
    """Fits the classifier without thresholds."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    mean, scale = sounds.features.mean(0), sounds.features.std(0) + 1e-6
    inputs, y, weights = (sounds.features - mean) / scale, sounds.are_bursts.astype(int), sounds.weights()
    settings = {"solver": "lbfgs", "alpha": PENALTY * len(sounds), "max_iter": 400}
    networks = [MLPClassifier(UNITS, random_state=number, **settings) for number in range(NETWORKS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is as good
        for network in networks:
            network.fit(inputs, y, sample_weight=weights)
    hidden = np.concatenate([network.coefs_[0].T / scale for network in networks])  # (units, labels)
    biases = np.concatenate([network.intercepts_[0] for network in networks]) - hidden @ mean
    output = np.concatenate([network.coefs_[1][:, 0] for network in networks]) / NETWORKS
    bias = np.mean([network.intercepts_[1][0] for network in networks])
    return BurstCheck(_rounded(output), float(bias), (), {}, tuple(_rounded(row) for row in hidden), _rounded(biases))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)


def measure(
    check: BurstCheck, sounds: Sounds, true: np.ndarray | None = None, resamples: int = RESAMPLES
) -> dict[str, float]:
    """Evaluates a check on sounds from sources it was not fitted to, with the weights of `Sounds.weights`.

    Args:
        check: fitted on other sources.
        sounds: bursts and other sounds.
        true: the class of each burst, (bursts,); None if the model has other labels.
        resamples: number of bootstrap resamples for the 95 % interval.

    Returns:
        The area under the ROC curve, its interval, and the area against each kind; for each of `RATES`, the fraction
        of bursts kept and the false alarms per hour, with equal weight for each kind; with `true`, the unweighted
        average recall of all bursts and of the bursts kept.
    """
    from sklearn.metrics import roc_auc_score

    scores, is_burst, weights = burst_scores(check, sounds.features), sounds.are_bursts, sounds.weights()
    kept, alarms = scores[is_burst], scores[~is_burst]
    found = {"auroc": roc_auc_score(is_burst, scores, sample_weight=weights)}
    found["auroc_low"], found["auroc_high"] = auroc_interval(sounds, scores, resamples)
    for kind in np.unique(sounds.kinds[~is_burst]):
        chosen = is_burst | (sounds.kinds == kind)
        found[f"auroc_{kind}"] = roc_auc_score(is_burst[chosen], scores[chosen])
    found |= {"bursts": len(kept), "windows": len(alarms)}
    of_others = weights[~is_burst] / weights[~is_burst].sum()
    for rate, threshold in zip(RATES, check.thresholds, strict=True):
        found[f"kept_at_{rate}"] = (kept >= threshold).mean()
        found[f"alarms_at_{rate}"] = round(of_others[alarms >= threshold].sum() * 3600 / HOP_SECONDS, 1)
    if true is not None:
        heard = sounds.features[is_burst].argmax(-1)
        found["uar"] = uar(true, heard)
        for rate, threshold in zip(RATES, check.thresholds, strict=True):
            is_kept = kept >= threshold
            if is_kept.any():
                found[f"uar_kept_at_{rate}"] = uar(true[is_kept], heard[is_kept])
    return {name: value if isinstance(value, int) else round(float(value), 4) for name, value in found.items()}


def auroc_interval(sounds: Sounds, scores: np.ndarray, resamples: int) -> tuple[float, float]:
    """95 % interval of the weighted area under the ROC curve, by resampling whole sources within each kind."""
    from sklearn.metrics import roc_auc_score

    rng, drawn = np.random.default_rng(0), []
    sources = [
        [np.flatnonzero(is_kind & (sounds.sources == source)) for source in np.unique(sounds.sources[is_kind])]
        for is_kind in (sounds.kinds == kind for kind in np.unique(sounds.kinds))
    ]
    for _ in range(resamples):
        counts = np.zeros(len(sounds))
        for rows in sources:
            for number in rng.integers(len(rows), size=len(rows)):
                counts[rows[number]] += 1
        drawn.append(roc_auc_score(sounds.are_bursts, scores, sample_weight=sounds.weights(counts)))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)
