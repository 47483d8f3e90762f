"""Stage 0: chunks of rows -> a prepared folder of flat files."""

import hashlib
import inspect
import itertools
import json
import os
import runpy
import shutil
import sys
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from configurator import ROOT
from util.download import download
from util.errors import fail, nearest
from util.files import sync, temporary
from util.images import image_files
from util.readers import read_file
from util.splits import DRAW, DRAW_VAL, TEST, TRAIN, VAL
from util.tables import TABLE_KNOBS, number, some

FORMAT = 5  # part of a prepared folder's name: raise it when the layout or a reader changes


def prepare(config):
    """
    The folder of a prepared data set, made if it is not there yet.

    config: a dict with the knobs above; input_column may also be a list of names, of number columns, and
    `categories` say how texts in them are numbered. The folder's name holds a hash of the source (path, size,
    time; or the row of DATASETS) and of every knob that matters: a changed file is read again, and another
    column is another data set. It is built under a name of this process's own and renamed when whole, so a
    half-prepared one is never taken for a data set.
    """
    name, row = config['dataset'], DATASETS.get(config['dataset'])
    first = TRAIN if config['val_file'] else DRAW_VAL if config['test_file'] else DRAW
    parts = [(first, name), (VAL, config['val_file']), (TEST, config['test_file'])]
    parts = [(split, file) for split, file in parts if file]
    columns = {k: config[k] for k in (*TABLE_KNOBS, 'window') if config.get(k) is not None}
    if not name:
        fail('say which data set: a name that `python data.py` lists, or a file')
    if row and (columns or len(parts) > 1):
        fail(f'the data set {name} has its own inputs and splits: leave *_column, *_file and the like unset')
    if config['missing'] not in (None, 'mean', 'drop'):
        fail(f'missing={config["missing"]!r}: mean or drop')
    files = [] if row else [path for _, file in parts for path in file.split(',')]
    for path in files:
        if not os.path.exists(path):
            fail(f'no file {path!r}, and no data set of that name; nearest: {nearest(path, DATASETS)!r}; '
                 '`python data.py` lists all')
        if not (os.path.isfile(path) or os.path.isdir(path)):
            fail(f'{path!r} is neither a file nor a folder but a pipe or a device')
    if columns.get('window', 4) < 4 or config['image_size'] < 1:
        fail('window must be at least 4, the longest UTF-8 character, and image_size at least 1')

    images = 'imagenet' in row['files'] if row else any(map(os.path.isdir, files))
    source, size = source_of(row, files), config['image_size'] if images else None
    key = json.dumps([source, columns, [split for split, _ in parts], size]).encode()
    stem = name if row else Path(name).name.split('.')[0]
    folder = Path(config['data_dir']) / f'{stem}-{hashlib.sha256(key).hexdigest()[:10]}'

    if os.environ.get('LOCAL_RANK', '0') != '0' and not folder.exists():  # torchrun: one process works
        print(f'waiting until rank 0 has prepared {folder}', flush=True)
        while not folder.exists():
            time.sleep(0.5)
    if folder.exists():
        return folder
    building, left_behind = temporary(folder, '*')
    meta = dict(source=[*map(os.path.abspath, files)] or name, made_from=source, target=row and row['target'],
                metric=row and row['metric'], left_out=Counter(), columns=None, image_size=size, notes=[],
                categories={})
    try:
        for old in (building, *left_behind):
            shutil.rmtree(old, ignore_errors=True)
        building.mkdir(parents=True)
        if row:
            paths = {file: download(file, *rest, config['data_dir']) for file, rest in row['files'].items()}
            sources = row['read'](paths, meta)
        else:
            sources = [(split, read_file(file, meta, **columns)) for split, file in parts]
        write(building, name, sources, meta)
        building.rename(folder)
        sync(folder.parent)
    except OSError as error:
        if not folder.exists():  # else another process was faster
            fail(f'cannot prepare {name} in data_dir={config["data_dir"]!r}: {error.strerror or error}')
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def source_of(row, files):
    """A hash of what a folder is prepared from: the row of DATASETS, or path, size and time of each file."""
    if row:
        read = row['read']
        source = [row['files'], row['target'], row['metric'], read.keywords, inspect.getsource(read.func)]
    else:
        inside = (image_files(path, Counter()) if os.path.isdir(path) else [(path,)] for path in files)
        paths = [os.path.abspath(path) for path, *_ in itertools.chain.from_iterable(inside)]
        source = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([FORMAT, source]).encode()).hexdigest()


def prepared(data_dir):
    """What lies prepared: (folder, its bytes, is its source there as it was?)."""
    for path in sorted(Path(data_dir).glob('*/meta.json')):
        meta, claimed = json.loads(path.read_text()), False
        with suppress(OSError, KeyError):  # its file, or its row, is gone
            named = isinstance(meta['source'], str)
            now = source_of(DATASETS[meta['source']], []) if named else source_of(None, meta['source'])
            claimed = now == meta['made_from']
        yield path.parent, sum(file.stat().st_size for file in path.parent.iterdir()), claimed


def write(folder, name, sources, meta):
    """
    Streams the chunks of the sources, [(split code, chunks)], to disk; then labels, splits and meta.json. The
    split code is that of rows whose chunk does not say its own. keys.bin: see Dataset.draw.
    """
    shape, lengths, firsts, codes, splits = None, [], [], [], []  # shape: () for bytes, (n, d_raw) for floats
    from_file, moments, is_text = isinstance(meta['source'], list), [], True  # not a data set known by name
    code_of = {}  # distinct label -> its number, so that 11 million labels take no more room than they must
    files = {}  # file: (size, crc32), by which a later stage knows it whole

    def put(file, block):  # numpy's tofile is silent on a full disk
        with open(folder / file, 'ab') as f:
            f.write(block)
        size, crc = files.get(file, (0, 0))
        files[file] = size + len(block), zlib.crc32(block, crc)

    with tqdm(desc=f'preparing {name}', unit=' rows', leave=False, disable=not sys.stderr.isatty()) as bar:
        for code, (x, y, split) in ((code, chunk) for code, chunks in sources for chunk in chunks):
            if not len(x):
                continue
            is_array = isinstance(x, np.ndarray)
            this = x.shape[1:] if is_array else ('pairs',) if isinstance(x[0], tuple) else ()
            if shape not in (None, this):
                fail(f'the files of {name} differ: text, pairs, or rows of {shape} and {this} numbers')
            shape = this
            if is_array:
                x = x.astype({'u': np.uint8}.get(x.dtype.kind, np.float32))  # images, or float64
                put('x.bin', x.tobytes())
                if from_file and not meta['image_size']:
                    moments.append([(~np.isnan(x)).sum(0), np.nansum(x, 0, np.float64), np.fmin.reduce(x),
                                    np.fmax.reduce(x), np.nansum(x.astype(np.float64) ** 2, 0)])
            else:
                if shape:
                    firsts.append(np.array([len(a) for a, _ in x], np.int64))
                    x = [a + b for a, b in x]
                text = b''.join(x)
                put('x.bin', text)
                is_text = is_text and len(text.decode(errors='ignore').encode()) == len(text)
                lengths.append(np.array([len(sequence) for sequence in x], np.int64))
            if from_file:  # known data sets keep their known splits
                rows = (row.tobytes() for row in x) if is_array else x
                put('keys.bin', b''.join(hashlib.blake2b(row, digest_size=8).digest() for row in rows))
            y = [None] * len(x) if y is None else y
            codes.append(np.array([code_of.setdefault(v, len(code_of)) for v in y], np.int32))
            splits.append(np.array([code] * len(x) if split is None else split, np.int8))
            bar.update(len(x))
    if not codes:
        fail(f'{name} holds no rows')
    is_bytes, size, codes = shape in ((), ('pairs',)), meta['image_size'], np.concatenate(codes)
    values, classes = number_labels(code_of)
    if np.isinf(values).any():
        fail(f'{name} has the label {values[np.isinf(values)][0]}: correct that row, or drop it')
    put('y.bin', values[codes].tobytes())
    put('split.bin', np.concatenate(splits).tobytes())
    if is_bytes:
        put('offsets.bin', np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths])).tobytes())
    if firsts:
        put('firsts.bin', np.concatenate(firsts).tobytes())
    if moments:
        meta['notes'] += oddities(meta['columns'], *map(np.stack, zip(*moments)))
    if not is_text:
        meta['notes'].append('this is not UTF-8 text, and its bytes are read as they are; to change that: '
                             '`iconv -f UTF-16 -t UTF-8`, or -f LATIN1')
    meta.update(kind='bytes' if is_bytes else 'images' if size else 'floats', rows=len(codes), classes=classes,
                n=None if is_bytes else size ** 2 if size else shape[0], d_raw=0 if is_bytes else shape[-1],
                left_out={why: n for why, n in meta['left_out'].items() if n}, files=files,
                notes=[*dict.fromkeys(meta['notes'])])  # those of several files are alike
    (folder / 'meta.json').write_text(json.dumps(meta, indent=1))
    for file in (*files, 'meta.json', ''):  # all of it is on the disk before it gets its name
        sync(folder / file)


def oddities(columns, count, total, low, high, square):
    """Sentences on columns that will be hard to learn from, each argument (chunks, n, d_raw)."""
    count, total, square, low, high = *(v.sum(0) for v in (count, total, square)), low.min(0), high.max(0)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean ** 2, 0))
    # one value among k lies at most sqrt(k - 1) deviations from the mean
    far = np.maximum(high - mean, mean - low) > std * np.clip(0.99 * np.sqrt(count), 3, 20)
    for which, what in (((low == high) & (count > 1), 'are constant'), (far & (low < high), 'have values 20 '
                        'standard deviations off: look at them, or take --norm=quantile')):
        names = [columns[i] for i in np.flatnonzero(which.any(1))]
        if names:
            yield f'columns that {what}: {some(names)}'


def number_labels(labels):
    """Distinct labels as read (numbers, text, None) -> float64 of each, NaN for none; and the names of text
    classes, which are numbered in sorted order, or None. NA is none among numbers, and a class among text."""
    stated = [v for v in labels if v not in (None, '')]
    classes = sorted({str(v) for v in stated}) if None in map(number, map(str, stated)) else None
    place = {c: i for i, c in enumerate(classes or ())}
    values = [np.nan if v in (None, '') else place[str(v)] if classes else number(str(v)) for v in labels]
    return np.array(values, np.float64), classes


DATASETS = runpy.run_path(str(ROOT / 'config' / 'datasets.py'))['DATASETS']  # which uses the readers above
