"""
Stage 0: a data set's name, or a file of yours -> a folder of flat files, which the other stages read.

    python prepare.py                           the data sets known by name, and what lies prepared
    python prepare.py clean                     remove what lies prepared of files that are gone or changed
    python prepare.py collider                  fetch and prepare one, print counts and a sample
    python prepare.py molecules.csv --input_column=smiles --label_column=solubility      a file of yours
    python prepare.py train.csv --label_column=y --val_file=val.csv --test_file=test.csv
    python prepare.py photos/ --image_size=64                                            a folder of images

The other stages call prepare() themselves. data.py says what is in the folder; its meta.json also has what a
data set known by name is scored by: target, metric. Downloads go to DATA_DIR/downloads.

Files read: .txt .smi (a line each), .fasta .fa, .csv .tsv .arff .json (a list of objects), .jsonl, all also
.gz, .bz2 or .xz; .npz (arrays X and y), .npy (its labels in a second file: --dataset=X.npy,y.npy); .parquet
(needs pyarrow); a folder of images (needs Pillow).
"""

import bz2
import codecs
import csv
import gzip
import hashlib
import inspect
import itertools
import json
import lzma
import math
import os
import platform
import re
import runpy
import shutil
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import requests
from tqdm import tqdm

from configurator import ROOT, configure, fail, nearest, start, sync
from data import CHUNK, DRAW, DRAW_VAL, describe, open_dataset, stored_side

# knobs of `python prepare.py NAME`; the stages have the same
dataset = ''  # a name that `python prepare.py` lists, or a file, or a folder of images
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: a text column, or numbers 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # csv: the label's column, -1 = the last. npz: 'y'
drop_column: str | None = None  # csv: columns 'a,b' that are no inputs
split_column: str | None = None  # csv: a column that says train, val or test
val_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
val_share = 0.02  # without those: the share of rows drawn for validation
test_share = 0.1  # and for the test
split_seed = 0  # another number draws other rows
missing: str | None = None  # a number that is missing: mean, or drop its row; None = an error
header: bool | None = None  # csv: the first line has the names; None = unless it holds only numbers
quotes: bool | None = None  # csv: False = quotation marks mean nothing
window: int | None = None  # text: join the lines, cut windows of so many bytes; None = a line a sequence
image_size = 192  # images: side in pixels that the model sees

TRAIN, VAL, TEST = range(3)  # codes in split.bin, like data.py's DRAW (by the shares, all three) and DRAW_VAL
SPLIT_WORDS = dict(train=TRAIN, training=TRAIN, val=VAL, valid=VAL, validation=VAL, dev=VAL, test=TEST,
                   testing=TEST)
TABLES = ('.csv', '.tsv', '.arff', '.json', '.jsonl', '.parquet')
TABLE_KNOBS = ('input_column', 'label_column', 'drop_column', 'split_column', 'missing', 'header', 'quotes',
               'categories')  # the last has no line above: a checkpoint knows it
NOTHING = ('', 'na', 'n/a', '#n/a', 'nan', 'null', '?')  # how a table spells that a number is missing
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'PPM')  # that Pillow may decode, whatever a file is called
IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm')
FORMAT = 4  # part of a prepared folder's name: raise it when the layout or a reader changes
TIMEOUT, WAITS = (10, 30), (0, 1, 4, 15, 60)  # of downloads, in s: to connect, between bytes; before each try
# what a file may claim, so that memory stays bounded whatever it says:
LONGEST = 2 ** 28  # bytes of a line, a FASTA record, a cell, a JSON object
CHUNK_BYTES = 2 ** 26  # of the rows looked at in one piece
MOST_INPUTS = 2 ** 24  # numbers a row
MOST_PIXELS, LONGEST_SIDE = 10 ** 8, 32  # of an image; its long side over its short one
MOST_ARRAY, MOST_DOWNLOAD = 2 ** 34, 2 ** 40  # bytes of an array in an .npz; of a file of unknown size


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
        fail('say which data set: a name that `python prepare.py` lists, or a file')
    if row and (columns or len(parts) > 1):
        fail(f'the data set {name} has its own inputs and splits: leave *_column, *_file and the like unset')
    if config['missing'] not in (None, 'mean', 'drop'):
        fail(f'missing={config["missing"]!r}: mean or drop')
    files = [] if row else [path for _, file in parts for path in file.split(',')]
    for path in files:
        if not os.path.exists(path):
            fail(f'no file {path!r}, and no data set of that name; nearest: {nearest(path, DATASETS)!r}; '
                 '`python prepare.py` lists all')
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


def temporary(path, name):
    """The name under which this process makes `path`, until it is whole; and such names of `name` ('*': of
    any) which processes of this machine left behind that live no longer."""
    mark, dead = f'.tmp-{platform.node()}-', []
    for old in path.parent.glob(f'{name}{mark}*') if os.name == 'posix' else ():
        try:
            os.kill(int(old.name.rpartition('-')[2]), 0)  # signal 0 does nothing but ask
        except ProcessLookupError:
            dead.append(old)
        except PermissionError:  # it lives, and is another user's
            pass
    return path.with_name(f'{path.name}{mark}{os.getpid()}'), dead


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


def some(names):
    """The first few, in one line."""
    return ', '.join([*names][:8]) + f', and {len(names) - 8} more' * (len(names) > 8)


def number_labels(labels):
    """Distinct labels as read (numbers, text, None) -> float64 of each, NaN for none; and the names of text
    classes, which are numbered in sorted order, or None. NA is none among numbers, and a class among text."""
    stated = [v for v in labels if v not in (None, '')]
    classes = sorted({str(v) for v in stated}) if None in map(number, stated) else None
    place = {c: i for i, c in enumerate(classes or ())}
    values = [np.nan if v in (None, '') else place[str(v)] if classes else number(v) for v in labels]
    return np.array(values, np.float64), classes


# -----------------------------------------------------------------------------
# downloads

def download(name, address, size, digest, data_dir):
    """
    The path of a file that a data set is made from: found in DATA_DIR/downloads, or fetched to there.

    size in bytes and digest 'md5:..' or 'sha256:..' are checked where given, of a file put there by hand too.
    SMA_MIRROR in the environment is a folder that has the file, at any depth, or an http address to put before
    its name. address None: a folder that is not ours to hand on.
    """
    mirror, folder, problem = os.environ.get('SMA_MIRROR', ''), Path(data_dir) / 'downloads', None
    if mirror.startswith(('http://', 'https://')):
        address, mirror = address and f'{mirror.rstrip("/")}/{name}', ''
    elif mirror and not os.path.isdir(mirror):
        fail(f'SMA_MIRROR={mirror} in the environment is no folder and no http address')
    shown = re.sub('//[^/@]*@', '//', address or '')  # without a password
    for path in (folder / name, *(sorted(Path(mirror).rglob(name)) if mirror else ())):
        if path.exists():
            problem = wrong(path, size, digest)
            if problem:
                fail(f'{path}: {problem}; remove it to fetch it again from {shown}')
            return path
    by_hand = f'as {(folder / name).resolve()}, or let SMA_MIRROR in the environment name a folder that has it'
    if address is None:
        fail(f'{name} is not for download: put that folder, with train/ and val/ in it, or a link to it, '
             f'{by_hand}')
    (folder / name).parent.mkdir(parents=True, exist_ok=True)  # a name may have folders in it
    part, left_behind = temporary(folder / name, Path(name).name)
    for old in left_behind:
        with suppress(FileNotFoundError):  # another process was faster, or the part has no stamp
            old.replace(part)
            stamp_of(old).replace(stamp_of(part))
    for wait in WAITS:
        if problem:
            print(f'{shown}: {problem}; trying again in {wait} s', flush=True)
        time.sleep(wait)
        try:
            problem = fetch(address, shown, part, size, digest)
        except requests.RequestException as error:
            problem = type(error).__name__
        if problem is None:
            if digest is None:
                with open(part, 'rb') as f:
                    found = hashlib.file_digest(f, 'sha256').hexdigest()
                print(f'{name}: no hash is known; sha256:{found} in its row of DATASETS pins it', flush=True)
            stamp_of(part).unlink(missing_ok=True)
            sync(part)
            return part.replace(folder / name)
        if problem.startswith('HTTP 4') and problem not in ('HTTP 416', 'HTTP 429'):  # no use in asking again
            break
    fail(f'could not fetch {shown} ({problem}). Put the file there by hand, {by_hand}, or an http address')


def stamp_of(part):
    """Beside a part of a file: what its server calls this version of it, an ETag or a date."""
    return part.with_name(f'stamp-{part.name}')


def fetch(address, shown, part, size, digest):
    """One attempt to bring the rest of a file into `part`: taken up where it broke, by HTTP Range, if the
    server can, and if it is the same file still. -> None, or what went wrong"""
    stamp = stamp_of(part)
    if part.exists() and not (stamp.exists() or digest):  # nobody could tell whether the rest belongs to it
        part.unlink()
    have, total = part.stat().st_size if part.exists() else 0, size
    if have != size:
        ask = {'Accept-Encoding': 'identity', 'Range': f'bytes={have}-'}
        if have and stamp.exists():
            ask['If-Range'] = stamp.read_text()
        with requests.get(address, headers=ask, stream=True, timeout=TIMEOUT) as answer:
            status, place = answer.status_code, answer.headers.get('Content-Range', '')
            goes_on = status == 206 and place.startswith(f'bytes {have}-')
            if status in (206, 416) and not goes_on:
                part.unlink(missing_ok=True)  # not a part of this file
            if status != 200 and not goes_on:
                return f'HTTP {status}'
            if digest is None and answer.headers.get('Content-Type', '').startswith('text/html'):
                return 'a page of HTML, not the file'
            have = have if goes_on else 0  # 200: it sends the whole file again
            left, whole = answer.headers.get('Content-Length'), place.rpartition('/')[2]
            stated = int(whole) if goes_on and whole.isdigit() else have + int(left) if left else None
            if size is not None and stated not in (None, size):
                return f'it has {stated:,} bytes, not {size:,}'
            total = stated if size is None else size
            if total is None and digest is None and answer.headers.get('Transfer-Encoding') != 'chunked':
                return 'the server does not say how long it is'
            print(f'fetching {shown}' + (f': {total:,} bytes' if total else ''), flush=True)
            mark = answer.headers.get('ETag', answer.headers.get('Last-Modified', ''))
            if not have:
                stamp.unlink(missing_ok=True)
                if mark and not mark.startswith('W/'):  # a weak one does not tell bytes apart
                    stamp.write_text(mark)
            bar = dict(total=total, initial=have, leave=False, disable=not sys.stderr.isatty())
            with open(part, 'ab' if have else 'wb') as f, tqdm.wrapattr(f, 'write', **bar) as out:
                for block in answer.iter_content(1 << 16):
                    out.write(block)
                    if f.tell() > (MOST_DOWNLOAD if total is None else total):
                        break
    problem = wrong(part, total, digest)
    if problem and part.stat().st_size >= (total or 0):
        part.unlink()  # it is not cut off, but bad: it cannot be gone on with
    return problem


def wrong(path, size, digest):
    """What is wrong with a file that ought to be whole, or None."""
    if size is not None and path.stat().st_size != size:
        return f'it has {path.stat().st_size:,} bytes, not {size:,}'
    if digest is not None:
        kind, _, wanted = digest.partition(':')
        with open(path, 'rb') as f:
            if hashlib.file_digest(f, kind).hexdigest() != wanted:
                return f'its {kind} is not {wanted}'


# -----------------------------------------------------------------------------
# Readers: a file, or a folder of images -> chunks of rows, so that memory does not grow with the file.
#
# A chunk is (x, labels, splits): x a list of bytes, or of pairs of bytes, or an array (k, n, d_raw) float32 or
# (k, S, S, 3) uint8; labels a list of str or float; splits a list of codes; None where a file tells none.
# Nothing is unpickled, and no archive is unpacked to disk. `meta` is what will be written into meta.json: a
# reader sets its 'columns', and counts in 'left_out' what it had to leave out and why.

def read_file(path, meta, kind=None, window=None, **options):
    """The chunks of one file or folder of images, by the ending of its name. `options` go to its reader."""
    kind, given = kind or kind_of(path), [k for k in options if k in TABLE_KNOBS]
    if window is not None and {'label_column', 'split_column'} & {*given}:
        fail('window joins lines, so their labels and splits are lost: leave label_column, split_column unset')
    if os.path.isdir(path) and not given:
        chunks = read_images(path, meta)
    elif kind in TABLES:
        chunks = read_table(path, kind, meta, **options)
    elif kind == '.npz' and {*given} <= {'input_column', 'label_column', 'missing'} \
            or kind == '.npy' and {*given} <= {'missing'}:
        chunks = read_arrays(path, meta, **options)
    elif given:
        fail(f'{given[0]}={options[given[0]]!r}: {path} has no such columns, leave it unset')
    elif kind in ('.fasta', '.fa', '.faa', '.txt', '.smi', '.smiles'):
        sequences = fasta(path, meta, **options) if kind.startswith('.fa') else lines(path, kind, meta)
        chunks = ((chunk, None, None) for chunk in in_chunks(sequences))
    else:
        fail(f'{path}: unknown ending {kind!r}; known: .txt .smi .fasta .fa .csv .tsv .arff .json .jsonl ('
             'also .gz .bz2 .xz), .parquet .npy .npz, and folders of images')
    if window is None:
        return chunks
    return ((chunk, None, None) for chunk in in_chunks(windows((x for x, _, _ in chunks), window)))


def kind_of(path):
    """'.csv' for a.csv, a.csv.gz and a.CSV.xz; '.tsv' for b.zip!c/train.tsv."""
    suffixes = [s.lower() for s in Path(str(path).rpartition('!')[2]).suffixes]
    return next((s for s in reversed(suffixes) if s not in ('.gz', '.bz2', '.xz')), '')


@contextmanager
def open_stream(path):
    """A file as a stream of bytes, unpacked if it is .gz, .bz2 or .xz; 'a.zip!member' is a member of an
    archive, which may also be .tar, .tar.gz or .tar.bz2. A damaged file is the user's to put right."""
    match = re.fullmatch(r'(.+\.(?:zip|tar|tar\.gz|tgz|tar\.bz2))!(.+)', str(path))
    path, member = match.groups() if match else (str(path), None)
    try:
        if member is None:
            unpack = {'.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open}
            with unpack.get(Path(path).suffix.lower(), open)(path, 'rb') as f:
                yield f
        elif path.endswith('.zip'):
            with zipfile.ZipFile(path) as archive, archive.open(member) as f:
                yield f
        else:
            with tarfile.open(path) as archive:
                found = next((m for m in archive if m.name == member), member)
                yield archive.extractfile(found)  # no link leads out of the archive
    except KeyError:
        fail(f'{path} has no file {member} in it')
    except UnicodeDecodeError:
        fail(f'{path} is not UTF-8 text: `iconv -f UTF-16 -t UTF-8` (or -f LATIN1) makes it so')
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error) as e:
        fail(f'{path} is damaged or cut short ({e}): fetch it again')
    except OSError as error:
        fail(f'cannot read {path}: {error.strerror or error}')


def open_lines(path, encoding=None):
    """The lines of open_stream(path), as bytes, or as text in an encoding."""
    with open_stream(path) as f:
        while line := f.readline(LONGEST + 1):
            if len(line) > LONGEST:
                fail(f'{path} has a line of more than {LONGEST:,} bytes (LONGEST in prepare.py): is it text?')
            yield line if encoding is None else line.decode(encoding)


def in_chunks(items, size=CHUNK, weigh=len):
    """Lists of up to `size` items, or of less where the items are large: weigh(item) is its bytes, about."""
    chunk, weight = [], 0
    for item in items:
        chunk.append(item)
        weight += weigh(item)
        if len(chunk) == size or weight > CHUNK_BYTES:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk


# -----------------------------------------------------------------------------
# sequences of bytes

def lines(path, kind, meta):
    """One sequence a line; of SMILES lines the first word (a name may follow). Blank lines are left out."""
    for line in open_lines(path):
        words = line.split()
        if words:
            yield line.rstrip(b'\r\n') if kind == '.txt' else words[0]
        else:
            meta['left_out']['blank lines'] += 1


def fasta(path, meta, shortest=1, longest=math.inf):
    """Header lines start with '>'; a sequence may run over several lines; a final '*' (stop) is dropped."""
    record = None  # until the first header
    for line in itertools.chain(open_lines(path), [b'>']):
        line = line.strip()
        if line.startswith(b'>'):
            sequence = bytes(record or b'').rstrip(b'*')
            if shortest <= len(sequence) <= longest:
                yield sequence
            elif record is not None:
                why = f'sequences of less than {shortest} or more than {longest} residues'
                meta['left_out'][why if sequence else 'empty sequences'] += 1
            record = bytearray()
        elif line and record is None:
            fail(f'{path} does not look like FASTA: its first line is no ">" header')
        elif line:
            record += line
            if len(record) > LONGEST:
                fail(f'{path} has a record of more than {LONGEST:,} bytes (LONGEST in prepare.py)')


def windows(chunks, size):
    """Lines, in chunks, joined again and cut into windows of `size` bytes, never inside a UTF-8 character."""
    rest = b''
    for chunk in chunks:
        if not isinstance(chunk, list) or chunk and not isinstance(chunk[0], bytes):
            fail(f'window={size}: only lines of text can be joined')
        text, at = rest + b'\n'.join(chunk) + b'\n', 0
        while len(text) - at > size:
            # a character's later bytes are 10xxxxxx: step back, by 3 at most, to one that starts a character
            end = next((e for e in range(at + size, at + size - 4, -1) if text[e] & 0xC0 != 0x80), at + size)
            yield text[at:end]
            at = end
        rest = text[at:]
    if rest.strip():
        yield rest.rstrip(b'\n')


# -----------------------------------------------------------------------------
# tables: each ..._rows yields (0, names of the columns), then (line number, cells as text), '' for none

def parquet_rows(path):
    try:
        import pyarrow.parquet
    except ImportError:
        fail(f'reading {path} needs pyarrow: pip install pyarrow')
    try:
        names = pyarrow.parquet.read_schema(path).names
        table = pyarrow.parquet.ParquetFile(path, read_dictionary=names)  # a text repeated takes its room once
        yield 0, names

        def cells(column):
            if not pyarrow.types.is_dictionary(column.type):
                return column.to_pylist()
            texts = column.dictionary.to_pylist()
            return [None if i is None else texts[i] for i in column.indices.to_pylist()]
        batches = (zip(*map(cells, batch.columns)) for batch in table.iter_batches(CHUNK))
        for at, row in enumerate(itertools.chain.from_iterable(batches), 1):
            yield at, ['' if v is None else v.decode() if isinstance(v, bytes) else str(v) for v in row]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        fail(f'cannot read {path}: {error}')


def json_rows(path, end=']'):
    """One JSON list of objects, which need not fit in memory; .jsonl, end='': objects alone. The first one's
    keys are the columns; a value that is a list of one is that one (TAPE)."""
    decoder, between, keys, count, text, at = json.JSONDecoder(), re.compile(r'[\[,\s]*'), None, 0, '', 0
    with open_stream(path) as f:
        # in ever larger blocks while an object does not end, else a large one were read over and over
        for block in codecs.iterdecode(iter(lambda: f.read(max(1 << 20, len(text) - at)), b''), 'utf-8'):
            text, at = text[at:] + block, 0
            if len(text) > LONGEST:
                fail(f'{path} has an object of more than {LONGEST:,} bytes (LONGEST in prepare.py): see item '
                     f'{count + 1}; wanted is a list of objects')
            while True:
                at = between.match(text, at).end()
                try:
                    item, at = decoder.raw_decode(text, at)
                except json.JSONDecodeError:  # the list's end, or this object's has not been read yet
                    break
                except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, lists a thousand deep
                    fail(f'{path}: cannot read what comes after item {count} ({error})')
                count += 1
                if not isinstance(item, dict):
                    fail(f'{path} is no JSON list of objects: see item {count}')
                if keys is None:
                    keys = list(item)
                    yield 0, keys
                cells = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in map(item.get, keys)]
                yield count, ['' if v is None or isinstance(v, (list, dict)) else str(v) for v in cells]
    if keys is None or text[at:].strip() != end:
        fail(f'{path} is no JSON list of objects (those of a .jsonl have no brackets), or it is cut short')


def csv_rows(path, kind, meta, header=None, quotes=True):
    """
    .csv .tsv .arff (a CSV under a list of attributes, where ? is an empty cell). The delimiter of a .csv is
    the sign of , ; and tab that its first line has most of; numbers between ; may have a decimal
    comma. A first line that holds only numbers is no header, unless they count 0, 1, 2, .. (pandas): without
    one the columns are c0, c1, ... header: True, False, or the names, for a file without. With quotes=False
    quotation marks mean nothing (GLUE), and lines of another number of cells are left out.
    """
    text, above, reader = open_lines(path, 'utf-8-sig'), 0, None
    names = [*header] if isinstance(header, list) else []
    csv.field_size_limit(LONGEST)
    try:
        if kind == '.arff':
            for above, line in enumerate(text, 1):
                attribute = re.match(r"""@attribute\s+('[^']*'|"[^"]*"|\S+)""", line, re.IGNORECASE)
                if attribute:
                    names.append(attribute[1].strip('\'"'))
                if line.lower().startswith('@data'):
                    break
        top = next(text, '')
        delimiter = {'.csv': max(',;\t', key=top.count), '.tsv': '\t'}.get(kind, ',')
        comma = delimiter == ';'
        if kind == '.csv' and delimiter != ',':
            meta['notes'].append(f'cells are parted by {delimiter!r}' + ', 1,5 is read as 1.5' * comma)
        rows = reader = csv.reader(itertools.chain([top], text), delimiter=delimiter, strict=True,
                                   quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        if not top:
            fail(f'{path} is empty')
        first = next(rows)
        if not names and header is None and None not in map(number, first):
            header = first == [str(i) for i in range(len(first))]
            taken = 'names' if header else 'a row'
            meta['notes'].append(f'the first line holds only numbers, and is read as {taken}: '
                                 f'--header={not header} says otherwise')
        if names or header is False:
            names, rows = names or [f'c{i}' for i in range(len(first))], itertools.chain([first], rows)
        else:
            names = [cell.strip() for cell in first]
        yield 0, names
        for row in rows:
            line = above + reader.line_num
            row = [re.sub(r'^\s*([+-]?\d+),(\d+)\s*$', r'\1.\2', cell) for cell in row] if comma else row
            if len(row) == len(names):
                yield line, ['' if cell == '?' else cell for cell in row] if kind == '.arff' else row
            elif row and not quotes:
                meta['left_out']['lines with missing cells'] += 1
            elif row:
                fail(f'{path}, line {line}: {len(row)} cells where the header has {len(names)}')
    except csv.Error as error:
        fail(f'{path}, line {above + reader.line_num}: {error}; --quotes=False: quotes mean nothing')


def number(cell):
    """The number that a cell spells: NaN if it says that there is none, None if it is text."""
    try:
        return float(cell)
    except ValueError:
        return math.nan if cell.strip().lower() in NOTHING else None


def category(cell, known, unseen):
    """The number of a text among those of its column. A new one gets the next, or, where a model has learned
    the others (then `unseen` is a Counter), is counted, and missing."""
    cell = cell.strip()
    new = cell.lower() not in NOTHING and cell not in known
    if new and unseen is not None:
        unseen[cell] += 1
    return known.setdefault(cell, len(known)) if new and unseen is None else known.get(cell, math.nan)


def whole_rows(x, missing, left_out, complain):
    """
    Which rows (k,) of x (k, n, d_raw) stay. What is missing is NaN, an error unless `missing` says otherwise;
    with 'mean' it stays so, and data.normalise puts in the mean that the model knows.
    """
    for row, column, _ in np.argwhere(np.isinf(x) if missing else ~np.isfinite(x))[:1]:
        complain(row, column)
    keep = ~np.isnan(x).any((1, 2)) | (missing == 'mean')
    left_out['rows with a missing number'] += len(x) - int(keep.sum())
    return keep


def read_table(path, kind, meta, input_column=None, label_column=None, drop_column=None, split_column=None,
               missing=None, categories=None, **options):
    """One text column makes byte sequences, two make pairs; number columns or a list of names floats, and text
    among those is numbered in the order of its first use: a row that is added at the end changes no number."""
    rows = parquet_rows(path) if kind == '.parquet' else \
        json_rows(path, ']' if kind == '.json' else '') if kind.startswith('.json') else \
        csv_rows(path, kind, meta, **options)
    header = next(rows)[1]

    twice = next((name for name, k in Counter(header).items() if k > 1), None)
    if twice is not None:
        fail(f'{path} has two columns of the name {twice!r}: rename one')

    def place(name, knob):
        if name is None or name in header:
            return None if name is None else header.index(name)
        if re.fullmatch(r'-[1-9]\d{0,8}', name) and int(name[1:]) <= len(header):  # counted from the end
            return len(header) + int(name)
        fail(f'{path} has no column {name!r} ({knob}); the nearest is {nearest(name, header)!r}')
    label, split = place(label_column, 'label_column'), place(split_column, 'split_column')
    dropped = [place(name.strip(), 'drop_column') for name in drop_column.split(',')] if drop_column else []
    if input_column is None:
        names = [name for i, name in enumerate(header) if i not in (label, split, *dropped)]
    elif isinstance(input_column, str):
        names = [name.strip() for name in input_column.split(',')]
        names = [input_column] if input_column in header else names
    else:
        names = list(input_column)
    if not names:
        fail(f'{path} has no inputs beside {", ".join(header) or "nothing"}: name them with --input_column')
    if sorted(names) == sorted(meta['columns'] or ()):
        names = meta['columns']  # by name, in the order of the file before it
    inputs = [place(name, 'input_column') for name in names]
    for i in {label, split} & {*inputs}:
        fail(f'{path}: {header[i]!r} is the label or the split, and an input too: take it out of input_column')
    if meta['columns'] not in (None, names):
        fail(f'{path}: its inputs are {", ".join(names)}; of the file before it {", ".join(meta["columns"])}')
    meta['columns'] = names
    chunks = in_chunks(rows, weigh=lambda row: sum(map(len, row[1])) + 64 * len(row[1]))
    first_rows = next(chunks, None)
    if not first_rows:
        fail(f'{path} has a header and no rows')
    # a column is text if most of its first cells are: one may be empty, or a word like 1984, or a mistake
    cells = {name: [row[i] for _, row in first_rows if row[i].strip().lower() not in NOTHING]
             for name, i in zip(names, inputs)}
    texts = [name for name, column in cells.items() if 2 * [*map(number, column)].count(None) > len(column)]
    named = isinstance(input_column, (str, type(None)))  # by the user, not by a checkpoint
    numbers = not (texts and named) or len(inputs) > (2 if input_column else 1)
    known = meta['categories'] if numbers else {}  # {column: {text: its number}}
    known.update(categories or {})
    for name in texts if numbers and named and not categories else ():
        if len({*cells[name]}) > max(10, len(cells[name]) / 4):
            fail(f'{path}: column {name!r} holds text: name the input with --input_column=NAME (one text '
                 'column, two a,b for a pair, or number columns a,b,c), the label with --label_column, or '
                 'leave it out with --drop_column')
        known.setdefault(name, {})
    unseen = Counter() if categories else None
    readers = [partial(category, known=known[name], unseen=unseen) if name in known else number
               for name in names]

    def filled(chunk, places, why):
        full = [(line, row) for line, row in chunk if all(row[i].strip() for i in places)]
        meta['left_out'][why] += len(chunk) - len(full)
        return full
    for chunk in itertools.chain([first_rows], chunks):
        chunk = chunk if split is None else filled(chunk, [split], 'rows with an empty split cell')
        chunk = chunk if numbers else filled(chunk, inputs, 'empty inputs')
        splits = None if split is None else [SPLIT_WORDS.get(row[split].strip().lower()) for _, row in chunk]
        if splits and None in splits:
            line, row = chunk[splits.index(None)]
            fail(f'{path}, line {line}: {split_column!r} is {row[split]!r}: a split is train, val or test')
        if numbers:
            def complain(k, j):
                line, row = chunk[k]
                fail(f'{path}, line {line}, column {names[j]!r}: {row[inputs[j]]!r} is not a finite number' + (
                    f', nor one of the texts {some(known[names[j]])}' if names[j] in known else '') +
                    '; correct it, or, where one is missing, say --missing=mean or drop')
            x = [[read(row[i]) for i, read in zip(inputs, readers)] for _, row in chunk]
            for k, values in enumerate(x):
                if None in values:  # a text, which is a mistake, and not missing
                    complain(k, values.index(None))
            with np.errstate(over='ignore'):  # the infinity that it makes is named below
                x = np.array(x, np.float32).reshape(-1, len(inputs), 1)  # (k, n, d_raw)
            keep = whole_rows(x, missing, meta['left_out'], complain)
            x, chunk = x[keep], [pair for pair, kept in zip(chunk, keep) if kept]
            splits = splits and [v for v, kept in zip(splits, keep) if kept]
        else:
            x = [tuple(row[i].strip().encode() for i in inputs) for _, row in chunk]
            x = x if len(inputs) == 2 else [cell for cell, in x]
        yield x, None if label is None else [row[label].strip() for _, row in chunk], splits
    meta['notes'] += [f'{n:,} cells say {cell!r}, which is not known' for cell, n in (unseen or {}).items()]
    meta['notes'] += [f'column {name!r} holds text, whose {len(texts)} kinds are numbered: '
                      f'{some(texts)}' for name, texts in known.items() if not categories]


# -----------------------------------------------------------------------------
# arrays and images

def read_arrays(path, meta, input_column=None, label_column=None, missing=None):
    """.npz with arrays X and y (input_column, label_column rename them), or .npy alone, or 'X.npy,y.npy'."""
    (x_path, _, y_path), lacks = path.partition(','), None
    if y_path and kind_of(x_path) == '.npz':
        fail(f'{path}: an .npz brings its own labels, see label_column')
    try:
        x, y = np.load(x_path, mmap_mode='r', allow_pickle=False), None
        if kind_of(x_path) == '.npz':
            arrays, names = x, [input_column or 'X', label_column or ('y' if 'y' in x else None)]
            lacks = next((k for k in names if k is not None and k not in arrays), None)
            large = [part.filename for part in arrays.zip.infolist() if part.file_size > MOST_ARRAY]
            if large:
                raise ValueError(f'{large[0]} unpacks to more than {MOST_ARRAY:,} bytes (MOST_ARRAY in '
                                 'prepare.py): save X as an .npy, which is read in pieces')
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
             'prepare.py)')
    meta['columns'], size = [f'c{i}' for i in range(x.shape[1])], max(CHUNK_BYTES // (4 * x[0].size), 1)
    for at in range(0, len(x), min(size, CHUNK)):
        with np.errstate(over='ignore'):
            part = np.asarray(x[at:at + min(size, CHUNK)], np.float32)
        part = part.reshape(len(part), x.shape[1], -1)  # (k, n, d_raw)
        keep = whole_rows(part, missing, meta['left_out'], lambda i, j: fail(
            f'{x_path}, row {at + i}, column {j}: NaN or infinite; correct it, or say --missing=mean or drop'))
        yield part[keep], None if y is None else y[at:at + len(part)][keep].tolist(), None


def image_files(folder, left_out, classes=None):
    """
    [(path, label or None, split code or None)] of the images in a folder, sorted. Folders train, val (or
    valid) and test at its top are the splits; of train and val alone, as ImageNet has them, val is the test
    and train gives some validation rows. Inside, an image's label is the topmost folder it is in; `classes`,
    a set of such names, leaves the others out. Links are followed, but no circle of them twice; those that
    lead nowhere are left out.
    """
    inside = [d for d in Path(folder).iterdir() if d.is_dir() and d.name[0] != '.']
    splits = {d: SPLIT_WORDS[d.name.lower()] for d in inside if d.name.lower() in SPLIT_WORDS}
    others = len(inside) - len(splits)
    if TRAIN not in splits.values():
        splits, others = {Path(folder): None}, 0
    elif not {VAL, TEST} <= {*splits.values()}:
        splits = {d: DRAW_VAL if split == TRAIN else TEST for d, split in splits.items()}
    left_out.update({'folders beside train that name no split': others} if others else {})
    found = []
    for base, top in ((base, top) for base in splits for top in base.iterdir()):
        if top.name.startswith('.') or classes is not None and top.name not in classes:
            continue
        label, seen = top.name if top.is_dir() else None, set()
        for at, folders, names in os.walk(top, followlinks=True) if label else [(base, [], [top.name])]:
            if os.path.realpath(at) in seen:  # entered before, by another link
                folders.clear()
                continue
            seen.add(os.path.realpath(at))
            folders.sort()  # else it would depend on the disk by which of its names a place is entered
            for path in (Path(at, name) for name in names):
                if not path.exists():
                    left_out['links that lead nowhere'] += 1
                elif path.suffix.lower() in IMAGES and path.is_file():  # no pipe, at which reading would wait
                    found.append((path, label, splits[base]))
    return sorted(found)


def read_images(folder, meta, classes=None):
    """
    The images of a folder (see image_files), decoded and resized once: chunks of uint8 (k, S, S, 3).

    The short side becomes S = image_size / 0.875 (bicubic), then the central square is kept, as torchvision's
    Resize and CenterCrop do. Training crops are taken from that square later, anew each time.
    """
    try:
        from PIL import Image
    except ImportError:
        fail('images are read with Pillow, which is not installed: pip install Pillow')
    files, side, broken = image_files(folder, meta['left_out'], classes), stored_side(meta['image_size']), []

    def pixels(path):
        try:
            with Image.open(path, formats=FORMATS) as image:
                if math.prod(image.size) > MOST_PIXELS or max(image.size) > LONGEST_SIDE * min(image.size):
                    raise ValueError(f'{image.size} pixels, where the most are {MOST_PIXELS:,}, one side '
                                     f'{LONGEST_SIDE} times the other')
                image.draft('RGB', (3 * side, 3 * side))  # a large JPEG is decoded at 1/2, 1/4, 1/8: ample
                short = min(image.size)
                if image.mode[0] in 'IF':  # up to 65,535, and convert would turn all from 255 on white
                    if image.mode == 'F':
                        raise ValueError('its pixels are floats')
                    image = Image.fromarray((np.asarray(image) / 256).clip(0, 255).astype(np.uint8))
                image = image.convert('RGB').resize([side * v // short for v in image.size], Image.BICUBIC)
            left, top = (round((v - side) / 2) for v in image.size)
            return np.asarray(image.crop((left, top, left + side, top + side)))
        except Exception as error:  # decoders raise many kinds on a damaged file
            broken.append(f'{path} ({error})')

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow works without the interpreter's lock
        for chunk in in_chunks(files, 256, lambda file: 3 * side ** 2):
            decoded = zip(pool.map(pixels, [path for path, _, _ in chunk]), chunk)
            done = [(x, label, split) for x, (_, label, split) in decoded if x is not None]
            if done:
                x, labels, splits = zip(*done)
                yield np.stack(x), labels, None if splits[0] is None else splits
    if len(broken) == len(files):
        fail(f'{folder} holds no images that can be read: ' + min(
            broken, default='wanted are CLASS/*.jpg, folders train and val of such, or images alone'))
    if broken:
        meta['left_out'][f'images that cannot be decoded, {min(broken)} for one'] += len(broken)

# -----------------------------------------------------------------------------

DATASETS = runpy.run_path(str(ROOT / 'config' / 'datasets.py'))['DATASETS']  # which uses the readers above


def main():
    if sys.argv[1:] == ['clean']:
        for folder, size, claimed in prepared(data_dir):
            if not claimed:
                shutil.rmtree(folder)
                print(f'removed {folder}, {size:,} bytes')
        return
    if len(sys.argv) > 1:
        named = [f'--dataset={sys.argv[1]}'] if not sys.argv[1].startswith('-') else sys.argv[1:2]
        describe(open_dataset(**configure(globals(), named + sys.argv[2:])))
        return
    for name, row in DATASETS.items():
        print(f'{name:16} {row["about"]}\n{"":16} licence: {row["licence"]}')
        for address, size, digest in row['files'].values():
            if address is not None:
                print(f'{"":16} {address} (' + (f'{size:,} bytes' if size else 'size not stated')
                      + ', no hash' * (digest is None) + ')')
    for folder, size, claimed in prepared(data_dir):
        print(f'prepared: {folder}, {size:,} bytes' + ', of a source that is gone or changed' * (not claimed))


if __name__ == '__main__':
    start(main)
