"""Statistics of the columns of a table, of a stream of chunks, and what a user should know about them."""

import numpy as np

from util.header import some

WORST_LOSS = 1e-3  # of a column's standard deviation: float32 may move a value so far and no farther
FAR = 20  # standard deviations from the mean: a value so far off is told


class Columns:
    """Running statistics of each input, all of shape (n, d_raw) float64. NaN is a missing value."""

    def __init__(self, shape):
        self.count = np.zeros(shape)
        self.mean = np.zeros(shape)
        self.squares = np.zeros(shape)  # the sum of (value - mean)^2
        self.low = np.full(shape, np.nan)
        self.high = np.full(shape, np.nan)
        self.loss = np.zeros(shape)  # how far float32 moves a value at most
        self.merged = np.zeros(shape, bool)  # whether float32 makes half of the first chunk's values equal
        self.first_chunk = True

    def add(self, x, narrow):
        """A chunk x (k, n, d_raw), and the same in float32."""
        known = ~np.isnan(x)
        count = known.sum(0)
        mean = x.sum(0, np.float64, where=known) / np.maximum(count, 1)
        squares = np.square(x - mean).sum(0, where=known)
        # two sets put together without cancellation: Chan, Golub, LeVeque 1983, The American Statistician 37
        total = np.maximum(self.count + count, 1)
        step = mean - self.mean
        self.mean += step * count / total
        self.squares += squares + step ** 2 * self.count * count / total
        self.count += count
        self.low = np.fmin(self.low, np.fmin.reduce(x))
        self.high = np.fmax(self.high, np.fmax.reduce(x))

        self.loss = np.fmax(self.loss, np.fmax.reduce(np.abs(x - narrow)))
        if self.first_chunk and self.loss.any():
            self.merged = n_distinct(narrow) < n_distinct(x) / 2
        self.first_chunk = False

    def std(self):
        return np.sqrt(self.squares / np.maximum(self.count, 1))

    def beyond_float32(self):
        """Which inputs lose digits that matter in float32: offsets that dwarf the spread. -> (n,) bool"""
        lost = (self.loss > WORST_LOSS * self.std()) | self.merged
        return (lost & (self.low < self.high)).any(1)

    def notes(self, names):
        """Sentences about columns that are hard to learn from."""
        constant = (self.low == self.high) & (self.count > 1)
        off = np.fmax(self.high - self.mean, self.mean - self.low) / np.maximum(self.std(), 1e-300)
        # one value among k lies at most sqrt(k - 1) deviations from the mean
        far = off > np.clip(0.99 * np.sqrt(self.count), 3, FAR)
        far &= self.low < self.high
        notes = []
        if (self.count == 0).any():
            notes.append(f'columns in which every number is missing: {pick(names, self.count == 0)}')
        if constant.any():
            notes.append(f'columns that are constant: {pick(names, constant)}')
        if far.any():
            notes.append(f'columns with a value far from all others, up to {off[far].max():.3g} standard '
                         f'deviations from the mean: look at them, or take --norm=quantile: {pick(names, far)}')
        if self.beyond_float32().any():
            which = self.beyond_float32()[:, None]
            notes.append('columns whose values differ too little for float32, and are kept in float64 until '
                         f'they are scaled (--norm=none would make many of them equal): {pick(names, which)}')
        return notes


def pick(names, which):
    """The first few names of the inputs for which which (n, d_raw) is true."""
    return some([names[i] for i in np.flatnonzero(which.any(1))])


def n_distinct(x):
    """How many different values each input of x (k, n, d_raw) has: (n, d_raw)."""
    return 1 + (np.diff(np.sort(x, 0), axis=0) != 0).sum(0)
