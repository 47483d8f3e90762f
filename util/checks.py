"""Checks of knobs and data before the work begins, so that what cannot work ends in one line."""

import math
import os
import re

import numpy as np
import torch

from masking import BLIND, GUIDED
from util.errors import fail, nearest
from util.files import CHUNK, same_source
from util.runtime import warn
from util.scaling import normalise

FEW_ROWS = 100  # fewer validation rows make the choice of a model a matter of luck


def check_numbers(config, at_least_one=()):
    """
    Fail on knobs that no run can be made with: counts below 1, numbers that are negative or infinite, and a
    folder to write to that is a file. at_least_one: the names of further counts that a script has.
    """
    for name in ('batch_size', 'accumulation', 'epochs', 'max_steps', *at_least_one):
        value = config.get(name)
        if value is not None and value < 1:
            fail(f'{name}={value} must be at least 1')
    for name in ('min_lr', 'warmup_steps', 'weight_decay', 'grad_clip', 'lr', 'seed', 'seeds', 'split_seed'):
        value = config.get(name)
        if value is None:
            continue
        values = value if isinstance(value, tuple) else (value,)
        if not values:
            fail(f'{name}=() leaves nothing to do: give at least one number')
        if min(values) < 0:
            fail(f'{name}={value} must not be negative')
        if name != 'grad_clip' and max(values) == math.inf:
            fail(f'{name}={value} must be a finite number')
    for name in ('out_dir', 'show_out'):
        if config.get(name) and os.path.isfile(config[name]):
            fail(f'{name}={config[name]!r} is a file: give a folder')


def check_shares(config, names):
    """Fail unless these knobs lie between 0 and 1."""
    for name in names:
        if not 0 <= config[name] <= 1:
            fail(f'{name}={config[name]} must lie between 0 and 1')


def check_batch(n_rows, config, run, n_val=FEW_ROWS):
    """
    Fail unless n_rows training rows fill a batch, and the batch can be split evenly. Warn if the n_val
    validation rows are few.
    """
    if n_val < FEW_ROWS:
        warn(run, f'Only {n_val} validation rows: model selection will be noisy. Raise --val_share.')
    batch_size = config['batch_size']
    if n_rows < batch_size:
        fail(f'batch_size={batch_size}, but there are only {n_rows} rows to train on: lower --batch_size')
    n_pieces = config['accumulation'] * run.world
    if batch_size % n_pieces:
        fail(f'batch_size={batch_size} must be divisible by accumulation x processes = {n_pieces}')


def check_masking(masking, lengths, d_raw):
    """
    Fail unless the mask is known and fits the data, and its ratio hides something, but not everything of any
    row. lengths (N,) numpy, inputs of each row; d_raw as in model.py, 0 = bytes.
    """
    known = [*GUIDED, *BLIND]
    ratio = masking.mask_ratio
    longest = int(lengths.max())
    if masking.mask not in known:
        fail(f'unknown mask {masking.mask!r}, the nearest of {", ".join(known)} is '
             f'{nearest(masking.mask, known)!r}')
    if masking.mask == 'word' and d_raw:
        fail('mask=word hides words of text, but these data are numbers: choose guided or random')
    if masking.mask == 'patch':
        check_square(longest, d_raw)
    if masking.n_query < 1:
        fail(f'n_query={masking.n_query} must be at least 1')
    if not math.isfinite(ratio):
        fail(f'mask_ratio={ratio} must lie between 0 and 1')
    if ratio <= 0 or round(ratio * longest) == 0:
        fail(f'mask_ratio={ratio} hides nothing of {longest} inputs: raise it')
    for n in sorted(set(lengths.tolist()), reverse=True):
        if round(ratio * n) >= n:
            fail(f'mask_ratio={ratio} hides everything of a row of {n} inputs: lower it')


def check_square(n, d_raw):
    """Fail unless rows of n inputs can be the pixels of a square image."""
    if not d_raw:
        fail(f'mask=patch hides squares of square images, but these data are bytes, up to {n} of them')
    if math.isqrt(n) ** 2 != n:
        fail(f'mask=patch hides squares of square images, but {n} inputs make no square')


# -----------------------------------------------------------------------------
# a checkpoint and a data set

def check_fits(dataset, checkpoint):
    """
    Fail unless the data are what the checkpoint's model reads, column for column. -> a warning, '' for none:
    where columns have no names to compare, their values can only suggest that they are other columns, or in
    other units.
    """
    check_inputs(dataset, checkpoint['model_args'])
    check_norm(dataset, checkpoint)
    if dataset.is_bytes or dataset.is_images:
        return ''
    own_file = not dataset.meta['known'] and is_its_source(dataset, checkpoint)
    check_columns(dataset, checkpoint.get('columns'), own_file)
    check_categories(dataset, checkpoint.get('categories'))
    return warn_of_other_values(dataset, checkpoint['norm'])


def check_inputs(dataset, model_args):
    """Fail unless the rows have as many inputs, of as many numbers, as the model reads."""
    have = inputs_in_words(dataset.n, dataset.d_raw)
    wanted = inputs_in_words(model_args.get('seq_len'), model_args.get('d_raw'))
    if have != wanted:
        fail(f'{dataset.name} holds {have}, the checkpoint wants {wanted}: see input_column and label_column')


def inputs_in_words(n, d_raw):
    if d_raw:
        return f'{n} inputs of {d_raw} float(s)'
    return 'byte sequences'


def is_its_source(dataset, checkpoint):
    """Whether the data are those, known by name or in a file, that the checkpoint was trained on."""
    source = dataset.meta['source']
    if not dataset.meta['known']:
        source = source[0]  # the file of the inputs; others have the labels, or are for validation and the test
    return same_source(source, checkpoint.get('config', {}).get('dataset'))


def check_columns(dataset, learned, own_file):
    """
    Fail unless the columns of a table have the names that the checkpoint learned, in the same order. Columns
    without names, c0, c1 and so on, are only compared in the file that it was trained on (own_file).
    """
    if not learned:
        return
    if not own_file and not (has_names(learned) and has_names(dataset.columns)):
        return
    if list(learned) == dataset.columns:
        return
    if sorted(learned) == sorted(dataset.columns):
        fail(f'{dataset.name} has the columns in another order than the checkpoint learned: pass '
             f'--input_column={",".join(learned)}')
    for place, (have, wanted) in enumerate(zip(dataset.columns, learned), start=1):
        if have != wanted:
            fail(f'{dataset.name} has other columns than the checkpoint learned, {have!r} for {wanted!r} at '
                 f'place {place}: see input_column')
    fail(f'{dataset.name} has {len(dataset.columns)} columns, the checkpoint names {len(learned)}')


def has_names(columns):
    """Whether columns have names of their own, and not c0, c1, .., which stand for names."""
    return not all(re.fullmatch(r'c\d+', name) for name in columns)


def check_categories(dataset, learned):
    """Fail unless the texts among the numbers of a table are numbered as the checkpoint learned them."""
    if learned and learned != dataset.meta['categories']:
        name = next(iter(learned))
        fail(f'{dataset.name} has changed: the texts of column {name!r} are not those that the checkpoint '
             'learned. Pre-train anew')


def warn_of_other_values(dataset, norm):
    """
    A warning if a column lies far from what the checkpoint learned: another column, or another unit. '' for
    none.
    """
    if not norm or norm['kind'] == 'none':
        return ''
    # of the rows that the scale was taken from at most a ninth lie beyond 3 deviations (Chebyshev)
    is_far = np.abs(normalise(dataset.x[:CHUNK], norm)) > 3  # (k, n, d_raw)
    share = is_far.mean(0).max(1)  # (n,)
    if share.max() <= 0.5:
        return ''
    column = dataset.columns[share.argmax()]
    return (f'column {column!r} of {dataset.name}: most values lie more than 3 standard deviations from what '
            'the checkpoint learned. Is it the same column, in the same unit?')


def check_norm(dataset, checkpoint):
    """Fail unless a checkpoint's scale is such as fit_norm makes."""
    norm = checkpoint['norm']
    if norm is None:  # the authors' files do not say
        norm = {'kind': 'none'}
    try:
        fits = is_scale_of(dataset, norm)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        fail('the checkpoint is damaged: its norm is not that of any data set')


def is_scale_of(dataset, norm):
    """
    Whether a scale has the shapes of these data and leaves float32 numbers, which the model computes with.
    """
    shape = (3,) if dataset.is_images else (dataset.n, dataset.d_raw)
    if norm['kind'] == 'none':
        return True
    if norm['kind'] == 'standard':
        mean = norm['mean']
        std = norm['std']
        for t in (mean, std):
            if t.shape != shape or not torch.isfinite(t).all():
                return False
        if not (std > 0).all():
            return False
        if dataset.is_images:  # scaled on the device, see data.py
            return mean.dtype == std.dtype == torch.float32
    elif norm['kind'] == 'quantile':
        quantiles = norm['quantiles']
        if quantiles.shape[1:] != shape or not torch.isfinite(quantiles).all():
            return False
        if (quantiles[1:] < quantiles[:-1]).any():
            return False
    else:
        return False
    return normalise(dataset.x[:1], norm).dtype == np.float32
