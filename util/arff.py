"""ARFF files, the format of Weka and OpenML: a list of attributes, and below it lines of cells."""

import csv
import re

from util.errors import fail
from util.files import open_lines

ATTRIBUTE = re.compile(r"""@attribute\s+('[^']*'|"[^"]*"|\S+)""", re.IGNORECASE)


class ArffTable:
    """An .arff file. names: the attributes. rows(places): its rows, in which ? (a missing value) is ''."""
    unit = 'line'  # what a row's number counts, for messages
    has_header = True

    def __init__(self, path):
        self.path = path
        self.names = []
        self.lines = enumerate(open_lines(path, 'utf-8'), 1)
        for _, line in self.lines:
            attribute = ATTRIBUTE.match(line.strip())
            if attribute:
                self.names.append(attribute[1].strip('\'"'))
            if line.strip().lower().startswith('@data'):
                break

    def rows(self, places):
        """Yields (line number, the cells at these places) of each row."""
        for line_number, line in self.lines:
            line = line.strip()
            if not line or line.startswith('%'):  # a comment
                continue
            if line.startswith('{'):
                fail(f'{self.path}, line {line_number}: rows in braces (sparse ARFF) cannot be read')
            try:
                cells = split_cells(line)
            except csv.Error as error:
                fail(f'{self.path}, line {line_number}: {error}')
            if len(cells) != len(self.names):
                fail(f'{self.path}, line {line_number}: {len(cells)} cells for {len(self.names)} attributes')
            wanted = [cells[place] for place in places]
            yield line_number, ['' if cell == '?' else cell for cell in wanted]


def split_cells(line):
    """The cells of a line. Commas inside quotation marks, which are ' or ", are part of a cell."""
    quote = re.search(r"""(^|,)\s*(['"])""", line)  # the first that begins a cell
    if quote is None:
        return [cell.strip() for cell in line.split(',')]
    cells = next(csv.reader([line], quotechar=quote[2], escapechar='\\', skipinitialspace=True))
    return [cell.strip() for cell in cells]
