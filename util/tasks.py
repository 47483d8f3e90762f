"""
What is to be predicted: inferred from the labels, encoded for the loss, scored, and written for people to read.

A task is a plain dict, which travels in the checkpoint:

    target      binary, multiclass or regression
    metric      the name of the metric that selects checkpoints (util/metrics.py)
    classes     the classes in sorted order, text or numbers; None for a regression
    positive    binary only: the class that F1 describes; checkpoints made before this key existed lack it
    mean, std   regression only: of the training labels; the model learns (y - mean) / std

Predictions p (N, n_out) are what the fine-tuning head returns: n_out is 1 for a regression (standardised
numbers) and for two classes (logits of class number 1), else the number of classes (logits).
"""

import math

import numpy as np

from util import storage
from util.errors import fail
from util.metrics import METRICS, predicted_classes
from util.readers import label_advice
from util.splits import SPLITS

# Another one needs a branch wherever these words stand: here, and in finetune.py, eval.py, util/probes.py,
# util/checkpoint.py and METRICS.
TARGETS = ('binary', 'multiclass', 'regression')
MOST_NUMBER_CLASSES = 20  # a file's labels with more distinct numbers than that are taken for a regression
USUAL_NAMES = ('0', '1'), ('-1', '1'), ('false', 'true')  # negative, positive: as in scikit-learn
MISSING_WORDS = ('na', 'n/a', '#n/a', 'nan', 'null', 'none', '?')  # such a class may be meant as "no label"


# -----------------------------------------------------------------------------
# from the labels to a task

def infer_task(dataset, target, metric, splits=SPLITS, positive=None):
    """
    What is to be predicted. -> (task, {split: its rows that have a label}, note)

    target and metric are the user's; None stands for those of a data set known by name, and then for a guess.
    A file's target is inferred from its labels: two values are binary; text, folders of images, or up to 20
    whole numbers, are classes; all else is a regression. positive is the name of one of two classes; None
    chooses one (choose_positive). The note tells the user what was inferred, a line each; it is '' if nothing
    was. Fails on labels from which nothing can be learned.
    """
    rows = labelled_rows(dataset, splits)
    # the distinct training labels, as numbers in increasing order, and the rows of each
    values, counts = np.unique(dataset.y[rows['train']], return_counts=True)
    if len(values) == 1:
        fail(f'all {len(rows["train"]):,} training labels of {dataset.name} are '
             f'{dataset.label_values(values)[0]!r}: there is nothing to learn, see label_column')

    notes = []
    target = target or dataset.meta['target']
    target_is_inferred = not target
    if target_is_inferred:
        if not dataset.is_images:
            refuse_numbers_with_a_few_texts(dataset)
        target = infer_target(dataset, values)
        notes.append(f'target: {target}, as the labels have {len(values):,} values; --target= chooses another')
    if target not in TARGETS:
        fail(f'target={target!r}: binary, multiclass or regression')
    metric = choose_metric(dataset, target, metric)
    if positive is not None and target != 'binary':
        fail(f'positive={positive!r} is for target=binary; here the target is {target}')

    if target == 'regression':
        refuse_text(dataset)
        return dict(target=target, metric=metric, classes=None), rows, '\n'.join(notes)

    task = dict(target=target, metric=metric, classes=class_list(dataset, target, values))
    for split in splits:
        refuse_new_classes(dataset, split, rows[split], values, target_is_inferred)
    notes += notes_on_classes(dataset)
    if target == 'binary' and positive is not None:
        task = with_positive(task, positive)
    elif target == 'binary':
        task['positive'], note = choose_positive(task['classes'], counts)
        notes.append(note)
    return task, rows, '\n'.join(notes)


def labelled_rows(dataset, splits):
    """{split: the numbers of its rows that have a label}; fails if there are none."""
    rows = {}
    for split in splits:
        of_split = dataset.rows(split)
        rows[split] = of_split[~np.isnan(dataset.y[of_split])]
        if np.isnan(dataset.y).all():
            fail(f'{dataset.name} has no labels: {label_advice(dataset.meta)}')
        if not len(rows[split]):
            fail(f'{dataset.name} has no labelled {split} rows: see label_column and the split knobs')
    return rows


def infer_target(dataset, values):
    """values: the distinct training labels, as numbers. -> 'binary', 'multiclass' or 'regression'"""
    if len(values) == 2:
        return 'binary'
    if dataset.meta['classes'] or dataset.is_images or look_like_classes(values):
        return 'multiclass'  # the folder of an image is a class, even if it is called 7
    return 'regression'


def look_like_classes(values):
    """Whether distinct numbers are few and whole."""
    return len(values) <= MOST_NUMBER_CLASSES and bool((values == values.round()).all())


def choose_metric(dataset, target, metric):
    """The user's metric, or that of a data set known by name, or the usual one. Fails if it does not fit."""
    metric = metric or dataset.meta['metric']
    if not metric:
        metric = 'rmse' if target == 'regression' else 'accuracy'
    if metric not in METRICS:
        fail(f'metric={metric!r}: one of {", ".join(METRICS)}')
    if target not in METRICS[metric].targets:
        fail(f'metric={metric} does not fit target={target}')
    return metric


def class_list(dataset, target, values):
    """The classes among the distinct training labels, in sorted order: texts or whole numbers."""
    classes = sorted(dataset.label_values(values))
    if target == 'binary' and len(classes) != 2:
        fail(f'target=binary, but the training labels have {len(classes)} values: pass --target=multiclass or '
             '--target=regression')
    for c in classes:
        if isinstance(c, float) and c != round(c):
            fail(f'target={target}, but the label {format_number(c)} is no class: pass --target=regression')
    return classes


def refuse_new_classes(dataset, split, rows, values, target_is_inferred):
    """Fails if rows of a split have labels that no training row has. values: the distinct training labels."""
    new = rows[~np.isin(dataset.y[rows], values)]
    if not len(new):
        return
    label = show_class(dataset.labels(new[:1])[0])
    where = storage.row_name(dataset.meta, new[0])
    advice = ''
    if target_is_inferred and not dataset.meta['classes']:
        advice = '. If the labels are amounts, not classes, pass --target=regression'
    fail(f'{len(new)} {split} rows have labels outside the classes to learn, {label} ({where}) for one; '
         f'the classes are {some_classes(dataset.label_values(values))}{advice}')


def some_classes(classes):
    """The first ten classes, as a text."""
    text = ', '.join(format_label(c) for c in classes[:10])
    return text + ', ...' if len(classes) > 10 else text


def class_numbers(labels, classes):
    """Labels -> their numbers in the list of classes, (N,) int64; fails on a label that is not among them."""
    number_of = {c: i for i, c in enumerate(classes)}
    if len(labels) and isinstance(labels[0], str) and not isinstance(classes[0], str):
        # folders of images, and a model made when those called by numbers were numbers (before 2026-11-29)
        number_of = {format_label(c): i for i, c in enumerate(classes)}
    unknown = [label for label in labels if label not in number_of]
    if unknown:
        fail(f'{len(unknown)} rows have labels outside the classes to learn, {unknown[0]!r} for one; '
             f'the classes are {some_classes(classes)}')
    return np.array([number_of[label] for label in labels], np.int64)


# -----------------------------------------------------------------------------
# text among the labels

def count_texts(dataset):
    """-> ({label: rows} of text labels that read as numbers, the same of those that do not)"""
    names = dataset.meta['classes']
    like_numbers, texts = {}, {}
    if not names:  # the labels are numbers already
        return like_numbers, texts
    class_of_row = dataset.y[~np.isnan(dataset.y)].astype(np.int64)
    for number, count in enumerate(np.bincount(class_of_row, minlength=len(names)).tolist()):
        if reads_as_number(names[number]):
            like_numbers[names[number]] = count
        elif count:
            texts[names[number]] = count
    return like_numbers, texts


def reads_as_number(text):
    """Whether a text is a finite number as tables write it."""
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and '_' not in text  # Python would read 1_000


def refuse_numbers_with_a_few_texts(dataset):
    """One label '<0.01' must not turn a regression into hundreds of classes."""
    like_numbers, texts = count_texts(dataset)
    if not texts:
        if len(like_numbers) > MOST_NUMBER_CLASSES:
            fail(f'{whole_numbers_as_names(dataset)}; --target=multiclass makes every label a class')
        return
    values = np.array([float(name) for name in like_numbers])
    mostly_numbers = sum(like_numbers.values()) > sum(texts.values())
    if len(values) > 1 and mostly_numbers and not look_like_classes(np.unique(values)):
        fail(f'{which_are_numbers(dataset)}. Correct such labels or leave their cells empty; or pass '
             '--target=multiclass, which makes every label a class')


def refuse_text(dataset):
    """Fails if the labels of a regression are not all numbers."""
    if dataset.is_images:
        fail(f'target=regression, but the labels of {dataset.name} are the names of folders, which are classes')
    like_numbers, texts = count_texts(dataset)
    if like_numbers and not texts:
        fail(f'target=regression, but {whole_numbers_as_names(dataset)}')
    if texts and not like_numbers:
        fail(f'target=regression, but the labels of {dataset.name} are text: {examples(dataset, texts)}')
    if texts:
        fail(f'target=regression, but {which_are_numbers(dataset)}. Correct such labels or leave their cells '
             'empty')


def whole_numbers_as_names(dataset):
    """Labels that util/labels.py keeps as text, though each of them spells a number."""
    like_numbers, _ = count_texts(dataset)
    return (f'the labels of {dataset.name}, {examples(dataset, like_numbers)}, are kept as names, because as '
            'numbers two of them could be one (above 2^53, or such as 7 and 007): write them as 1.5e18, and '
            'without leading zeros')


def which_are_numbers(dataset):
    like_numbers, texts = count_texts(dataset)
    n_numbers = sum(like_numbers.values())
    n = n_numbers + sum(texts.values())
    return (f'{n_numbers:,} of {n:,} labels of {dataset.name} are numbers; not a number: '
            f'{examples(dataset, texts)}')


def notes_on_classes(dataset):
    """Sentences on classes that may not be meant as such: numbers beside text, words for a missing label."""
    notes = []
    like_numbers, texts = count_texts(dataset)
    if like_numbers and texts:
        notes.append(f'{sum(like_numbers.values()):,} labels are numbers and {sum(texts.values()):,} are text '
                     f'({examples(dataset, texts)}): all are taken for classes')
    spelled = {}  # a name in small letters -> the name
    pairs = []
    for name in texts:
        other = spelled.setdefault(name.lower(), name)
        if other != name:
            pairs.append(f'{other!r} and {name!r}')
    if pairs:
        more = f', and {len(pairs) - 1} more pairs' if len(pairs) > 1 else ''
        notes.append(f'some classes differ in capitals alone: {pairs[0]}{more}')
    for name, count in {**like_numbers, **texts}.items():
        if name.lower() in MISSING_WORDS:
            notes.append(f'{name!r} is one of the classes, with {count:,} rows; if it means that the label is '
                         'missing, leave these cells empty')
    return notes


def examples(dataset, names):
    """The first three of these text labels, each with the number of a row that has it."""
    shown = []
    for name in list(names)[:3]:
        row = np.flatnonzero(dataset.y == dataset.meta['classes'].index(name))[0]
        shown.append(f'{name!r} ({storage.row_name(dataset.meta, row)})')
    if len(names) > 3:
        shown.append('...')
    return ', '.join(shown)


# -----------------------------------------------------------------------------
# the positive class of two

def choose_positive(classes, counts):
    """
    Which of two classes F1 describes, and a sentence that says so. counts: how many training rows each has.

    As in scikit-learn it is 1 of 0 and 1, 1 of -1 and 1, and True. Of all others it is the rarer class among
    the training labels; if both are equally frequent, the later in sorted order.
    """
    first, second = classes
    n_first, n_second = counts
    names = format_label(first).lower(), format_label(second).lower()
    if names in USUAL_NAMES:
        positive, reason = second, ''
    elif n_first == n_second:
        positive, reason = second, ', the later in sorted order, as both are equally frequent'
    else:
        positive = first if n_first < n_second else second
        n_positive = min(n_first, n_second)
        reason = f', the rarer one ({n_positive:,} of {n_first + n_second:,} training labels)'
    return positive, f'positive class: {show_class(positive)}{reason}; --positive= chooses the other'


def with_positive(task, positive):
    """The task with the class that the user named as positive (text: 'active', '1')."""
    if task['target'] != 'binary':
        fail(f'positive={positive!r} is for target=binary; here the target is {task["target"]}')
    for c in task['classes']:
        if format_label(c) == positive:
            return {**task, 'positive': c}
    names = ', '.join(format_label(c) for c in task['classes'])
    fail(f'positive={positive!r} is none of the classes: {names}')


def positive_number(task):
    """The class number of the positive class. Old checkpoints do not name it: 1, the later in sorted order."""
    if 'positive' not in task:
        return 1
    return task['classes'].index(task['positive'])


def metric_title(task, metric):
    """A metric as it is printed: "f1 of 'active'" where it matters which class is positive, else its name."""
    if not METRICS[metric].of_one_class:
        return metric
    return f'{metric} of {show_class(task["classes"][positive_number(task)])}'


def show_class(label):
    """'active' in quotation marks, a number without."""
    return repr(label) if isinstance(label, str) else format_label(label)


# -----------------------------------------------------------------------------
# labels as a model learns them, and scores of its predictions

def encode_labels(dataset, rows, task):
    """
    The labels of rows as a model learns them. -> y (k,), class numbers (int64) or standardised numbers
    (float64); and the task, to which a regression adds mean and std of these labels.
    """
    if task['target'] != 'regression':
        return class_numbers(dataset.labels(rows), task['classes']), task
    y = dataset.y[rows]
    mean = float(y.mean())
    std = float(y.std())
    if std == 0:
        std = 1.0
    return (y - mean) / std, {**task, 'mean': mean, 'std': std}


def score(task, labels, p):
    """The task's metric: labels (N) as Dataset.labels gives them, p (N, n_out) from the fine-tuning head."""
    metric = METRICS[task['metric']]
    p = p.astype(np.float64)
    if task['target'] == 'regression':
        return metric.function(label_numbers(labels), to_predictions(task, p))
    y = class_numbers(labels, task['classes'])
    if task['target'] == 'binary':
        p = p[:, 0]
    if metric.of_one_class:
        return metric.function(y, p, positive_number(task))
    return metric.function(y, p)


def scores(task, labels, p):
    """
    {metric: value} of all metrics that fit the target, the one that selects first. What is not defined, as only
    one class is among the labels, is left out.
    """
    values = {task['metric']: score(task, labels, p)}
    one_class = len(set(labels)) == 1
    for name, metric in METRICS.items():
        if name in values or task['target'] not in metric.targets:
            continue
        if metric.needs_both_classes and one_class:
            continue
        values[name] = score({**task, 'metric': name}, labels, p)
    return values


def label_numbers(labels):
    """Labels of a regression -> (N,) float64; fails on text."""
    texts = [label for label in labels if isinstance(label, str)]
    if texts:
        fail(f'the model predicts numbers, but {len(texts):,} of {len(labels):,} labels are text, {texts[0]!r} '
             'for one: see label_column')
    return np.array(labels)


def selection_score(task, value):
    """A score as a number of which more is better."""
    return value if METRICS[task['metric']].higher_is_better else -value


def to_predictions(task, p):
    """p (N, n_out) as people read predictions: (N,) in the labels' units, or (N, C) probabilities. float64"""
    p = p.astype(np.float64)
    if task['target'] == 'regression':
        return p[:, 0] * task['std'] + task['mean']
    if task['target'] == 'binary':
        p = np.concatenate([np.zeros_like(p), p], 1)  # (N, 2): the logit of class 0 is 0
    p = np.exp(p - p.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def baseline_logits(task, y, n):
    """
    Constant-prediction baseline: n equal rows of predictions, made from the training labels y (see
    encode_labels) alone: their mean, or the frequency of each class. -> (n, n_out)
    """
    if task['target'] == 'regression':
        return np.zeros((n, 1))  # the mean, as labels are standardised
    logits = np.log(np.bincount(y, minlength=len(task['classes'])))
    if task['target'] == 'binary':
        logits = logits[1:] - logits[0]
    return np.tile(logits, (n, 1))


def all_alike(task, p):
    """Whether a model predicts the same for every row: one class, or numbers within 1 % of the labels' std."""
    if len(p) < 2:
        return False
    if task['target'] == 'regression':
        return bool(np.ptp(p) < 0.01)
    if task['target'] == 'binary':
        p = p[:, 0]
    return len(set(predicted_classes(p).tolist())) == 1


# -----------------------------------------------------------------------------
# numbers and labels in a file

def format_number(value):
    """The shortest text that reads back as the same float64: 3 for 3.0, 1700000030.25, 1e-07."""
    return repr(float(value)).removesuffix('.0')


def format_score(value):
    """A score with four decimals, or with four digits and a power of ten where decimals would not show it."""
    if value == 0 or 1e-3 <= abs(value) < 1e6 or not math.isfinite(value):
        return f'{value:.4f}'
    return f'{value:.3e}'


def format_label(label):
    """A label as a file has it: text as it is, 3 for 3.0, '' for none."""
    if label is None:
        return ''
    return label if isinstance(label, str) else format_number(label)


def spreadsheet_safe(text):
    """
    A text for a cell of a CSV file, with an apostrophe before what a spreadsheet would run as a formula: what
    begins with = + - or @. Numbers, and signs without a letter or digit (the strand + of DNA, the genotype
    +/-), stay as they are.
    """
    begins_as_formula = text.lstrip()[:1] in ('=', '+', '-', '@')
    is_signs_alone = not any(character.isalnum() for character in text)
    if begins_as_formula and not is_signs_alone and not reads_as_number(text):
        return "'" + text
    return text
