"""
The prepared folder -> batches on the device; scaling of floats; scores.

    from data import open_dataset                   at a Python prompt
    d = open_dataset('collider')                    or a name that `python prepare.py` lists, or your file
    x, valid = d.batch(d.rows('train')[:8])

prepare.py (stage 0) makes such a folder once, of flat files, which are mapped into memory here:

    meta.json     kind ('bytes', 'floats' or 'images'), counts, column names, what was left out and why
    x.bin         bytes: all sequences end to end (uint8), or floats: (rows, n, d_raw) float32, or images:
                  (rows, S, S, 3) uint8, S a seventh larger than image_size
    offsets.bin   bytes only: sequence i is x[offsets[i]:offsets[i + 1]], int64
    firsts.bin    pairs only: the length of the first of the two, int64
    y.bin         float64 label of each row, NaN where it has none; text labels are numbered in sorted order
    split.bin     int8 of each row: 0 train, 1 val, 2 test; 3 and 4: drawn by the shares when it is opened
    keys.bin      a user's file: uint64, a hash of the inputs of each row, by which those are drawn
"""

import itertools
import json
import math
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from configurator import ROOT, defaults_of, fail, printable
from masking import FIRST_BYTE

SPLITS = ('train', 'val', 'test')
DRAW, DRAW_VAL = 3, 4  # in split.bin: drawn by the shares, all three splits; train and val only
PAD, CLS, SEP = 0, 4, 5  # ids of Perceiver IO: byte b is b + FIRST_BYTE
CHUNK = 8192  # rows looked at in one piece, which bounds the memory
TOKENS = 2 ** 16  # in a batch that a GPU scores, or more if batch_size has
PREPARE_KNOBS = defaults_of(ROOT / 'prepare.py')


def open_dataset(dataset, **knobs):
    """The data set of this name, file or folder, prepared if need be. knobs: those of prepare.py."""
    from prepare import prepare  # the one call upwards
    knobs = {**PREPARE_KNOBS, 'dataset': dataset, **knobs}
    return Dataset(prepare(knobs), knobs['val_share'], knobs['test_share'], knobs['split_seed'])


def data_knobs(config, checkpoint=None):
    """
    What opens the data set of a stage: its own knobs, and where they are None those of the run that made the
    checkpoint, if it is the same data set, else the defaults. Another table is read by the names of the
    columns that the checkpoint knows, so it may have more of them, in any order.
    """
    own = checkpoint['config'] if checkpoint else {}
    from prepare import TABLES, kind_of
    same, knobs = config['dataset'] in (None, own.get('dataset')), {}
    kind = kind_of(config['dataset'] or '')
    carried = ('image_size',) + ('window',) * (kind == '.txt') + ('missing',) * (kind in TABLES)
    for name, default in PREPARE_KNOBS.items():
        kept = own.get(name) if same or name in carried else None
        knobs[name] = next((v for v in (config[name], kept, default) if v is not None), None)
    if checkpoint and not same and kind in TABLES:
        named = checkpoint.get('columns') if checkpoint['model_args']['d_raw'] else own.get('input_column')
        knobs['input_column'] = knobs['input_column'] or named
    knobs['categories'] = (checkpoint or {}).get('categories') or None
    return knobs


def check_fits(dataset, checkpoint):
    """
    Fails unless the data are what the checkpoint's model reads, column for column. -> a warning, '' for none,
    where there are no names to compare: the values tell whether these are other columns, or other units.
    """
    args, learned = checkpoint['model_args'], checkpoint.get('columns') or []
    have, want = (f'{n} inputs of {d_raw} float(s)' if d_raw else 'byte sequences'
                  for n, d_raw in ((dataset.n, dataset.d_raw), (args['seq_len'], args['d_raw'])))
    if have != want:
        fail(f'{dataset.name} holds {have}, the checkpoint wants {want}: see input_column and label_column')
    check_norm(dataset, checkpoint)
    if dataset.is_bytes or dataset.is_images:
        return ''
    if all(named(columns) for columns in (learned, dataset.columns)) and learned != dataset.columns:
        if sorted(learned) == sorted(dataset.columns):
            fail(f'{dataset.name} has the columns in another order than the checkpoint learned: '
                 f'--input_column={",".join(learned)}')
        i = next(i for i, pair in enumerate(zip(learned, dataset.columns)) if len({*pair}) == 2)
        fail(f'{dataset.name} has other columns than the checkpoint learned, {dataset.columns[i]!r} for '
             f'{learned[i]!r} at place {i + 1}: see input_column')
    texts = checkpoint.get('categories') or {}
    for name in texts if texts != dataset.meta['categories'] else ():
        fail(f'{dataset.name} has changed: the texts of column {name!r} are not those that the checkpoint '
             'learned; pre-train anew')
    if not checkpoint['norm'] or checkpoint['norm']['kind'] == 'none':
        return ''
    # of the rows that the scale was taken from at most a ninth lie beyond 3 deviations (Chebyshev)
    far = (np.abs(normalise(dataset.x[:CHUNK], checkpoint['norm'])) > 3).mean(0).max(1)  # (n,)
    return '' if far.max() <= 0.5 else (
        f'column {dataset.columns[far.argmax()]!r} of {dataset.name}: most values lie more than 3 standard '
        'deviations from what the checkpoint learned: is it the same column, in the same unit?')


def named(columns):
    """Not c0, c1, .., which stand for names."""
    return any(name != f'c{name[1:]}' or not name[1:].isdigit() for name in columns)


def check_norm(dataset, checkpoint):
    """Fails unless a checkpoint's scale and columns are such as fit_norm and a data set make."""
    norm, columns = checkpoint['norm'] or {'kind': 'none'}, checkpoint.get('columns')
    shape = (3,) if dataset.is_images else (dataset.n, dataset.d_raw)
    parts = dict(none=(), standard=('mean', 'std'), quantile=('quantiles',))
    try:
        tensors = [norm[k] for k in parts[norm['kind']]]
        right = all(t.shape[-len(shape):] == shape and bool(torch.isfinite(t).all()) for t in tensors)
        right = right and (norm['kind'] != 'standard' or bool((norm['std'] > 0).all()))
        right = right and all(type(name) is str for name in columns or ())
    except (AttributeError, KeyError, TypeError):
        right = False
    if not right:
        fail('the checkpoint is damaged: its norm or columns are not those of any data set')


def name_of(dataset):
    """'esol' for the data set of that name and for some/esol.csv.gz: what its output is called."""
    return Path(dataset.split(',')[0]).name.split('.')[0]


class Dataset:
    """A prepared folder, mapped into memory. Splits that the source does not tell are drawn by shares."""

    def __init__(self, folder, val_share=0.0, test_share=0.0, split_seed=0):
        self.folder, self.meta = Path(folder), json.loads((Path(folder) / 'meta.json').read_text())
        for file, (size, _) in self.meta['files'].items():
            if not (self.folder / file).exists() or (self.folder / file).stat().st_size != size:
                fail(f'{self.folder}/{file} is missing or cut short: remove {self.folder}, it is made again')
        # what it is made of, to tell whether it is still the same
        self.fingerprint = ' '.join(f'{file} {crc:08x}' for file, (_, crc) in self.meta['files'].items()
                                    if file in ('x.bin', 'split.bin'))
        self.name = self.folder.name.rpartition('-')[0]
        self.is_bytes, self.is_images = self.meta['kind'] == 'bytes', self.meta['kind'] == 'images'
        self.d_raw, self.n, self.columns = self.meta['d_raw'], self.meta['n'], self.meta['columns']
        self.y = np.fromfile(self.folder / 'y.bin', np.float64)
        self.split = np.fromfile(self.folder / 'split.bin', np.int8)
        if min(val_share, test_share) < 0 or val_share + test_share >= 1:
            fail(f'val_share={val_share} and test_share={test_share} must leave something to train on')
        for drawn, share in ((DRAW, test_share), (DRAW_VAL, 0.0)):
            self.draw(np.flatnonzero(self.split == drawn), val_share, share, split_seed)
        if self.is_bytes:
            self.x = np.memmap(self.folder / 'x.bin', np.uint8, 'r')
            self.offsets = np.fromfile(self.folder / 'offsets.bin', np.int64)
            firsts = self.folder / 'firsts.bin'
            self.firsts = np.fromfile(firsts, np.int64) if firsts.exists() else None
        elif self.is_images:
            side = stored_side(self.meta['image_size'])
            self.x = np.memmap(self.folder / 'x.bin', np.uint8, 'r', shape=(len(self.y), side, side, 3))
        else:
            self.x = np.memmap(self.folder / 'x.bin', np.float32, 'r', shape=(len(self.y), self.n, self.d_raw))
        self.norm = {'kind': 'none'}  # how floats are scaled: fit_norm's answer, or a checkpoint's
        self.kept, self.kept_norm = None, None  # on the device: a table by that norm; of images, mean and std
        self.width_step = 1  # widths of bytes are multiples of it
        self.max_len = None  # most tokens of a row, CLS and SEP included; a longer sequence loses its end
        self.n_cut = 0  # how many do

    def draw(self, rows, val_share, test_share, seed):
        """
        Deals these rows out among the splits. A user's file by a hash of the inputs of each row: a row that is
        added moves no other, rows that are there twice stay together, and a file without labels is split as
        one with them. So the shares are met, and classes stratified, in expectation only. Data sets known by
        name are drawn by a permutation, as ever: printed numbers hang on it.
        """
        keys = self.folder / 'keys.bin'
        if keys.exists():
            odd = np.random.default_rng(seed).integers(2 ** 64, dtype=np.uint64, endpoint=False) | np.uint64(1)
            at = np.fromfile(keys, np.uint64)[rows] * odd / 2.0 ** 64  # multiplied modulo 2^64: (k,) in [0, 1)
            self.split[rows] = np.where(at < test_share, 2, at < test_share + val_share)
            return
        order = np.random.default_rng(seed).permutation(rows)  # not the run's seed: all stages must agree
        n_test, n_val = round(test_share * len(rows)), round(val_share * len(rows))
        self.split[rows] = 0
        self.split[order[:n_test]], self.split[order[n_test:n_test + n_val]] = 2, 1

    def set_lengths(self, seq_len, max_len=None):
        """Settles max_len, counts what it cuts. seq_len None = as the longest row. -> the model's seq_len"""
        if not self.is_bytes:
            if seq_len not in (None, self.n):
                fail(f'seq_len={seq_len}, but each row of {self.name} has {self.n} inputs: ' +
                     ('is --dataset missing?' if self.name == 'collider' else 'leave seq_len unset'))
            return self.n
        lengths = self.lengths(np.arange(len(self.y)))
        if seq_len is None:
            seq_len = max_len or -(-int(lengths.max()) // 16) * 16
        self.max_len = max_len or seq_len
        if not 3 <= self.max_len <= seq_len:
            fail(f'max_len={self.max_len} must leave a byte between CLS and SEP, and not pass {seq_len=}')
        self.n_cut = int((lengths > self.max_len).sum())
        return seq_len

    def rows(self, split):
        """The row numbers of a split, 'train', 'val' or 'test'; or of 'all'. -> (k,) int64"""
        if split == 'all':
            return np.arange(len(self.y))
        return np.flatnonzero(self.split == SPLITS.index(split))

    def lengths(self, rows):
        """Tokens of each row: CLS bytes SEP, or CLS a SEP b SEP, cut at max_len; or n. -> (k,) int64"""
        if not self.is_bytes:
            return np.full(len(rows), self.n, np.int64)
        full = self.offsets[rows + 1] - self.offsets[rows] + (2 if self.firsts is None else 3)
        return full if self.max_len is None else np.minimum(full, self.max_len)

    def width(self, rows):
        """
        The width a batch of these rows is padded to: its longest row's, or the next multiple of width_step,
        which is 1 but where few widths are worth it (runtime.open_data). A multiple of 16 would make one
        place in seven of a SMILES batch padding, and save torch.compile nothing: one program takes any width.
        """
        width = -(-int(self.lengths(rows).max()) // self.width_step) * self.width_step
        return min(width, self.max_len or width)

    def labels(self, rows):
        """The labels of rows as the file has them: floats, or text where they are text; None = no label."""
        return self.label_values(self.y[rows])

    def label_values(self, y):
        """The same of numbers out of y.bin."""
        names = self.meta['classes']
        return [None if np.isnan(v) else names[int(v)] if names else float(v) for v in y]

    def row_names(self, file):
        """What tells the rows of a file of which nothing was left out: their numbers from 1, or file names."""
        if not self.is_images:
            return range(1, len(self.y) + 1)
        from prepare import image_files  # upwards, as in open_dataset
        return [path.relative_to(file) for path, _, _ in image_files(file, Counter())]

    def batch(self, rows, width=None):
        """
        rows (B,) -> x, valid. Bytes: x (B, width) int64 ids CLS bytes SEP PAD.., valid (B, width) bool, False
        = PAD; None where no row has any. Floats: x (B, n, d_raw) float32, scaled by self.norm, valid None; or
        the (B,) rows, if `keep_on` has them on the device. Images: x (B, S, S, 3) uint8, valid None.
        """
        if self.is_images:
            return torch.from_numpy(self.x[rows]), None
        if not self.is_bytes:
            there = self.kept_norm is self.norm and self.there[rows].all()
            return torch.from_numpy(rows if there else normalise(self.x[rows], self.norm)), None
        lengths, width = self.lengths(rows), width or self.width(rows)
        ids = np.full((len(rows), width), PAD, np.int64)
        ids[:, 0] = CLS
        for i, (row, n) in enumerate(zip(rows, lengths)):
            start, a = self.offsets[row], n - 2
            if self.firsts is not None:  # a pair: if it is too long, the longer of the two loses its end
                first, room = self.firsts[row], n - 3
                middle = start + first
                b = min(self.offsets[row + 1] - middle, max(room // 2, room - first))
                a = room - b
                ids[i, a + 2:n - 1] = self.x[middle:middle + b]
            ids[i, 1:a + 1] = self.x[start:start + a]
            ids[i, 1:n - 1] += FIRST_BYTE
            ids[i, a + 1] = ids[i, n - 1] = SEP  # of a single sequence they are one place
        valid = torch.from_numpy(np.arange(width) < lengths[:, None])
        return torch.from_numpy(ids), None if (lengths == width).all() else valid  # no mask: faster attention

    def keep_on(self, device, rows):
        """
        Keeps these rows of a float table that fits on the device there, scaled once: a batch is then an index.
        """
        if self.is_bytes or self.is_images:
            return
        if self.kept_norm is not self.norm:
            self.kept, self.kept_norm = None, None
            if not fits(self.x.nbytes, device):
                return
            self.kept, self.kept_norm = torch.empty(self.x.shape, device=device), self.norm
            self.there = np.zeros(len(self.y), bool)  # the rows of `kept` that are filled
        new = np.sort(rows[~self.there[rows]])
        for at in range(0, len(new), CHUNK):
            part = new[at:at + CHUNK]
            x = torch.from_numpy(normalise(self.x[part], self.norm))
            self.kept[torch.from_numpy(part).to(device)] = x.to(device)
        self.there[new] = True

    def inputs(self, x, scale=None, change=None):
        """
        What the model reads, made on the device from the x of `batch`. Bytes and floats are that already;
        rows (B,) of a table kept there are looked up. Images (B, S, S, 3) uint8 -> (B, image_size**2, 3)
        float32, scaled by self.norm: the central square, or, with a scale, random crops of that share of the
        area, half of them mirrored. `change`: a function of the pictures (B, 3, image_size, image_size) in
        [0, 1], before they are scaled. Randomness: torch's global generators.
        """
        if not self.is_images:
            return self.kept[x] if x.ndim == 1 else x
        x, size = x.permute(0, 3, 1, 2) / 255, self.meta['image_size']  # (B, 3, S, S)
        if scale is None:
            at = round((x.shape[2] - size) / 2)
            x = x[:, :, at:at + size, at:at + size]
        else:
            boxes = random_boxes(len(x), x.shape[2], scale, x.device)
            x = crop(x, *boxes, torch.rand(len(x), device=x.device) < 0.5, size)
        x = x if change is None else change(x)
        x = x.flatten(2).transpose(1, 2)  # (B, n, 3), one input a pixel, row by row
        if self.norm['kind'] == 'none':
            return x
        if self.kept_norm is not self.norm:  # copied once: each copy would wait for the device
            self.kept, self.kept_norm = [self.norm[k].to(x.device) for k in ('mean', 'std')], self.norm
        return (x - self.kept[0]) / self.kept[1]


def fits(nbytes, device):
    """Whether a table of that size may stay on the device: a GPU, and a quarter of what is free on it."""
    return torch.device(device).type == 'cuda' and nbytes <= torch.cuda.mem_get_info(device)[0] / 4


def describe(dataset):
    """Prints what was read: rows, lengths or columns, labels, a sample, what was left out and why."""
    meta, first = dataset.meta, next(iter(dataset.rows('train')), 0)
    counts = ', '.join(f'{name} {len(dataset.rows(name)):,}' for name in SPLITS)
    print(f'{dataset.folder}: {meta["rows"]:,} rows of {meta["kind"]}: {counts}')
    for why, n in meta['left_out'].items():
        print(f'left out: {n:,} {why}')
    for note in meta['notes']:
        print(printable(f'note: {note}'))
    if dataset.is_bytes:
        lengths = dataset.lengths(np.arange(meta['rows']))
        print('tokens a row (CLS and SEP included): ' + ', '.join(
            f'{name} {int(v):,}' for name, v in zip(('min', 'median', '95 %', 'max'),
                                                    np.percentile(lengths, (0, 50, 95, 100)))))
        if lengths.max() > 10 * np.percentile(lengths, 99):
            print('note: the longest row is ten times as long as 99 % of them, and the model is made for it: '
                  '--max_len cuts it')
        sample = bytes(dataset.x[dataset.offsets[first]:dataset.offsets[first + 1]])
        print('sample:', printable(sample[:100].decode('utf-8', errors='replace')))
    elif dataset.is_images:
        print(f'{meta["image_size"]} x {meta["image_size"]} pixels of {dataset.d_raw} channels, cut from '
              f'{" x ".join(map(str, dataset.x.shape[1:3]))}')
    else:
        print(printable(f'{dataset.n} inputs of {dataset.d_raw} float(s); the first row: ' + ', '.join(
            f'{c} {v:.3g}' for c, v in list(zip(dataset.columns, dataset.x[first, :, 0]))[:8]) + ', ...'))
    y = dataset.y[~np.isnan(dataset.y)]
    if len(y):
        values, n = np.unique(y, return_counts=True)
        names = meta['classes'] or [f'{v:g}' for v in values]
        if len(values) <= 10:
            said = ', '.join(f'{name} {k:,}' for name, k in zip(names, n))
        else:
            said = (f'{len(values):,} values, mean {y.mean():.4g}, std {y.std():.4g}, '
                    f'min {y.min():.4g}, max {y.max():.4g}')
        print(printable(f'labels on {len(y):,} rows: {said}'))


# -----------------------------------------------------------------------------
# batches

def epoch_batches(dataset, rows, batch_size, seed, epoch):
    """
    One epoch in random order: (n_batch, batch_size) row numbers. A pure function of (seed, epoch): every rank
    computes the same, and a resumed run finds its place in it. What does not fill a last batch waits for
    another epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    n_batch = len(rows) // batch_size
    order = rng.permutation(rows)[:n_batch * batch_size]
    if dataset.is_bytes:
        # alike lengths share a batch, so little is padding: sort inside pools of 64 batches, then shuffle the
        # batches
        pools = [order[i:i + 64 * batch_size] for i in range(0, len(order), 64 * batch_size)]
        order = np.concatenate([pool[np.argsort(dataset.lengths(pool), kind='stable')] for pool in pools])
    return rng.permutation(order.reshape(n_batch, batch_size))


def scoring(dataset, rows, batch_size, run):
    """
    All rows once, for scoring, on the device: (batch number, places of its rows in `rows`, x, valid). Rows of
    alike length share a batch, the longest first, so that lack of memory shows early. Ranks take the batches
    in turn.
    """
    lengths, starts = dataset.lengths(rows), [0]
    order = np.argsort(-lengths, kind='stable')
    while starts[-1] < len(rows):
        starts.append(starts[-1] + at_once(batch_size, int(lengths[order[starts[-1]]]), run.device))
    parts = [(i, order[slice(*ends)]) for i, ends in enumerate(itertools.pairwise(starts))]
    dataset.keep_on(run.device, rows)
    batches = ((i, torch.from_numpy(at), *dataset.batch(rows[at])) for i, at in parts[run.rank::run.world])
    for i, at, x, valid in prefetch(batches, run.device):
        yield i, at, dataset.inputs(x), valid


def at_once(batch_size, length, device):
    """How many rows of that length are scored at once. A small model leaves a GPU idle at the batch_size."""
    return max(batch_size, TOKENS // length) if torch.device(device).type == 'cuda' else batch_size


def micro_batches(dataset, rows, batch_size, accumulation, seed, step, run, labels=None):
    """
    Endless micro-batches of this rank from optimiser step `step` on: (x, valid, labels or None, the whole
    step's rows), on the device. A step's rows are dealt out among ranks and accumulation in turn, so all
    share one width.
    """
    n_micro, steps_per_epoch = accumulation * run.world, len(rows) // batch_size
    steps = (whole for epoch in itertools.count(step // steps_per_epoch)
             for whole in epoch_batches(dataset, rows, batch_size, seed, epoch))

    def deal():
        for whole in itertools.islice(steps, step % steps_per_epoch, None):
            for micro in range(run.rank, n_micro, run.world):
                mine = whole[micro::n_micro]
                x, valid = dataset.batch(mine, dataset.width(whole))
                yield x, valid, None if labels is None else labels[mine], whole
    dataset.keep_on(run.device, rows)
    return prefetch(deal(), run.device)


def prefetch(batches, device):
    """
    Moves (x, valid, ...) to the device. On CUDA a thread builds the next batches in pinned memory meanwhile;
    elsewhere there is nothing to overlap with and it is a plain loop. None and non-tensors pass through.
    """
    on_cuda = torch.device(device).type == 'cuda'

    def move(t, pin=False):
        if not torch.is_tensor(t):
            return t
        return t.pin_memory() if pin else t.to(device, non_blocking=on_cuda)  # safe from pinned memory only

    if not on_cuda:
        for batch in batches:
            yield tuple(move(t) for t in batch)
        return
    pinned = (tuple(move(t, pin=True) for t in batch) for batch in batches)
    with ThreadPoolExecutor(1) as thread:
        ahead = deque(thread.submit(next, pinned, None) for _ in range(4))
        while (batch := ahead.popleft().result()) is not None:  # what went wrong in the thread is raised here
            ahead.append(thread.submit(next, pinned, None))
            yield tuple(move(t) for t in batch)


# -----------------------------------------------------------------------------
# scaling

def fit_norm(dataset, rows, kind):
    """
    'standard': mean and standard deviation of each input. 'quantile': ranks mapped to a Gaussian, as
    Gorishniy et al. 2021 (github.com/yandex-research/rtdl) do with scikit-learn's QuantileTransformer: up to
    1,000 quantiles of the values plus a little noise, which spreads the ties of discrete features. 'none': as
    they are.
    """
    if kind not in ('standard', 'quantile', 'none'):
        fail(f'norm={kind!r}: standard, quantile or none')
    if kind == 'none' and dataset.meta['kind'] == 'floats' and np.isnan(dataset.x).any():
        fail('norm=none knows no mean to put in for what is missing: standard or quantile')
    if dataset.is_bytes or kind == 'none':
        return {'kind': 'none'}
    if dataset.is_images:  # of each channel, over the pixels of 1,000 images
        if kind != 'standard':
            fail(f'norm={kind!r}: images take standard or none')
        some = (dataset.x[row] / 255 for row in np.random.default_rng(0).permutation(rows)[:1000])
        mean, square = torch.tensor(np.mean([(x.mean((0, 1)), (x ** 2).mean((0, 1))) for x in some], 0))
        std = (square - mean ** 2).clamp(min=0).sqrt()
        return {'kind': kind, 'mean': mean.float(), 'std': torch.where(std > 1e-6, std, 1.0).float()}
    if kind == 'standard':
        n, total, square = 0, 0.0, 0.0
        shift = dataset.x[rows[:CHUNK]].astype(np.float64)  # about the mean: squares do not cancel
        shift = np.nansum(shift, 0) / np.maximum((~np.isnan(shift)).sum(0), 1)
        for at in range(0, len(rows), CHUNK):
            x = dataset.x[rows[at:at + CHUNK]].astype(np.float64) - shift  # NaN: missing
            n, total = n + (~np.isnan(x)).sum(0), total + np.nansum(x, 0)
            square = square + np.nansum(x ** 2, 0)
        n = np.maximum(n, 1)
        std = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0))
        std[std == 0] = 1  # a constant input stays constant
        return {'kind': kind, 'mean': torch.from_numpy((shift + total / n).astype(np.float32)),
                'std': torch.from_numpy(std.astype(np.float32))}
    rng = np.random.default_rng(0)
    x = dataset.x[np.sort(rng.permutation(rows)[:200_000])].astype(np.float64)  # (k, n, d_raw)
    x += rng.normal(size=x.shape) * 1e-3 / np.maximum(np.nanstd(x, 0), 1e-3)
    n_quantiles = max(min(len(rows) // 30, 1000), 10)
    quantile = np.nanquantile if np.isnan(x).any() else np.quantile  # the first is slow
    quantiles = quantile(x, np.linspace(0, 1, n_quantiles), axis=0)  # (n_quantiles, n, d_raw)
    return {'kind': kind, 'quantiles': torch.from_numpy(quantiles)}


def normalise(x, norm):
    """x (B, n, d_raw) float32 -> the same, scaled by fit_norm's statistics."""
    if norm['kind'] == 'none':
        return x
    if norm['kind'] == 'standard':
        return np.nan_to_num((x - norm['mean'].numpy()) / norm['std'].numpy(), copy=False)  # missing: the mean
    q = norm['quantiles'].numpy()  # (n_quantiles, n, d_raw) float64
    levels, rank = np.linspace(0, 1, len(q)), np.empty(x.shape, np.float64)
    for i, j in np.ndindex(x.shape[1:]):
        # from below and from above, so that a value repeated in many quantiles gets the middle of its ranks
        v, q_ij = x[:, i, j].astype(np.float64), q[:, i, j]
        rank[:, i, j] = (np.interp(v, q_ij, levels) - np.interp(-v, -q_ij[::-1], -levels[::-1])) / 2
        rank[v - 1e-7 < q_ij[0], i, j], rank[v + 1e-7 > q_ij[-1], i, j] = 0, 1
    gauss = torch.special.ndtri(torch.from_numpy(rank))
    gauss = gauss.clamp(-5.199337582605575, 5.19933758270342).float()  # scikit-learn's ends
    return gauss.nan_to_num(0.0).numpy()  # missing: the median


# -----------------------------------------------------------------------------
# scores: y (N,) true labels; p (N,) predictions, scores or (N, C) logits

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
    return f1_of(y == 1, chosen(p) == 1)


def f1_of(there, answered):
    return float(2 * (answered & there).sum() / max(answered.sum() + there.sum(), 1))


def log_loss(y, p):
    """-log of the probability of the true class, the mean."""
    p = np.stack([np.zeros(len(p)), p], 1) if p.ndim == 1 else p
    p = p - p.max(1, keepdims=True)
    return float((np.log(np.exp(p).sum(1)) - p[np.arange(len(y)), y.astype(np.int64)]).mean())


def macro_f1(y, p):
    """The mean of each class's F1."""
    c = chosen(p)
    return float(np.mean([f1_of(y == k, c == k) for k in np.union1d(y, c)]))


def correlation(a, b):
    """Pearson's; 0 where all of one are the same."""
    a, b = a - np.mean(a), b - np.mean(b)
    scale = np.sqrt((a ** 2).sum() * (b ** 2).sum())
    return float((a * b).sum() / scale) if scale else 0.0


def matthews(y, p):
    """Matthews correlation of two classes (GLUE's measure for CoLA)."""
    return correlation(y, chosen(p))


def rmse(y, p):
    return float(np.sqrt(((p.astype(np.float64) - y) ** 2).mean()))


def mae(y, p):
    """Mean absolute error."""
    return float(np.abs(p - y).mean())


def r2(y, p):
    """The share of the variance that is explained: 1 - squared error / variance; 0 where y is constant."""
    variance = ((y - y.mean()) ** 2).sum()
    return float(1 - ((p - y) ** 2).sum() / variance) if variance else 0.0


def spearman(y, p):
    """Correlation of the ranks."""
    return correlation(ranks(y), ranks(p))


def class_numbers(labels, classes):
    """Labels -> their numbers in the list of classes (N,) int64; fails on a label that is not among them."""
    number = {c: i for i, c in enumerate(classes)}
    odd = [v for v in labels if v not in number]
    if odd:
        fail(f'{len(odd)} rows have labels outside the classes to learn, {odd[0]!r} for one; the classes are '
             f'{", ".join(map(str, classes[:10]))}{", ..." * (len(classes) > 10)}')
    return np.array([number[v] for v in labels], np.int64)


METRICS = {  # name: (function, targets that it fits, 1 = more is better and -1 = less is)
    'accuracy': (accuracy, ('binary', 'multiclass'), 1),
    'log_loss': (log_loss, ('binary', 'multiclass'), -1),
    'roc_auc': (roc_auc, ('binary',), 1),
    'f1': (f1, ('binary',), 1),
    'macro_f1': (macro_f1, ('multiclass',), 1),
    'matthews': (matthews, ('binary',), 1),
    'rmse': (rmse, ('regression',), -1),
    'mae': (mae, ('regression',), -1),
    'r2': (r2, ('regression',), 1),
    'spearman': (spearman, ('regression',), 1),
}


def score(outcome, labels, p):
    """
    The metric of predictions p (N, n_out) from the fine-tuning head. `outcome` (see settle_outcome) travels
    in the checkpoint; of a regression it has mean and std, by which predictions go back to the labels' own
    units.
    """
    metric, p = METRICS[outcome['metric']][0], p.astype(np.float64)
    if outcome['target'] == 'regression':
        return metric(np.array(labels), answers(outcome, p))
    return metric(class_numbers(labels, outcome['classes']), p[:, 0] if outcome['target'] == 'binary' else p)


def scores(outcome, labels, p):
    """{metric: value} of all that fit the target, the one that selects first; a metric that needs both classes
    is left out where they are not there."""
    values = {outcome['metric']: score(outcome, labels, p)}
    for name, (_, targets, _) in METRICS.items():
        if name not in values and outcome['target'] in targets and (name != 'roc_auc' or len({*labels}) == 2):
            values[name] = score({**outcome, 'metric': name}, labels, p)
    return values


def answers(outcome, p):
    """Predictions p (N, n_out) as people read them: (N,) in the labels' units, or (N, C) probabilities."""
    p = p.astype(np.float64)
    if outcome['target'] == 'regression':
        return p[:, 0] * outcome['std'] + outcome['mean']
    p = np.concatenate([np.zeros_like(p), p], 1) if outcome['target'] == 'binary' else p
    p = np.exp(p - p.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def no_answer(outcome, y, n):
    """What a model says of n rows that knows the labels y alone: their mean, or how often each class is."""
    if outcome['target'] == 'regression':
        return np.zeros((n, 1))  # standardised
    p = np.log(np.bincount(y, minlength=len(outcome['classes'])))
    return np.tile(p[1:] - p[0] if outcome['target'] == 'binary' else p, (n, 1))


def all_alike(outcome, p):
    """Does a model answer the same for every row: one class, or numbers within 1 % of the labels' spread?"""
    if outcome['target'] == 'regression':
        return len(p) > 1 and bool(np.ptp(p) < 0.01)
    return len(p) > 1 and len({*chosen(p[:, 0] if outcome['target'] == 'binary' else p)}) == 1


def merit(outcome, value):
    """A score as a number to be made large."""
    return METRICS[outcome['metric']][2] * value


def settle_outcome(dataset, target, metric, splits=SPLITS):
    """
    What is to be predicted. -> outcome, a dict of target (binary, multiclass or regression), metric, and
    classes (None for a regression); {split: its rows that have a label}; and a sentence about a target that
    had to be guessed.

    target and metric None: those of a data set known by name. A file's target is inferred from its labels:
    two values are binary, text or up to 20 whole numbers classes, all else a regression.
    """
    rows = {split: dataset.rows(split) for split in splits}
    rows = {split: r[~np.isnan(dataset.y[r])] for split, r in rows.items()}
    for split, r in rows.items():
        if not len(r):
            fail(f'{dataset.name} has no labelled {split} rows: see label_column and the split knobs')
    values, note = np.unique(dataset.y[rows['train']]), ''
    if len(values) == 1:
        fail(f'all {len(rows["train"]):,} training labels of {dataset.name} are '
             f'{dataset.label_values(values)[0]!r}: there is nothing to learn, see label_column')
    if not (target or dataset.meta['target']):
        whole = dataset.meta['classes'] or (values == values.round()).all() and len(values) <= 20
        target = 'binary' if len(values) == 2 else 'multiclass' if whole else 'regression'
        note = f'target: {target}, as the labels have {len(values):,} values; --target= says otherwise'
    target = target or dataset.meta['target']
    if target not in ('binary', 'multiclass', 'regression'):
        fail(f'target={target!r}: binary, multiclass or regression')
    metric = metric or dataset.meta['metric'] or ('rmse' if target == 'regression' else 'accuracy')
    if metric not in METRICS:
        fail(f'metric={metric!r}: one of {", ".join(METRICS)}')
    if target not in METRICS[metric][1]:
        fail(f'metric={metric} does not fit target={target}')
    if target == 'regression':
        if dataset.meta['classes']:  # sorted: text comes after numbers
            fail(f'target=regression, but labels are text, such as {dataset.meta["classes"][-1]!r}')
        return dict(target=target, metric=metric, classes=None), rows, note
    classes = sorted(dataset.label_values(values))
    if target == 'binary' and len(classes) != 2:
        fail(f'target=binary, but the training labels have {len(classes)} values: say --target=multiclass or '
             'regression')
    odd = next((c for c in classes if isinstance(c, float) and c != round(c)), None)
    if odd is not None:
        fail(f'target={target}, but the label {odd:g} is no class: say --target=regression')
    for split in splits:  # fails on a class that no training row has
        class_numbers(dataset.labels(rows[split][~np.isin(dataset.y[rows[split]], values)]), classes)
    return dict(target=target, metric=metric, classes=classes), rows, note


def learnable(dataset, rows, outcome):
    """The labels of rows as a model learns them: class numbers, or standardised. -> y (k,), outcome"""
    if outcome['target'] != 'regression':
        return class_numbers(dataset.labels(rows), outcome['classes']), outcome
    y = dataset.y[rows]
    outcome = {**outcome, 'mean': float(y.mean()), 'std': float(y.std()) or 1.0}
    return (y - outcome['mean']) / outcome['std'], outcome


# -----------------------------------------------------------------------------
# images on the device: x (B, 3, H, W) float32 in [0, 1]; each function treats the whole batch at once

def stored_side(image_size):
    """S: evaluation resizes to image_size / 0.875 and keeps the centre (the authors' code)."""
    return round(image_size / 0.875)


def random_boxes(n, side, scale, device):
    """
    RandomResizedCrop's rule (Szegedy et al. 2015, as torchvision has it): a share of the area drawn from
    `scale`, a ratio of width to height of 3/4 to 4/3, uniform in its logarithm, whole pixels; the first of
    ten tries that fits the square, else all of it. -> top, left, height, width, each (n,) float
    """
    area = side ** 2 * torch.empty(10, n, device=device).uniform_(*scale)
    ratio = torch.empty(10, n, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    whole = torch.full((1, n), float(side), device=device)
    width, height = (torch.cat([v.sqrt().round().clamp(min=1), whole]) for v in (area * ratio, area / ratio))
    first = ((width <= side) & (height <= side)).int().argmax(0, keepdim=True)  # argmax: the first of equals
    width, height = width.gather(0, first)[0], height.gather(0, first)[0]
    top, left = (torch.floor(torch.rand(n, device=device) * (side - v + 1)) for v in (height, width))
    return top, left, height, width


def resize_weights(start, length, n_in, n_out):
    """
    The matrix that resizes a line of n_in pixels, from `start` on over `length`, to n_out: (B,), (B,) -> (B,
    n_out, n_in). Bicubic (a = -0.5) and, where it shrinks, wider by as much (antialiased), as Pillow does.
    """
    scale = (length / n_out)[:, None]
    centre = start[:, None] + (torch.arange(n_out, device=start.device) + 0.5) * scale  # (B, n_out)
    pixel = torch.arange(n_in, device=start.device) + 0.5
    t = (pixel - centre[..., None]).abs() / scale.clamp(min=1)[..., None]  # (B, n_out, n_in)
    w = torch.where(t < 1, (1.5 * t - 2.5) * t ** 2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2) * (t < 2)
    start, end = start[:, None, None], (start + length)[:, None, None]
    w = w * ((pixel > start) & (pixel < end))  # what lies outside the box is not seen
    return w / w.sum(-1, keepdim=True)


def crop(x, top, left, height, width, mirror, size):
    """Boxes (B,) each, resized to size x size; those with mirror (B,) bool up are flipped left to right."""
    rows = resize_weights(top, height, x.shape[2], size)
    columns = resize_weights(left, width, x.shape[3], size)
    columns = torch.where(mirror[:, None, None], columns.flip(1), columns)
    return (rows[:, None] @ x @ columns[:, None].transpose(2, 3)).clamp(0, 1)  # bicubic overshoots at edges
