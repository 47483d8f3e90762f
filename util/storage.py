"""
A prepared folder: flat files, which data.py maps into memory. They are written here, chunk by chunk.

    meta.json     kind ('bytes', 'floats' or 'images'), counts, column names, what was left out and why
    x.bin         bytes: all sequences end to end, uint8; floats: (rows, n, d_raw) float32, or float64 where
                  float32 would lose digits that matter; images: (rows, S, S, 3) uint8, S a seventh larger than
                  image_size
    offsets.bin   bytes only: sequence i is x[offsets[i]:offsets[i + 1]], int64
    firsts.bin    pairs only: the length of the first of the two, int64
    y.bin         float64 label of each row, NaN where it has none; text labels are numbered in sorted order
    split.bin     int8 of each row: 0 train, 1 val, 2 test; 3 and 4: drawn by the shares when it is opened
    keys.bin      a user's file: uint64, a hash of the inputs of each row, by which those are drawn

A chunk is (x, y, split). x is a list of byte sequences, a list of pairs of them, an array (k, n, d_raw) of
floats, or an array (k, S, S, 3) of uint8 pixels; y a list of labels or None; split a list of codes
(util/splits.py) or None.
"""

import hashlib
import json
import sys
import zlib

import numpy as np
from tqdm import tqdm

from util.columns import Columns
from util.errors import fail
from util.files import sync
from util.labels import Labels
from util.splits import DRAW, DRAW_VAL, repeated_rows, too_few_inputs

FORMAT = 7  # raise it when the layout or a reader changes: folders of another format are made anew
PAIRS = 'pairs'
FINGERPRINT = ('x.bin', 'y.bin', 'split.bin', 'offsets.bin', 'firsts.bin')
OLDER_FINGERPRINT = {'x.bin', 'split.bin'}


def read_meta(folder):
    """The dict in a prepared folder's meta.json. Fails unless the folder is whole and of this FORMAT."""
    again = f'remove {folder}, and it is made again'
    try:
        meta = json.loads((folder / 'meta.json').read_text())
    except (OSError, ValueError) as error:
        fail(f'{folder}/meta.json cannot be read ({error}): {again}')
    if not isinstance(meta, dict) or meta.get('format') != FORMAT or not isinstance(meta.get('files'), dict):
        fail(f'{folder}/meta.json is not that of a folder that this version prepares: {again}')
    for file, (size, _) in meta['files'].items():
        path = folder / file
        if not path.exists() or path.stat().st_size != size:
            fail(f'{path} is missing or cut short: {again}')
    return meta


def fingerprint_of(meta):
    """Checksums of what a folder holds, as a text: a checkpoint keeps it, to know the data again."""
    told = [file for file in FINGERPRINT if file in meta['files']]
    return ' '.join(f'{file} {meta["files"][file][1]:08x}' for file in told)


def same_fingerprint(old, new, but=()):
    """
    Whether two fingerprints tell of the same data, but for the files in `but`, such as ('y.bin',), the labels.
    `old`, of an older checkpoint perhaps, may cover less.
    """
    if not isinstance(old, str):
        return False
    old = checksums(old)
    new = checksums(new)
    if set(old) == OLDER_FINGERPRINT:
        new = {file: checksum for file, checksum in new.items() if file in old}
    for file in but:
        old.pop(file, None)
        new.pop(file, None)
    return old == new


def checksums(fingerprint):
    words = fingerprint.split()
    return dict(zip(words[::2], words[1::2]))


def row_name(meta, row):
    """
    'row 7' of a file, for a person: the first is 1. Where several files follow one another, or rows were left
    out, it is no row of a file, and the text says so.
    """
    text = f'row {row + 1:,}'
    if meta['known'] or len(meta['source']) > 1 or any(meta['left_out'].values()):
        text += ' of the prepared data set'
    return text


def write(folder, name, sources, meta, in_float64):
    """
    Write the chunks of all sources, [(split code, chunks)], into a folder, and meta.json last. The split code
    is that of rows whose chunk does not say its own. -> False, with the folder incomplete, if float32 loses
    digits that matter. With in_float64 floats are kept in float64, and rows told apart by it.
    """
    writer = FolderWriter(folder, name, meta, in_float64)
    with tqdm(desc=f'preparing {name}', unit=' rows', leave=False, disable=not sys.stderr.isatty()) as bar:
        for code, chunks in sources:
            for x, y, split in chunks:
                if len(x):
                    writer.add(x, y, [code] * len(x) if split is None else split)
                    bar.update(len(x))
    if not writer.n_rows:
        fail(f'{name} holds no rows')
    if writer.loses_digits() and not in_float64:
        return False
    writer.finish()
    return True


class FolderWriter:
    """The files of one folder. meta is what meta.json will hold; readers write into it too."""

    def __init__(self, folder, name, meta, in_float64=False):
        self.folder = folder
        self.name = name
        self.meta = meta
        self.is_users = not meta['known']  # a data set known by name keeps its known splits, and is as it is
        self.in_float64 = in_float64
        self.x_type = np.dtype('float64' if in_float64 or meta['x_type'] == 'float64' else 'float32')
        self.shape = None  # of a row: () for bytes, ('pairs',) for pairs of them, (n, d_raw), or (S, S, 3)
        self.n_rows = 0
        self.files = {}  # file -> (size, crc32), by which a later stage knows it
        self.is_utf8 = True
        self.lengths = []  # bytes of each sequence: an array for each chunk
        self.firsts = []  # pairs: bytes of the first of the two
        self.columns = None
        self.labels = Labels(are_folders=bool(meta['image_size']))
        self.splits = []

    def put(self, file, block):
        """Append bytes, or an array, to a file. (numpy's tofile does not tell that the disk is full.)"""
        block = memoryview(block)
        with open(self.folder / file, 'ab') as f:
            f.write(block)
        size, crc = self.files.get(file, (0, 0))
        self.files[file] = (size + block.nbytes, zlib.crc32(block, crc))

    def add(self, x, y, split):
        """One chunk of at least one row."""
        self.check_shape(x)
        if not isinstance(x, np.ndarray):
            self.add_sequences(x)
        elif self.meta['image_size']:
            self.put('x.bin', np.ascontiguousarray(x, np.uint8))
            self.add_keys(row.tobytes() for row in x)
        else:
            self.add_floats(x)
        self.labels.add([None] * len(x) if y is None else y)
        self.splits.append(np.array(split, np.int8))
        self.n_rows += len(x)

    def check_shape(self, x):
        """All chunks, of several files perhaps, must be alike."""
        if isinstance(x, np.ndarray):
            shape = x.shape[1:]
        elif isinstance(x[0], tuple):
            shape = (PAIRS,)
        else:
            shape = ()
        if self.shape not in (None, shape):
            fail(f'the files of {self.name} differ: text, pairs, or rows of {self.shape} and {shape} numbers')
        self.shape = shape

    def add_sequences(self, x):
        if self.shape == (PAIRS,):
            self.firsts.append(np.array([len(first) for first, _ in x], np.int64))
            x = [first + second for first, second in x]
        text = b''.join(x)
        self.put('x.bin', text)
        self.lengths.append(np.array([len(sequence) for sequence in x], np.int64))
        decodes = len(text.decode(errors='ignore').encode()) == len(text)
        self.is_utf8 = self.is_utf8 and decodes and b'\0' not in text  # UTF-16 has zeros
        self.add_keys(x)

    def add_floats(self, x):
        narrow = np.ascontiguousarray(x, np.float32)  # the readers refuse what float32 cannot hold
        self.put('x.bin', np.ascontiguousarray(x, self.x_type))
        if self.is_users:
            if self.columns is None:
                self.columns = Columns(self.shape)
            self.columns.add(x, narrow)
        rows = x.astype(np.float64) if self.in_float64 else narrow
        self.add_keys(row.tobytes() for row in rows)

    def add_keys(self, rows):
        """A hash of the inputs of each row, by which splits are drawn and repeated rows are found."""
        if self.is_users:
            self.put('keys.bin', b''.join(hashlib.blake2b(row, digest_size=8).digest() for row in rows))

    def loses_digits(self):
        return self.columns is not None and bool(self.columns.beyond_float32().any())

    def finish(self):
        """Labels, splits, offsets and meta.json."""
        split = np.concatenate(self.splits)
        if self.is_users:
            self.finish_keys(split)
        y, classes, notes = self.labels.finish()
        infinite = np.flatnonzero(np.isinf(y))
        if len(infinite):
            row = infinite[0]
            fail(f'{self.name}: {row_name(self.meta, row)} has the label {y[row]}: correct that row, or drop '
                 'it')
        self.put('y.bin', y)
        self.put('split.bin', split)
        if self.lengths:
            self.put('offsets.bin', np.cumsum(np.concatenate([np.zeros(1, np.int64), *self.lengths])))
        if self.firsts:
            self.put('firsts.bin', np.concatenate(self.firsts))

        if self.columns is not None:
            notes += self.columns.notes(self.meta['columns'])
        if not self.is_utf8:
            notes.append('this is not UTF-8 text, or has zero bytes in it, and its bytes are read as '
                         'they are; to change that: `iconv -f UTF-16 -t UTF-8`, or -f LATIN1')
        self.finish_meta(classes, notes)
        for file in (*self.files, 'meta.json', ''):  # all of it is on the disk before the folder gets its name
            sync(self.folder / file)

    def finish_keys(self, split):
        """Look for rows that are there twice. keys.bin stays if splits can be drawn by the inputs."""
        keys = np.fromfile(self.folder / 'keys.bin', np.uint64)
        self.meta['distinct'] = len(np.unique(keys))
        notes = self.meta['notes']
        notes += repeated_rows(keys, split)
        keys = keys[(split == DRAW) | (split == DRAW_VAL)]
        if too_few_inputs(keys):
            n_inputs = len(np.unique(keys))
            notes.append(f'warning: {len(keys):,} rows have only {n_inputs:,} different inputs, so splits are '
                         'drawn row by row, and share inputs: --split_column=NAME says which rows are for what')
            del self.files['keys.bin']
            (self.folder / 'keys.bin').unlink()

    def finish_meta(self, classes, notes):
        meta = self.meta
        if meta['image_size']:
            meta.update(kind='images', n=meta['image_size'] ** 2, d_raw=3)
        elif self.lengths:
            meta.update(kind='bytes', n=None, d_raw=0)
        else:
            n, d_raw = self.shape
            meta.update(kind='floats', n=n, d_raw=d_raw, x_type=self.x_type.name)
        meta['rows'] = self.n_rows
        meta['classes'] = classes
        meta['left_out'] = {reason: n for reason, n in meta['left_out'].items() if n}
        meta['notes'] = list(dict.fromkeys(meta['notes'] + notes))  # those of several files are alike
        meta['files'] = self.files
        (self.folder / 'meta.json').write_text(json.dumps(meta, indent=1))
