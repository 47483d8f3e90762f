"""What cannot work is said before the work begins."""

import math
from pathlib import Path

import numpy as np
import torch

from masking import BLIND, GUIDED
from util.errors import fail, nearest
from util.files import CHUNK
from util.runtime import print0
from util.scaling import normalise


def check_numbers(config, positive=()):
    """Fails on numbers that no run can be made with, and on an out_dir that is a file."""
    for k in ('batch_size', 'accumulation', 'epochs', 'max_steps', *positive):
        if config.get(k) is not None and config[k] < 1:
            fail(f'{k}={config[k]} must be at least 1')
    for k in ('min_lr', 'warmup_steps', 'weight_decay', 'grad_clip', 'lr', 'seed', 'seeds'):
        value = config.get(k, 0)
        if value == ():
            fail(f'{k}=() leaves nothing to do')
        if min(value if isinstance(value, tuple) else (value,)) < 0:
            fail(f'{k}={value} must not be negative')
    for k in ('out_dir', 'show_out'):
        if config.get(k) and Path(config[k]).is_file():
            fail(f'{k}={config[k]!r} is a file: a folder is wanted')


def check_batch(n_rows, config, run, n_val=100):
    """Fails unless a step's samples are there, and can be dealt out; says if few are left to validate on."""
    if n_val < 100:
        print0(run, f'warning: {n_val} validation rows are few to select by: --val_share is the share of them')
    if n_rows < config['batch_size']:
        fail(f'batch_size={config["batch_size"]}, but there are only {n_rows} rows to train on: lower it')
    if config['batch_size'] % (config['accumulation'] * run.world):
        fail(f'batch_size={config["batch_size"]} must divide by accumulation x processes = '
             f'{config["accumulation"] * run.world}')


def check_masking(masking, lengths, d_raw):
    """
    Fails unless the mask is known and fits the data, and its ratio hides something, but of no row everything.
    lengths (N,) numpy, inputs of each row; d_raw as in model.py, 0 = bytes.
    """
    names, ratio, longest = [*GUIDED, *BLIND], masking.mask_ratio, int(lengths.max())
    if masking.mask not in names:
        fail(f'unknown mask {masking.mask!r}: of {", ".join(names)} the nearest is {nearest(masking.mask, names)!r}')
    if masking.mask == 'word' and d_raw:
        fail('mask=word hides words of text; these data are numbers: guided or random')
    if masking.mask == 'patch' and (not d_raw or math.isqrt(longest) ** 2 != longest):
        kind = 'rows of' if d_raw else 'bytes, up to'
        fail(f'mask=patch hides squares of square images, but these are {kind} {longest} inputs')
    if masking.n_query < 1:
        fail(f'n_query={masking.n_query} must be at least 1')
    if not ratio > 0 or round(ratio * longest) == 0:
        fail(f'mask_ratio={ratio} hides nothing of {longest} inputs: raise it')
    full = [n for n in set(lengths.tolist()) if round(ratio * n) >= n]
    if full:
        fail(f'mask_ratio={ratio} hides everything of a row of {max(full)} inputs: lower it')


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
