"""Which reader a file has, by the ending of its name."""

import os

from util.arrays import read_arrays
from util.errors import fail
from util.files import file_format, in_chunks
from util.images import read_images
from util.sequences import fasta, lines, windows
from util.tables import TABLE_KNOBS, TABLES, read_table


def read_file(path, meta, kind=None, window=None, **options):
    """The chunks of one file or folder of images, by the ending of its name. `options` go to its reader."""
    kind, given = kind or file_format(path), [k for k in options if k in TABLE_KNOBS]
    if window is not None and {'label_column', 'split_column'} & {*given}:
        fail('window joins lines, so their labels and splits are lost: leave label_column, split_column unset')
    if os.path.isdir(path) and not given:
        chunks = read_images(path, meta)
    elif kind in TABLES:
        chunks = read_table(path, kind, meta, **options)
    elif kind == '.npz' and {*given} <= {'input_column', 'label_column', 'missing'} \
            or kind == '.npy' and {*given} <= {'missing'}:
        chunks = read_arrays(path, meta, **options)
    elif given:
        fail(f'{given[0]}={options[given[0]]!r}: {path} has no such columns, leave it unset')
    elif kind in ('.fasta', '.fa', '.faa', '.txt', '.smi', '.smiles'):
        sequences = fasta(path, meta, **options) if kind.startswith('.fa') else lines(path, kind, meta)
        chunks = ((chunk, None, None) for chunk in in_chunks(sequences))
    else:
        fail(f'{path}: unknown ending {kind!r}; known: .txt .smi .fasta .fa .csv .tsv .arff .json .jsonl ('
             'also .gz .bz2 .xz), .parquet .npy .npz, and folders of images')
    if window is None:
        return chunks
    return ((chunk, None, None) for chunk in in_chunks(windows((x for x, _, _ in chunks), window)))
