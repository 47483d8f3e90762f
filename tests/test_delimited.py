"""util/delimited.py: .csv and .tsv files as programs write them."""

import time

import pytest
from reading import fails, read, sequences, write
from test_data import opened

from util.delimited import infer_header

BODY = ['1.5,2,0', '-3,1.25,1', '4,5,1']


# ---- delimiters and numbers

@pytest.mark.parametrize('name, lines', [
    ('a.csv', ['a,b,y', *BODY]),
    ('a.csv', ['\ufeffa,b,y', *BODY]),  # a byte-order mark: Excel, PowerShell
    ('a.csv', ['a,b,y\r', *[f'{line}\r' for line in BODY]]),
    ('a.csv', ['', 'a,b,y', *BODY, '', '']),
    ('a.csv', ['a;b;y', '1,5;2;0', '-3;1,25;1', '4;5;1']),  # Excel and LibreOffice in most of Europe
    ('a.csv', ['a;b;y', '1,5e0;2;0', '-3e+00;125e-2;1', '4,0E0;5;1']),
    ('a.csv', ['sep=;\r', 'a;b;y', '1,5;2;0', '-3;1,25;1', '4;5;1']),  # Excel reads it so, and leaves it there
    ('a.csv', ['sep=\t', 'a\tb\ty', *[line.replace(',', '\t') for line in BODY]]),
    ('a.csv', ['a|b|y', *[line.replace(',', '|') for line in BODY]]),  # Spark, R
    ('a.csv', ['a\tb\ty', *[line.replace(',', '\t') for line in BODY]]),
    ('a.tsv', ['a\tb\ty', *[line.replace(',', '\t') for line in BODY]]),
    ('a.csv', ['a,b,y,', *[line + ',' for line in BODY]]),
    ('a.csv', ['a,b,y,,', *[line + ',,' for line in BODY], ',,,,', ',,,,']),  # Excel: emptied columns and rows
    ('a.csv', [',,', ',,', 'a,b,y', *BODY]),
    ('a.csv', ['a,b,y', *[line + ',' for line in BODY]]),
    ('a.csv', ['"a","b","y"', '"1.5","2","0"', '"-3","1.25","1"', '"4","5","1"'])])
def test_one_table_in_many_writings(tmp_path, name, lines):
    table = read(write(tmp_path / name, lines), label_column='y')
    assert table.columns == ['a', 'b'] and table.labels == ['0', '1', '1']
    assert table.x == [[1.5, 2], [-3, 1.25], [4, 5]]


def test_a_delimiter_that_is_inferred_is_told(tmp_path):
    for name, line, note in (('a.csv', 'a;b', "separated by ';', and 1,5 is read as 1.5"),
                             ('a.csv', 'a\tb', r"separated by '\t'"), ('a.csv', 'a|b', "separated by '|'"),
                             ('a.csv', 'a,b', ''), ('a.tsv', 'a\tb', '')):
        table = read(write(tmp_path / name, [line, line.replace('a', '1').replace('b', '2')]))
        assert note in table.notes and bool(note) == bool(table.notes)


def test_a_delimiter_in_a_quoted_name_does_not_count(tmp_path):
    table = read(write(tmp_path / 'a.csv', ['"mass, g";"width, mm";y', '1,5;2;0']), label_column='y')
    assert table.columns == ['mass, g', 'width, mm'] and table.x == [[1.5, 2]]


def test_points_beside_decimal_commas_are_told(tmp_path):
    """1.234 may be a German 1234: what it is read as is printed."""
    lines = ['a;b', '0,5;1.234', '0,7;987']
    table = read(write(tmp_path / 'a.csv', lines))
    assert table.x == [[0.5, 1.234],
                       [0.7, 987]] and "the point of '1.234' is read as a decimal point" in table.notes
    table = read(write(tmp_path / 'b.csv', ['a;b', '5;1.234']))
    assert 'decimal point' not in table.notes


# ---- quotation marks

def test_quotation_marks_may_mean_nothing(tmp_path):
    (tmp_path / 'a.tsv').write_text('s\ty\n"a\t0\nb"\t1\nc\t1\n')
    d = opened(tmp_path, tmp_path / 'a.tsv', input_column='s', quotes=False)
    assert sequences(d) == [b'"a', b'b"', b'c'] and not d.meta['notes']


@pytest.mark.parametrize('name', ['a.tsv', 'a.csv'])
def test_cells_that_hold_line_ends_are_told(tmp_path, name):
    """An opening quotation mark that means nothing swallows the lines up to the next."""
    mark = '\t' if name == 'a.tsv' else ','
    lines = [f'{sentence}{mark}yes' for sentence in ['one', '"two', 'three', 'four"', 'five']]
    lines[3] = lines[3].replace(f'four"{mark}yes', f'four"{mark}no')
    path = write(tmp_path / name, [f'text{mark}label', *lines])
    knobs = dict(input_column='text', label_column='label')
    table = read(path, **knobs)
    assert len(table.x) == 3
    assert '1 rows have line ends between quotation marks, the first in line 3' in table.notes
    assert '--quotes=False' in table.notes
    assert read(path, quotes=True, **knobs).notes == ''  # the user says that they are meant
    table = read(path, quotes=False, **knobs)
    assert table.x == [b'one', b'"two', b'three', b'four"', b'five'] and table.notes == ''


@pytest.mark.parametrize('lines, word', [
    (['a\tb', '"1"x\t2'], "line 2: '\\t' expected"), (['a,b', '1,"2'], 'line 2: unexpected end of data'),
    (['a,b', '1,"2"x'], '--quotes=False'),
    (['"a" "b"', '"1" 2'], "cells are separated by ','"),  # R's write.table
    (['a,b', '"x,1,2', '3,4'], '--quotes=False'),
    (['a,b', '1,2', '1,2,3'], 'line 3: 3 cells where the header has 2'),
    (['a,b', '1,2,3'], "a cell with ',' in it needs quotation marks, and a column of row names (R)"),
    (['a,b', '1,2', '1'], 'line 3: 1 cells'),
    ([], 'is empty'), (['', ''], 'is empty'), (['sep=;'], 'is empty')])
def test_lines_that_are_wrong(tmp_path, lines, word):
    fails(word, read, write(tmp_path / 'a.csv', lines))


def test_line_numbers_are_those_of_an_editor(tmp_path):
    path = write(tmp_path / 'a.csv', ['sep=,', '', 'a,b', '1,"x', 'y"', '', '3,4,5'])
    fails('line 7: 3 cells', read, path)
    path = write(tmp_path / 'b.csv', ['', 'a,b', '1,2', '', '3,x'])
    fails("line 5, column 'b': 'x'", read, path)


# ---- what the first line is

@pytest.mark.parametrize('lines, columns, n, note', [
    (['a,b', '1,2', '3,4'], ['a', 'b'], 2, ''),
    (['0,1', '4,5'], ['0', '1'], 1, 'read as names: --header=False'),  # as pandas writes an array
    (['4,5', '6,7'], ['c0', 'c1'], 2, 'read as a row: --header=True'),
    (['0.5,1,ripe', '1.5,2,green', '2.5,4,ripe'], ['c0', 'c1', 'c2'], 3,
     '(0.5, 1, ripe) is read as a row: --header=True'),
    (['red,1', 'blue,2', 'red,3'], ['c0', 'c1'], 3, 'read as a row'),
    (['site,2019,2020'] + ['north,1,2', 'south,3,5'] * 4, ['site', '2019', '2020'], 8,
     'read as names: --header=False'),
    (['a,b,y', '1,x,0', 'NA,y,1'], ['a', 'b', 'y'], 2, ''),
    (['a;b', '1,5;2,5', '1,5;3,5'], ['a', 'b'], 2, ''),
    (['0,5;1,5', '1,5;2,5'], ['c0', 'c1'], 2, 'read as a row'),
    (['a,b', 'NA,', '1,2'], ['a', 'b'], 2, '')])
def test_names_or_a_row(tmp_path, lines, columns, n, note):
    table = read(write(tmp_path / 'a.csv', lines), missing='mean')
    assert table.columns == columns and len(table.x) == n
    assert ('the first line' in table.notes) == bool(note)
    assert note in table.notes


def test_the_user_says_what_the_first_line_is(tmp_path):
    path = write(tmp_path / 'a.csv', ['0.5,1,ripe', '1.5,2,green', '2.5,4,ripe'])
    for header, columns, n in ((False, ['c0', 'c1', 'c2'], 3), (True, ['0.5', '1', 'ripe'], 2)):
        table = read(path, header=header)
        assert table.columns == columns and len(table.x) == n and 'first line' not in table.notes
    assert read(path, header=['u', 'v', 'w']).columns == ['u', 'v', 'w']


@pytest.mark.parametrize('lines, knobs, columns', [
    (['site,2019,y', 'north,1,2', 'south,3,5'], dict(label_column='y', drop_column='site'), ['2019']),
    (['4,5', '6,7'], dict(label_column='5'), ['4']),
    (['good,pos', 'bad,neg', 'fine,pos'], dict(input_column='c0', label_column='c1'), ['c0']),
    (['text,label', 'good,pos', 'bad,neg'], dict(input_column='text', label_column='label'), ['text'])])
def test_names_that_the_user_knows_settle_it(tmp_path, lines, knobs, columns):
    table = read(write(tmp_path / 'a.csv', lines), **knobs)
    assert table.columns == columns and 'first line' not in table.notes
    assert len(table.x) == len(lines) - (columns != ['c0'])


def test_a_new_file_is_read_as_the_model_knows_its_columns(tmp_path):
    """Of one row, without labels, with a text: nothing in the file tells that it has no header."""
    categories = {'c0': {'red': 0, 'blue': 1}}
    knobs = dict(input_column=['c0', 'c1'], categories=categories)
    for lines in (['blue,7'], ['blue,7,1'], ['blue,7', 'red,8', 'blue,9']):
        table = read(write(tmp_path / 'new.csv', lines), **knobs)
        assert table.x[0] == [1, 7] and len(table.x) == len(lines)
    # the label was the first column, and the new file has none: its columns are taken in their order
    categories = {'c1': {'red': 0, 'blue': 1}}
    knobs = dict(input_column=['c1', 'c2'], categories=categories)
    table = read(write(tmp_path / 'new.csv', ['blue,7', 'red,8']), **knobs)
    assert table.x == [[1, 7], [0, 8]] and 'its columns are taken for c1, c2, in this order' in table.notes
    table = read(write(tmp_path / 'new.csv', ['1,blue,7', '0,red,8']), **knobs)
    assert table.x == [[1, 7], [0, 8]]
    # a name of the model is in the first line, and so is a number
    table = read(write(tmp_path / 'new.csv', ['2019,2020', '1,2']), input_column=['2020', '2019'])
    assert table.x == [[2, 1]]


def test_infer_header_of_a_first_line_alone():
    assert infer_header(['a', 'b'], [], []) == (True, True)
    assert infer_header(['1', '2'], [], []) == (False, True)
    assert infer_header(['red', '2'], [], ['c0']) == (False, False)


def test_wide_files_take_linear_time(tmp_path):
    """80,000 columns took a minute where 20,000 took four seconds."""
    seconds = []
    for n in (4000, 32_000):
        path = write(tmp_path / f'{n}.csv',
                     [','.join(f'g{i}' for i in range(n)) + ',y'] + [','.join(['0.5'] * n) + ',1'] * 4)
        begin = time.process_time()
        table = read(path, label_column='y', drop_column='g0,g1')
        seconds.append(time.process_time() - begin)
        assert len(table.columns) == n - 2
    assert seconds[1] < 8 * 2.5 * seconds[0] + 0.2, seconds
