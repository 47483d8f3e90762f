"""Arrays of numpy, .npz and .npy: rows in chunks."""

import numpy as np

from util.cells import LARGEST_EXACT
from util.errors import fail
from util.files import CHUNK, CHUNK_BYTES, file_format, split_paths
from util.rows import RowNumbers, complete_rows, first_bad_number

MOST_INPUTS = 2 ** 24  # numbers a row
MOST_ARRAY = 2 ** 34  # bytes of an array in an .npz


def read_arrays(path, meta, input_column=None, label_column=None, missing=None):
    """
    Yields the rows of arrays in chunks: x (k, n, d_raw) float64, labels or None, None (there are no splits).

    path: an .npz with arrays X and y, or those that input_column and label_column name; an .npy, X alone; or
    'X.npy,y.npy'. X is (rows, inputs) or (rows, inputs, d_raw), y is (rows,) or (rows, 1).
    """
    X, y = open_arrays(path, input_column, label_column)
    check_inputs(path, X)
    y = checked_labels(path, y, len(X))
    meta['columns'] = [f'c{i}' for i in range(X.shape[1])]
    row_numbers = RowNumbers()
    is_inexact = False
    size = min(max(CHUNK_BYTES // (8 * X[0].size), 1), CHUNK)  # rows in a chunk
    for start in range(0, len(X), size):
        part = np.asarray(X[start:start + size])
        x = part.astype(np.float64).reshape(len(part), X.shape[1], -1)  # (k, n, d_raw)
        bad = first_bad_number(x, missing)
        if bad is not None:
            row, column = bad
            fail(f'{path}, row {start + row + 1}, column c{column}: NaN or infinite in float32; correct it, or '
                 'where numbers are missing pass --missing=mean or --missing=drop')
        if part.dtype.kind in 'iu' and np.abs(x).max() > LARGEST_EXACT:
            is_inexact = True
        row_numbers.look(x)
        keep = complete_rows(x, missing, meta['left_out'])
        labels = None
        if y is not None:
            labels = y[start:start + size][keep].tolist()
        yield x[keep], labels, None

    if is_inexact:
        meta['notes'].append(f'{path} has whole numbers above 2^53, whose last digits are lost in float64')
    for column in sorted({*row_numbers.numbering(), *row_numbers.in_order()}):
        meta['notes'].append(f'warning: column c{column} numbers the rows, or grows or falls with them, which '
                             'may give the answer away: take it out of the array')


def open_arrays(path, input_column, label_column):
    """-> X, y or None. An .npy is mapped into memory, and nothing is unpickled."""
    x_path, *y_paths = split_paths(path)
    is_npz = file_format(x_path) == '.npz'
    if is_npz and y_paths:
        fail(f'{path}: an .npz brings its own labels, see label_column')
    try:
        loaded = np.load(x_path, mmap_mode='r', allow_pickle=False)
        if is_npz:
            return arrays_of_npz(loaded, input_column, label_column)
        X = np.asanyarray(loaded)
        y = None
        if y_paths:
            y = np.asanyarray(np.load(','.join(y_paths), mmap_mode='r', allow_pickle=False))
        return X, y
    except Exception as error:  # numpy and zipfile raise many types on a damaged or misnamed file
        fail(f'cannot read {path}: {error}')


def arrays_of_npz(arrays, input_column, label_column):
    """-> X, y or None, of an open .npz"""
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError('it is no .npz')
    x_name = 'X'
    y_name = label_column
    if input_column is not None:
        x_name = input_column
    if label_column is None and 'y' in arrays.files:
        y_name = 'y'
    for name in (x_name, y_name):
        if name is not None and name not in arrays.files:
            raise ValueError(f'it has no array {name!r}, only {", ".join(arrays.files)}: see input_column, '
                             'label_column')
    for part in arrays.zip.infolist():
        if part.file_size > MOST_ARRAY:
            raise ValueError(f'{part.filename} unpacks to more than {MOST_ARRAY:,} bytes (MOST_ARRAY in '
                             'util/arrays.py): save X as an .npy, which is read in pieces')
    X = arrays[x_name]
    y = None
    if y_name is not None:
        y = arrays[y_name]
    return X, y


def check_inputs(path, X):
    is_table = X.ndim in (2, 3) and 0 not in X.shape[1:]
    if not is_table or X.dtype.kind not in 'bfiu':
        fail(f'{path}: shape {X.shape}, type {X.dtype}; wanted are numbers, (rows, inputs) or '
             '(rows, inputs, d_raw)')
    if X[0:1].size > MOST_INPUTS or not len(X):
        fail(f'{path}: shape {X.shape}; wanted are rows, of at most {MOST_INPUTS:,} numbers (MOST_INPUTS in '
             'util/arrays.py)')


def checked_labels(path, y, n_rows):
    """The labels (n_rows,), or None. True and False become 1 and 0."""
    if y is None:
        return None
    if y.shape == (n_rows, 1):
        y = y.reshape(-1)
    if y.shape != (n_rows,) or y.dtype.kind not in 'biufU':
        fail(f'{path}: labels of shape {y.shape}, type {y.dtype}, for {n_rows} rows')
    if y.dtype.kind == 'b':
        y = y.astype(np.int8)
    return y
