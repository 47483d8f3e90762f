"""The loss of a model that has learned nothing but an average: what val_loss is to be compared with."""

import numpy as np
import torch

from model import N_IDS

MOST_ROWS = 10_000  # of each split that are looked at,
MOST_NUMBERS = 2 ** 26  # or less where a row has many numbers
NUMBERS_AT_ONCE = 2 ** 22


def constant_loss(loss_of, dataset, train_rows, val_rows, device='cpu'):
    """
    The validation loss of predicting the same for every row:

        floats and images   the mean of each input over the training rows, after scaling by dataset.norm
        bytes               the frequency of each of the 262 ids in the training rows, for every input

    The loss is the mean over all inputs (of bytes: over all tokens, CLS and SEP included), so it is what random
    masks give on average. It is computed on a fixed random sample of at most 10,000 rows of each split.

    loss_of: SMA.loss of the model. dataset: with norm and max_len set, as in training. train_rows, val_rows:
    row numbers, not empty. device: that of the training, which the data set may keep tables on. -> float
    """
    train_rows = sample(dataset, train_rows)
    val_rows = sample(dataset, val_rows)
    if dataset.is_bytes:
        counts = count_ids(dataset, train_rows) + 1  # an id that the sample lacks is rare, not impossible
        logits = torch.from_numpy(np.log(counts / counts.sum()))  # (262,)
        loss_of_id = loss_of(logits.expand(1, N_IDS, N_IDS), torch.arange(N_IDS)[None])[0].numpy()  # (262,)
        val_counts = count_ids(dataset, val_rows)
        return float((val_counts * loss_of_id).sum() / val_counts.sum())

    mean = 0.0  # in the end (n, d_raw)
    for x in scaled_inputs(dataset, train_rows, device):
        mean = mean + x.sum(0) / len(train_rows)
    total = 0.0
    for x in scaled_inputs(dataset, val_rows, device):
        total += loss_of(mean.expand_as(x), x).mean(1).sum().item()
    return total / len(val_rows)


def numbers_per_row(dataset):
    if dataset.is_bytes:
        return dataset.max_len
    return dataset.n * dataset.d_raw


def sample(dataset, rows):
    """At most MOST_ROWS of the rows, always the same; fewer where they are long, but at least 100."""
    n = min(MOST_ROWS, max(100, MOST_NUMBERS // numbers_per_row(dataset)))
    if len(rows) <= n:
        return rows
    return np.random.default_rng(0).choice(rows, n, replace=False)


def in_parts(dataset, rows):
    """The rows in parts whose numbers fit in memory."""
    size = max(1, NUMBERS_AT_ONCE // numbers_per_row(dataset))
    for start in range(0, len(rows), size):
        yield rows[start:start + size]


def count_ids(dataset, rows):
    """How often each id is in these rows, padding left out: (262,) int64"""
    counts = np.zeros(N_IDS, np.int64)
    for part in in_parts(dataset, rows):
        x, valid = dataset.batch(part)
        if valid is not None:
            x = x[valid]
        counts += np.bincount(x.flatten().numpy(), minlength=N_IDS)
    return counts


def scaled_inputs(dataset, rows, device):
    """What the model reads, scaled: float64 tensors (B, n, d_raw) on the CPU."""
    for part in in_parts(dataset, rows):
        x, _ = dataset.batch(part)
        x = dataset.inputs(x.to(device))  # images: the central square, as in validation
        yield x.cpu().to(torch.float64)
