"""What is to be predicted: inferred from the labels, encoded for a loss, scored."""

import numpy as np

from util.errors import fail
from util.metrics import METRICS, chosen
from util.readers import label_advice
from util.splits import SPLITS


def class_numbers(labels, classes):
    """Labels -> their numbers in the list of classes (N,) int64; fails on a label that is not among them."""
    number = {c: i for i, c in enumerate(classes)}
    odd = [v for v in labels if v not in number]
    if odd:
        fail(f'{len(odd)} rows have labels outside the classes to learn, {odd[0]!r} for one; the classes are '
             f'{", ".join(map(str, classes[:10]))}{", ..." * (len(classes) > 10)}')
    return np.array([number[v] for v in labels], np.int64)


def score(task, labels, p):
    """
    The metric of predictions p (N, n_out) from the fine-tuning head. `task` (see infer_task) travels
    in the checkpoint; of a regression it has mean and std, by which predictions go back to the labels' own
    units.
    """
    metric, p = METRICS[task['metric']][0], p.astype(np.float64)
    if task['target'] == 'regression':
        return metric(np.array(labels), to_predictions(task, p))
    return metric(class_numbers(labels, task['classes']), p[:, 0] if task['target'] == 'binary' else p)


def scores(task, labels, p):
    """{metric: value} of all that fit the target, the one that selects first; a metric that needs both classes
    is left out where they are not there."""
    values = {task['metric']: score(task, labels, p)}
    for name, (_, targets, _) in METRICS.items():
        if name not in values and task['target'] in targets and (name != 'roc_auc' or len({*labels}) == 2):
            values[name] = score({**task, 'metric': name}, labels, p)
    return values


def to_predictions(task, p):
    """Predictions p (N, n_out) as people read them: (N,) in the labels' units, or (N, C) probabilities."""
    p = p.astype(np.float64)
    if task['target'] == 'regression':
        return p[:, 0] * task['std'] + task['mean']
    p = np.concatenate([np.zeros_like(p), p], 1) if task['target'] == 'binary' else p
    p = np.exp(p - p.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def baseline_logits(task, y, n):
    """What a model says of n rows that knows the labels y alone: their mean, or how often each class is."""
    if task['target'] == 'regression':
        return np.zeros((n, 1))  # standardised
    p = np.log(np.bincount(y, minlength=len(task['classes'])))
    return np.tile(p[1:] - p[0] if task['target'] == 'binary' else p, (n, 1))


def all_alike(task, p):
    """Does a model answer the same for every row: one class, or numbers within 1 % of the labels' spread?"""
    if task['target'] == 'regression':
        return len(p) > 1 and bool(np.ptp(p) < 0.01)
    return len(p) > 1 and len({*chosen(p[:, 0] if task['target'] == 'binary' else p)}) == 1


def selection_score(task, value):
    """A score as a number to be made large."""
    return METRICS[task['metric']][2] * value


def infer_task(dataset, target, metric, splits=SPLITS):
    """
    What is to be predicted. -> task, a dict of target (binary, multiclass or regression), metric, and
    classes (None for a regression); {split: its rows that have a label}; and a sentence about a target that
    had to be guessed.

    target and metric None: those of a data set known by name. A file's target is inferred from its labels:
    two values are binary, text or up to 20 whole numbers classes, all else a regression.
    """
    rows = {split: dataset.rows(split) for split in splits}
    rows = {split: r[~np.isnan(dataset.y[r])] for split, r in rows.items()}
    for split, r in rows.items():
        if not len(r):
            if np.isnan(dataset.y).all():
                fail(f'{dataset.name} has no labels: {label_advice(dataset.meta)}')
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


def encode_labels(dataset, rows, task):
    """The labels of rows as a model learns them: class numbers, or standardised. -> y (k,), task"""
    if task['target'] != 'regression':
        return class_numbers(dataset.labels(rows), task['classes']), task
    y = dataset.y[rows]
    task = {**task, 'mean': float(y.mean()), 'std': float(y.std()) or 1.0}
    return (y - task['mean']) / task['std'], task
