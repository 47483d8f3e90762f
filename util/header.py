"""Which columns of a table are inputs, label and split."""

import re
from dataclasses import dataclass

from util.errors import fail, nearest

POSITION = re.compile(r'-[1-9]\d{0,8}')  # -1 is the last column


@dataclass
class Selection:
    """The columns that are read. A row of these cells has the inputs first, then the label, then the split."""
    names: list[str]  # of the inputs
    inputs: list[int]  # their places in the file
    label: int | None
    split: int | None

    @property
    def places(self):
        """The places of all that is read."""
        more = [place for place in (self.label, self.split) if place is not None]
        return self.inputs + more


def select_columns(table, meta, input_column, label_column, drop_column, split_column):
    """-> Selection. Fails on a name that the file lacks, and where the file before it had other inputs."""
    places = places_of(table)
    label = None
    split = None
    dropped = []
    if label_column is not None:
        label = find_column(label_column, places, table.path, 'label_column')
    if split_column is not None:
        split = find_column(split_column, places, table.path, 'split_column')
    if drop_column is not None:
        dropped = find_columns(drop_column, places, table.path, 'drop_column')

    if input_column is None:
        others = {label, split, *dropped}
        inputs = [place for place in range(len(table.names)) if place not in others]
    elif isinstance(input_column, str):
        inputs = find_columns(input_column, places, table.path, 'input_column')
    else:
        inputs = find_listed(input_column, places, table, meta)
    if not inputs:
        others = some(table.names) or 'nothing'
        fail(f'{table.path} has no inputs beside {others}: name them with --input_column')
    check_named_once(table, inputs, dropped)
    for place in (label, split):
        if place in inputs:
            fail(f'{table.path}: {table.names[place]!r} is the label or the split, and an input too: take it '
                 'out of input_column')

    names = [table.names[place] for place in inputs]
    if isinstance(input_column, list):
        names = input_column  # the file may have no header, and its columns be taken by their order
    if meta['columns'] is not None:
        names, inputs = in_order(meta['columns'], names, inputs, table.path)
    return Selection(names, inputs, label, split)


def check_named_once(table, inputs, dropped):
    """Fails on a column that input_column names twice, or that drop_column names too."""
    dropped = set(dropped)
    seen = set()
    for place in inputs:
        name = table.names[place]
        if place in dropped:
            fail(f'{table.path}: {name!r} is in input_column and in drop_column: take it out of one')
        if place in seen:
            fail(f'{table.path}: {name!r} is named twice in input_column: name it once')
        seen.add(place)


def places_of(table):
    """{name: its place} of the columns of a file, in which no name may be there twice."""
    places = {}
    for place, name in enumerate(table.names):
        if name in places:
            fail(f'{table.path} has two columns of the name {name!r}: rename one')
        places[name] = place
    return places


def in_order(wanted, names, inputs, path):
    """The names and places of the inputs in the order of the file before this one."""
    if sorted(names) != sorted(wanted):
        fail(f'{path}: its inputs are {some(names)}; of the file before it {some(wanted)}')
    place_of = dict(zip(names, inputs))
    return wanted, [place_of[name] for name in wanted]


def find_column(name, places, path, knob):
    """The place of a column, by its name or, as -1 for the last, by its position."""
    if name in places:
        return places[name]
    if POSITION.fullmatch(name) and int(name[1:]) <= len(places):
        return len(places) + int(name)
    fail(f'{path} has no column {name!r} ({knob}); the nearest is {nearest(name, places)!r}')


def find_columns(text, places, path, knob):
    """The places of the columns in a text 'a,b,c'. A name may have commas in it: whole names count first."""
    if text in places:
        return [places[text]]
    most_commas = max([name.count(',') for name in places], default=0)
    found = []
    begun = ''  # the start of a name that has a comma
    for piece in text.split(','):
        name = (begun + piece).strip()
        if name in places or POSITION.fullmatch(name):
            found.append(find_column(name, places, path, knob))
            begun = ''
            continue
        begun += piece + ','
        if begun.count(',') > most_commas:
            break
    if begun:
        find_column(begun.split(',')[0].strip(), places, path, knob)  # there is none: this fails
    return found


def find_listed(names, places, table, meta):
    """The places of a checkpoint's columns: by name; by order in a file without a header that has as many."""
    if all(name in places for name in names):
        return [places[name] for name in names]
    if not table.has_header and len(names) == len(places):
        meta['notes'].append(f'{table.path} has no header: its columns are taken for {some(names)}, in this '
                             'order')
        return list(range(len(names)))
    return [find_column(name, places, table.path, 'input_column') for name in names]


def known_names(inputs, label_column, drop_column, split_column):
    """The names that the user or a checkpoint gives, by which a header is told from a row."""
    names = []
    texts = [label_column, drop_column, split_column]
    if isinstance(inputs, list):
        names += inputs
    else:
        texts.append(inputs)
    for text in texts:
        if text is not None:
            names.append(text)
            names += [piece.strip() for piece in text.split(',')]
    return [name for name in names if name and not POSITION.fullmatch(name)]


def some(names):
    """The first few names, in one line."""
    names = list(names)
    text = ', '.join(name or "''" for name in names[:8])
    if len(names) > 8:
        text += f', and {len(names) - 8} more'
    return text
