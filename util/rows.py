"""Rows of numbers, from tables or arrays: what is missing, what is too large, what only numbers the rows."""

import numpy as np

from util.cells import LARGEST_EXACT

FEWEST = 10  # rows, below which nothing can be said about a column that numbers them


def first_bad_number(x: np.ndarray, missing: str | None) -> tuple[int, int] | None:
    """
    The row and column of the first number in x (k, n, d_raw) float64 that cannot be used, or None.

    That is one that float32 cannot hold, or, where `missing` is None, one that is missing (NaN).
    """
    with np.errstate(over='ignore'):  # the infinity that it makes is what is looked for
        bad = np.isinf(x.astype(np.float32))
    if missing is None:
        bad |= np.isnan(x)
    if not bad.any():
        return None
    row, column, _ = np.argwhere(bad)[0]
    return int(row), int(column)


def complete_rows(x: np.ndarray, missing: str | None, left_out) -> np.ndarray:
    """
    Which rows of x (k, n, d_raw) stay: (k,) bool. With missing='drop' those without NaN, and left_out counts
    the others. With 'mean' all: the mean is put in when floats are scaled.
    """
    if missing != 'drop':
        return np.ones(len(x), bool)
    keep = ~np.isnan(x).any((1, 2))
    left_out['rows with a missing number'] += len(x) - int(keep.sum())
    return keep


class RowNumbers:
    """
    Finds the inputs that only number the rows, as a saved index does: whole numbers that follow one another,
    each there once, in any order. Also those of whole numbers that grow, or fall, from each row to the next.
    Rows come in chunks, so each input's least, greatest, last, sum and sum of squares are kept.
    """

    def __init__(self):
        self.n_rows = 0
        self.columns = None  # the inputs that have been whole numbers up to here

    def look(self, x: np.ndarray):
        """Looks at the next rows, x (k, n, d_raw)."""
        if self.columns is None:
            n = x.shape[1] if x.shape[2] == 1 else 0
            self.columns = np.arange(n)
            self.least = np.full(n, np.iinfo(np.int64).max)
            self.greatest = np.full(n, np.iinfo(np.int64).min)
            self.total = np.zeros(n, np.int64)
            self.squares = np.zeros(n, np.int64)  # modulo 2^64
            self.last = np.zeros(n, np.int64)
            self.grows = np.ones(n, bool)  # from each row to the next, up to here
            self.falls = np.ones(n, bool)
        if not len(x) or not len(self.columns):
            return
        values = x[:, self.columns, 0]
        whole = values == np.floor(values)  # False for NaN
        exact = np.abs(values) < LARGEST_EXACT
        counts = (whole & exact).all(0)
        at = self.columns[counts]
        values = values[:, counts].astype(np.int64)
        self.columns = at
        in_order = values  # (rows, inputs)
        if self.n_rows:
            in_order = np.concatenate([self.last[at][None], values])
        self.grows[at] &= (in_order[1:] > in_order[:-1]).all(0)
        self.falls[at] &= (in_order[1:] < in_order[:-1]).all(0)
        self.last[at] = values[-1]
        self.n_rows += len(x)
        self.least[at] = np.minimum(self.least[at], values.min(0))
        self.greatest[at] = np.maximum(self.greatest[at], values.max(0))
        self.total[at] += values.sum(0)
        self.squares[at] += (values ** 2).sum(0)

    def numbering(self) -> list[int]:
        """The places of the inputs that number the rows. None are found where the rows are too few to tell."""
        found = []
        for place in self.whole():
            least = self.least[place]
            greatest = self.greatest[place]
            if greatest - least + 1 != self.n_rows:
                continue
            numbers = np.arange(least, greatest + 1)
            same_total = numbers.sum() == self.total[place]
            same_squares = (numbers ** 2).sum() == self.squares[place]
            if same_total and same_squares:
                found.append(int(place))
        return found

    def in_order(self) -> list[int]:
        """The places of the inputs that grow, or fall, from each row to the next."""
        return [int(place) for place in self.whole() if self.grows[place] or self.falls[place]]

    def spread_out(self) -> list[int]:
        """The places of the inputs whose whole numbers lie as far apart as half the number of rows, or more."""
        return [int(place) for place in self.whole()
                if self.greatest[place] - self.least[place] + 1 >= self.n_rows / 2]

    def whole(self):
        """The inputs that are whole numbers in all rows; none where the rows are too few to tell."""
        if self.columns is None or self.n_rows < FEWEST:
            return []
        return self.columns
