"""Scores: y (N,) true labels; p (N,) predictions, scores or (N, C) logits."""

import numpy as np

from util.errors import fail


def ranks(v):
    """Ranks 1..N, ties share the mean of theirs."""
    _, inverse, counts = np.unique(v, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def chosen(p):
    """Class numbers from (N,) logits of class 1 or (N, C) logits."""
    return (p > 0).astype(np.int64) if p.ndim == 1 else p.argmax(1)


def accuracy(y, p):
    return float((chosen(p) == y).mean())


def roc_auc(y, p):
    """Area under the ROC curve: the chance that a positive scores above a negative (Mann-Whitney)."""
    n_pos, n_neg = int((y == 1).sum()), int((y != 1).sum())
    if not n_pos or not n_neg:
        fail('roc_auc needs both classes among the rows that are scored')
    return float((ranks(p)[y == 1].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def f1(y, p):
    """Of class 1: the harmonic mean of precision and recall; 0 where neither is defined."""
    return f1_of(y == 1, chosen(p) == 1)


def f1_of(there, answered):
    return float(2 * (answered & there).sum() / max(answered.sum() + there.sum(), 1))


def log_loss(y, p):
    """-log of the probability of the true class, the mean."""
    p = np.stack([np.zeros(len(p)), p], 1) if p.ndim == 1 else p
    p = p - p.max(1, keepdims=True)
    return float((np.log(np.exp(p).sum(1)) - p[np.arange(len(y)), y.astype(np.int64)]).mean())


def macro_f1(y, p):
    """The mean of each class's F1."""
    c = chosen(p)
    return float(np.mean([f1_of(y == k, c == k) for k in np.union1d(y, c)]))


def correlation(a, b):
    """Pearson's; 0 where all of one are the same."""
    a, b = a - np.mean(a), b - np.mean(b)
    scale = np.sqrt((a ** 2).sum() * (b ** 2).sum())
    return float((a * b).sum() / scale) if scale else 0.0


def matthews(y, p):
    """Matthews correlation of two classes (GLUE's measure for CoLA)."""
    return correlation(y, chosen(p))


def rmse(y, p):
    return float(np.sqrt(((p.astype(np.float64) - y) ** 2).mean()))


def mae(y, p):
    """Mean absolute error."""
    return float(np.abs(p - y).mean())


def r2(y, p):
    """The share of the variance that is explained: 1 - squared error / variance; 0 where y is constant."""
    variance = ((y - y.mean()) ** 2).sum()
    return float(1 - ((p - y) ** 2).sum() / variance) if variance else 0.0


def spearman(y, p):
    """Correlation of the ranks."""
    return correlation(ranks(y), ranks(p))


METRICS = {  # name: (function, targets that it fits, 1 = more is better and -1 = less is)
    'accuracy': (accuracy, ('binary', 'multiclass'), 1),
    'log_loss': (log_loss, ('binary', 'multiclass'), -1),
    'roc_auc': (roc_auc, ('binary',), 1),
    'f1': (f1, ('binary',), 1),
    'macro_f1': (macro_f1, ('multiclass',), 1),
    'matthews': (matthews, ('binary',), 1),
    'rmse': (rmse, ('regression',), -1),
    'mae': (mae, ('regression',), -1),
    'r2': (r2, ('regression',), 1),
    'spearman': (spearman, ('regression',), 1),
}
