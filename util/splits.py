"""Which rows are for training, validation and test."""

import numpy as np

SPLITS = ('train', 'val', 'test')
TRAIN, VAL, TEST = range(3)  # the codes in split.bin
DRAW = 3  # a row that is drawn by the shares, into any of the three splits
DRAW_VAL = 4  # a row that is drawn by the shares, into train or val: the test rows are given
SPLIT_WORDS = {
    'train': TRAIN, 'training': TRAIN,
    'val': VAL, 'valid': VAL, 'validation': VAL, 'dev': VAL,
    'test': TEST, 'testing': TEST,
}
FEW_INPUTS = 100  # with fewer different inputs than that, splits drawn by the inputs miss their shares by far


def draw_splits(split, keys, val_share, test_share, seed):
    """
    Draw the rows whose split is not given. -> (N,) int8 of TRAIN, VAL and TEST alone

    split (N,) int8 of the five codes; keys (N,) uint64, a hash of each row's inputs, or None. The seed is not
    that of a run: all stages must agree about the splits.
    """
    drawn = split.copy()
    for code in (DRAW, DRAW_VAL):
        rows = np.flatnonzero(split == code)
        share_of_test = test_share if code == DRAW else 0.0
        if keys is None:
            draw_by_row(drawn, rows, val_share, share_of_test, seed)
        else:
            drawn[rows] = draw_by_inputs(keys[rows], val_share, share_of_test, seed)
    return drawn


def draw_by_inputs(keys, val_share, test_share, seed):
    """
    Draw by the inputs of each row, keys (k,) uint64: a row that is added moves no other, rows that are alike
    stay together, and a file without labels is split as one with them. So the shares are met, and classes
    stratified, in expectation only. -> (k,) codes
    """
    factor = np.random.default_rng(seed).integers(2 ** 64, dtype=np.uint64, endpoint=False) | np.uint64(1)
    place = keys * factor / 2.0 ** 64  # (k,) in [0, 1): the product is modulo 2^64, and the factor is odd
    return np.where(place < test_share, TEST, np.where(place < test_share + val_share, VAL, TRAIN))


def draw_by_row(split, rows, val_share, test_share, seed):
    """Draw by a permutation of the row numbers, which meets the shares exactly. Writes codes into `split`."""
    order = np.random.default_rng(seed).permutation(rows)
    n_test = round(test_share * len(rows))
    n_val = round(val_share * len(rows))
    split[rows] = TRAIN
    split[order[:n_test]] = TEST
    split[order[n_test:n_test + n_val]] = VAL


def too_few_inputs(keys):
    """
    Whether rows with these keys have so few different inputs that they cannot be drawn by them.

    If rows that are alike share a split, then the variance of a split's size is that of (sum of sizes)^2 / sum
    of sizes^2 groups of one size, where the sizes are how often each input occurs.
    """
    sizes = np.unique(keys, return_counts=True)[1].astype(np.float64)
    groups = len(keys) ** 2 / max((sizes ** 2).sum(), 1)
    return groups < FEW_INPUTS and groups < len(keys) / 2


def repeated_rows(keys, split):
    """Sentences about validation and test rows, given by the user, whose inputs are those of a training row."""
    sentences = []
    learned = keys[(split == TRAIN) | (split == DRAW_VAL)]
    for name, code in (('validation', VAL), ('test', TEST)):
        given = keys[split == code]
        n = int(np.isin(given, learned).sum())
        if n:
            sentences.append(f'warning: {n:,} of {len(given):,} {name} rows have the inputs of a training '
                             'row: a score on them says little about new rows')
    return sentences
