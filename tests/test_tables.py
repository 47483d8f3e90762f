"""util/tables.py: rows of a table as inputs, labels and splits."""

import numpy as np
import pytest
from reading import fails, new_meta, noted, read, sequences, write
from test_data import opened

from util.scaling import fit_norm


def test_csv_of_text(tmp_path):
    """A BOM, quotes, blanks around a cell, a word like 1984; no label, no input, no split."""
    path = tmp_path / 'a.csv'
    path.write_text('\ufeffsmiles,name,y,part\n1984 ,"x, 1",1.5,Train\nC#N,y,,valid\n ,z,3,test\nN,w,2,dev\n'
                    'O,v,2,TEST\nP,u,7, \n')
    d = opened(tmp_path, path, input_column='smiles', label_column='y', split_column='part')
    assert sequences(d) == [b'1984', b'C#N', b'N', b'O'] and d.split.tolist() == [0, 1, 1, 2]
    assert d.labels([0, 1, 2, 3]) == [1.5, None, 2.0, 2.0]
    assert d.meta['left_out'] == {'empty inputs': 1, 'rows with an empty split cell': 1}


def test_tables_of_numbers(tmp_path):
    path = tmp_path / 'a.tsv'
    path.write_text('a\tkind\tb\n1\tcat\t2\n3\tdog\t4\n5\tcat\t6.5\n')
    d = opened(tmp_path, path, label_column='kind')
    assert d.x[:, :, 0].tolist() == [[1, 2], [3, 4], [5, 6.5]] and d.columns == ['a', 'b']
    assert d.labels([0, 1, 2]) == ['cat', 'dog', 'cat'] and d.meta['target'] is d.meta['metric'] is None
    for names in ('b, a', ['b', 'a']):
        d = opened(tmp_path, path, input_column=names)
        assert d.x[:, :, 0].tolist() == [[2, 1], [4, 3], [6.5, 5]] and d.columns == ['b', 'a']
    fails("line 2, column 'kind': 'cat'", opened, tmp_path, path, input_column=['kind'])  # a list: never text
    (tmp_path / 'b.csv').write_text('1.0,2,3\n0,5,6\n')  # without a header
    d = opened(tmp_path, tmp_path / 'b.csv', label_column='c0')
    assert d.x[:, :, 0].tolist() == [[2, 3], [5, 6]] and d.y.tolist() == [1, 0]


@pytest.mark.parametrize('text, knobs, columns, x, note', [
    ('a;b\n1,5;2\n-3;1,25\n', {}, 'ab', [[1.5, 2], [-3, 1.25]], "separated by ';', and 1,5 is read as 1.5"),
    ('a\tb\n1.5\t2\n', {}, 'ab', [[1.5, 2]], r"separated by '\t'"),
    ('a,b\n1.5,2\n', {}, 'ab', [[1.5, 2]], ''),
    ('0,1\n4,5\n', {}, '01', [[4, 5]], 'read as names: --header=False'),  # as pandas writes an array
    ('0,1\n4,5\n', dict(header=False), ['c0', 'c1'], [[0, 1], [4, 5]], ''),
    ('4,5\n6,7\n', {}, ['c0', 'c1'], [[4, 5], [6, 7]], 'read as a row: --header=True'),
    ('4,5\n6,7\n', dict(header=True), '45', [[6, 7]], ''),
    ('x,5\n1,2\n', dict(drop_column='x'), '5', [[2]], ''),
    ('a,b,y\n1,2,3\n', dict(label_column='-1'), 'ab', [[1, 2]], ''),
    ('a,b,c,y\n1,2,3,4\n', dict(label_column='-1', drop_column='-2,a'), 'b', [[2]], ''),
    ('a,b\n7,True\n7,False\n', {}, 'ab', [[7, 0], [7, 1]], "column 'b' holds text, whose 2 categories"),
    ('a,b\n7,8\n7,7\n', {}, 'ab', [[7, 8], [7, 7]], 'columns that are constant: a'),
    ('a,b\n1,NA\n3,?\n,8\n5,6\n', dict(missing='drop'), 'ab', [[5, 6]], '')])
def test_tables_as_they_are_in_the_world(tmp_path, text, knobs, columns, x, note):
    (tmp_path / 'a.csv').write_text(text)
    d = opened(tmp_path, tmp_path / 'a.csv', **knobs)
    assert d.columns == [*columns] and d.x[:, :, 0].tolist() == x
    assert note in noted(d) and bool(note) == bool(noted(d))


def test_numbers_come_in_float64(tmp_path):
    """Unix seconds, of which float32 would make one number; what it cannot hold at all is an error."""
    path = write(tmp_path / 'a.csv', ['t,y', '1700000105,1', '1700000069,0'])
    assert read(path, label_column='y').x == [[1_700_000_105], [1_700_000_069]]
    fails("line 3, column 't': '1e39' is not a finite number in float32", read,
          write(tmp_path / 'b.csv', ['t', '1', '1e39']))


# ---- text among numbers

def test_texts_among_numbers_are_numbered_and_a_new_one_is_none_of_them(tmp_path):
    rows = [(i * i, ['red', 'blue', ' green'][i % 3], i % 2) for i in range(30)]
    path = tmp_path / 'a.csv'
    path.write_text('a,colour,y\n' + ''.join(f'{a},{c},{y}\n' for a, c, y in rows))
    d = opened(tmp_path, path, label_column='y')
    assert d.meta['categories'] == {'colour': {'red': 0, 'blue': 1, 'green': 2}}
    assert d.x[:, 1, 0].tolist() == [i % 3 for i in range(30)]
    assert "column 'colour' holds text, whose 3 categories are numbered in the order of first use: " in noted(d)
    assert 'use: red, blue, green' in noted(d)
    # another file, read as a checkpoint knows it: columns in its order, texts by its numbers
    new = tmp_path / 'new.csv'
    new.write_text('colour,z,a\ngreen,0,5\npink,0,6\n')
    known = dict(input_column=['a', 'colour'], categories=d.meta['categories'])
    fails("'pink' is not a finite number, nor one of the texts red, blue, green", opened, tmp_path, new,
          **known)
    other = opened(tmp_path, new, **known, missing='mean')
    np.testing.assert_array_equal(other.x[:, :, 0], [[5, 2], [6, np.nan]])
    assert "1 cells say 'pink', which is not known" in noted(other)
    d.norm = other.norm = fit_norm(d, d.rows('train'), 'standard')
    assert other.batch(np.array([1]))[0][0, 1] == 0 and other.batch(np.array([0]))[0][0, 1] != 0  # the mean


def test_what_says_missing_among_numbers_is_a_text_among_texts(tmp_path):
    """Na is sodium, NA North America, and null a name. Only an empty cell is missing there."""
    texts = ['Na', 'K', 'NA', 'null', '?', '1984', 'Cl']
    path = write(tmp_path / 'a.csv', ['ion,a', *[f'{text},{i * i}' for i, text in enumerate(texts)]])
    table = read(path)
    assert table.x == [[i, i * i] for i in range(7)] and list(table.meta['categories']['ion']) == texts
    path = write(tmp_path / 'b.csv', ['ion,a', 'Na,1', ',2', 'K,3'])
    fails("line 3, column 'ion': '' is a missing number; where numbers are missing pass --missing=mean", read,
          path)
    np.testing.assert_array_equal(read(path, missing='mean').x, [[0, 1], [np.nan, 2], [1, 3]])


@pytest.mark.parametrize('texts', [
    ['1_11', '11_1'], ['12345678901234567', '12345678901234568'], ['0x1F', '0x2F'], ['18-25', '26-40']])
def test_names_that_look_like_numbers_stay_apart(tmp_path, texts):
    path = write(tmp_path / 'a.csv', ['well,a', *[f'{texts[i % 2]},{i * i}' for i in range(20)]])
    table = read(path)
    assert table.x == [[i % 2, i * i] for i in range(20)] and list(table.meta['categories']['well']) == texts


@pytest.mark.parametrize('name, mark, texts, word', [
    ('a.csv', ',', ['2023-01-01', '2023-02-02'], "column 'when', such as '2023-01-01', holds dates or times"),
    ('a.csv', ',', ['Jan-23', 'Feb-23'], 'holds dates or times'),
    ('a.csv', ',', ['12:30', '13:00'], 'holds dates or times'),
    ('a.tsv', '\t', ['0,0', '-0,5'], "such as '0,0', holds numbers that are written in another way"),
    ('a.csv', ',', ['5%', '10%'], 'written in another way'),
    ('a.csv', ',', ['"1,234"', '"1,100"'], 'written in another way'),
    ('a.csv', ';', ['1.234,50', '1.100,25'], 'written in another way'),
    ('a.csv', ',', ['$5', '$7'], 'written in another way')])
def test_amounts_are_not_numbered_in_the_order_of_first_use(tmp_path, name, mark, texts, word):
    lines = [f'when{mark}a{mark}y', *[f'{texts[i % 2]}{mark}{i * i}{mark}{i % 2}' for i in range(20)]]
    path = write(tmp_path / name, lines)
    fails(word, read, path, label_column='y')
    fails('leave it out with --drop_column', read, path, label_column='y')
    assert len(read(path, label_column='y', drop_column='when').x) == 20


def test_a_column_alone_is_no_text_if_it_holds_amounts(tmp_path):
    path = write(tmp_path / 'a.jsonl', [f'{{"a": "0,{i}", "y": {i % 2}}}' for i in range(20)])
    fails("column 'a', such as '0,0', holds numbers that are written in another way", read, path,
          label_column='y')
    assert read(path, input_column='a', label_column='y').x[3] == b'0,3'  # the user wants it as text


def test_numbers_in_a_pair_of_texts_are_told(tmp_path):
    path = write(tmp_path / 'a.csv',
                 ['text,year,title', *[f'some text {i},{1990 + i},title' for i in range(20)]])
    table = read(path, input_column='text,year')
    assert table.x[0] == (b'some text 0', b'1990')
    assert 'the columns text, year are read as a pair of texts, though one of them holds numbers' in table.notes
    assert read(path, input_column='text,title').notes == ''


def test_a_label_that_is_an_amount_is_refused(tmp_path):
    path = write(tmp_path / 'a.tsv', ['a\ty', *[f'{i * i}\t0,{i}' for i in range(30)]])
    fails("the label 'y', such as '0,0', holds numbers that are written in another way", read, path,
          label_column='y')


@pytest.mark.parametrize('first, second, word', [
    (['1', '2'], ['p', 'q'], "column 'code' holds text, such as 'p', and numbers in the file before"),
    (['p', 'q'], ['1', '2'], "column 'code' holds numbers, such as '1', and text in the file before")])
def test_a_column_is_the_same_in_all_files_of_a_run(tmp_path, first, second, word):
    def file(name, texts):
        return write(tmp_path / name, ['a,code', *[f'{i * i},{texts[i % len(texts)]}' for i in range(9)]])
    meta = new_meta()
    read(file('a.csv', first), meta)
    fails(word, read, file('b.csv', second), meta)
    meta = new_meta()
    read(file('a.csv', ['p', '1', 'p']), meta)  # a category may be called 1
    assert read(file('b.csv', ['1', '1']), meta).x[0] == [0, 1]
    assert read(file('c.csv', ['q', 'p']), meta).x[:2] == [[0, 2], [1, 0]]


# ---- a saved row index

@pytest.mark.parametrize('name, option', [
    ('', '--drop_column='), ('Unnamed: 0', "'--drop_column=Unnamed: 0'"),
    ('__index_level_0__', '--drop_column=__index_level_0__'),
    ('id', '--drop_column=id')])
def test_a_column_that_numbers_the_rows_is_told(tmp_path, name, option):
    rng = np.random.default_rng(0)
    for numbers in (range(40), range(1, 41), range(892, 932), rng.permutation(40)):
        path = write(tmp_path / 'a.csv', [f'{name},a,y', *[f'{i},{i % 7},{i % 2}' for i in numbers]])
        table = read(path, label_column='y')
        assert f'warning: column {name!r} numbers the rows' in table.notes and option in table.notes
        assert read(path, label_column='y', drop_column=name).notes == ''
        known = read(path, input_column=table.columns,
                     categories={})  # by a checkpoint: it is too late to say so
        assert len(known.x) == 40 and known.notes == ''


def test_a_name_tells_a_row_index_of_which_rows_are_missing(tmp_path):
    for name, told in (('Unnamed: 0', True), ('Unnamed: 0.1', True), ('...1', True), ('', True),
                       ('__index_level_0__', True), ('ID', True), ('row_number', True), ('x', False),
                       ('bid', False)):
        numbers = np.random.default_rng(0).permutation(40) * 3
        lines = [f'{name},a,y', *[f'{number},{i % 7},{i % 2}' for i, number in enumerate(numbers)]]
        table = read(write(tmp_path / 'a.csv', lines), label_column='y')
        assert ('has the name of a saved row index' in table.notes) == told


def test_measurements_are_no_row_index(tmp_path):
    """Seats, an index that was measured, years in which rows repeat."""
    rng = np.random.default_rng(0)
    lines = ['row,Id,index,year,y']
    lines += [f'{rng.integers(1, 6)},{rng.integers(1, 5)},{rng.random():.3f},{1990 + i // 3},{i % 2}'
              for i in range(60)]
    assert read(write(tmp_path / 'a.csv', lines), label_column='y').notes == ''


@pytest.mark.parametrize('step', [3, -3])
def test_a_column_in_order_is_told_in_its_own_words(tmp_path, step):
    lines = ['year,a,y', *[f'{1900 + step * i},{i % 7},{i % 2}' for i in range(40)]]
    notes = read(write(tmp_path / 'a.csv', lines), label_column='y').notes
    assert "column 'year' grows, or falls, from row to row" in notes and 'numbers the rows' not in notes


# ---- what is wrong ends in one line

@pytest.mark.parametrize('text, knobs, word', [
    ('a,b\n1,2\n3,nan\n', {}, "line 3, column 'b': 'nan'"),
    ('a,b\n1,2\n3,\n', {}, "line 3, column 'b': ''"),
    ('a,b\n1,2\n3,x\n', {}, "'x' is not a finite number"),
    ('a,b\n1,inf\n', {}, "'inf' is not a finite number"),
    ('a,b\n1,2\n3\n', {}, 'line 3: 1 cells where the header has 2'),
    ('a,b\n' + ''.join(f'{i},C{i}\n' for i in range(11)), {}, '--input_column'),
    ('a,b,c\n' + ''.join(f'1,C{i},D\n' for i in range(11)), dict(input_column='a,b,c'),
     "column 'b' holds text"),
    ('a,b\n' + ''.join(f'{i},{10 ** 17 + i}\n' for i in range(11)), {},
     "whole numbers above 2^53, which are read as text, such as '1"),
    ('a,b\n1,2\n1,3\n3,12345678901234567\n', {},
     "line 4, column 'b': '12345678901234567' is a whole number above 2^53"),
    ('a,b\n1,2\n', dict(drop_column='a, c'), "no column 'c' (drop_column)"),
    ('a,b\n1,2\n', dict(label_column='-3'), "no column '-3'"),
    ('a,b\n1,2\n', dict(label_column='-0'), "no column '-0'"),
    ('a,y\n1,2\n', dict(input_column='a,y', label_column='y'),
     "'y' is the label or the split, and an input too"),
    ('a,y\n1,2\n', dict(input_column='a', label_column='-2'),
     "'a' is the label or the split, and an input too"),
    ('a,b\n1,NA\n', {},
     "'NA' is a missing number; where numbers are missing pass --missing=mean or --missing=drop"),
    ('a,b\n1,2\n3,x\n', dict(missing='mean'), "column 'b': 'x' is not"),  # a mistake is not missing
    ('a,b\n1,2\n3,-\n', dict(missing='mean'),
     "'-' is not a finite number: correct it, or empty the cell if the number is missing"),
    ('a,b\n1,inf\n', dict(missing='drop'), "'inf' is not a finite number"),
    ('a,y\n1,2\n3,inf\n', dict(label_column='y'), 'label inf'),
    ('a\tb\n1\t"2\n', {}, '--quotes=False'),
    ('smiles,y\nC,1\n', dict(input_column='smile'), "'smiles'"),
    ('smiles,y\nC,1\n', dict(input_column='smiles', label_column='Y'), "'y'"),
    ('s,t\nC,train\nN,dev2\n', dict(input_column='s', split_column='t'), "line 3: 't' is 'dev2'"),
    ('s,t\nC,draw\n', dict(input_column='s', split_column='t'), "'draw'"),  # no word of ours can be spelled
    ('s,t\nC,3\n', dict(input_column='s', split_column='t'), "'3'"),
    ('s,t\nC,\n', dict(input_column='s', split_column='t'), 'no rows'),
    ('smiles,y\n', dict(input_column='smiles'), 'no rows'),
    ('', {}, 'is empty'),
    ('smiles\n"C\n', dict(input_column='smiles'), 'line 2'),
    ('s,y\nabc,1\n', dict(input_column='s', label_column='y', window=10), 'window joins lines'),
    ('s,t\nabc,d\n', dict(input_column='s,t', window=10), 'only lines'),
    ('y\n1\n', dict(label_column='y'), 'no inputs beside y')])
def test_tables_that_are_wrong(tmp_path, text, knobs, word):
    (tmp_path / 'a.csv').write_text(text)
    fails(word, opened, tmp_path, tmp_path / 'a.csv', **knobs)
    assert not list((tmp_path / 'datasets').iterdir())  # and leaves nothing behind


def test_knobs_of_csv_are_refused_elsewhere(tmp_path):
    path = write(tmp_path / 'a.jsonl', ['{"a": 1}'])
    fails('header=False', read, path, header=False)
    fails('quotes=False', read, path, quotes=False)


def test_what_steers_a_terminal_is_no_part_of_a_message(tmp_path):
    """The text of an error is escaped; notes are escaped where they are printed."""
    names = 'a\x1b[2J,b'
    fails('x\\x1b[2J', read, write(tmp_path / 'a.csv', [names, '1,x\x1b[2J', '1,7', '1,8']))
    fails('a\\x1b[2J', read, write(tmp_path / 'a.csv', [names, '1,2']), label_column='a')
    fails('\\x1b', read, write(tmp_path / 'a.csv', [names, '1,2,3']), drop_column='\x1b')
