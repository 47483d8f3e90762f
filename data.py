"""
Raw bytes or floats on disk -> batches.

    python data.py                              the data sets known by name
    python data.py collider                     prepare one, print counts and a sample
    python data.py molecules.csv --input_column=smiles --label_column=solubility      the same for a file of yours

A data set is prepared once into a folder of flat files, which the stages then map into memory:

    meta.json     kind ('bytes' or 'floats'), counts, column names, what was left out and why
    x.bin         bytes: all sequences end to end (uint8), or floats: (rows, n, d_raw) float32
    offsets.bin   bytes only: sequence i is x[offsets[i]:offsets[i + 1]], int64
    y.bin         float64 label of each row, NaN where it has none; text labels are numbered in sorted order
    split.bin     int8 of each row: 0 train, 1 valid, 2 test

Files read: .txt .smi (a line each), .fasta .fa, .csv .tsv, all also .gz or .xz; .npz (arrays X and y), and .npy
(its labels in a second file: --dataset=X.npy,y.npy).
"""

import csv
import gzip
import hashlib
import itertools
import json
import lzma
import os
import shutil
import sys
import tempfile
import threading
import zlib
from collections import Counter
from pathlib import Path
from queue import Queue

import numpy as np
import torch

from configurator import configure, fail, nearest

# knobs of `python data.py NAME`; the stages have the same
dataset = ''  # a name from DATASETS, or a file
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: one text column, or number columns 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # csv: the label's column. npz: 'y'
split_column: str | None = None  # csv: a column that says train, valid or test
valid_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
valid_share = 0.02  # without those: the share of rows drawn for validation
test_share = 0.1  # and for the test

SPLITS = ('train', 'valid', 'test')
SPLIT_NAMES = {'train': 0, 'training': 0, 'valid': 1, 'val': 1, 'validation': 1, 'dev': 1, 'test': 2, '': -1}
PAD, CLS, SEP, FIRST_BYTE = 0, 4, 5, 6  # ids of Perceiver IO: byte b is b + 6
CHUNK = 8192  # rows read or written at a time, which bounds the memory
FORMAT = 1  # part of a prepared folder's name: raise it when the layout or a reader changes

# name -> where it comes from and what is in it. `make` builds it here; `target` and `metric` are what finetune.py does.
DATASETS = {
    'collider': dict(
        make=lambda: collider(120_000, seed=0), names=lambda: HIGGS_COLUMNS, target='binary', metric='accuracy',
        about='simulated here: a toy Monte Carlo of UCI HIGGS (arXiv:1402.4735), 120,000 events, nothing to download'),
}


# -----------------------------------------------------------------------------
# readers: each yields chunks (inputs, labels, splits): inputs a list of bytes or a float32 array (k, n, d_raw);
# labels and splits lists of str or float, or None where there are none

def open_bytes(path):
    """A file as a stream of bytes, unpacked if it is .gz or .xz; damage and cut-off files end in one line."""
    opener = {'.gz': gzip.open, '.xz': lzma.open}.get(Path(path).suffix, open)
    try:
        with opener(path, 'rb') as f:
            yield from f
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        fail(f'{path} is damaged or cut short ({error}): fetch it again')
    except OSError as error:
        fail(f'cannot read {path}: {error.strerror or error}')


def kind_of(path):
    """'.csv' for a.csv, a.csv.gz and a.CSV.xz."""
    suffixes = [s.lower() for s in Path(path).suffixes]
    return next((s for s in reversed(suffixes) if s not in ('.gz', '.xz')), '')


def chunks(items, size=CHUNK):
    """Lists of up to `size` items."""
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def read_lines(path, left_out):
    """One sequence a line; of a .smi line the first word (a name may follow the molecule). Blank lines are left out."""
    first_word = kind_of(path) == '.smi'

    def sequences():
        for line in open_bytes(path):
            words = line.split()
            if words:
                yield words[0] if first_word else line.rstrip(b'\r\n')
            else:
                left_out['blank lines'] += 1
    for chunk in chunks(sequences()):
        yield chunk, None, None


def read_fasta(path, left_out):
    """Header lines start with '>'; a sequence may run over several lines; a final '*' (stop) is dropped."""
    def sequences():
        parts = None  # None until the first header
        for line in open_bytes(path):
            line = line.strip()
            if line.startswith(b'>'):
                if parts:
                    yield b''.join(parts).rstrip(b'*')
                elif parts is not None:
                    left_out['empty sequences'] += 1
                parts = []
            elif line and parts is None:
                fail(f'{path} does not look like FASTA: its first line is no ">" header')
            elif line:
                parts.append(line)
        if parts:
            yield b''.join(parts).rstrip(b'*')
    for chunk in chunks(sequences()):
        yield chunk, None, None


def is_number(cell):
    try:
        float(cell)
        return True
    except ValueError:
        return False


def read_table(path, input_column, label_column, split_column, left_out, about):
    """Comma- or tab-separated columns. One text column makes byte sequences, number columns a float table (d_raw 1)."""
    text = (line.decode('utf-8-sig' if i == 0 else 'utf-8') for i, line in enumerate(open_bytes(path)))
    rows = csv.reader(text, delimiter='\t' if kind_of(path) == '.tsv' else ',', strict=True)
    try:
        first = next(rows, None)
        if first is None:
            fail(f'{path} is empty')
        headless = all(is_number(cell) for cell in first)
        header = [f'c{i}' for i in range(len(first))] if headless else [cell.strip() for cell in first]

        def column(name, knob):
            if name not in header:
                fail(f'{path} has no column {name!r} ({knob}); the nearest of its {len(header)} is '
                     f'{nearest(name, header)!r}')
            return header.index(name)
        label = None if label_column is None else column(label_column, 'label_column')
        split = None if split_column is None else column(split_column, 'split_column')
        names = [h for i, h in enumerate(header) if i not in (label, split)]
        if input_column is not None:
            names = [name.strip() for name in input_column.split(',')] if input_column not in header else [input_column]
        inputs = [column(name, 'input_column') for name in names]
        about['columns'] = names
        line0 = first if headless else next((row for row in rows if row), None)
        if line0 is None:
            fail(f'{path} has a header and no rows')
        numbers = all(is_number(line0[i]) for i in inputs if i < len(line0))
        if not numbers and len(inputs) > 1:
            bad = next(name for name, i in zip(names, inputs) if not is_number(line0[i]))
            fail(f'{path}: column {bad!r} holds text: name the input with --input_column=NAME (one text column, or '
                 'number columns a,b,c), and the label with --label_column')

        numbered = ((rows.line_num, row) for row in itertools.chain([line0], rows) if row)
        for chunk in chunks(numbered):
            for number, row in chunk:
                if len(row) != len(header):
                    fail(f'{path}, line {number}: {len(row)} cells where the header has {len(header)}')
            if numbers:
                x = np.empty((len(chunk), len(inputs), 1), np.float32)
                for k, (number, row) in enumerate(chunk):
                    for j, i in enumerate(inputs):
                        try:
                            x[k, j, 0] = float(row[i] or 'nan')
                        except ValueError:
                            fail(f'{path}, line {number}, column {header[i]!r}: {row[i]!r} is not a number')
                bad = np.argwhere(~np.isfinite(x))
                if len(bad):
                    k, j, _ = bad[0]
                    fail(f'{path}, line {chunk[k][0]}, column {names[j]!r}: empty, NaN or infinite; '
                         f'fill it in or drop the row')
                labels_of = chunk
            else:
                labels_of = [(number, row) for number, row in chunk if row[inputs[0]].strip()]
                if len(labels_of) < len(chunk):
                    left_out['empty inputs'] += len(chunk) - len(labels_of)
                x = [row[inputs[0]].strip().encode() for _, row in labels_of]
            y = None if label is None else [row[label].strip() for _, row in labels_of]
            s = None if split is None else [row[split].strip().lower() for _, row in labels_of]
            yield x, y, s
    except UnicodeDecodeError:
        fail(f'{path} is not UTF-8 text')
    except csv.Error as error:
        fail(f'{path}, line {rows.line_num}: {error}')


def read_arrays(path, input_column, label_column, about):
    """.npz with arrays X and y (input_column and label_column rename them), or .npy alone, or 'X.npy,y.npy'."""
    x_path, _, y_path = path.partition(',')
    try:
        if kind_of(x_path) == '.npz':
            arrays = np.load(x_path, allow_pickle=False)
            x_name, y_name = input_column or 'X', label_column or ('y' if 'y' in arrays else None)
            for name in (x_name, y_name):
                if name is not None and name not in arrays:
                    fail(f'{x_path} has no array {name!r}, only {", ".join(arrays)}: see input_column, label_column')
            x, y = arrays[x_name], None if y_name is None else arrays[y_name]
        else:
            x = np.load(x_path, mmap_mode='r', allow_pickle=False)
            y = np.load(y_path, mmap_mode='r', allow_pickle=False) if y_path else None
    except (ValueError, EOFError, OSError, zlib.error) as error:
        fail(f'cannot read {path}: {error}')
    except Exception as error:  # zipfile.BadZipFile and its kin
        fail(f'{path} is damaged or not what its name says: {error}')
    if x.ndim not in (2, 3) or x.dtype.kind not in 'fiu':
        fail(f'{x_path}: shape {x.shape}, type {x.dtype}; wanted are numbers (rows, inputs) or (rows, inputs, d_raw)')
    if y is not None and y.shape != (len(x),):
        fail(f'{path}: labels of shape {y.shape} for {len(x)} rows')
    about['columns'] = [f'c{i}' for i in range(x.shape[1])]
    for at in range(0, len(x), CHUNK):
        part = np.asarray(x[at:at + CHUNK], np.float32).reshape(-1, x.shape[1], x.shape[2] if x.ndim == 3 else 1)
        if not np.isfinite(part).all():
            row, column, _ = np.argwhere(~np.isfinite(part))[0]
            fail(f'{x_path}, row {at + row}, column {column}: NaN or infinite; fill it in or drop the row')
        yield part, None if y is None else y[at:at + CHUNK].tolist(), None


def read(path, input_column, label_column, split_column, left_out, about):
    """The chunks of one file, by the ending of its name."""
    for part in path.split(','):
        if not os.path.isfile(part):
            fail(f'no file {part!r}, and no data set of that name; known by name: {", ".join(DATASETS)}')
    kind = kind_of(path)
    if kind in ('.csv', '.tsv'):
        return read_table(path, input_column, label_column, split_column, left_out, about)
    if split_column is not None:
        fail(f'split_column={split_column!r}: {path} has no columns')
    if kind in ('.npy', '.npz'):
        return read_arrays(path, input_column, label_column, about)
    if input_column is not None or label_column is not None:
        fail(f'{path} has no columns: leave input_column and label_column unset')
    if kind in ('.txt', '.smi'):
        return read_lines(path, left_out)
    if kind in ('.fasta', '.fa', '.faa'):
        return read_fasta(path, left_out)
    fail(f'{path}: unknown ending {kind!r}; known: .txt .smi .fasta .fa .csv .tsv (also .gz .xz), .npy .npz')


# -----------------------------------------------------------------------------
# preparing: any reader's chunks -> the folder described at the top

def prepare(config):
    """
    The folder of a prepared data set, made if it is not there yet.

    config: a dict with the knobs at the top of this file. The folder's name holds a hash of the source (path, size,
    time) and of every knob that matters, so a changed file is read again and another column is another data set.
    It is built under a temporary name and renamed when whole: a half-prepared one is never taken for a data set.
    """
    name, keys = config['dataset'], ('input_column', 'label_column', 'split_column', 'valid_share', 'test_share')
    shares = config['valid_share'], config['test_share']
    if min(shares) < 0 or sum(shares) >= 1:
        fail(f'valid_share={shares[0]} and test_share={shares[1]} must leave something to train on')
    if name in DATASETS:
        for k in ('input_column', 'label_column', 'split_column', 'valid_file', 'test_file'):
            if config[k] is not None:
                fail(f'{k}={config[k]!r}: the data set {name} has its own inputs and splits, leave it unset')
    files = [] if name in DATASETS else [f for f in (name, config['valid_file'], config['test_file']) if f]
    key = [FORMAT, name if name in DATASETS else '', {k: config[k] for k in keys}]
    for part in (part for f in files for part in f.split(',')):
        stat = os.stat(part) if os.path.isfile(part) else None
        key.append([os.path.abspath(part), stat and stat.st_size, stat and stat.st_mtime_ns])
    stem = name if name in DATASETS else Path(name).name.split('.')[0]
    key = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]
    folder = Path(config['data_dir']) / f'{stem}-{key}'
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f'{folder.name}.tmp-', dir=folder.parent))
    except OSError as error:
        fail(f'data_dir={config["data_dir"]!r}: {error.strerror}')
    try:
        write(building, config, files)
        try:
            building.rename(folder)
        except OSError:
            if not folder.exists():  # if it does, another process was faster
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def write(folder, config, files):
    """Streams every chunk of the sources to disk, then settles labels, splits and meta.json."""
    left_out, about = Counter(), {}
    if config['dataset'] in DATASETS:
        x, y = DATASETS[config['dataset']]['make']()
        sources = [(0, [(x[:, :, None], y.tolist(), None)])]
        about['columns'] = DATASETS[config['dataset']]['names']()
    else:
        columns = [config[k] for k in ('input_column', 'label_column', 'split_column')]
        named = enumerate((config['dataset'], config['valid_file'], config['test_file']))
        sources = [(split, read(f, *columns, left_out, about)) for split, f in named if f]

    shape, lengths, labels, splits = None, [], [], []  # shape: () for bytes, (n, d_raw) for floats
    with open(folder / 'x.bin', 'wb') as x_file:
        for split, source in sources:
            for x, y, s in source:
                this = x.shape[1:] if isinstance(x, np.ndarray) else ()
                if shape is not None and shape != this:
                    fail(f'the files of {config["dataset"]} differ: rows of {shape} and of {this} numbers')
                shape = this
                if shape:
                    x_file.write(x.tobytes())
                else:
                    x_file.write(b''.join(x))
                    lengths.append(np.fromiter(map(len, x), np.int64, len(x)))
                labels.extend([None] * len(x) if y is None else y)
                unknown = set(s or ()) - set(SPLIT_NAMES)
                if unknown:
                    fail(f'{config["split_column"]!r} holds {sorted(unknown)[0]!r}: a split is train, valid or test')
                splits.append(np.array([split] * len(x) if s is None else [SPLIT_NAMES[v] for v in s], np.int8))
    if not labels:
        fail(f'{config["dataset"]} holds no rows')
    y, classes = number_labels(labels)
    split = np.concatenate(splits)
    if config['split_column'] is None and len(files) < 2:  # no word on the splits: seeded shares
        order = np.random.default_rng(0).permutation(len(split))  # not the run's seed: all stages must agree
        n_test, n_valid = round(config['test_share'] * len(split)), round(config['valid_share'] * len(split))
        split[order[:n_test]], split[order[n_test:n_test + n_valid]] = 2, 1
    if not shape:
        np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64).tofile(folder / 'offsets.bin')
    y.tofile(folder / 'y.bin')
    split.tofile(folder / 'split.bin')
    meta = dict(kind='floats' if shape else 'bytes', rows=len(y), n=shape[0] if shape else None,
                d_raw=shape[1] if shape else 0, columns=about.get('columns'), classes=classes, left_out=left_out,
                source=[os.path.abspath(part) for f in files for part in f.split(',')] or config['dataset'])
    (folder / 'meta.json').write_text(json.dumps(meta, indent=1))


def number_labels(labels):
    """Labels as read (numbers, text, or None) -> float64 with NaN for none, and the names of text classes or None."""
    blank = {None, ''}
    try:
        return np.array([np.nan if v in blank else float(v) for v in labels], np.float64), None
    except ValueError:
        classes = sorted({str(v) for v in labels if v not in blank})
        number = {c: i for i, c in enumerate(classes)}
        return np.array([np.nan if v in blank else number[str(v)] for v in labels], np.float64), classes


class Dataset:
    """A prepared folder, mapped into memory."""

    def __init__(self, folder):
        self.folder, self.meta = Path(folder), json.loads((Path(folder) / 'meta.json').read_text())
        self.is_bytes = self.meta['kind'] == 'bytes'
        self.d_raw, self.n, self.columns = self.meta['d_raw'], self.meta['n'], self.meta['columns']
        self.y = np.fromfile(self.folder / 'y.bin', np.float64)
        self.split = np.fromfile(self.folder / 'split.bin', np.int8)
        if self.is_bytes:
            self.x = np.memmap(self.folder / 'x.bin', np.uint8, 'r')
            self.offsets = np.fromfile(self.folder / 'offsets.bin', np.int64)
        else:
            self.x = np.memmap(self.folder / 'x.bin', np.float32, 'r', shape=(len(self.y), self.n, self.d_raw))
        self.norm = {'kind': 'none'}  # how floats are scaled: fit_norm's answer, or a checkpoint's
        self.max_len = None  # most tokens of a row, CLS and SEP included; a longer sequence loses its end
        self.n_cut = 0  # how many do

    def set_lengths(self, seq_len, max_len=None):
        """Settles max_len, counts what it cuts. seq_len None = what the longest row has. -> the model's seq_len"""
        if not self.is_bytes:
            if seq_len not in (None, self.n):
                fail(f'seq_len={seq_len}, but each row of {self.folder.name} has {self.n} inputs')
            return self.n
        lengths = self.lengths(np.arange(len(self.y)))
        if seq_len is None:
            seq_len = max_len or -(-int(lengths.max()) // 16) * 16
        self.max_len = max_len or seq_len
        if not 3 <= self.max_len <= seq_len:
            fail(f'max_len={self.max_len} must leave a byte between CLS and SEP and not pass seq_len={seq_len}')
        self.n_cut = int((lengths > self.max_len).sum())
        return seq_len

    def rows(self, split):
        """The row numbers of a split, 'train', 'valid' or 'test'. -> (k,) int64"""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def lengths(self, rows):
        """Tokens of each row: CLS + bytes + SEP, cut at max_len; or n. -> (k,) int64"""
        if not self.is_bytes:
            return np.full(len(rows), self.n, np.int64)
        full = self.offsets[rows + 1] - self.offsets[rows] + 2
        return full if self.max_len is None else np.minimum(full, self.max_len)

    def width(self, rows):
        """
        The width a batch of these rows is padded to: its longest row's. A multiple of 16 would make one place in seven
        of a SMILES batch padding, and save torch.compile nothing: one program takes any width.
        """
        return int(self.lengths(rows).max())

    def labels(self, rows):
        """The labels of rows as the file has them: floats, or text where they are text. None where there is none."""
        names = self.meta['classes']
        return [None if np.isnan(v) else names[int(v)] if names else float(v) for v in self.y[rows]]

    def batch(self, rows, width=None):
        """
        rows (B,) -> x, valid. Bytes: x (B, width) int64 ids CLS bytes SEP PAD.., valid (B, width) bool, False = PAD.
        Floats: x (B, n, d_raw) float32, scaled by self.norm, valid None.
        """
        if not self.is_bytes:
            return torch.from_numpy(normalise(self.x[rows], self.norm)), None
        lengths, width = self.lengths(rows), width or self.width(rows)
        ids = np.full((len(rows), width), PAD, np.int64)
        ids[:, 0] = CLS
        for i, (row, n) in enumerate(zip(rows, lengths)):
            start = self.offsets[row]
            ids[i, 1:n - 1] = self.x[start:start + n - 2]
            ids[i, 1:n - 1] += FIRST_BYTE
            ids[i, n - 1] = SEP
        return torch.from_numpy(ids), torch.from_numpy(np.arange(width) < lengths[:, None])


def open_dataset(config):
    """The data set that a stage's knobs name, prepared if need be; fails if it has no training rows."""
    dataset = Dataset(prepare(config))
    if not len(dataset.rows('train')):
        fail(f'{config["dataset"]} has no train rows: see split_column, valid_file, valid_share and their like')
    return dataset


# -----------------------------------------------------------------------------
# batches

def epoch_batches(dataset, rows, batch_size, seed, epoch):
    """
    One epoch in random order: (n_batch, batch_size) row numbers. A pure function of (seed, epoch): every rank computes
    the same, and a resumed run finds its place in it. What does not fill a last batch waits for another epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    n_batch = len(rows) // batch_size
    order = rng.permutation(rows)[:n_batch * batch_size]
    if dataset.is_bytes:
        # alike lengths share a batch, so little is padding: sort inside pools of 64 batches, then shuffle the batches
        pools = [order[i:i + 64 * batch_size] for i in range(0, len(order), 64 * batch_size)]
        order = np.concatenate([pool[np.argsort(dataset.lengths(pool), kind='stable')] for pool in pools])
    return rng.permutation(order.reshape(n_batch, batch_size))


def scoring(dataset, rows, batch_size, run):
    """
    All rows once, for scoring, on the device: (batch number, places of its rows in `rows`, x, valid). Rows of alike
    length share a batch, the longest first, so that lack of memory shows early. Ranks take the batches in turn.
    """
    order = np.argsort(-dataset.lengths(rows), kind='stable')
    starts = list(range(0, len(rows), batch_size))[run.rank::run.world]
    parts = ((i // batch_size, order[i:i + batch_size]) for i in starts)
    return prefetch(((i, torch.from_numpy(at), *dataset.batch(rows[at])) for i, at in parts), run.device)


def micro_batches(dataset, rows, config, seed, step, run, labels=None):
    """
    Endless micro-batches of this rank from optimiser step `step` on: (x, valid, labels or None, the whole step's rows).
    A step's rows are dealt out among ranks and accumulation in turn, so all share one width and one mix of lengths.
    """
    n_micro = config['accumulation'] * run.world
    steps_per_epoch = len(rows) // config['batch_size']
    for epoch in itertools.count(step // steps_per_epoch):
        batches = epoch_batches(dataset, rows, config['batch_size'], seed, epoch)
        for whole in batches[step - epoch * steps_per_epoch:]:
            for micro in range(run.rank, n_micro, run.world):
                mine = whole[micro::n_micro]
                yield (*dataset.batch(mine, dataset.width(whole)), None if labels is None else labels[mine], whole)
            step += 1


def prefetch(batches, device):
    """
    Moves (x, valid, ...) to the device. On CUDA a thread builds the next batches in pinned memory meanwhile; elsewhere
    there is nothing to overlap with and it is a plain loop. None and non-tensors pass through.
    """
    on_cuda = torch.device(device).type == 'cuda'

    def move(t, pin=False):
        if not torch.is_tensor(t):
            return t
        return t.pin_memory() if pin else t.to(device, non_blocking=on_cuda)  # only from pinned memory is that safe

    if not on_cuda:
        for batch in batches:
            yield tuple(move(t) for t in batch)
        return
    queue, done = Queue(maxsize=3), threading.Event()

    def work():
        try:
            for batch in batches:
                queue.put(tuple(move(t, pin=True) for t in batch))
                if done.is_set():
                    return
            queue.put(None)
        except BaseException as error:
            queue.put(error)
    threading.Thread(target=work, daemon=True).start()
    try:
        while (batch := queue.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield tuple(move(t) for t in batch)
    finally:
        done.set()
        while not queue.empty():  # let a thread that waits for room see that it is done
            queue.get_nowait()


# -----------------------------------------------------------------------------
# normalisation of floats, by statistics of the training rows; the result is plain tensors for the checkpoint

def fit_norm(dataset, rows, kind):
    """
    'standard': mean and standard deviation of each input. 'quantile': ranks mapped to a Gaussian, as Gorishniy et al.
    2021 (github.com/yandex-research/rtdl) do with scikit-learn's QuantileTransformer: up to 1,000 quantiles of the
    values plus a little noise, which spreads the ties of discrete features. 'none': as they are.
    """
    if kind not in ('standard', 'quantile', 'none'):
        fail(f'norm={kind!r}: standard, quantile or none')
    if dataset.is_bytes or kind == 'none':
        return {'kind': 'none'}
    if kind == 'standard':
        n, total, square = 0, 0.0, 0.0
        shift = dataset.x[rows[:CHUNK]].astype(np.float64).mean(0)  # about the mean: no cancellation in the squares
        for at in range(0, len(rows), CHUNK):
            x = dataset.x[rows[at:at + CHUNK]].astype(np.float64) - shift
            n, total, square = n + len(x), total + x.sum(0), square + (x ** 2).sum(0)
        std = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0))
        std[std == 0] = 1  # a constant input stays constant
        return {'kind': kind, 'mean': torch.from_numpy((shift + total / n).astype(np.float32)),
                'std': torch.from_numpy(std.astype(np.float32))}
    rng = np.random.default_rng(0)
    x = dataset.x[np.sort(rng.permutation(rows)[:200_000])].astype(np.float64)  # (k, n, d_raw)
    x += rng.normal(size=x.shape) * 1e-3 / np.maximum(x.std(0), 1e-3)
    n_quantiles = max(min(len(rows) // 30, 1000), 10)
    return {'kind': kind, 'quantiles': torch.from_numpy(np.quantile(x, np.linspace(0, 1, n_quantiles), axis=0))}


def normalise(x, norm):
    """x (B, n, d_raw) float32 -> the same, scaled by fit_norm's statistics."""
    if norm['kind'] == 'none':
        return x
    if norm['kind'] == 'standard':
        return (x - norm['mean'].numpy()) / norm['std'].numpy()
    q = norm['quantiles'].numpy()  # (n_quantiles, n, d_raw) float64
    levels, rank = np.linspace(0, 1, len(q)), np.empty(x.shape, np.float64)
    for i, j in np.ndindex(x.shape[1:]):
        # from below and from above, so that a value repeated in many quantiles gets the middle of its ranks
        v, q_ij = x[:, i, j].astype(np.float64), q[:, i, j]
        rank[:, i, j] = (np.interp(v, q_ij, levels) - np.interp(-v, -q_ij[::-1], -levels[::-1])) / 2
        rank[v - 1e-7 < q_ij[0], i, j], rank[v + 1e-7 > q_ij[-1], i, j] = 0, 1
    return torch.special.ndtri(torch.from_numpy(rank)).clamp(-5.199337582605575, 5.19933758270342).float().numpy()


# -----------------------------------------------------------------------------
# metrics: y (N,) true labels; p (N,) predictions, scores or (N, C) logits

def ranks(v):
    """Ranks 1..N, ties share the mean of theirs."""
    _, inverse, counts = np.unique(v, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def chosen(p):
    """Class numbers from (N,) logits of class 1 or (N, C) logits."""
    return (p > 0).astype(np.int64) if p.ndim == 1 else p.argmax(1)


def accuracy(y, p):
    return float((chosen(p) == y).mean())


def roc_auc(y, p):
    """Area under the ROC curve: the chance that a positive scores above a negative (Mann-Whitney)."""
    n_pos, n_neg = int((y == 1).sum()), int((y != 1).sum())
    if not n_pos or not n_neg:
        fail('roc_auc needs both classes among the rows that are scored')
    return float((ranks(p)[y == 1].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def f1(y, p):
    """Of class 1: the harmonic mean of precision and recall; 0 where neither is defined."""
    hit = int(((chosen(p) == 1) & (y == 1)).sum())
    return 2 * hit / max(int((chosen(p) == 1).sum() + (y == 1).sum()), 1)


def rmse(y, p):
    return float(np.sqrt(((p.astype(np.float64) - y) ** 2).mean()))


def spearman(y, p):
    """Correlation of the ranks; 0 where all predictions (or labels) are the same."""
    a, b = ranks(y), ranks(p)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a ** 2).sum() * (b ** 2).sum())
    return float((a * b).sum() / scale) if scale else 0.0


def class_numbers(labels, classes):
    """Labels -> their numbers in the list of classes (N,) int64; fails on a label that is not among them."""
    number = {c: i for i, c in enumerate(classes)}
    odd = [v for v in labels if v not in number]
    if odd:
        fail(f'{len(odd)} rows have labels outside the classes to learn, {odd[0]!r} for one; the classes are '
             f'{", ".join(map(str, classes[:10]))}{", ..." * (len(classes) > 10)}')
    return np.array([number[v] for v in labels], np.int64)


def score(head, labels, p):
    """
    The metric of predictions p (N, n_out) from the fine-tuning head. `head` travels in the checkpoint: target, metric,
    classes (of binary and multiclass), mean and std (of regression: predictions go back to the labels' own units).
    """
    p = p.astype(np.float64)
    if head['target'] == 'regression':
        return METRICS[head['metric']](np.array(labels), p[:, 0] * head['std'] + head['mean'])
    return METRICS[head['metric']](class_numbers(labels, head['classes']), p[:, 0] if head['target'] == 'binary' else p)


METRICS = {'accuracy': accuracy, 'roc_auc': roc_auc, 'f1': f1, 'rmse': rmse, 'spearman': spearman}
LOWER_IS_BETTER = ('rmse',)


# -----------------------------------------------------------------------------
# The collider: a toy Monte Carlo of the UCI HIGGS benchmark (Baldi, Sadowski, Whiteson, arXiv:1402.4735).
#   signal      g g -> H0 -> W H+-, H+- -> W h0, h0 -> b b        background  g g -> t t, each t -> W b
# One W makes a lepton and a neutrino, the other two quarks. Both classes end in the same particles,
# l nu q q b b: only the masses on the way tell them apart. Four-vectors are (E, px, py, pz), in GeV (c = 1).
M_H0, M_HPM, M_h0, M_TOP, M_W, M_B = 425., 325., 125., 173., 80.4, 4.7
HIGGS_COLUMNS = (['lepton_pt', 'lepton_eta', 'lepton_phi', 'met', 'met_phi']
                 + [f'jet{k}_{what}' for k in (1, 2, 3, 4) for what in ('pt', 'eta', 'phi', 'btag')]
                 + ['m_jj', 'm_jjj', 'm_lv', 'm_jlv', 'm_bb', 'm_wbb', 'm_wwbb'])


def mass(p):
    return np.sqrt(np.maximum(p[..., 0]**2 - (p[..., 1:]**2).sum(-1), 0))


def massless(pt, eta, phi):
    """Transverse momentum, pseudorapidity and azimuth (...) -> four-momentum (..., 4)."""
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], -1)


def pt_eta_phi(p):
    pt = np.hypot(p[..., 1], p[..., 2])
    return pt, np.arcsinh(p[..., 3] / pt), np.arctan2(p[..., 2], p[..., 1])


def boost(p, parent):
    """Takes p (n, 4) from the rest frame of parent to the frame where parent (n, 4) is given."""
    energy = (parent[:, 0] * p[:, 0] + (parent[:, 1:] * p[:, 1:]).sum(1)) / mass(parent)
    gain = (p[:, 0] + energy) / (parent[:, 0] + mass(parent))
    return np.column_stack([energy, p[:, 1:] + gain[:, None] * parent[:, 1:]])


def two_body(parent, m1, m2, rng):
    """Isotropic decay of parent (n, 4) into masses m1 and m2 -> two (n, 4). Spin is left out."""
    n, m = len(parent), mass(parent)
    k = np.sqrt((m**2 - (m1 + m2)**2) * (m**2 - (m1 - m2)**2)) / (2 * m)       # the momentum of each, at rest
    cos, phi = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    sin = np.sqrt(1 - cos**2)
    p = k[:, None] * np.stack([sin * np.cos(phi), sin * np.sin(phi), cos], 1)
    return tuple(boost(np.column_stack([np.hypot(k, m_i), p_i]), parent) for m_i, p_i in ((m1, p), (m2, -p)))


def partons(signal, n, rng):
    """The truth of n events of one class, a dict of (n, 4): 'initial' is the H0 or the t t pair, which decays
    to lepton, nu, q1, q2, b1, b2; 'isr' is the gluon (initial-state radiation) that it recoils against."""
    m = np.full(n, M_H0) if signal else 2 * M_TOP + rng.gamma(1.5, 70., n)     # a threshold, then falling
    rapidity, pt, phi = rng.normal(0, 0.8, n), rng.exponential(70., n), rng.uniform(-np.pi, np.pi, n)
    mt, px, py = np.hypot(m, pt), pt * np.cos(phi), pt * np.sin(phi)
    initial = np.stack([mt * np.cosh(rapidity), px, py, mt * np.sinh(rapidity)], 1)
    p = {'initial': initial, 'isr': massless(pt, rng.normal(0, 2., n), phi + np.pi)}
    if signal:
        w1, p['hpm'] = two_body(initial, M_W, M_HPM, rng)
        w2, p['h0'] = two_body(p['hpm'], M_W, M_h0, rng)
        p['b1'], p['b2'] = two_body(p['h0'], M_B, M_B, rng)
    else:
        p['t1'], p['t2'] = two_body(initial, M_TOP, M_TOP, rng)
        w1, p['b1'] = two_body(p['t1'], M_W, M_B, rng)
        w2, p['b2'] = two_body(p['t2'], M_W, M_B, rng)
    first = rng.random((n, 1)) < 0.5                                           # which W is the leptonic one
    p['w_lep'], p['w_had'] = np.where(first, w1, w2), np.where(first, w2, w1)
    p['lepton'], p['nu'] = two_body(p['w_lep'], 0., 0., rng)
    p['q1'], p['q2'] = two_body(p['w_had'], 0., 0., rng)
    return p


def detect(p, rng):
    """What the detector makes of the partons -> 28 columns (n, 28), and which events pass the cuts (n,)."""
    # measure: energies fluctuate with the number of shower particles, so by 1 / sqrt(E); directions a little
    l_pt, l_eta, l_phi = pt_eta_phi(p['lepton'])
    l_pt = l_pt * (1 + 0.02 * rng.normal(size=l_pt.shape))
    pt, eta, phi = pt_eta_phi(np.stack([p[k] for k in ('b1', 'b2', 'q1', 'q2', 'isr')], 1))      # each (n, 5)
    sigma = np.hypot(1 / np.sqrt(pt * np.cosh(eta)), 0.1)
    pt = pt * np.maximum(1 + sigma * rng.normal(size=pt.shape), 0.1)
    eta, phi = rng.normal(eta, 0.05), (rng.normal(phi, 0.05) + np.pi) % (2 * np.pi) - np.pi
    u, is_b = rng.random(pt.shape), np.arange(5) < 2
    btag = 1. * (u < np.where(is_b, 0.8, 0.08)) + (u < np.where(is_b, 0.65, 0.02))   # none, loose, tight
    lepton, jets = massless(l_pt, l_eta, l_phi), massless(pt, eta, phi)
    # the beams bring no transverse momentum: what is missing is the neutrino, and every error of measurement
    met = rng.normal(-(lepton + jets.sum(1))[:, 1:3], 15.)

    # the cuts, and the four hardest jets: the gluon may be among them
    seen = (pt > 20) & (abs(eta) < 2.5)
    lead = np.argsort(np.where(seen, -pt, 0), 1)[:, :4]
    pt, eta, phi, btag = (np.take_along_axis(a, lead, 1) for a in (pt, eta, phi, btag))
    passed = (l_pt > 20) & (abs(l_eta) < 2.5) & (seen.sum(1) >= 4) & (btag.sum(1) > 0)

    # the neutrino's pz solves m_lv = m_W, a quadratic: the smaller |pz|, or the real part where it is complex
    met_sq, a = (met**2).sum(1), M_W**2 / 2 + (lepton[:, 1:3] * met).sum(1)
    root = lepton[:, 0] * np.sqrt(np.maximum(a**2 - l_pt**2 * met_sq, 0))
    nu_pz = (a * lepton[:, 3] - np.sign(l_eta) * root) / l_pt**2
    nu = np.column_stack([np.sqrt(met_sq + nu_pz**2), met, nu_pz])

    # who is who is a guess: the best two tags (then the harder) are the b's, the other two jets the hadronic
    # W, and the b's go to the W's in the way that makes two masses most alike, as two tops would be
    order = np.argsort(-btag, 1, kind='stable')
    b1, b2, j1, j2 = massless(*(np.take_along_axis(a, order, 1).T for a in (pt, eta, phi)))      # each (n, 4)
    w_had, w_lep, bb = j1 + j2, lepton + nu, b1 + b2
    tops = np.array([[mass(w_had + b1), mass(w_lep + b2)], [mass(w_had + b2), mass(w_lep + b1)]])
    m_jjj, m_jlv = np.where(np.diff(abs(tops[:, 0] - tops[:, 1]), axis=0) < 0, tops[1], tops[0])
    low = [l_pt, l_eta, l_phi, np.sqrt(met_sq), np.arctan2(met[:, 1], met[:, 0])]
    low += [a[:, k] for k in range(4) for a in (pt, eta, phi, btag)]
    high = [mass(w_had), m_jjj, mass(w_lep), m_jlv, mass(bb), mass(w_had + bb), mass(w_had + w_lep + bb)]
    return np.stack(low + high, 1), passed


def collider(n, seed):
    """Events in the columns of UCI HIGGS: 21 measured quantities, then 7 masses computed from them.
    -> x (n, 28) float32, y (n,) int64: 1 is signal, 53 %, and 0 background."""
    rng = np.random.default_rng(seed)
    x, y = np.empty((n, 28), np.float32), (rng.random(n) < 0.53).astype(np.int64)
    for label in (0, 1):
        todo = np.flatnonzero(y == label)
        while len(todo):                                                    # until each has passed the cuts
            events, passed = detect(partons(label, len(todo), rng), rng)
            x[todo[passed]] = events[passed]
            todo = todo[~passed]
    return x, y


# -----------------------------------------------------------------------------

def describe(dataset):
    """Prints what was read: rows, lengths or columns, labels, a sample, what was left out and why."""
    meta, train = dataset.meta, dataset.rows('train')
    counts = ', '.join(f'{name} {len(dataset.rows(name)):,}' for name in SPLITS)
    print(f'{dataset.folder}: {meta["rows"]:,} rows of {meta["kind"]}: {counts}')
    for why, n in meta['left_out'].items():
        print(f'left out: {n:,} {why}')
    if dataset.is_bytes:
        lengths = dataset.lengths(np.arange(meta['rows']))
        print('tokens a row (CLS and SEP included): ' + ', '.join(
            f'{name} {int(v):,}' for name, v in zip(('min', 'median', '95 %', 'max'),
                                                    np.percentile(lengths, (0, 50, 95, 100)))))
        sample = bytes(dataset.x[dataset.offsets[train[0]]:dataset.offsets[train[0] + 1]])
        print('sample:', sample[:100].decode('utf-8', errors='replace'))
    else:
        print(f'{dataset.n} inputs of {dataset.d_raw} float(s); the first row: ' + ', '.join(
            f'{c} {v:.3g}' for c, v in list(zip(dataset.columns, dataset.x[train[0], :, 0]))[:8]) + ', ...')
    y = dataset.y[~np.isnan(dataset.y)]
    if len(y):
        values, n = np.unique(y, return_counts=True)
        names = meta['classes'] or [f'{v:g}' for v in values]
        few = ', '.join(f'{name} {k:,}' for name, k in zip(names, n)) if len(values) <= 10 else \
            f'{len(values):,} values, mean {y.mean():.4g}, std {y.std():.4g}, min {y.min():.4g}, max {y.max():.4g}'
        print(f'labels on {len(y):,} rows: {few}')


if __name__ == '__main__':
    if len(sys.argv) == 1:
        for name, entry in DATASETS.items():
            print(f'{name:12} {entry["about"]}')
    else:
        named = [f'--dataset={sys.argv[1]}'] if not sys.argv[1].startswith('-') else sys.argv[1:2]
        describe(open_dataset(configure(globals(), named + sys.argv[2:])))
