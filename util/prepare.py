"""Stage 0: a data set's name, or files -> a prepared folder (util/storage.py), made once and found again."""

import filecmp
import hashlib
import inspect
import itertools
import json
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configurator import ROOT
from util import storage
from util.download import download
from util.errors import fail, nearest, printable
from util.files import base_name, split_paths, sync
from util.images import image_files
from util.readers import read_file
from util.runtime import is_first_local_process
from util.splits import DRAW, DRAW_VAL, TEST, TRAIN, VAL
from util.tables import TABLE_KNOBS

SHORTEST_WINDOW = 4  # bytes of the longest UTF-8 character
UNFINISHED = '.unfinished-'  # in the names of folders that are being made


def prepare(knobs):
    """
    The folder of a prepared data set, made if it is not there yet. -> Path

    knobs: those of data.py with their final values. input_column may also be a list of the names of number
    columns; `categories` says how texts in them are numbered, and x_type='float64' how floats are kept, for a
    checkpoint that knows both.

    The folder's name holds a hash of the source and of every knob that matters: a changed file is read again,
    and another column is another data set. The folder is built under a temporary name and gets its own when it
    is whole, so a half-made one is never taken for a data set. Ctrl-C and SIGTERM end the process at once and
    leave nothing.
    """
    request = Request.of(knobs)
    try:
        folder = request.folder()
        with ending_at_once():
            if not folder.exists() and not is_first_local_process():
                wait_for(folder)
            if not folder.exists():
                build(folder, request)
    except SystemExit:
        text = f'stopped while {request.name} was prepared; nothing of it is kept'
        print(printable(text), file=sys.stderr)
        raise
    except OSError as error:
        fail(f'cannot prepare {request.name} in data_dir={str(request.data_dir)!r}: {error.strerror or error}')
    return folder


@dataclass
class Request:
    """What is to be prepared."""
    name: str  # the data set's name or its file
    row: dict | None  # of DATASETS, if it is known by name
    parts: list  # [(split code, file)] if not
    files: list  # all files of the parts
    options: dict  # knobs that go to the readers
    image_size: int | None  # None if these are no images
    x_type: str | None
    data_dir: Path

    @classmethod
    def of(cls, knobs):
        """From the knobs. Fails on those that contradict each other, and on files that are not there."""
        name = knobs['dataset']
        if not name:
            fail('say which data set: a name that `python data.py` lists, or a file')
        row = DATASETS.get(name)
        options = {}
        for knob in (*TABLE_KNOBS, 'window'):
            if knobs.get(knob) is not None:
                options[knob] = knobs[knob]
        if row and (options or knobs['val_file'] or knobs['test_file']):
            fail(f'{name} has its own inputs and splits: leave *_column, *_file and the like unset')
        check_values(knobs)

        parts, files = [], []
        if row:
            is_images = 'imagenet' in row['files']
        else:
            parts = parts_of(knobs)
            for _, file in parts:
                files += split_paths(file)
            check_files(files)
            is_images = any(os.path.isdir(file) for file in files)
        image_size = knobs['image_size'] if is_images else None
        data_dir = Path(knobs['data_dir']).expanduser()
        return cls(name, row, parts, files, options, image_size, knobs.get('x_type'), data_dir)

    def folder(self):
        """Where it is, or will be."""
        splits = [split for split, _ in self.parts]
        key = [self.source(), self.options, splits, self.image_size, self.x_type]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        stem = self.name
        if not self.row:
            stem = base_name(split_paths(self.name)[0])[:100]  # names of folders have at most 255 bytes
        return self.data_dir / f'{stem}-{digest[:10]}'

    def source(self):
        """
        What the folder is made from, as text: the row of DATASETS, or the state of each file. A row that has no
        files draws its rows by a function, whose code counts too.

        A file's size and mtime are not enough: a new release unpacked over the old one may have both, and so
        may two files that were swapped. Its ctime is that of the last change to the content or the name, which
        nobody can set, and its inode tells swapped files apart. A hash of the content would tell the same, but
        every start would have to read the whole file.
        """
        if self.row:
            read = self.row['read']
            source = [self.row['files'], self.row['target'], self.row['metric'], read.keywords,
                      inspect.getsource(read.func)]
            if not self.row['files']:
                source.append(code_behind(read.func))
        else:
            source = []
            for path in self.all_files():
                state = os.stat(path)
                source.append([os.path.abspath(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns,
                               state.st_ino])
        return json.dumps([storage.FORMAT, source])

    def all_files(self):
        """The files, and the images in the folders."""
        found = []
        for file in self.files:
            if os.path.isdir(file):
                images, _, _ = image_files(file)
                found += [path for path, _, _ in images]
            else:
                found.append(file)
        return found

    def new_meta(self):
        """What meta.json will hold; readers and util/storage.py put in the rest."""
        return {
            'format': storage.FORMAT,
            'known': self.row is not None,
            'source': self.name if self.row else [os.path.abspath(file) for file in self.files],
            'target': self.row['target'] if self.row else None,
            'metric': self.row['metric'] if self.row else None,
            'image_size': self.image_size,
            'x_type': self.x_type,
            'columns': None,
            'categories': {},
            'left_out': Counter(),
            'notes': [],
        }

    def open_sources(self, meta):
        """-> [(split code, chunks)]"""
        if self.row:
            paths = {}
            for file, (address, size, digest) in self.row['files'].items():
                paths[file] = download(file, address, size, digest, self.data_dir)
            return self.row['read'](paths, meta)
        return [(split, read_file(file, meta, **self.options)) for split, file in self.parts]


def parts_of(knobs):
    """[(split code, file)]: the rows of `dataset` are drawn into the splits that have no file of their own."""
    if knobs['val_file']:
        first = TRAIN
    elif knobs['test_file']:
        first = DRAW_VAL
    else:
        first = DRAW
    parts = [(first, os.path.expanduser(knobs['dataset']))]
    if knobs['val_file']:
        parts.append((VAL, os.path.expanduser(knobs['val_file'])))
    if knobs['test_file']:
        parts.append((TEST, os.path.expanduser(knobs['test_file'])))
    return parts


def check_values(knobs):
    if knobs['missing'] not in (None, 'mean', 'drop'):
        fail(f'missing={knobs["missing"]!r}: mean or drop')
    if knobs['window'] is not None and knobs['window'] < SHORTEST_WINDOW:
        fail(f'window={knobs["window"]} must be at least {SHORTEST_WINDOW}, the longest UTF-8 character')
    if knobs['image_size'] < 1:
        fail(f'image_size={knobs["image_size"]} must be at least 1')


def check_files(files):
    for path in files:
        if not os.path.exists(path):
            fail(f'no file {path!r}, and no data set of that name; nearest: {nearest(path, DATASETS)!r}; '
                 '`python data.py` lists all')
        if not (os.path.isfile(path) or os.path.isdir(path)):
            fail(f'{path!r} is neither a file nor a folder but a pipe or a device')


# -----------------------------------------------------------------------------
# building

def build(folder, request):
    """Make the folder under a temporary name. If another process has made it meanwhile, that one stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'{folder.name}{UNFINISHED}', dir=folder.parent,
                                     ignore_cleanup_errors=True) as temporary:
        new = Path(temporary, 'float32')
        if not write(new, request):
            new = Path(temporary, 'float64')  # the source is read once more
            write(new, request, in_float64=True)
        try:
            new.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        sync(folder.parent)


def write(new, request, in_float64=False):
    """Write a new folder from the sources. -> False if float32 loses digits that matter"""
    new.mkdir()
    meta = request.new_meta()
    same = same_content(request.parts)
    if same:
        meta['notes'].append(f'warning: {same[0]} and {same[1]}, for different splits, are the same file')
    return storage.write(new, request.name, request.open_sources(meta), meta, in_float64)


def same_content(parts):
    """Two files of different splits that have the same content, or None."""
    for (_, one), (_, other) in itertools.combinations(parts, 2):
        are_files = os.path.isfile(one) and os.path.isfile(other)
        if are_files and filecmp.cmp(one, other, shallow=False):
            return one, other
    return None


def wait_for(folder):
    print(f'waiting until rank 0 has prepared {folder}', flush=True)
    while not folder.exists():
        time.sleep(0.5)


@contextmanager
def ending_at_once():
    """
    In here Ctrl-C and SIGTERM end the process: on the way out the temporary folder is removed. (The stages let
    them wait for the end of a step, and without a handler SIGTERM would leave the folder behind.)
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def leave(number, frame):
        raise SystemExit(128 + number)
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


# -----------------------------------------------------------------------------
# what there is

def list_datasets(data_dir):
    """Print the data sets that are known by name, and the folders that lie prepared."""
    for name, row in DATASETS.items():
        print(f'{name:16} {row["about"]}')
        print(f'{"":16} licence: {row["licence"]}')
        for address, size, digest in row['files'].values():
            if address is not None:
                stated = f'{size:,} bytes' if size else 'size not stated'
                if digest is None:
                    stated += ', no hash'
                print(f'{"":16} {address} ({stated})')
    data_dir = Path(data_dir).expanduser()
    for path in sorted(data_dir.glob('*/meta.json')):
        source = source_of(path)
        if source:
            print(printable(f'prepared: {path.parent}, {size_of(path.parent):,} bytes, from {source}'))
    for folder in sorted(data_dir.glob(f'*{UNFINISHED}*')):
        size = size_of(folder)
        print(printable(f'unfinished: {folder}, {size:,} bytes: remove it, unless it is being made now'))


def code_behind(function):
    """The texts of the files in which the functions that this one calls are defined."""
    texts = []
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        if inspect.isfunction(called):
            texts.append(Path(inspect.getsourcefile(called)).read_text(encoding='utf-8'))
    return texts


def source_of(path):
    """What the folder of a meta.json was prepared from, or None if prepare() did not make it."""
    try:
        meta = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(meta, dict) or meta.get('format') != storage.FORMAT:
        return None
    return meta['source'] if meta['known'] else ', '.join(meta['source'])


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


DATASETS = runpy.run_path(str(ROOT / 'config' / 'datasets.py'))['DATASETS']  # which uses the readers above
