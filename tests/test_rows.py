"""util/rows.py: rows of numbers."""

from collections import Counter

import numpy as np
import pytest

from util.rows import RowNumbers, complete_rows, first_bad_number

NAN = np.nan


def column(*values):
    return np.array(values, np.float64).reshape(-1, 1, 1)


@pytest.mark.parametrize('x, missing, place', [
    (column(1, 2), None, None), (column(1, NAN), None, (1, 0)), (column(1, NAN), 'mean', None),
    (column(1, np.inf), 'mean', (1, 0)), (column(1, -1e39), 'drop', (1, 0)), (column(1, 3.4e38), None, None),
    (np.array([[1, 2], [3, NAN]])[..., None], None, (1, 1)), (np.zeros((0, 3, 1)), None, None)])
def test_the_first_number_that_cannot_be_used(x, missing, place):
    assert first_bad_number(x, missing) == place


def test_complete_rows():
    left_out = Counter()
    x = column(1, NAN, 3)
    assert complete_rows(x, 'mean', left_out).tolist() == [True, True, True]
    assert complete_rows(x, 'drop', left_out).tolist() == [True, False, True]
    assert left_out == {'rows with a missing number': 1}


def found(x, size=7):
    """What RowNumbers finds in x (k, n), in chunks: inputs that number the rows, or are in their order."""
    numbers = RowNumbers()
    for start in range(0, len(x), size):
        numbers.look(x[start:start + size, :, None])
    return sorted({*numbers.numbering(), *numbers.in_order()})


def test_columns_that_number_the_rows():
    rng = np.random.default_rng(0)
    count = np.arange(100.0)
    shuffled = rng.permutation(count)
    twice = shuffled.copy()
    twice[3] = twice[4]
    other = rng.integers(0, 100, 100)
    with_nan = np.where(count == 5, np.nan, count)
    swapped = np.where((count >= 1) & (count <= 4), [0, 2, 2, 3, 3] + [0] * 95,
                       count)  # the right sum and range
    x = np.stack([count, count + 1, shuffled + 892, count - 50, twice, other, count / 2, count * 2, with_nan,
                  swapped,
                  rng.normal(size=100)], 1)
    # count * 2 (place 7) has gaps, and grows from row to row
    assert found(x) == [0, 1, 2, 3, 7]
    assert found(x, 1000) == [0, 1, 2, 3, 7]


def test_columns_that_grow_or_fall_from_row_to_row():
    count = np.arange(100.0)
    grows = count + count // 20
    twice = grows.copy()
    twice[50] = twice[49]
    back = grows.copy()
    back[7] = back[5]  # the border of two chunks of 7 rows
    x = np.stack([grows, -3 * count, twice, back, np.sort(np.random.default_rng(0).normal(size=100))], 1)
    assert found(x) == [0, 1]
    assert found(x, 1000) == [0, 1]


def test_too_few_rows_and_inputs_of_several_floats_are_not_judged():
    assert found(np.arange(9.0)[:, None]) == [] and found(np.arange(10.0)[:, None]) == [0]
    numbers = RowNumbers()
    numbers.look(np.arange(60.0).reshape(20, 1, 3))
    numbers.look(np.zeros((0, 1, 3)))
    assert numbers.numbering() + numbers.in_order() == []
    assert RowNumbers().numbering() == [] and RowNumbers().in_order() == []
