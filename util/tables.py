"""
Tables: their rows in chunks of inputs, labels and split codes.

What the files look like is in util/delimited.py (CSV, TSV), util/arff.py and util/records.py (JSON, Parquet),
which columns are read in util/header.py, what one cell says in util/cells.py.
"""

import itertools
import math
import re
import shlex
from collections import Counter

import numpy as np

from util.arff import ArffTable
from util.cells import advice_on_amounts, count_numbers, is_digits, number
from util.delimited import DelimitedTable, row_size
from util.errors import fail
from util.files import in_chunks
from util.header import known_names, select_columns, some
from util.records import JsonTable, ParquetTable
from util.rows import RowNumbers, complete_rows, first_bad_number
from util.splits import SPLIT_WORDS

TABLES = ('.csv', '.tsv', '.arff', '.json', '.jsonl', '.parquet')
TABLE_KNOBS = ('input_column', 'label_column', 'drop_column', 'split_column', 'missing', 'header', 'quotes',
               'categories')  # the last is no knob of the command line: a checkpoint knows it
# as R and pandas save row indices, and as people call them
INDEX_NAME = re.compile(
    r'|\.\.\.1|Unnamed: [\d.]+|__index_level_\d+__|id|index|row(_?(id|names?|number))?', re.IGNORECASE)


def read_table(path, ending, meta, input_column=None, label_column=None, drop_column=None, split_column=None,
               missing=None, categories=None, header=None, quotes=None):
    """
    Yields the rows of a table in chunks: x, labels (None: no label column), split codes (None: no split
    column).

    One text column makes byte sequences, two make pairs: x is a list of bytes, or of two bytes each. All else
    makes numbers: x is (k, n, 1) float64, NaN where one is missing. The texts of a column among numbers are
    numbered in the order of first use, so that a row added at the end changes no number. Labels are texts, as
    the file has them.

    input_column  names in one text, from the user, or a list of names, from a checkpoint. Those of a list are
                  numbers, but for the text columns in `categories`, {name: {text: its number}}.
    meta          its columns, categories, notes and left_out are filled in
    The other parameters are knobs of data.py.
    """
    inputs_known = input_column if meta['columns'] is None else meta['columns']
    named = known_names(inputs_known, label_column, drop_column, split_column)
    table = open_table(path, ending, meta, header, quotes, named)
    selection = select_columns(table, meta, input_column, label_column, drop_column, split_column)
    is_first_file = meta['columns'] is None
    meta['columns'] = selection.names

    chunks = in_chunks(table.rows(selection.places), weigh=row_size)
    first = next(chunks, None)
    if first is None:
        advice = '; if its first line is a row, pass --header=False' if ending in ('.csv', '.tsv') else ''
        fail(f'{path} has a header and no rows{advice}')
    texts = text_columns(first, selection)
    if are_sequences(texts, selection, input_column):
        check_sequences(table, selection, texts, first, meta, input_column)
        inputs = TextInputs(selection, meta)
    else:
        by_user = categories is None and not isinstance(input_column, list)
        if by_user:
            find_categories(table, selection, texts, first, meta, is_first_file)
        inputs = NumberInputs(table, selection, meta, missing, categories, by_user)
    check_labels(table, selection, first)

    for chunk in itertools.chain([first], chunks):
        if selection.split is not None:
            chunk = with_split(chunk, meta)
        x, chunk = inputs.read(chunk)
        yield x, labels_of(chunk, selection), splits_of(chunk, selection, table)
    inputs.finish()


def open_table(path, ending, meta, header, quotes, named):
    """The table of a file: an object with names, has_header, unit, path and rows(places)."""
    if ending in ('.csv', '.tsv'):
        return DelimitedTable(path, ending, meta, header, quotes, named)
    for knob, value in (('header', header), ('quotes', quotes)):
        if value is not None:
            fail(f'{knob}={value}: {path} is no .csv or .tsv, leave it unset')
    if ending == '.arff':
        return ArffTable(path)
    if ending == '.parquet':
        return ParquetTable(path)
    return JsonTable(path, ending, meta)


# -----------------------------------------------------------------------------
# labels and splits. A row is (its number, its selected cells); a chunk is a list of rows

def labels_of(chunk, selection):
    if selection.label is None:
        return None
    at = len(selection.names)
    return [cells[at].strip() for _, cells in chunk]


def with_split(chunk, meta):
    """The rows that have a split."""
    full = []
    for row in chunk:
        _, cells = row
        if cells[-1].strip():
            full.append(row)
    meta['left_out']['rows with an empty split cell'] += len(chunk) - len(full)
    return full


def splits_of(chunk, selection, table):
    """The split code of each row, or None without a split column."""
    if selection.split is None:
        return None
    codes = []
    for line, cells in chunk:
        code = SPLIT_WORDS.get(cells[-1].strip().lower())
        if code is None:
            fail(f'{table.path}, {table.unit} {line}: {table.names[selection.split]!r} is {cells[-1]!r}: a '
                 'split is train, val or test')
        codes.append(code)
    return codes


def check_labels(table, selection, first):
    """Fails on labels such as dates or numbers with decimal commas: they would be taken for class names."""
    if selection.label is None:
        return
    at = len(selection.names)  # of the label among the cells
    texts = [cells[at] for _, cells in first if number(cells[at]) is None]
    advice = advice_on_amounts(texts)
    if advice:
        fail(f'{table.path}: the label {table.names[selection.label]!r}, such as {texts[0]!r}, {advice}')


# -----------------------------------------------------------------------------
# inputs

def text_columns(chunk, selection):
    """
    Which inputs hold text, as a set of their places among the inputs: those of which most cells are text. One
    cell may be empty, or a word like 1984, or a mistake.
    """
    texts = set()
    for at in range(len(selection.names)):
        n_numbers, n_texts = count_numbers(cells[at] for _, cells in chunk)
        if n_texts > n_numbers:
            texts.add(at)
    return texts


def are_sequences(texts, selection, input_column):
    """Whether the inputs are read as text: one column of text, or two that the user names and one is text."""
    if not texts or isinstance(input_column, list):
        return False
    most = 1 if input_column is None else 2
    return len(selection.names) <= most


def check_sequences(table, selection, texts, first, meta, input_column):
    """Fails on amounts in a column that the user has not named. Notes that numbers are read as text."""
    if input_column is None:
        cells = [cells[0] for _, cells in first]
        refuse_amounts(table, selection.names[0], cells)
    if len(texts) < len(selection.names):
        meta['notes'].append(f'the columns {some(selection.names)} are read as a pair of texts, though one of '
                             'them holds numbers')


class TextInputs:
    """Reads byte sequences, or pairs of them. Rows with an empty input are left out."""

    def __init__(self, selection, meta):
        self.n = len(selection.names)
        self.left_out = meta['left_out']

    def read(self, chunk):
        """-> x, the rows that are in it"""
        x = []
        kept = []
        for row in chunk:
            _, cells = row
            sequences = tuple(cell.strip().encode() for cell in cells[:self.n])
            if b'' in sequences:
                self.left_out['empty inputs'] += 1
                continue
            x.append(sequences if self.n == 2 else sequences[0])
            kept.append(row)
        return x, kept

    def finish(self):
        pass


def find_categories(table, selection, texts, first, meta, is_first_file):
    """Puts the text columns into meta['categories']. Fails on those whose texts cannot be categories."""
    known = meta['categories']
    for at, name in enumerate(selection.names):
        cells = [cells[at].strip() for _, cells in first]
        cells = [cell for cell in cells if cell]
        if not is_first_file:
            check_as_before(table, name, cells, at in texts, known)
        if at in texts:
            check_texts(table, name, cells)
            known.setdefault(name, {})


def check_as_before(table, name, cells, is_text, known):
    """Fails on a column that holds text and held numbers in the file before this one, or the reverse."""
    if is_text and name not in known:
        fail(f'{table.path}: column {name!r} holds text, such as {cells[0]!r}, and numbers in the file before')
    if name in known and not is_text:
        for cell in cells:
            if cell not in known[name]:
                fail(f'{table.path}: column {name!r} holds numbers, such as {cell!r}, and text in the file '
                     'before')


def check_texts(table, name, cells):
    """Fails on texts that cannot be categories. cells: those of the column's first rows."""
    refuse_amounts(table, name, cells)
    if len(set(cells)) > max(10, len(cells) / 4):
        texts = [cell for cell in cells if number(cell) is None]
        what = 'text'
        if is_digits(texts[0]):
            what = 'whole numbers above 2^53, which are read as text,'
        fail(f'{table.path}: column {name!r} holds {what} such as {texts[0]!r}: name the input with '
             '--input_column=NAME (one text column, two a,b for a pair, or number columns a,b,c), the label '
             'with --label_column, or leave it out with --drop_column')


def refuse_amounts(table, name, cells):
    """Fails if most texts of a column are dates, or numbers that are written in another way."""
    texts = [cell for cell in cells if number(cell) is None]
    advice = advice_on_amounts(texts)
    if advice:
        fail(f'{table.path}: column {name!r}, such as {texts[0]!r}, {advice}; or leave it out with '
             '--drop_column')


class NumberInputs:
    """
    Reads numbers (k, n, 1) float64. The texts of a text column are numbered.

    categories: those of a checkpoint, or None. A text that is not among them is counted, and missing. by_user:
    the columns are the user's choice, and not a checkpoint's, so that notes on them are of use.
    """

    def __init__(self, table, selection, meta, missing, categories, by_user):
        self.table = table
        self.names = selection.names
        self.meta = meta
        self.missing = missing
        self.by_user = by_user
        self.row_numbers = RowNumbers()
        self.unseen = None  # texts that a checkpoint does not know, and how often they are there
        if categories is not None:
            self.unseen = Counter()
            meta['categories'].update(categories)
        self.known = {}  # place among the inputs -> {text: its number}
        for at, name in enumerate(self.names):
            if name in meta['categories']:
                self.known[at] = meta['categories'][name]

    def read(self, chunk):
        """-> x, the rows that are in it"""
        rows = []
        for line, cells in chunk:
            values = self.values(cells)
            if None in values:  # a text, which is a mistake, and not missing
                self.refuse(line, cells, values.index(None))
            rows.append(values)
        x = np.array(rows, np.float64).reshape(-1, len(self.names), 1)  # (k, n, 1)
        bad = first_bad_number(x, self.missing)
        if bad is not None:
            row, at = bad
            line, cells = chunk[row]
            self.refuse(line, cells, at)
        self.row_numbers.look(x)
        keep = complete_rows(x, self.missing, self.meta['left_out'])
        return x[keep], list(itertools.compress(chunk, keep))

    def values(self, cells):
        """The numbers of a row; None for a text among numbers."""
        values = [number(cell) for cell in cells[:len(self.names)]]
        for at, known in self.known.items():
            values[at] = self.category(cells[at].strip(), known)
        return values

    def category(self, text, known):
        """The number of a text in its column; NaN if it is empty, or if the checkpoint does not know it."""
        if not text:
            return math.nan
        if text in known:
            return known[text]
        if self.unseen is None:
            known[text] = len(known)
            return known[text]
        self.unseen[text] += 1
        return math.nan

    def refuse(self, line, cells, at):
        """Fails on a cell, and says why."""
        cell = cells[at]
        value = number(cell)
        if at in self.known and cell.strip():
            reason = (f'is not a finite number, nor one of the texts {some(self.known[at])}: correct it, or '
                      'pass --missing=mean or --missing=drop')
        elif value is None and is_digits(cell):
            reason = 'is a whole number above 2^53, of which float64 does not hold all digits'
        elif value is None:
            reason = 'is not a finite number: correct it, or empty the cell if the number is missing'
        elif math.isnan(value):
            reason = 'is a missing number; where numbers are missing pass --missing=mean or --missing=drop'
        else:
            reason = 'is not a finite number in float32'
        fail(f'{self.table.path}, {self.table.unit} {line}, column {self.names[at]!r}: {cell!r} {reason}')

    def finish(self):
        """Notes what the user should know."""
        notes = self.meta['notes']
        if self.unseen:
            for text, n in self.unseen.items():
                notes.append(f'{n:,} cells say {text!r}, which is not known')
        if not self.by_user:
            return
        for at, known in self.known.items():
            notes.append(f'column {self.names[at]!r} holds text, whose {len(known)} categories are numbered in '
                         f'the order of first use: {some(known)}')
        numbering = set(self.row_numbers.numbering())
        in_order = set(self.row_numbers.in_order())
        spread_out = set(self.row_numbers.spread_out())
        for at, name in enumerate(self.names):
            advice = f'{shlex.quote(f"--drop_column={name}")} leaves it out'
            if at in numbering:
                notes.append(f'warning: column {name!r} numbers the rows, which may give the answer '
                             f'away: {advice}')
            elif at in spread_out and INDEX_NAME.fullmatch(name):
                notes.append(f'warning: column {name!r} has the name of a saved row index, which may give the '
                             f'answer away: {advice}')
            elif at in in_order:
                notes.append(f'warning: column {name!r} grows, or falls, from row to row. If the rows are in '
                             f'the order of the label or of time, it may give the answer away: {advice}')
