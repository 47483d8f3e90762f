"""Which rows are for training, validation and test."""

SPLITS = ('train', 'val', 'test')
DRAW, DRAW_VAL = 3, 4  # in split.bin: drawn by the shares, all three splits; train and val only
TRAIN, VAL, TEST = range(3)  # codes in split.bin, like data.py's DRAW (by the shares, all three) and DRAW_VAL
SPLIT_WORDS = dict(train=TRAIN, training=TRAIN, val=VAL, valid=VAL, validation=VAL, dev=VAL, test=TEST,
                   testing=TEST)
