"""Text files of rows and cells, .csv and .tsv: the names of the columns, and the rows."""

import csv
import itertools
import math
import re

from util.cells import count_numbers, number
from util.errors import fail
from util.files import LONGEST, in_chunks, open_lines

DELIMITERS = ',;\t|'
SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # by which Excel says what the delimiter is
DECIMAL_COMMA = re.compile(r'\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*')
POINT_AND_THREE = re.compile(r'\s*[+-]?\d{1,3}(\.\d{3})+\s*')  # 1.234: beside decimal commas it may mean 1234
NAMED_BY_US = re.compile(r'c\d+')
SAMPLE = 100  # rows from which it is inferred what the first line is


class DelimitedTable:
    """
    A .csv or .tsv file. names: those of its columns. rows(places): its rows.

    header  True: the first line holds the names. False: it is a row, and the columns are c0, c1, ... None: this
            is inferred, and printed where it is a guess. A list: the names, for a file without any.
    quotes  False: quotation marks have no meaning (GLUE), and lines of another number of cells are left out.
    named   names of columns that the user or a checkpoint knows: a line that has them is the header.

    The delimiter of a .csv is the one of , ; tab and | that its first line has most of, or the one that a first
    line 'sep=;' names. Where it is ; numbers may have a decimal comma.
    """
    unit = 'line'  # what a row's number counts, for messages

    def __init__(self, path, ending, meta, header=None, quotes=None, named=()):
        self.path = path
        self.meta = meta
        self.quotes = quotes
        self.has_commas = False  # whether a number has a decimal comma
        self.grouped = None  # a cell like 1.234, if there is one
        lines = open_lines(path, 'utf-8')
        self.delimiter, first_lines, n_before = find_delimiter(lines, ending, quotes)
        if ending == '.csv' and self.delimiter != ',':
            note = f'cells are separated by {self.delimiter!r}'
            if self.delimiter == ';':
                note += ', and 1,5 is read as 1.5'
            meta['notes'].append(note)
        rows = self.split(itertools.chain(first_lines, lines), n_before)
        rows = itertools.dropwhile(is_empty, rows)
        sample = next(in_chunks(rows, SAMPLE, row_size), None)
        if sample is None:
            fail(f'{path} is empty')
        self.every_row = itertools.chain(sample, rows)
        self.n_cells = len(sample[0][1])
        self.names = self.find_names(sample, header, named)

    def split(self, lines, n_before):
        """Yields (line number, cells) of the rows that are not blank. n_before: lines before these."""
        csv.field_size_limit(LONGEST)
        quoting = csv.QUOTE_NONE if self.quotes is False else csv.QUOTE_MINIMAL
        reader = csv.reader(lines, delimiter=self.delimiter, quoting=quoting, strict=True)
        begin = n_before + 1  # the line where the row begins
        n_long = 0  # rows of several lines
        first_long = None
        try:
            for cells in reader:
                if cells:
                    yield begin, cells
                end = n_before + reader.line_num
                if end > begin:
                    n_long += 1
                    if first_long is None:
                        first_long = begin
                begin = end + 1
        except csv.Error as error:
            reason = str(error).replace('\t', '\\t')
            fail(f'{self.path}, line {begin}: {reason} (cells are separated by {self.delimiter!r}); if '
                 'quotation marks have no meaning in it, pass --quotes=False')
        if n_long and self.quotes is None:
            self.meta['notes'].append(
                f'{n_long:,} rows have line ends between quotation marks, the first in line {first_long}; if '
                'quotation marks have no meaning in it, pass --quotes=False')

    def find_names(self, sample, header, named):
        """The names of the columns. If they are in the first row, it is taken off self.every_row."""
        self.has_header = True
        if isinstance(header, list):
            return header
        n_columns = count_columns(sample)
        first = [cell.strip() for cell in sample[0][1][:n_columns]]
        is_guess = False
        if header is None and has_names(first, named):
            header = True
        elif header is None:
            below = [self.with_points(cells) for _, cells in sample[1:]]
            header, is_guess = infer_header(self.with_points(first), below, named)
        if is_guess:
            taken = 'names' if header else 'a row'
            shown = ', '.join(first[:4])
            self.meta['notes'].append(
                f'the first line ({shown[:60]}) is read as {taken}: --header={not header} says otherwise')
        self.has_header = header
        if not header:
            return [f'c{i}' for i in range(n_columns)]
        next(self.every_row)
        return first

    def rows(self, places):
        """Yields (line number, the cells at these places) of each row."""
        self.has_commas = False
        self.grouped = None
        for line, cells in self.every_row:
            if len(self.names) > 1 and is_empty((line, cells)):  # Excel writes such rows
                self.meta['left_out']['rows of empty cells'] += 1
                continue
            if len(cells) != len(self.names) and not self.fits(line, cells):
                continue
            yield line, self.with_points([cells[place] for place in places])
        if self.has_commas and self.grouped:
            self.meta['notes'].append(f'numbers in it have decimal commas, but the point of {self.grouped!r} '
                                      'is read as a decimal point too')

    def fits(self, line, cells):
        """Whether a row that has more or fewer cells than there are columns can be read."""
        n = len(self.names)
        only_empty_ones_more = len(cells) > n and not any(cells[n:])
        if only_empty_ones_more and len(cells) == self.n_cells:
            return True  # a delimiter ends every line, that of the header too
        if self.quotes is False:
            self.meta['left_out']['lines with missing cells'] += 1
            return False
        if only_empty_ones_more:
            return True
        message = f'{self.path}, line {line}: {len(cells)} cells where the header has {n}'
        if '"' in ''.join(cells):
            message += '; if quotation marks have no meaning in it, pass --quotes=False'
        elif len(cells) > n:
            message += (f'; a cell with {self.delimiter!r} in it needs quotation marks, and a column of row '
                        'names (R) a name in the header')
        fail(message)

    def with_points(self, cells):
        """The cells, with 1.5 for 1,5 where numbers may have a decimal comma."""
        if self.delimiter != ';':
            return cells
        converted = []
        for cell in cells:
            if DECIMAL_COMMA.fullmatch(cell):
                self.has_commas = True
                cell = cell.replace(',', '.')
            elif POINT_AND_THREE.fullmatch(cell):
                self.grouped = cell
            converted.append(cell)
        return converted


def is_empty(row):
    """Whether no cell of a row (line number, cells) has anything in it."""
    _, cells = row
    return not any(cells)


def row_size(row):
    """About how many bytes a row (line number, cells) takes in memory."""
    _, cells = row
    return sum(map(len, cells)) + 64 * len(cells)


def find_delimiter(lines, ending, quotes):
    """-> the delimiter; the lines read to find it that are rows, in a list; how many lines are before those"""
    n_before = 0
    line = next(lines, '')
    while line and not line.strip():
        n_before += 1
        line = next(lines, '')
    stated = SEP_LINE.fullmatch(line)
    if stated:
        return stated[1], [], n_before + 1
    if ending == '.tsv':
        return '\t', [line], n_before
    bare = line
    if quotes is not False:
        bare = re.sub(r'"[^"]*"', '', line)  # a delimiter in a quoted name does not count
    counts = {delimiter: bare.count(delimiter) for delimiter in DELIMITERS}
    if counts[';']:
        for cell in bare.split(';'):
            if DECIMAL_COMMA.fullmatch(cell):
                counts[','] -= 1
    return max(DELIMITERS, key=counts.get), [line], n_before


def count_columns(sample):
    """How many columns there are, without those at the end that have no name and no cells."""
    _, first = sample[0]
    most = max(filled_cells(cells) for _, cells in sample)
    return min(max(most, 1), len(first))


def filled_cells(cells):
    """How many cells there are up to the last that is not empty."""
    n = len(cells)
    while n > 0 and not cells[n - 1].strip():
        n -= 1
    return n


# -----------------------------------------------------------------------------
# what the first line is

def infer_header(first, below, named):
    """
    Whether a first line holds the names of the columns, and whether that is a guess. -> (bool, bool)

    first: its cells, none of which is in `named`. below: cells of the rows after it. named: as in
    DelimitedTable.
    """
    if None not in [number(cell) for cell in first]:
        counted = [str(i) for i in range(len(first))]  # the names that pandas gives the columns of an array
        return first == counted, True

    found = set()
    for i, cell in enumerate(first):
        column = [cells[i] for cells in below if i < len(cells)]
        found.add(evidence(cell, column))
    if 'text over numbers' in found:
        return True, False
    if any(NAMED_BY_US.fullmatch(name) for name in named):
        return False, False
    if 'repeated text' in found:
        return False, True
    is_row = 'number over numbers' in found and 'new text' not in found
    return not is_row, True


def evidence(cell, column):
    """What a cell of the first line says about that line. column: the cells below it. '' if it says nothing."""
    value = number(cell)
    n_numbers, n_texts = count_numbers(column)
    if n_numbers > n_texts:
        if value is None:
            return 'text over numbers'
        return '' if math.isnan(value) else 'number over numbers'
    if cell and cell in column:
        return 'repeated text'
    if cell and 4 * len(set(column)) <= len(column):
        return 'new text'  # over few texts, and none of them
    return ''


def has_names(first, named):
    """Whether the first line has a name that is known. If these are numbers a row might have one: then all."""
    present = [name in first for name in named]
    if all(number(name) is not None for name in named):
        return len(named) > 0 and all(present)
    return any(present)
