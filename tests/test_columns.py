"""util/columns.py: statistics without cancellation, and what float32 cannot hold."""

import numpy as np
import pytest
from reading import noted
from test_data import opened

from util.columns import Columns


def statistics(x, pieces=4):
    """Of x (N,) or (N, n), in several chunks."""
    x = x.reshape(len(x), -1, 1)
    columns = Columns(x.shape[1:])
    with np.errstate(all='raise'):
        for part in np.array_split(x, pieces):
            columns.add(part, part.astype(np.float32))
    return columns


@pytest.mark.parametrize('offset', [0, 1e6, 1.7e9, 1.7e12])
@pytest.mark.parametrize('pieces', [1, 7])
def test_mean_and_deviation_do_not_cancel(offset, pieces):
    rng = np.random.default_rng(0)
    x = rng.normal(offset, 3, size=(1000, 2))
    x[::3, 0] = np.nan
    x[:150, 1] = np.nan  # a first chunk without a number
    columns = statistics(x, pieces)
    np.testing.assert_allclose(columns.mean[:, 0], np.nanmean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(columns.std()[:, 0], np.nanstd(x, 0), rtol=1e-4)
    np.testing.assert_array_equal(columns.low[:, 0], np.nanmin(x, 0))
    np.testing.assert_array_equal(columns.high[:, 0], np.nanmax(x, 0))


@pytest.mark.parametrize('x, beyond', [
    (np.random.default_rng(0).normal(size=999), False),
    (np.random.default_rng(0).normal(2000, 10, size=999), False),  # a year
    (np.full(99, 0.1), False),  # constant: float32 makes nothing equal
    (np.tile([0.1, 0.2], 50), False),
    (np.arange(2 ** 24 - 99, 2 ** 24 + 1.0), False),  # all of them are float32
    (np.random.default_rng(0).integers(1e8, 1e9, 999) * 1.0, False),  # random identifiers
    (np.arange(1_700_000_000, 1_700_000_600) * 1.0, True),  # seconds since 1970
    (np.arange(1_700_000_000_000, 1_700_000_600_000, 1000) * 1.0, True),  # milliseconds
    (np.r_[0, np.arange(1_700_000_000, 1_700_000_600)] * 1.0, True),  # and one that is not known
    (np.arange(20_230_101, 20_230_131) * 1.0, True),  # dates
    (1e6 + np.random.default_rng(0).normal(size=20), True),
    (np.r_[np.full(50, 1.7e9 + 3), 1.7e9 + 500], True)])
def test_offsets_that_dwarf_the_spread(x, beyond):
    columns = statistics(x, pieces=1)
    assert columns.beyond_float32().tolist() == [beyond]
    assert any('too little for float32' in note for note in columns.notes(['c'])) == beyond


def test_a_column_far_from_zero_has_no_values_far_from_its_mean():
    """By E[x^2] - mean^2 its deviation would be 0, and each value far off."""
    assert not any('deviations' in note for note in statistics(np.arange(1.7e9, 1.7e9 + 600)).notes(['t']))


def test_values_far_from_all_others_are_said(tmp_path):
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    x[7, 1], x[8, 2] = 1e30, 5
    np.save(tmp_path / 'a.npy', x)
    note, = opened(tmp_path, tmp_path / 'a.npy').meta['notes']
    assert 'up to 31.6 standard deviations from the mean' in note and note.endswith('--norm=quantile: c1')
    np.save(tmp_path / 'b.npy', x[10:])
    assert not noted(opened(tmp_path, tmp_path / 'b.npy'))


def test_a_column_without_any_number_is_told(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2))
    x[:, 1] = np.nan
    np.save(tmp_path / 'x.npy', x)
    notes = opened(tmp_path, tmp_path / 'x.npy', missing='mean').meta['notes']
    assert 'columns in which every number is missing: c1' in notes
