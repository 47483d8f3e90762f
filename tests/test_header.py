"""util/header.py: which columns of a table are inputs, label and split."""

import pytest
from reading import fails, new_meta, read, write

from util.header import find_columns, known_names, some

LINES = ['mass,"leak, (do not use)","a,b",a,y', '1,2,3,4,0', '5,6,7,8,1']
NAMES = ['mass', 'leak, (do not use)', 'a,b', 'a', 'y']


@pytest.mark.parametrize('knobs, columns', [
    (dict(label_column='y'), NAMES[:-1]), (dict(label_column='-1'), NAMES[:-1]),
    (dict(label_column='y', drop_column='leak, (do not use)'), ['mass', 'a,b', 'a']),
    (dict(label_column='y', drop_column='leak, (do not use),a'), ['mass', 'a,b']),
    (dict(label_column='y', drop_column='a,leak, (do not use)'), ['mass', 'a,b']),
    (dict(label_column='y', drop_column='a,b'),
     ['mass', 'leak, (do not use)', 'a']),  # the whole name, and not two
    (dict(input_column='a, mass, leak, (do not use)'), ['a', 'mass', 'leak, (do not use)']),
    (dict(input_column=['a', 'a,b']), ['a', 'a,b']),
    (dict(label_column='leak, (do not use)', drop_column='-1,-5'), ['a,b', 'a'])])
def test_names_with_commas_and_positions(tmp_path, knobs, columns):
    table = read(write(tmp_path / 'a.csv', LINES), **knobs)
    assert table.columns == columns
    row = dict(zip(NAMES, [1, 2, 3, 4, 0]))
    assert table.x[0] == [row[name] for name in columns]


@pytest.mark.parametrize('knobs, word', [
    (dict(drop_column='leak'), "no column 'leak' (drop_column); the nearest is"),
    (dict(drop_column='mass, c'), "no column 'c'"), (dict(drop_column='c,mass'), "no column 'c'"),
    (dict(drop_column=''), "no column ''"), (dict(drop_column='mass,'), "no column ''"),
    (dict(label_column='-6'), "no column '-6'"), (dict(label_column='-0'), "no column '-0'"),
    (dict(label_column='Y'), "no column 'Y' (label_column); the nearest is 'y'"),
    (dict(split_column='part'), "no column 'part' (split_column)"),
    (dict(input_column=['a', 'c']), "no column 'c' (input_column)"),
    (dict(input_column='a,mass,a'), "'a' is named twice"),
    (dict(input_column='mass,a', drop_column='a'), "'a' is in input_column and in drop_column"),
    (dict(drop_column='mass,leak, (do not use),-3,a,y'), 'has no inputs beside mass')])
def test_names_that_are_not_there(tmp_path, knobs, word):
    fails(word, read, write(tmp_path / 'a.csv', LINES), header=True, **knobs)


@pytest.mark.parametrize('header', ['a,a,y', 'y,a,y', ' a,a ,y'])
def test_two_columns_of_one_name(tmp_path, header):
    fails('two columns of the name', read, write(tmp_path / 'a.csv', [header, '1,2,0']), label_column='y')


def test_a_column_without_a_name_can_be_left_out(tmp_path):
    lines = [',a,y', '0,5,1', '1,6,0']
    table = read(write(tmp_path / 'a.csv', lines), label_column='y', drop_column='')
    assert table.columns == ['a'] and table.x == [[5], [6]]


def test_a_second_file_is_matched_by_name(tmp_path):
    meta = new_meta()
    read(write(tmp_path / 'a.csv', ['a,b,y', '1,2,0']), meta, label_column='y')
    assert read(write(tmp_path / 'b.csv', ['b,a,y', '1,2,0']), meta, label_column='y').x == [[2, 1]]
    fails('its inputs are a, d; of the file before it a, b', read,
          write(tmp_path / 'c.csv', ['a,d,y', '1,2,0']), meta,
          label_column='y')


def test_find_columns_names_the_first_unknown():
    places = {f'g{i}': i for i in range(20_000)}
    assert find_columns(','.join(places), places, 'a.csv', 'input_column') == list(range(20_000))
    fails("no column 'h'", find_columns, 'h,' * 1000, dict(list(places.items())[:9]), 'a.csv', 'input_column')


def test_known_names_and_some():
    assert known_names('a,b', '-1', '', None) == ['a,b', 'a', 'b']
    assert known_names(['a'], 'y', None, None) == ['a', 'y', 'y']
    assert some('abcdefgh') == 'a, b, c, d, e, f, g, h' and some(map(str, range(10))).endswith('7, and 2 more')


def test_a_table_without_columns(tmp_path):
    path = write(tmp_path / 'a.arff', ['@relation r', '@data', '1'])
    fails("no column 'a' (input_column)", read, path, input_column='a')
    fails('has no inputs beside nothing', read, path)
    fails("no column 'a'", read, write(tmp_path / 'a.jsonl', ['{}']), input_column='a')
