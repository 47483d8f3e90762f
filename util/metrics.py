"""
Metrics of predictions.

    y   (N,) true labels: class numbers 0, 1, .., or numbers to predict
    p   (N,) logits of class 1 (binary), (N, C) logits (multiclass), or (N,) predicted numbers (regression)

Each function returns a float. To add a metric, write a function and give it an entry in METRICS.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from util.errors import fail

# -----------------------------------------------------------------------------
# classes

def accuracy(y, p):
    """The share of rows whose class is predicted right."""
    return float((predicted_classes(p) == y).mean())


def log_loss(y, p):
    """The mean of -log of the probability that is given to the true class."""
    if p.ndim == 1:
        p = np.stack([np.zeros(len(p)), p], 1)  # (N, 2)
    p = p - p.max(1, keepdims=True)
    log_total = np.log(np.exp(p).sum(1))
    of_true_class = p[np.arange(len(y)), y.astype(np.int64)]
    return float((log_total - of_true_class).mean())


def roc_auc(y, p):
    """
    Area under the ROC curve: the chance that a row of class 1 scores above a row of class 0 (Mann-Whitney).
    It is the same whichever of the two classes is called positive. Fails where only one class is there.
    """
    n_positive = int((y == 1).sum())
    n_negative = int((y != 1).sum())
    if not n_positive or not n_negative:
        fail('roc_auc needs both classes among the rows that are scored')
    rank_sum = ranks(p)[y == 1].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def f1(y, p, positive=1):
    """Of the class number `positive`: the harmonic mean of precision and recall; 0 where neither is defined."""
    return f1_of_class(y == positive, predicted_classes(p) == positive)


def macro_f1(y, p):
    """The mean of the F1 of each class that is there or is predicted."""
    predicted = predicted_classes(p)
    of_each = [f1_of_class(y == c, predicted == c) for c in np.union1d(y, predicted)]
    return float(np.mean(of_each))


def matthews(y, p):
    """Matthews correlation of two classes (GLUE's measure for CoLA)."""
    return correlation(y, predicted_classes(p))


def predicted_classes(p):
    """Class numbers from logits: (N,), of class 1, or (N, C) -> (N,) int64"""
    if p.ndim == 1:
        return (p > 0).astype(np.int64)
    return p.argmax(1)


def f1_of_class(is_true, is_predicted):
    """is_true, is_predicted (N,) bool: which rows are of the class, and which are predicted to be."""
    n_right = (is_predicted & is_true).sum()
    return float(2 * n_right / max(is_predicted.sum() + is_true.sum(), 1))


# -----------------------------------------------------------------------------
# numbers

def rmse(y, p):
    """Root of the mean squared error."""
    return float(np.sqrt(((p.astype(np.float64) - y) ** 2).mean()))


def mae(y, p):
    """Mean absolute error."""
    return float(np.abs(p - y).mean())


def r2(y, p):
    """The share of the variance that is explained: 1 - squared error / variance; 0 where y is constant."""
    variance = ((y - y.mean()) ** 2).sum()
    if not variance:
        return 0.0
    return float(1 - ((p - y) ** 2).sum() / variance)


def spearman(y, p):
    """Correlation of the ranks."""
    return correlation(ranks(y), ranks(p))


def correlation(a, b):
    """Pearson's correlation; 0 where all values of one are equal."""
    a = a - np.mean(a)
    b = b - np.mean(b)
    scale = np.sqrt((a ** 2).sum() * (b ** 2).sum())
    if not scale:
        return 0.0
    return float((a * b).sum() / scale)


def ranks(v):
    """Ranks 1..N of v (N,); equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(v, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # the rank of the last of each group of equal values
    return (last - (counts - 1) / 2)[inverse]


# -----------------------------------------------------------------------------

@dataclass(frozen=True)
class Metric:
    function: Callable  # of (y, p), or of (y, p, positive) if of_one_class
    targets: tuple[str, ...]  # that it fits: binary, multiclass, regression
    higher_is_better: bool
    of_one_class: bool = False  # it describes the positive class alone, so it matters which one that is
    needs_both_classes: bool = False  # it is not defined where the scored rows have one class


METRICS = {
    'accuracy': Metric(accuracy, ('binary', 'multiclass'), higher_is_better=True),
    'log_loss': Metric(log_loss, ('binary', 'multiclass'), higher_is_better=False),
    'roc_auc': Metric(roc_auc, ('binary',), higher_is_better=True, needs_both_classes=True),
    'f1': Metric(f1, ('binary',), higher_is_better=True, of_one_class=True),
    'macro_f1': Metric(macro_f1, ('multiclass',), higher_is_better=True),
    'matthews': Metric(matthews, ('binary',), higher_is_better=True),
    'rmse': Metric(rmse, ('regression',), higher_is_better=False),
    'mae': Metric(mae, ('regression',), higher_is_better=False),
    'r2': Metric(r2, ('regression',), higher_is_better=True),
    'spearman': Metric(spearman, ('regression',), higher_is_better=True),
}
