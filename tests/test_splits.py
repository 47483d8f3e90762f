"""util/splits.py: splits drawn by the inputs or row by row, and rows that are there twice."""

import os

import numpy as np
import pytest
from test_data import opened
from test_prepare import counts, sequences


@pytest.mark.parametrize('kind', ['csv', 'txt', 'npy'])
def test_a_row_that_is_added_moves_no_other(tmp_path, kind):
    rows = [f'{i * 7 % 251},{i * i % 197}' for i in range(2000)]

    def split(rows, **knobs):
        path = tmp_path / f'a.{kind}'
        if kind == 'npy':
            np.save(path, np.array([row.split(',') for row in rows], float))
        else:
            path.write_text('\n'.join(['a,b'] * (kind == 'csv') + rows))
        os.utime(path, (len(os.listdir(tmp_path)), hash(tuple(rows)) % 10 ** 9))  # a changed file is read again
        return opened(tmp_path, path, **knobs).split
    before = split(rows)
    assert (split(['250,196'] + rows)[1:] == before).all() and (split(rows[::-1])[::-1] == before).all()
    shares = np.bincount(before) / len(before)
    assert abs(shares - [0.6, 0.2, 0.2]).max() < 0.04  # three deviations: sqrt(0.2 * 0.8 / 2000) = 0.009, and ties
    other = split(rows, split_seed=1)
    agree, chance = (other == before).mean(), 0.6 ** 2 + 0.2 ** 2 + 0.2 ** 2
    assert abs(agree - chance) < 0.05
    twice = split(rows + rows)
    assert (twice[:2000] == twice[2000:]).all()  # none is trained on in one place and tested in the other
    larger = split(rows, val_share=0.3)
    assert ((larger == 2) == (before == 2)).all()  # the test stays what it was


def test_known_data_sets_are_split_as_ever(tmp_path):
    """The permutation by which the printed numbers were made."""
    d = opened(tmp_path, 'collider')
    order = np.random.default_rng(0).permutation(120_000)
    assert (np.sort(order[:24_000]) == d.rows('test')).all()
    assert (np.sort(order[24_000:48_000]) == d.rows('val')).all() and not (d.folder / 'keys.bin').exists()


def test_splits_by_share_and_by_file(tmp_path):
    paths = {name: tmp_path / f'{name}.txt' for name in 'abc'}
    for name, n in (('a', 50), ('b', 7), ('c', 9)):
        paths[name].write_text('\n'.join(f'{name}{i}' for i in range(n)))
    b, c = str(paths['b']), str(paths['c'])
    d = opened(tmp_path, paths['a'])
    assert counts(d) == [29, 8, 13]  # of 30, 10, 10 in the mean, see test_a_row_that_is_added_moves_no_other
    assert (d.split == opened(tmp_path, paths['a'], data_dir=str(tmp_path / 'elsewhere')).split).all()
    d = opened(tmp_path, paths['a'], val_file=b, test_file=c)
    assert counts(d) == [50, 7, 9] and sequences(d)[d.rows('test')[0]] == b'c0'
    assert counts(opened(tmp_path, paths['a'], val_file=b)) == [50, 7, 0]
    n, *val_test = counts(opened(tmp_path, paths['a'], test_file=b))
    assert (n + val_test[0], val_test[1]) == (50, 7) and 3 < val_test[0] < 18  # and not the folder of val_file=b
