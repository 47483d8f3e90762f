"""util/splits.py: splits drawn by the inputs or row by row, and rows that are there twice."""

import os

import numpy as np
import pytest
from reading import counts, sequences
from test_data import opened

from util.splits import too_few_inputs


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
    # three deviations: sqrt(0.2 * 0.8 / 2000) = 0.009, and ties
    assert abs(shares - [0.6, 0.2, 0.2]).max() < 0.04
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
    # and not the folder of val_file=b
    assert (n + val_test[0], val_test[1]) == (50, 7) and 3 < val_test[0] < 18


def survey(tmp_path, n=600):
    """A table of two columns with six different rows, and a label that depends on neither."""
    rng = np.random.default_rng(0)
    rows = zip(rng.integers(0, 2, n), rng.choice([1, 2, 3], n, p=[0.6, 0.3, 0.1]), rng.random(n) < 0.17)
    (tmp_path / 'survey.csv').write_text('sex,class,y\n' + ''.join(f'{a},{b},{int(y)}\n' for a, b, y in rows))
    return tmp_path / 'survey.csv'


def test_a_table_of_few_different_rows_is_split_row_by_row(tmp_path, run):
    """By its inputs a split would have a third of the rows, or none."""
    d = opened(tmp_path, survey(tmp_path), label_column='y')
    assert counts(d) == [360, 120, 120] and d.meta['distinct'] == 6
    share = np.nanmean(d.y)
    for split in ('train', 'val', 'test'):
        assert abs(np.mean(d.y[d.rows(split)]) - share) < 0.1
    out = run('data.py', 'survey.csv', '--label_column=y').stdout
    assert 'different rows, by their inputs: 6\n' in out
    assert 'warning: 600 rows have only 6 different inputs, so splits are drawn row by row' in out
    assert '--split_column' in out


def test_different_rows_are_split_by_their_inputs(tmp_path):
    """Few rows, or some that are there twice, are no reason to draw them one by one."""
    few = np.sqrt(np.arange(20))[:, None]
    twice = np.sqrt(np.repeat(np.arange(500), 2))[:, None]
    for name, x in (('few', few), ('twice', twice)):
        np.save(tmp_path / f'{name}.npy', x)
        d = opened(tmp_path, tmp_path / f'{name}.npy')
        assert (d.folder / 'keys.bin').exists() and not d.meta['notes']
    assert (d.split[::2] == d.split[1::2]).all() and d.meta['distinct'] == 500


@pytest.mark.parametrize('sizes, few', [
    ([1] * 50, False), ([2] * 200, False), ([100] * 6, True), ([550] + [1] * 50, True), ([3] * 99, True),
    ([3] * 101, False)])
def test_what_few_different_rows_are(sizes, few):
    keys = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    assert too_few_inputs(np.random.default_rng(0).permutation(keys)) == few


def test_given_test_rows_that_repeat_training_rows_are_told(tmp_path, run):
    x = np.random.default_rng(0).normal(size=(40, 3)).round(3)
    parts = ['train'] * 40 + ['val'] * 3 + ['test'] * 12
    rows = np.concatenate([x, x[:3], x[:12]])
    text = ''.join(f'{a},{b},{c},{part}\n' for (a, b, c), part in zip(rows, parts))
    (tmp_path / 'a.csv').write_text('a,b,c,part\n' + text + '9,9,9,test\n')
    out = run('data.py', 'a.csv', '--split_column=part').stdout
    assert 'warning: 3 of 3 validation rows have the inputs of a training row' in out
    assert 'warning: 12 of 13 test rows have the inputs of a training row' in out


def test_a_test_file_that_is_the_training_file_is_told(tmp_path, run):
    x = np.random.default_rng(0).normal(size=(40, 3)).round(3)
    text = 'a,b,c\n' + ''.join(f'{a},{b},{c}\n' for a, b, c in x)
    for name in ('train', 'test'):
        (tmp_path / f'{name}.csv').write_text(text)
    (tmp_path / 'new.csv').write_text('a,b,c\n1,2,3\n4,5,6\n')
    out = run('data.py', 'train.csv', '--test_file=test.csv').stdout
    assert 'warning: train.csv and test.csv, for different splits, are the same file' in out
    assert 'warning: 40 of 40 test rows have the inputs of a training row' in out
    assert 'warning' not in run('data.py', 'train.csv', '--test_file=new.csv').stdout
