"""Tables: CSV, TSV, ARFF, JSON, JSON lines and Parquet -> chunks of rows."""

import codecs
import csv
import itertools
import json
import math
import re
from collections import Counter
from functools import partial

import numpy as np

from util.errors import fail, nearest
from util.files import CHUNK, LONGEST, in_chunks, open_lines, open_stream
from util.splits import SPLIT_WORDS

TABLES = ('.csv', '.tsv', '.arff', '.json', '.jsonl', '.parquet')
TABLE_KNOBS = ('input_column', 'label_column', 'drop_column', 'split_column', 'missing', 'header', 'quotes',
               'categories')  # the last has no line above: a checkpoint knows it
NOTHING = ('', 'na', 'n/a', '#n/a', 'nan', 'null', '?')  # how a table spells that a number is missing


def parquet_rows(path):
    try:
        import pyarrow.parquet
    except ImportError:
        fail(f'reading {path} needs pyarrow: pip install pyarrow')
    try:
        names = pyarrow.parquet.read_schema(path).names
        table = pyarrow.parquet.ParquetFile(path, read_dictionary=names)  # a text repeated takes its room once
        yield 0, names

        def cells(column):
            if not pyarrow.types.is_dictionary(column.type):
                return column.to_pylist()
            texts = column.dictionary.to_pylist()
            return [None if i is None else texts[i] for i in column.indices.to_pylist()]
        batches = (zip(*map(cells, batch.columns)) for batch in table.iter_batches(CHUNK))
        for at, row in enumerate(itertools.chain.from_iterable(batches), 1):
            yield at, ['' if v is None else v.decode() if isinstance(v, bytes) else str(v) for v in row]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        fail(f'cannot read {path}: {error}')


def json_rows(path, end=']'):
    """One JSON list of objects, which need not fit in memory; .jsonl, end='': objects alone. The first one's
    keys are the columns; a value that is a list of one is that one (TAPE)."""
    decoder, between, keys, count, text, at = json.JSONDecoder(), re.compile(r'[\[,\s]*'), None, 0, '', 0
    with open_stream(path) as f:
        # in ever larger blocks while an object does not end, else a large one were read over and over
        for block in codecs.iterdecode(iter(lambda: f.read(max(1 << 20, len(text) - at)), b''), 'utf-8'):
            text, at = text[at:] + block, 0
            if len(text) > LONGEST:
                fail(f'{path} has an object of more than {LONGEST:,} bytes (LONGEST in util/files.py): see item '
                     f'{count + 1}; wanted is a list of objects')
            while True:
                at = between.match(text, at).end()
                try:
                    item, at = decoder.raw_decode(text, at)
                except json.JSONDecodeError:  # the list's end, or this object's has not been read yet
                    break
                except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, lists a thousand deep
                    fail(f'{path}: cannot read what comes after item {count} ({error})')
                count += 1
                if not isinstance(item, dict):
                    fail(f'{path} is no JSON list of objects: see item {count}')
                if keys is None:
                    keys = list(item)
                    yield 0, keys
                cells = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in map(item.get, keys)]
                yield count, ['' if v is None or isinstance(v, (list, dict)) else str(v) for v in cells]
    if keys is None or text[at:].strip() != end:
        fail(f'{path} is no JSON list of objects (those of a .jsonl have no brackets), or it is cut short')


def csv_rows(path, kind, meta, header=None, quotes=True):
    """
    .csv .tsv .arff (a CSV under a list of attributes, where ? is an empty cell). The delimiter of a .csv is
    the sign of , ; and tab that its first line has most of; numbers between ; may have a decimal
    comma. A first line that holds only numbers is no header, unless they count 0, 1, 2, .. (pandas): without
    one the columns are c0, c1, ... header: True, False, or the names, for a file without. With quotes=False
    quotation marks mean nothing (GLUE), and lines of another number of cells are left out.
    """
    text, above, reader = open_lines(path, 'utf-8-sig'), 0, None
    names = [*header] if isinstance(header, list) else []
    csv.field_size_limit(LONGEST)
    try:
        if kind == '.arff':
            for above, line in enumerate(text, 1):
                attribute = re.match(r"""@attribute\s+('[^']*'|"[^"]*"|\S+)""", line, re.IGNORECASE)
                if attribute:
                    names.append(attribute[1].strip('\'"'))
                if line.lower().startswith('@data'):
                    break
        top = next(text, '')
        delimiter = {'.csv': max(',;\t', key=top.count), '.tsv': '\t'}.get(kind, ',')
        comma = delimiter == ';'
        if kind == '.csv' and delimiter != ',':
            meta['notes'].append(f'cells are parted by {delimiter!r}' + ', 1,5 is read as 1.5' * comma)
        rows = reader = csv.reader(itertools.chain([top], text), delimiter=delimiter, strict=True,
                                   quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        if not top:
            fail(f'{path} is empty')
        first = next(rows)
        if not names and header is None and None not in map(number, first):
            header = first == [str(i) for i in range(len(first))]
            taken = 'names' if header else 'a row'
            meta['notes'].append(f'the first line holds only numbers, and is read as {taken}: '
                                 f'--header={not header} says otherwise')
        if names or header is False:
            names, rows = names or [f'c{i}' for i in range(len(first))], itertools.chain([first], rows)
        else:
            names = [cell.strip() for cell in first]
        yield 0, names
        for row in rows:
            line = above + reader.line_num
            row = [re.sub(r'^\s*([+-]?\d+),(\d+)\s*$', r'\1.\2', cell) for cell in row] if comma else row
            if len(row) == len(names):
                yield line, ['' if cell == '?' else cell for cell in row] if kind == '.arff' else row
            elif row and not quotes:
                meta['left_out']['lines with missing cells'] += 1
            elif row:
                fail(f'{path}, line {line}: {len(row)} cells where the header has {len(names)}')
    except csv.Error as error:
        fail(f'{path}, line {above + reader.line_num}: {error}; --quotes=False: quotes mean nothing')


def number(cell):
    """The number that a cell spells: NaN if it says that there is none, None if it is text."""
    try:
        return float(cell)
    except ValueError:
        return math.nan if cell.strip().lower() in NOTHING else None


def category(cell, known, unseen):
    """The number of a text among those of its column. A new one gets the next, or, where a model has learned
    the others (then `unseen` is a Counter), is counted, and missing."""
    cell = cell.strip()
    new = cell.lower() not in NOTHING and cell not in known
    if new and unseen is not None:
        unseen[cell] += 1
    return known.setdefault(cell, len(known)) if new and unseen is None else known.get(cell, math.nan)


def whole_rows(x, missing, left_out, complain):
    """
    Which rows (k,) of x (k, n, d_raw) stay. What is missing is NaN, an error unless `missing` says otherwise;
    with 'mean' it stays so, and data.normalise puts in the mean that the model knows.
    """
    for row, column, _ in np.argwhere(np.isinf(x) if missing else ~np.isfinite(x))[:1]:
        complain(row, column)
    keep = ~np.isnan(x).any((1, 2)) | (missing == 'mean')
    left_out['rows with a missing number'] += len(x) - int(keep.sum())
    return keep


def some(names):
    """The first few, in one line."""
    return ', '.join([*names][:8]) + f', and {len(names) - 8} more' * (len(names) > 8)


def read_table(path, kind, meta, input_column=None, label_column=None, drop_column=None, split_column=None,
               missing=None, categories=None, **options):
    """One text column makes byte sequences, two make pairs; number columns or a list of names floats, and text
    among those is numbered in the order of its first use: a row that is added at the end changes no number."""
    rows = parquet_rows(path) if kind == '.parquet' else \
        json_rows(path, ']' if kind == '.json' else '') if kind.startswith('.json') else \
        csv_rows(path, kind, meta, **options)
    header = next(rows)[1]

    twice = next((name for name, k in Counter(header).items() if k > 1), None)
    if twice is not None:
        fail(f'{path} has two columns of the name {twice!r}: rename one')

    def place(name, knob):
        if name is None or name in header:
            return None if name is None else header.index(name)
        if re.fullmatch(r'-[1-9]\d{0,8}', name) and int(name[1:]) <= len(header):  # counted from the end
            return len(header) + int(name)
        fail(f'{path} has no column {name!r} ({knob}); the nearest is {nearest(name, header)!r}')
    label, split = place(label_column, 'label_column'), place(split_column, 'split_column')
    dropped = [place(name.strip(), 'drop_column') for name in drop_column.split(',')] if drop_column else []
    if input_column is None:
        names = [name for i, name in enumerate(header) if i not in (label, split, *dropped)]
    elif isinstance(input_column, str):
        names = [name.strip() for name in input_column.split(',')]
        names = [input_column] if input_column in header else names
    else:
        names = list(input_column)
    if not names:
        fail(f'{path} has no inputs beside {", ".join(header) or "nothing"}: name them with --input_column')
    if sorted(names) == sorted(meta['columns'] or ()):
        names = meta['columns']  # by name, in the order of the file before it
    inputs = [place(name, 'input_column') for name in names]
    for i in {label, split} & {*inputs}:
        fail(f'{path}: {header[i]!r} is the label or the split, and an input too: take it out of input_column')
    if meta['columns'] not in (None, names):
        fail(f'{path}: its inputs are {", ".join(names)}; of the file before it {", ".join(meta["columns"])}')
    meta['columns'] = names
    chunks = in_chunks(rows, weigh=lambda row: sum(map(len, row[1])) + 64 * len(row[1]))
    first_rows = next(chunks, None)
    if not first_rows:
        fail(f'{path} has a header and no rows')
    # a column is text if most of its first cells are: one may be empty, or a word like 1984, or a mistake
    cells = {name: [row[i] for _, row in first_rows if row[i].strip().lower() not in NOTHING]
             for name, i in zip(names, inputs)}
    texts = [name for name, column in cells.items() if 2 * [*map(number, column)].count(None) > len(column)]
    named = isinstance(input_column, (str, type(None)))  # by the user, not by a checkpoint
    numbers = not (texts and named) or len(inputs) > (2 if input_column else 1)
    known = meta['categories'] if numbers else {}  # {column: {text: its number}}
    known.update(categories or {})
    for name in texts if numbers and named and not categories else ():
        if len({*cells[name]}) > max(10, len(cells[name]) / 4):
            fail(f'{path}: column {name!r} holds text: name the input with --input_column=NAME (one text '
                 'column, two a,b for a pair, or number columns a,b,c), the label with --label_column, or '
                 'leave it out with --drop_column')
        known.setdefault(name, {})
    unseen = Counter() if categories else None
    readers = [partial(category, known=known[name], unseen=unseen) if name in known else number
               for name in names]

    def filled(chunk, places, why):
        full = [(line, row) for line, row in chunk if all(row[i].strip() for i in places)]
        meta['left_out'][why] += len(chunk) - len(full)
        return full
    for chunk in itertools.chain([first_rows], chunks):
        chunk = chunk if split is None else filled(chunk, [split], 'rows with an empty split cell')
        chunk = chunk if numbers else filled(chunk, inputs, 'empty inputs')
        splits = None if split is None else [SPLIT_WORDS.get(row[split].strip().lower()) for _, row in chunk]
        if splits and None in splits:
            line, row = chunk[splits.index(None)]
            fail(f'{path}, line {line}: {split_column!r} is {row[split]!r}: a split is train, val or test')
        if numbers:
            def complain(k, j):
                line, row = chunk[k]
                fail(f'{path}, line {line}, column {names[j]!r}: {row[inputs[j]]!r} is not a finite number' + (
                    f', nor one of the texts {some(known[names[j]])}' if names[j] in known else '') +
                    '; correct it, or, where one is missing, say --missing=mean or drop')
            x = [[read(row[i]) for i, read in zip(inputs, readers)] for _, row in chunk]
            for k, values in enumerate(x):
                if None in values:  # a text, which is a mistake, and not missing
                    complain(k, values.index(None))
            with np.errstate(over='ignore'):  # the infinity that it makes is named below
                x = np.array(x, np.float64).reshape(-1, len(inputs), 1)  # (k, n, d_raw)
            keep = whole_rows(x, missing, meta['left_out'], complain)
            x, chunk = x[keep], [pair for pair, kept in zip(chunk, keep) if kept]
            splits = splits and [v for v, kept in zip(splits, keep) if kept]
        else:
            x = [tuple(row[i].strip().encode() for i in inputs) for _, row in chunk]
            x = x if len(inputs) == 2 else [cell for cell, in x]
        yield x, None if label is None else [row[label].strip() for _, row in chunk], splits
    meta['notes'] += [f'{n:,} cells say {cell!r}, which is not known' for cell, n in (unseen or {}).items()]
    meta['notes'] += [f'column {name!r} holds text, whose {len(texts)} kinds are numbered: '
                      f'{some(texts)}' for name, texts in known.items() if not categories]
