"""Which reader a file has, by the ending of its name."""

import os

from util.arrays import read_arrays
from util.errors import fail
from util.files import file_format, in_chunks
from util.images import read_images
from util.sequences import read_fasta, read_lines, read_smiles, windows
from util.tables import TABLE_KNOBS, TABLES, read_table, some

FASTA = ('.fasta', '.fa', '.faa', '.fna')
SMILES = ('.smi', '.smiles')
ENDINGS = (*FASTA, *SMILES, *TABLES, '.txt', '.npy', '.npz')


def read_file(path, meta, ending=None, window=None, **options):
    """
    Yields the chunks of one file or folder of images: x, labels or None, split codes or None.

    ending: replaces that of the file's name. window: lines of text are joined and cut into so many bytes. The
    options go to the reader of the file.
    """
    ending = ending or file_format(path)
    if window is None:
        return read_rows(path, meta, ending, options)
    if options.get('label_column') is not None or options.get('split_column') is not None:
        fail('window joins lines, so their labels and splits are lost: leave label_column, split_column unset')
    chunks = read_rows(path, meta, ending, options)
    texts = (x for x, _, _ in chunks)
    return sequence_chunks(windows(texts, window))


def read_rows(path, meta, ending, options):
    """The chunks by the one reader that fits the ending."""
    if os.path.isdir(path):
        if ending in TABLES:
            fail(f'{path} is a folder, not a {ending} file: name a file in it')
        refuse_knobs(path, options)
        return read_images(path, meta)
    if ending not in ENDINGS:
        fail(f'{path}: unknown ending {ending!r}; known: {" ".join(ENDINGS)} (texts also with .gz .bz2 .xz), '
             'and folders of images')
    if ending in TABLES:
        return read_table(path, ending, meta, **options)
    if ending == '.npz':
        refuse_knobs(path, options, allowed=('input_column', 'label_column', 'missing'))
        return read_arrays(path, meta, **options)
    if ending == '.npy':
        if 'label_column' in options:
            fail(f'label_column={options["label_column"]!r}: an .npy has no columns; its labels are in a '
                 'second file, --dataset=X.npy,y.npy')
        refuse_knobs(path, options, allowed=('missing',))
        return read_arrays(path, meta, **options)
    refuse_knobs(path, options)
    if ending in FASTA:
        return sequence_chunks(read_fasta(path, meta, **options))
    if ending in SMILES:
        return sequence_chunks(read_smiles(path, meta))
    return sequence_chunks(read_lines(path, meta))


def refuse_knobs(path, options, allowed=()):
    """Fails on a knob of tables that is given for a file that is none."""
    for knob, value in options.items():
        if knob in TABLE_KNOBS and knob not in allowed:
            fail(f'{knob}={value!r}: {path} is no table and has no such columns, leave it unset')


def sequence_chunks(sequences):
    """Chunks of byte sequences that have no labels and no splits."""
    return ((chunk, None, None) for chunk in in_chunks(sequences))


def label_advice(meta):
    """Where a data set without labels could have them. meta: that of the prepared data set."""
    if not isinstance(meta['source'], list):
        return 'it has none'
    path = meta['source'][0]
    ending = file_format(path)
    if os.path.isdir(path):
        return 'put the images of each class into a folder of its name'
    if ending in TABLES:
        return f'its inputs are {some(meta["columns"])}; name the column of the labels with --label_column'
    if ending == '.npz':
        return 'it has no array y; name the array of the labels with --label_column'
    if ending == '.npy':
        return 'put them into a second file, --dataset=X.npy,y.npy'
    return 'put sequences and labels into two columns of a .csv, see --input_column and --label_column'
