"""What tests of readers share: the chunks of a file put together, and an error in one line."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from util.errors import UserError
from util.readers import read_file
from util.splits import SPLITS


def read(path, meta=None, **knobs):
    """All of a file: x, labels and splits of all chunks, and meta, which a file read before may have filled."""
    meta = meta or new_meta()
    x = []
    labels = []
    splits = []
    for chunk, chunk_labels, chunk_splits in read_file(str(path), meta, **knobs):
        if isinstance(chunk, np.ndarray):
            assert chunk.dtype == np.float64
            chunk = chunk.squeeze(2) if chunk.shape[2] == 1 else chunk
            chunk = chunk.tolist()
        x += chunk
        labels += chunk_labels or []
        splits += chunk_splits or []
    return SimpleNamespace(x=x, labels=labels, splits=splits, notes=' '.join(meta['notes']), meta=meta,
                           columns=meta['columns'],
                           left_out={why: n for why, n in meta['left_out'].items() if n})


def new_meta():
    return {'columns': None, 'categories': {}, 'notes': [], 'left_out': Counter()}


def write(path, lines, encoding='utf-8'):
    """Writes the lines to a file. -> its path"""
    path.write_bytes('\n'.join([*lines, '']).encode(encoding))
    return path


def fails(match, call, *args, **knobs):
    """It ends in a UserError, in one line that can be printed, that has `match` in it."""
    with pytest.raises(UserError) as end:
        call(*args, **knobs)
    text = str(end.value)
    assert match in text, text
    assert '\n' not in text and '\x1b' not in text, text


def sequences(d):
    """The byte sequences of a prepared data set."""
    return [bytes(d.x[a:b]) for a, b in zip(d.offsets, d.offsets[1:])]


def counts(d):
    """The rows of a prepared data set in train, val and test."""
    return [len(d.rows(split)) for split in SPLITS]


def noted(d):
    """The notes on a prepared data set."""
    return ' '.join(d.meta['notes'])
