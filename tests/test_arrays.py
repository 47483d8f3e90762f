"""util/arrays.py: .npz and .npy."""

import numpy as np
import pytest
from reading import fails, read
from test_data import opened


def test_arrays(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 3, 2)), np.arange(20) % 2
    np.save(tmp_path / 'x.npy', x)
    np.save(tmp_path / 'y.npy', y)
    np.savez(tmp_path / 'a.npz', X=x, y=y)
    np.savez(tmp_path / 'b.npz', A=x, B=y[:, None])
    for name, knobs in ((f'{tmp_path}/x.npy,{tmp_path}/y.npy', {}), (tmp_path / 'a.npz', {}),
                        (tmp_path / 'b.npz', dict(input_column='A', label_column='B'))):
        d = opened(tmp_path, name, **knobs)
        assert (d.x == x.astype(np.float32)).all() and (d.y == y).all() and (d.n, d.d_raw) == (3, 2)


@pytest.mark.parametrize('dtype', ['bool', 'uint8', 'int64', 'float16', 'float32', 'float64', '>f4', '>i8'])
def test_types_of_arrays(tmp_path, dtype):
    """True and False are 1 and 0, as inputs and as labels."""
    bits = np.array([[1, 0], [0, 1], [1, 1]])
    y = [1, 0, 1]
    np.savez(tmp_path / 'a.npz', X=bits.astype(dtype), y=np.array(y).astype(dtype))
    table = read(tmp_path / 'a.npz')
    assert table.x == bits.tolist() and table.labels == y and not any(isinstance(v, bool) for v in table.labels)
    np.save(tmp_path / 'X.npy', bits.astype(dtype))
    np.save(tmp_path / 'y.npy', np.array(y).astype(dtype))
    table = read(f'{tmp_path}/X.npy,{tmp_path}/y.npy')
    assert table.x == bits.tolist() and table.labels == y


def test_numbers_come_in_float64(tmp_path):
    x = np.array([[1_700_000_105], [1_700_000_069]])
    np.save(tmp_path / 'x.npy', x)
    assert read(tmp_path / 'x.npy').x == x.tolist()
    np.save(tmp_path / 'x.npy', x + 2 ** 60)
    assert 'x.npy has whole numbers above 2^53, whose last digits are lost' in read(tmp_path / 'x.npy').notes
    np.save(tmp_path / 'x.npy', np.array([[1.0], [1e39]]))
    fails('row 2, column c0: NaN or infinite in float32', read, tmp_path / 'x.npy')


def test_missing_numbers(tmp_path):
    x = np.array([[1, 2], [np.nan, 3], [4, 5]])
    np.savez(tmp_path / 'a.npz', X=x, y=[0, 1, 2])
    fails('where numbers are missing pass --missing=mean or --missing=drop', read, tmp_path / 'a.npz')
    table = read(tmp_path / 'a.npz', missing='drop')
    assert table.x == [[1, 2], [4, 5]] and table.labels == [0, 2]
    assert table.left_out == {'rows with a missing number': 1}
    np.testing.assert_array_equal(read(tmp_path / 'a.npz', missing='mean').x, x)


def test_a_column_that_numbers_the_rows_is_told(tmp_path):
    other = np.arange(40) % 7
    np.save(tmp_path / 'x.npy', np.stack([other, np.arange(40), other], 1))
    assert 'warning: column c1 numbers the rows' in read(tmp_path / 'x.npy').notes


def test_a_comma_in_the_name_of_a_file(tmp_path):
    np.save(tmp_path / 'a,b.npy', np.ones((3, 2)))
    assert read(tmp_path / 'a,b.npy').x == [[1, 1]] * 3


@pytest.mark.parametrize('arrays, knobs, word', [
    (dict(A=np.ones((3, 2))), {}, "no array 'X', only A: see input_column"),
    (dict(X=np.ones((3, 2)), z=np.ones(3)), dict(label_column='y'), "no array 'y', only X, z"),
    (dict(X=np.ones((3, 2)), y=np.ones(4)), {}, 'labels of shape (4,)'), (dict(X=np.ones(3)), {}, 'shape (3,)'),
    (dict(X=np.array([['a']])), {}, 'type <U1'), (dict(X=np.ones((2, 2), complex)), {}, 'type complex128'),
    (dict(X=np.ones((0, 2))), {}, 'wanted are rows')])
def test_arrays_that_are_wrong(tmp_path, arrays, knobs, word):
    np.savez(tmp_path / 'a.npz', **arrays)
    fails(word, read, tmp_path / 'a.npz', **knobs)


def test_misnamed_files(tmp_path):
    np.save(tmp_path / 'a.npy', np.ones((2, 2)))
    (tmp_path / 'a.npy').rename(tmp_path / 'a.npz')
    fails('it is no .npz', read, tmp_path / 'a.npz')
    np.savez(tmp_path / 'b.npz', X=np.ones((2, 2)))
    (tmp_path / 'b.npz').rename(tmp_path / 'b.npy')
    fails('b.npy', read, tmp_path / 'b.npy')
