"""Arrays of numpy: .npz and .npy -> chunks of rows."""

import numpy as np

from util.errors import fail
from util.files import CHUNK, CHUNK_BYTES, file_format
from util.tables import whole_rows

MOST_INPUTS = 2 ** 24  # numbers a row
MOST_ARRAY, MOST_DOWNLOAD = 2 ** 34, 2 ** 40  # bytes of an array in an .npz; of a file of unknown size


def read_arrays(path, meta, input_column=None, label_column=None, missing=None):
    """.npz with arrays X and y (input_column, label_column rename them), or .npy alone, or 'X.npy,y.npy'."""
    (x_path, _, y_path), lacks = path.partition(','), None
    if y_path and file_format(x_path) == '.npz':
        fail(f'{path}: an .npz brings its own labels, see label_column')
    try:
        x, y = np.load(x_path, mmap_mode='r', allow_pickle=False), None
        if file_format(x_path) == '.npz':
            arrays, names = x, [input_column or 'X', label_column or ('y' if 'y' in x else None)]
            lacks = next((k for k in names if k is not None and k not in arrays), None)
            large = [part.filename for part in arrays.zip.infolist() if part.file_size > MOST_ARRAY]
            if large:
                raise ValueError(f'{large[0]} unpacks to more than {MOST_ARRAY:,} bytes (MOST_ARRAY in '
                                 'util/arrays.py): save X as an .npy, which is read in pieces')
            x, y = (None if k is None or lacks else arrays[k] for k in names)
        elif y_path:
            y = np.load(y_path, mmap_mode='r', allow_pickle=False)
        x, y = np.asanyarray(x), y if y is None else np.asanyarray(y)
    except Exception as error:  # numpy and zipfile raise many kinds on a damaged or misnamed file
        fail(f'cannot read {path}: {error}')
    if lacks:
        fail(f'{x_path} has no array {lacks!r}, only {", ".join(arrays)}: see input_column, label_column')
    if x.ndim not in (2, 3) or 0 in x.shape[1:] or x.dtype.kind not in 'fiu':
        fail(f'{x_path}: shape {x.shape}, type {x.dtype}; wanted are numbers (rows, inputs) or '
             '(rows, inputs, d_raw)')
    y = y.reshape(-1) if y is not None and y.shape == (len(x), 1) else y
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in 'biufU'):
        fail(f'{path}: labels of shape {y.shape}, type {y.dtype}, for {len(x)} rows')
    if x[0:1].size > MOST_INPUTS or not len(x):
        fail(f'{x_path}: shape {x.shape}; wanted are rows, of at most {MOST_INPUTS:,} numbers (MOST_INPUTS in '
             'util/arrays.py)')
    meta['columns'], size = [f'c{i}' for i in range(x.shape[1])], max(CHUNK_BYTES // (4 * x[0].size), 1)
    for at in range(0, len(x), min(size, CHUNK)):
        with np.errstate(over='ignore'):
            part = np.asarray(x[at:at + min(size, CHUNK)], np.float64)
        part = part.reshape(len(part), x.shape[1], -1)  # (k, n, d_raw)
        keep = whole_rows(part, missing, meta['left_out'], lambda i, j: fail(
            f'{x_path}, row {at + i}, column {j}: NaN or infinite; correct it, or say --missing=mean or drop'))
        yield part[keep], None if y is None else y[at:at + len(part)][keep].tolist(), None
