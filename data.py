"""
The prepared folder -> batches on the device; scaling of floats; scores.

    from data import open_dataset                   at a Python prompt
    d = open_dataset('collider')                    or a name that `python data.py` lists, or your file
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
import shutil
import sys
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from configurator import configure, defaults_of
from masking import FIRST_BYTE
from util.augment import crop, random_boxes
from util.checks import check_fits
from util.errors import fail, printable, run_cli
from util.files import CHUNK, file_format
from util.images import image_files, stored_side
from util.prepare import DATASETS, prepare, prepared
from util.runtime import print0, warn
from util.scaling import fit_norm, normalise
from util.splits import DRAW, DRAW_VAL, SPLITS
from util.tables import TABLES

# knobs of `python data.py NAME`; the stages have the same
dataset: str | None = None  # a name that `python data.py` lists, or a file, or a folder of images
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: a text column, or numbers 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # csv: the label's column, -1 = the last. npz: 'y'
drop_column: str | None = None  # csv: columns 'a,b' that are no inputs
split_column: str | None = None  # csv: a column that says train, val or test
val_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
val_share: float | None = None  # without those: the share of rows drawn for validation
test_share: float | None = None  # and for the test
split_seed: int | None = None  # another number draws other rows
missing: str | None = None  # a number that is missing: mean, or drop its row; None = an error
header: bool | None = None  # csv: the first line has the names; None = unless it holds only numbers
quotes: bool | None = None  # csv: False = quotation marks mean nothing
window: int | None = None  # text: join the lines, cut windows of so many bytes; None = a line a sequence
image_size: int | None = None  # images: side in pixels that the model sees
PAD, CLS, SEP = 0, 4, 5  # ids of Perceiver IO: byte b is b + FIRST_BYTE
TOKENS = 2 ** 16  # in a batch that a GPU scores, or more if batch_size has
PREPARE_KNOBS = {**defaults_of(__file__), 'val_share': 0.02, 'test_share': 0.1, 'split_seed': 0, 'image_size': 192}


def open_dataset(dataset, **knobs):
    """The data set of this name, file or folder, prepared if need be. knobs: those of prepare.py."""
    knobs = {**PREPARE_KNOBS, 'dataset': dataset, **{k: v for k, v in knobs.items() if v is not None}}
    return Dataset(prepare(knobs), knobs['val_share'], knobs['test_share'], knobs['split_seed'])


def data_knobs(config, checkpoint=None):
    """
    What opens the data set of a stage: its own knobs, and where they are None those of the run that made the
    checkpoint, if it is the same data set, else the defaults. Another table is read by the names of the
    columns that the checkpoint knows, so it may have more of them, in any order.
    """
    own = checkpoint['config'] if checkpoint else {}
    same, knobs = config['dataset'] in (None, own.get('dataset')), {}
    kind = file_format(config['dataset'] or '')
    carried = ('image_size',) + ('window',) * (kind == '.txt') + ('missing',) * (kind in TABLES)
    for name, default in PREPARE_KNOBS.items():
        kept = own.get(name) if same or name in carried else None
        knobs[name] = next((v for v in (config[name], kept, default) if v is not None), None)
    if checkpoint and not same and kind in TABLES:
        named = checkpoint.get('columns') if checkpoint['model_args']['d_raw'] else own.get('input_column')
        knobs['input_column'] = knobs['input_column'] or named
    knobs['categories'] = (checkpoint or {}).get('categories') or None
    return knobs


def settle_knobs(config, checkpoint=None):
    """Writes into a stage's config what the knobs about data come to, in place of None."""
    for name, value in data_knobs(config, checkpoint).items():
        if name in config:
            config[name] = value


def open_data(config, run, checkpoint=None):
    """
    The data set that the knobs name, or else the checkpoint's own; described, fitted to the checkpoint's
    model and scale, and with rows cut to what a model takes. -> Dataset, the model's seq_len
    """
    knobs = data_knobs(config, checkpoint)
    dataset = open_dataset(**knobs)
    if run.rank == 0:
        describe(dataset)
    seq_len, max_len = config.get('seq_len'), config.get('max_len')
    if checkpoint:
        own = checkpoint['config']
        moved = [f'{k} {own[k]} (now {knobs[k]})' for k in ('val_share', 'test_share', 'split_seed')
                 if own.get(k) not in (None, knobs[k])]
        if checkpoint.get('data', dataset.fingerprint) != dataset.fingerprint:
            moved.append(f'other contents of {dataset.name}')
        if moved and own.get('dataset') == knobs['dataset']:
            print0(run, f'warning: the checkpoint was trained with {", ".join(moved)}: rows that it learned from '
                     'may be validation or test rows now')
        warn(run, check_fits(dataset, checkpoint))
        dataset.norm = checkpoint['norm'] or \
            fit_norm(dataset, dataset.rows('train'), config.get('norm') or 'standard')
        seq_len, max_len = checkpoint['model_args']['seq_len'], max_len or checkpoint['config'].get('max_len')
    seq_len = dataset.set_lengths(seq_len, max_len)
    if dataset.n_cut:
        print0(run, f'{dataset.n_cut:,} of {len(dataset.y):,} sequences have more than {dataset.max_len} tokens '
                 'and lose their end')
    if dataset.is_bytes and run.device.type == 'cuda':
        # cuDNN plans attention anew for each width, in tens of milliseconds or more. A Perceiver has few
        # widths, as padding costs its first layer and decoder alone; a Transformer takes the other kernels
        if (checkpoint['model_args'] if checkpoint else config).get('n_latent'):
            dataset.width_step = 32
        else:
            torch.backends.cuda.enable_cudnn_sdp(False)
    return dataset, seq_len


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

    def same_as(self, fingerprint):
        return fingerprint == self.fingerprint

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
    run_cli(main)
