"""
Stage 0, and the loaders: a data set's name, or a file -> a prepared folder -> batches on the device.

    python data.py                           lists the data sets that are known by name, and what is prepared
    python data.py esol                      fetches and prepares one, and describes it
    python data.py my.csv --label_column=y   the same with a file of yours; --help lists all knobs

    from data import open_dataset            at a Python prompt
    d = open_dataset('collider')
    x, valid = d.batch(d.rows('train')[:8])

Preparation (util/prepare.py) makes a folder once, of flat files (util/storage.py says which). They are mapped
into memory here.
"""

import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configurator import configure, defaults_of
from masking import FIRST_BYTE
from util.augment import crop, random_boxes
from util.checks import check_fits, is_its_source
from util.errors import fail, printable, run_cli
from util.files import CHUNK, file_format, same_source
from util.images import image_files, stored_side
from util.loader import load
from util.prepare import list_datasets, prepare
from util.runtime import print0, warn
from util.scaling import NO_SCALE, fit_norm, normalise
from util.splits import DRAW, DRAW_VAL, SPLITS, draw_splits
from util.storage import fingerprint_of, read_meta, same_fingerprint
from util.summary import summary
from util.tables import TABLES

# -----------------------------------------------------------------------------
# ---- data; None = as in the run that made the checkpoint; without a checkpoint, the default that is named here
dataset: str | None = None  # a name that `python data.py` lists, a file of yours, or a folder of images
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # tables: a text column, or numbers 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # tables: the label's column, -1 = the last; None = no labels. npz: None = 'y'
drop_column: str | None = None  # tables: columns 'a,b' that are no inputs; None = none
split_column: str | None = None  # tables: a column that says train, val or test; None = drawn by the shares
val_file: str | None = None  # validation rows in a file of their own; None = drawn by val_share
test_file: str | None = None  # test rows in a file of their own; None = drawn by test_share
val_share: float | None = None  # the share of rows drawn for validation; None = 0.02
test_share: float | None = None  # the share of rows drawn for the test; None = 0.1
split_seed: int | None = None  # another number draws other rows; None = 0
missing: str | None = None  # where a number is missing: mean, or drop its row; None = an error
header: bool | None = None  # csv: whether the first line has the names; None = unless it looks like a row
quotes: bool | None = None  # csv: False = quotation marks mean nothing; None = True
window: int | None = None  # text: join the lines, cut windows of so many bytes; None = a line is a row
image_size: int | None = None  # images: side in pixels that the model sees; None = 192

DEFAULTS = {'val_share': 0.02, 'test_share': 0.1, 'split_seed': 0, 'image_size': 192}  # what None means
PREPARE_KNOBS = {**defaults_of(__file__), **DEFAULTS}
DEFAULT_DATASET = 'collider'  # where neither a knob nor a checkpoint names one
PAD, CLS, SEP = 0, 4, 5  # ids of Perceiver IO: byte b is b + FIRST_BYTE
TOKENS = 2 ** 16  # a GPU scores rows of up to so many together, or batch_size rows


# -----------------------------------------------------------------------------
# open a data set

def open_dataset(dataset: str, **knobs) -> 'Dataset':
    """A data set by its name, file or folder, prepared if need be. knobs: those above, None = the default."""
    settings = {**PREPARE_KNOBS, 'dataset': dataset}
    for name, value in knobs.items():
        if value is not None:
            settings[name] = value
    return Dataset(prepare(settings), settings['val_share'], settings['test_share'], settings['split_seed'])


def open_data(config: dict, run, checkpoint: dict | None = None) -> tuple['Dataset', int]:
    """
    The data set of a stage, described; with a checkpoint fitted to its model and scale. -> Dataset, seq_len

    config: the stage's knobs. seq_len is the model's; rows of bytes are cut to what the model takes.
    """
    knobs = data_knobs(config, checkpoint)
    dataset = open_dataset(**knobs)
    if run.rank == 0:
        describe(dataset)
    if checkpoint is None:
        model = config
        seq_len = dataset.set_lengths(config.get('seq_len'), config.get('max_len'))
    else:
        model = checkpoint['model_args']
        seq_len = fit_to_checkpoint(dataset, checkpoint, config, knobs, run)
    if dataset.n_cut:
        print0(run, f'{dataset.n_cut:,} of {len(dataset.y):,} sequences have more than {dataset.max_len} '
                    'tokens and lose their end')
    if dataset.is_bytes and run.device.type == 'cuda':
        # cuDNN plans attention anew for each width, in tens of milliseconds or more. So a Perceiver gets few
        # widths: padding costs little there, only in the first layer. For a Transformer cuDNN is turned off.
        if model.get('n_latent'):
            dataset.width_step = 32
        else:
            torch.backends.cuda.enable_cudnn_sdp(False)
    return dataset, seq_len


def data_knobs(config: dict, checkpoint: dict | None = None) -> dict:
    """
    The knobs that open a stage's data set. Each is the first of these that is not None:

    1. the stage's own,
    2. that of the run which made the checkpoint, if the data set is the same (else: carried_knobs),
    3. the default.
    """
    knobs = dict(PREPARE_KNOBS)
    for name in knobs:
        if config[name] is not None:
            knobs[name] = config[name]
    if checkpoint is None:
        return knobs

    trained_with = checkpoint['config']
    is_same = config['dataset'] is None or same_source(config['dataset'], trained_with.get('dataset'))
    carried = list(PREPARE_KNOBS) if is_same else carried_knobs(config, trained_with)
    for name in carried:
        if config[name] is None and trained_with.get(name) is not None:
            knobs[name] = trained_with[name]

    if not is_same and file_format(knobs['dataset']) in TABLES and not knobs['input_column']:
        # by the column names that the checkpoint knows: another table may have more columns, in any order
        columns = checkpoint.get('columns')
        if columns and not checkpoint['model_args']['d_raw']:
            columns = ','.join(columns)  # text; a list would say that they hold numbers
        knobs['input_column'] = columns
    knobs['categories'] = checkpoint.get('categories') or None  # how texts among numbers are numbered
    if isinstance(checkpoint.get('norm'), dict):
        knobs['x_type'] = checkpoint['norm'].get('x_type')  # float64 if float32 would lose digits
    return knobs


def settle_knobs(config: dict, checkpoint: dict | None = None):
    """Replaces each knob about data that is None in a stage's config by the value that was used."""
    for name, value in data_knobs(config, checkpoint).items():
        if name in config:
            config[name] = value


def carried_knobs(config: dict, trained_with: dict) -> list[str]:
    """The knobs of a checkpoint's run that are right for another data set too."""
    carried = ['image_size']
    ending = file_format(config['dataset'])
    is_same_format = ending == file_format(trained_with.get('dataset') or '')
    if ending == '.txt':
        carried.append('window')
    if ending in TABLES:
        carried.append('missing')
    if is_same_format and ending in ('.csv', '.tsv'):
        carried.append('quotes')
    if is_same_format and ending == '.npz':  # the names of its arrays
        carried.append('input_column')
        if not reads_whole_file(config):
            carried.append('label_column')
    return carried


def reads_whole_file(config: dict) -> bool:
    """Whether eval.py reads all rows of one file, for predictions or embeddings, with labels or without."""
    return bool(config.get('predict') or config.get('embed'))


def fit_to_checkpoint(dataset: 'Dataset', checkpoint: dict, config: dict, knobs: dict, run) -> int:
    """Give the data set the checkpoint's scale and lengths, and tell what has changed since. -> seq_len"""
    trained_with = checkpoint['config']
    if not reads_whole_file(config):
        warn(run, other_splits(dataset, checkpoint, knobs))
    warn(run, check_fits(dataset, checkpoint))
    dataset.norm = checkpoint['norm']
    if not dataset.norm:
        dataset.norm = fit_norm(dataset, dataset.rows('train'), config.get('norm') or 'standard')

    seq_len = checkpoint['model_args']['seq_len']
    max_len = trained_with.get('max_len') or seq_len
    new_max_len = config.get('max_len') or trained_with.get('max_len')
    if dataset.is_bytes and new_max_len and new_max_len != max_len:
        print0(run, f'the checkpoint was trained on up to {max_len} tokens a row, here they are up to '
                    f'{new_max_len}')
    return dataset.set_lengths(seq_len, new_max_len)


def other_splits(dataset: 'Dataset', checkpoint: dict, knobs: dict) -> str:
    """
    A warning, '' for none, if rows that a checkpoint learned from may be validation or test rows now: the file
    is the one that it was trained on, or a copy, and has other splits. knobs: those that opened the data set.
    """
    trained_with = checkpoint['config']
    changed = []
    for name in ('val_share', 'test_share', 'split_seed'):
        old = trained_with.get(name, knobs[name])
        if old is None:
            old = PREPARE_KNOBS[name]
        if dataset.is_drawn and old != knobs[name]:
            changed.append(f'{name} {old} (now {knobs[name]})')
    is_copy = False
    if 'data' in checkpoint:
        learned = checkpoint['data']
        is_copy = same_fingerprint(learned, dataset.fingerprint, but=('y.bin', 'split.bin'))
        if not same_fingerprint(learned, dataset.fingerprint, but=('y.bin',)):
            changed.append(f'other contents of {dataset.name}')
    if not changed or not (is_its_source(dataset, checkpoint) or is_copy):
        return ''
    return (f'the checkpoint was trained with {", ".join(changed)}: rows that it learned from may be '
            'validation or test rows now')


# -----------------------------------------------------------------------------

class Dataset:
    """A prepared folder, mapped into memory. Splits that the source does not give are drawn by the shares."""

    def __init__(self, folder, val_share: float = 0.0, test_share: float = 0.0, split_seed: int = 0):
        self.folder = Path(folder)
        self.name = self.folder.name.rpartition('-')[0]  # the folder is called NAME-HASH
        self.meta = read_meta(self.folder)
        self.is_bytes = self.meta['kind'] == 'bytes'
        self.is_images = self.meta['kind'] == 'images'
        self.fingerprint = fingerprint_of(self.meta)
        self.d_raw = self.meta['d_raw']
        self.n = self.meta['n']
        self.columns = self.meta['columns']
        self.y = np.fromfile(self.folder / 'y.bin', np.float64)
        self.open_inputs()
        if min(val_share, test_share) < 0 or val_share + test_share >= 1:
            fail(f'val_share={val_share} and test_share={test_share} must leave something to train on')
        split = np.fromfile(self.folder / 'split.bin', np.int8)
        self.is_drawn = bool(np.isin(split, (DRAW, DRAW_VAL)).any())  # the shares draw splits, or some of them
        self.split = draw_splits(split, self.read('keys.bin', np.uint64), val_share, test_share, split_seed)

        self.norm = dict(NO_SCALE)  # how floats are scaled: what fit_norm answers, or a checkpoint's
        self.scale = None  # images: (the norm, its mean and std on the device)
        self.table = None  # rows of floats on the device, scaled by table_norm
        self.table_norm = None
        self.in_table = None  # (N,) bool, the rows that are filled in
        self.width_step = 1  # widths of bytes are multiples of it
        self.max_len = None  # most tokens of a row, CLS and SEP included; a longer sequence loses its end
        self.n_cut = 0  # how many do

    def open_inputs(self):
        """x, and for bytes offsets (N + 1,) and firsts (N,), the length of the first of each pair, or None."""
        path = self.folder / 'x.bin'
        if self.is_bytes:
            self.x = np.memmap(path, np.uint8, 'r')
            self.offsets = self.read('offsets.bin', np.int64)
            self.firsts = self.read('firsts.bin', np.int64)
        elif self.is_images:
            side = stored_side(self.meta['image_size'])
            self.x = np.memmap(path, np.uint8, 'r', shape=(len(self.y), side, side, 3))
        else:
            self.x = np.memmap(path, self.meta['x_type'], 'r', shape=(len(self.y), self.n, self.d_raw))

    def read(self, file: str, dtype) -> np.ndarray | None:
        """A file of the folder, or None if the folder has none of that name."""
        if file not in self.meta['files']:
            return None
        return np.fromfile(self.folder / file, dtype)

    def same_as(self, fingerprint: str) -> bool:
        """Whether the data that a checkpoint was made from, by their fingerprint, are these."""
        return same_fingerprint(fingerprint, self.fingerprint)

    # ---- rows

    def rows(self, split: str) -> np.ndarray:
        """The row numbers of a split, 'train', 'val' or 'test', or of 'all'. -> (k,) int64"""
        if split == 'all':
            return np.arange(len(self.y))
        return np.flatnonzero(self.split == SPLITS.index(split))

    def labels(self, rows: np.ndarray) -> list:
        """The labels of rows as the file has them: floats, or text where they are text; None = no label."""
        return self.label_values(self.y[rows])

    def label_values(self, y: np.ndarray) -> list:
        """The same for numbers out of y.bin."""
        classes = self.meta['classes']
        labels = []
        for value in y:
            if np.isnan(value):
                labels.append(None)
            elif classes:
                labels.append(classes[int(value)])
            else:
                labels.append(float(value))
        return labels

    def row_names(self, file: str) -> Iterable:
        """Names for the rows of a file of which nothing was left out: numbers from 1, or names of images."""
        if not self.is_images:
            return range(1, len(self.y) + 1)
        images, _, _ = image_files(os.path.expanduser(file))
        return [path.relative_to(os.path.expanduser(file)) for path, _, _ in images]

    # ---- lengths

    def set_lengths(self, seq_len: int | None, max_len: int | None = None) -> int:
        """Set max_len, and count what it cuts. seq_len None = as the longest row. -> the model's seq_len"""
        if not self.is_bytes:
            if seq_len not in (None, self.n):
                advice = 'is --dataset missing?' if self.name == 'collider' else 'leave seq_len unset'
                fail(f'seq_len={seq_len}, but each row of {self.name} has {self.n} inputs: {advice}')
            return self.n
        lengths = self.lengths(np.arange(len(self.y)))
        if seq_len is None:
            seq_len = max_len or round_up(int(lengths.max()), 16)
        self.max_len = max_len or seq_len
        if not 3 <= self.max_len <= seq_len:
            fail(f'max_len={self.max_len} must leave a byte between CLS and SEP, and must not be more than '
                 f'seq_len={seq_len}')
        self.n_cut = int((lengths > self.max_len).sum())
        return seq_len

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of each row: CLS bytes SEP, or CLS a SEP b SEP, cut at max_len; or n. -> (k,) int64"""
        if not self.is_bytes:
            return np.full(len(rows), self.n, np.int64)
        n_special = 2 if self.firsts is None else 3
        lengths = self.offsets[rows + 1] - self.offsets[rows] + n_special
        if self.max_len is None:
            return lengths
        return np.minimum(lengths, self.max_len)

    def width(self, rows: np.ndarray) -> int:
        """
        The width that a batch of these rows is padded to: its longest row's, or the next multiple of
        width_step (1, but for a Perceiver on a GPU: open_data).
        """
        width = round_up(int(self.lengths(rows).max()), self.width_step)
        if self.max_len is None:
            return width
        return min(width, self.max_len)

    # ---- batches

    def batch(self, rows: np.ndarray, width: int | None = None) -> tuple[Tensor, Tensor | None]:
        """
        rows (B,) -> x, valid. `inputs` makes of x what the model reads.

        Bytes: x (B, width) int64 ids CLS bytes SEP PAD.., valid (B, width) bool, False = PAD; None where no row
        has any. Floats: x (B, n, d_raw) float32, scaled by self.norm, valid None; or the (B,) rows themselves,
        if `keep_on` has them on the device. Images: x (B, S, S, 3) uint8, valid None.
        """
        if self.is_images:
            return torch.from_numpy(self.x[rows]), None
        if self.is_bytes:
            if width is None:
                width = self.width(rows)
            return self.byte_batch(rows, width)
        if self.table_norm is self.norm and self.in_table[rows].all():
            return torch.from_numpy(rows), None
        return torch.from_numpy(normalise(self.x[rows], self.norm)), None

    def byte_batch(self, rows: np.ndarray, width: int) -> tuple[Tensor, Tensor | None]:
        lengths = self.lengths(rows)
        ids = np.full((len(rows), width), PAD, np.int64)
        ids[:, 0] = CLS
        for line, row, length in zip(ids, rows, lengths):
            start, end = self.offsets[row], self.offsets[row + 1]
            if self.firsts is None:  # CLS bytes SEP
                line[1:length - 1] = self.x[start:start + length - 2]
                line[1:length - 1] += FIRST_BYTE
            else:  # CLS bytes SEP bytes SEP
                n_first = self.firsts[row]
                begin_second = start + n_first
                n_second = end - begin_second
                room = length - 3
                if n_first + n_second > room:
                    # Too long: the second of the two gets half of the room, or what the first leaves.
                    # 10 places for 9 and 7 bytes: 5 and 5. For 3 and 9: 3 and 7.
                    n_second = min(n_second, max(room // 2, room - n_first))
                    n_first = room - n_second
                line[1:n_first + 1] = self.x[start:start + n_first]
                line[n_first + 2:length - 1] = self.x[begin_second:begin_second + n_second]
                line[1:length - 1] += FIRST_BYTE
                line[n_first + 1] = SEP
            line[length - 1] = SEP
        if (lengths == width).all():
            return torch.from_numpy(ids), None  # no mask: faster attention
        valid = torch.from_numpy(np.arange(width) < lengths[:, None])
        return torch.from_numpy(ids), valid

    def keep_on(self, device, rows: np.ndarray):
        """Keep these rows of a table on the device, scaled once, if it fits there: a batch is then an index."""
        if self.is_bytes or self.is_images:
            return
        if self.table_norm is not self.norm:
            self.table, self.table_norm = None, None  # the memory of the old one is free now
            if not fits(4 * self.x.size, device):
                return
            self.table = torch.empty(self.x.shape, device=device)
            self.table_norm = self.norm
            self.in_table = np.zeros(len(self.y), bool)
        new = np.sort(rows[~self.in_table[rows]])
        for at in range(0, len(new), CHUNK):
            part = new[at:at + CHUNK]
            x = torch.from_numpy(normalise(self.x[part], self.norm))
            self.table[torch.from_numpy(part).to(device)] = x.to(device)
        self.in_table[new] = True

    def inputs(self, x: Tensor, scale: tuple | None = None, change: Callable | None = None) -> Tensor:
        """
        What the model reads, made on the device from the x of `batch`.

        Bytes and floats are that already; the rows (B,) of a table kept there are looked up. Images (B, S, S,
        3) uint8 -> (B, image_size**2, 3) float32, scaled by self.norm: the central square, or, with a scale,
        random crops of that share of the area, half of them mirrored. `change` is a function of the pictures
        (B, 3, image_size, image_size) in [0, 1], called before they are scaled. Randomness: torch's global
        generators.
        """
        if not self.is_images:
            is_row_numbers = x.ndim == 1  # of a table that `keep_on` keeps here
            return self.table[x] if is_row_numbers else x
        size = self.meta['image_size']
        x = x.permute(0, 3, 1, 2) / 255  # (B, 3, S, S)
        if scale is None:
            at = round((x.shape[2] - size) / 2)
            x = x[:, :, at:at + size, at:at + size]
        else:
            boxes = random_boxes(len(x), x.shape[2], scale, x.device)
            x = crop(x, *boxes, torch.rand(len(x), device=x.device) < 0.5, size)
        if change is not None:
            x = change(x)
        x = x.flatten(2).transpose(1, 2)  # (B, n, 3), one input a pixel, row by row
        if self.norm['kind'] == 'none':
            return x
        mean, std = self.image_scale(x.device)
        return (x - mean) / std

    def image_scale(self, device) -> tuple[Tensor, Tensor]:
        """Mean and std of the channels, copied to the device once: each copy would wait for it."""
        if self.scale is None or self.scale[0] is not self.norm:
            mean = self.norm['mean'].to(device, torch.float32)
            std = self.norm['std'].to(device, torch.float32)
            self.scale = (self.norm, mean, std)
        return self.scale[1:]


def round_up(n: int, step: int) -> int:
    """The smallest multiple of step that is at least n."""
    return (n + step - 1) // step * step


def fits(n_bytes: int, device) -> bool:
    """Whether a table of that size may stay on the device: a GPU, and a quarter of what is free on it."""
    if torch.device(device).type != 'cuda':
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= free / 4


# -----------------------------------------------------------------------------
# batches

def epoch_batches(dataset: Dataset, rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """
    One epoch in random order: (n_batch, batch_size) row numbers.

    A pure function of (seed, epoch): every rank computes the same, and a resumed run finds its place in it.
    Rows that do not fill a last batch are left for another epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    n_batch = len(rows) // batch_size
    order = rng.permutation(rows)[:n_batch * batch_size]
    if dataset.is_bytes:
        # rows of alike length share a batch, so that little is padding: sort inside pools of 64 batches, then
        # shuffle the batches
        pools = []
        for at in range(0, len(order), 64 * batch_size):
            pool = order[at:at + 64 * batch_size]
            pools.append(pool[np.argsort(dataset.lengths(pool), kind='stable')])
        order = np.concatenate(pools)
    return rng.permutation(order.reshape(n_batch, batch_size))


def micro_batches(dataset: Dataset, rows: np.ndarray, batch_size: int, accumulation: int, seed: int, step: int,
                  run, labels: Tensor | None = None) -> Iterator[tuple]:
    """
    Endless micro-batches of this rank from optimiser step `step` on: (x, valid, labels or None, the rows of the
    whole step), on the device. labels: (N,), of all rows of the data set.
    """
    dataset.keep_on(run.device, rows)
    waiting = deque()  # the step's rows of each batch that the loader has begun: it reads some batches ahead

    def index():
        for mine, step_rows in deal(dataset, rows, batch_size, accumulation, seed, step, run):
            waiting.append(step_rows)
            y = None if labels is None else labels.numpy()[mine]
            yield mine, dataset.width(step_rows), y
    for x, valid, y in load(dataset, index(), run.device):
        yield x, valid, y, waiting.popleft()


def deal(dataset: Dataset, rows: np.ndarray, batch_size: int, accumulation: int, seed: int, step: int,
         run) -> Iterator[tuple]:
    """
    Endless micro-batches of this rank from step `step` on: (its rows, the rows of the whole step). A step's
    rows are dealt out in turn among ranks and accumulation, so that all share one width.
    """
    n_micro = accumulation * run.world
    steps_per_epoch = len(rows) // batch_size
    first_epoch, begin = divmod(step, steps_per_epoch)  # a resumed run begins inside an epoch
    for epoch in itertools.count(first_epoch):
        for step_rows in epoch_batches(dataset, rows, batch_size, seed, epoch)[begin:]:
            for micro in range(run.rank, n_micro, run.world):
                yield step_rows[micro::n_micro], step_rows
        begin = 0


def scoring(dataset: Dataset, rows: np.ndarray, batch_size: int, run) -> Iterator[tuple]:
    """
    All rows once, for scoring, on the device: (batch number, places of its rows in `rows`, x, valid). Rows of
    alike length share a batch, the longest first, so that a lack of memory shows early. Ranks take the batches
    in turn.
    """
    dataset.keep_on(run.device, rows)
    lengths = dataset.lengths(rows)
    order = np.argsort(-lengths, kind='stable')
    batches = []  # the places of their rows in `rows`
    while len(order):
        size = at_once(batch_size, int(lengths[order[0]]), run.device)
        batches.append(order[:size])
        order = order[size:]
    mine = range(run.rank, len(batches), run.world)
    index = [(rows[batches[i]], None, batches[i]) for i in mine]
    for i, (x, valid, places) in zip(mine, load(dataset, index, run.device)):
        yield i, places, dataset.inputs(x), valid


def at_once(batch_size: int, length: int, device) -> int:
    """How many rows of that length are scored at once. A small model leaves a GPU idle at the batch_size."""
    if torch.device(device).type != 'cuda':
        return batch_size
    return max(batch_size, TOKENS // length)


# -----------------------------------------------------------------------------
# the lines that describe it, and the command line

def describe(dataset: Dataset):
    """Print what was read: rows, lengths or columns, labels, a sample, what was left out and why."""
    for line in summary(dataset):
        print(printable(line))


def main():
    words = sys.argv[1:]
    if not words:
        list_datasets(data_dir)
        return
    if not words[0].startswith('-'):
        words[0] = f'--dataset={words[0]}'
    describe(open_dataset(**configure(globals(), words)))


if __name__ == '__main__':
    run_cli(main)
