"""Files of records with named values, .json, .jsonl and .parquet: the names of the columns, and the rows."""

import codecs
import itertools
import json
import re
from collections import Counter

from util.errors import fail
from util.files import CHUNK, LONGEST, in_chunks, open_stream

BLOCK = 2 ** 20  # bytes of JSON read at once
SELECT = 'leave it out with --drop_column, or name the inputs with --input_column'


class JsonTable:
    """
    A .json file, one list of objects, or a .jsonl, objects alone, one after the other. It need not fit in
    memory.

    names: the keys of the first objects, as many as are read in one piece. A key that an object lacks is an
    empty cell, and so is null. A list of one value is that value (TAPE).
    """
    unit = 'item'  # what a row's number counts, for messages
    has_header = True

    def __init__(self, path, ending, meta):
        self.path = path
        self.meta = meta
        closing = ']' if ending == '.json' else ''
        chunks = in_chunks(json_objects(path, closing), weigh=object_size)
        first = next(chunks)
        names = {}  # an ordered set
        for _, item, _ in first:
            names.update(dict.fromkeys(item))
        self.names = list(names)
        self.n_first = len(first)
        self.chunks = itertools.chain([first], chunks)

    def rows(self, places):
        """Yields (number of the object, the cells at these places) of each object."""
        wanted = [self.names[place] for place in places]
        known = set(self.names)
        late = Counter()  # keys that none of the first objects has
        for chunk in self.chunks:
            for item_number, item, _ in chunk:
                late.update(item.keys() - known)
                yield item_number, [self.cell(item.get(name), item_number, name) for name in wanted]
        for key, n in late.items():
            self.meta['notes'].append(f'the key {key!r}, in {n:,} objects, is left out: none of the first '
                                      f'{self.n_first:,} objects has it')

    def cell(self, value, item_number, name):
        """The text of a value."""
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, (list, dict)):
            fail(f'{self.path}, item {item_number}: {name!r} holds a list or an object, not a single value: '
                 f'{SELECT}')
        if value is None:
            return ''
        # half an emoji (\ud83d), which JSON can hold and UTF-8 cannot, becomes a question mark
        return str(value).encode(errors='replace').decode()


def object_size(item):
    """How many characters an object of json_objects has."""
    _, _, size = item
    return size


def json_objects(path, closing):
    """Yields (its number, object, its characters) for each object of a JSON text that ends with `closing`."""
    decode_utf8 = codecs.getincrementaldecoder('utf-8-sig')().decode
    decode_json = json.JSONDecoder().raw_decode
    between = re.compile(r'[\[,\s]*')  # what may be before an object
    text = ''  # what is read and not decoded yet
    count = 0
    with open_stream(path) as file:
        at_end = False
        while not at_end:
            # as large as the rest of the text: a long object would be decoded over and over in small blocks
            block = file.read(max(BLOCK, len(text)))
            at_end = not block
            text += decode_utf8(block, final=at_end)
            if len(text) > LONGEST:
                fail(f'{path} has an object of more than {LONGEST:,} bytes (LONGEST in util/files.py), item '
                     f'{count + 1}; a list of objects is needed')
            at = 0
            while True:
                begin = between.match(text, at).end()
                try:
                    item, end = decode_json(text, begin)
                except json.JSONDecodeError:  # the end of the list, or of this object, is not read yet
                    break
                except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 lists in lists
                    fail(f'{path}: cannot read what comes after item {count} ({error})')
                count += 1
                if not isinstance(item, dict):
                    fail(f'{path} is no JSON list of objects: see item {count}')
                yield count, item, end - begin
                at = end
            text = text[at:]
    if count == 0 or text.strip() != closing:
        fail(f'{path} is no JSON list of objects, or it is cut short; objects without brackets around all of '
             'them are read from a .jsonl')


class ParquetTable:
    """A .parquet file. names: those of its columns. rows(places): its rows; only these columns are read."""
    unit = 'row'
    has_header = True

    def __init__(self, path):
        try:
            import pyarrow.parquet
        except ImportError:
            fail(f'reading {path} needs pyarrow: pip install pyarrow')
        self.path = path
        try:
            self.schema = pyarrow.parquet.read_schema(path)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            fail(f'cannot read {path}: {error}')
        self.names = self.schema.names

    def rows(self, places):
        """Yields (row number, the cells at these places) of each row."""
        import pyarrow.parquet
        names = []
        texts = []
        for place in places:
            field = self.schema.field(place)
            if pyarrow.types.is_nested(field.type):
                fail(f'{self.path}: column {field.name!r} holds lists or objects ({field.type}), not single '
                     f'values: {SELECT}')
            names.append(field.name)
            if is_text(field.type):
                texts.append(field.name)
        row_number = 0
        try:
            file = pyarrow.parquet.ParquetFile(self.path, read_dictionary=texts)  # equal texts are stored once
            for batch in file.iter_batches(CHUNK, columns=names):
                columns = [cells_of(batch.column(name)) for name in names]
                for cells in zip(*columns):
                    row_number += 1
                    yield row_number, list(cells)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            fail(f'cannot read {self.path}: {error}')


def is_text(arrow_type):
    from pyarrow import types
    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(test(arrow_type) for test in tests)


def cells_of(column):
    """The cells of a column of pyarrow: texts, '' for null."""
    import pyarrow
    if pyarrow.types.is_dictionary(column.type):
        texts = cells_of(column.dictionary)
        return ['' if index is None else texts[index] for index in column.indices.to_pylist()]
    if pyarrow.types.is_temporal(column.type):
        column = column.cast(pyarrow.string())  # Python has no type for nanoseconds
    return [cell_text(value) for value in column.to_pylist()]


def cell_text(value):
    if value is None:
        return ''
    if isinstance(value, bytes):
        return value.decode()
    return str(value)
