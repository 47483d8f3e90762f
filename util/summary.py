"""What a user should know about a data set that was opened, line by line."""

import numpy as np

from util.splits import SPLITS


def summary(dataset):
    """Rows, lengths or columns, labels, a sample, what was left out and why, notes and warnings. -> [line]"""
    meta = dataset.meta
    counts = ', '.join(f'{name} {len(dataset.rows(name)):,}' for name in SPLITS)
    lines = [f'{dataset.folder}: {meta["rows"]:,} rows of {meta["kind"]}: {counts}']
    if meta.get('distinct', meta['rows']) < meta['rows']:
        lines.append(f'different rows, by their inputs: {meta["distinct"]:,}')
    lines += [f'left out: {n:,} {reason}' for reason, n in meta['left_out'].items()]
    for note in meta['notes']:
        lines.append(note if note.startswith('warning: ') else f'note: {note}')
    if dataset.is_bytes:
        lines += describe_bytes(dataset)
    elif dataset.is_images:
        height, width = dataset.x.shape[1:3]
        size = meta['image_size']
        lines.append(f'{size} x {size} pixels of {dataset.d_raw} channels, cut from {height} x {width}')
    else:
        first = dataset.x[first_row(dataset), :8, 0]
        cells = ', '.join(f'{name} {value:.6g}' for name, value in zip(dataset.columns, first))
        lines.append(f'{dataset.n} inputs of {dataset.d_raw} float(s); the first row: {cells}, ...')
    return lines + describe_labels(dataset)


def first_row(dataset):
    """The first training row; the first row if there is none."""
    rows = dataset.rows('train')
    return rows[0] if len(rows) else 0


def describe_bytes(dataset):
    lengths = dataset.lengths(dataset.rows('all'))
    shortest, median, most, longest = np.percentile(lengths, (0, 50, 95, 100)).astype(int)
    lines = [f'tokens a row (CLS and SEP included): min {shortest:,}, median {median:,}, 95 % {most:,}, '
             f'max {longest:,}']
    if longest > 10 * np.percentile(lengths, 99):
        lines.append('note: the longest row is ten times as long as 99 % of them, and the model is made for '
                     'it: --max_len cuts it')
    row = first_row(dataset)
    sample = bytes(dataset.x[dataset.offsets[row]:dataset.offsets[row + 1]][:100])
    lines.append('sample: ' + sample.decode('utf-8', errors='replace'))
    return lines


def describe_labels(dataset):
    """One line: how often each label is there, or, of more than ten, how many they are."""
    y = dataset.y[~np.isnan(dataset.y)]
    if not len(y):
        return []
    values, counts = np.unique(y, return_counts=True)
    if dataset.meta['classes'] and len(values) > 10:
        most = int(values[counts.argmax()])  # the number of a class
        name = dataset.meta['classes'][most]
        text = f'{len(values):,} classes; the most frequent is {name!r}, with {counts.max():,} rows'
    elif len(values) <= 10:
        names = dataset.meta['classes'] or [f'{value:.15g}' for value in values]
        text = ', '.join(f'{name} {n:,}' for name, n in zip(names, counts))
    else:
        text = (f'{len(values):,} values, mean {y.mean():.6g}, std {y.std():.4g}, min {y.min():.6g}, '
                f'max {y.max():.6g}')
    return [f'labels on {len(y):,} rows: {text}']
