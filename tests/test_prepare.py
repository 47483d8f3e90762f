"""
prepare.py: files made here and real ones, each data set of the table from its own format,
images against Pillow, processes that meet or are killed, memory.
"""

import builtins
import csv
import gzip
import hashlib
import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from functools import partial

import numpy as np
import pytest
from conftest import ROOT
from samples import sample, shrink, tarred
from test_data import opened

from data import open_dataset
from util import arrays, files, images, prepare, tables
from util import sequences as sequence_readers
from util.collider import HIGGS_COLUMNS
from util.errors import UserError
from util.prepare import DATASETS
from util.splits import DRAW_VAL, SPLITS


def sequences(d):
    return [bytes(d.x[a:b]) for a, b in zip(d.offsets, d.offsets[1:])]


def counts(d):
    return [len(d.rows(split)) for split in SPLITS]


def fails(match, call, *args, **knobs):
    """It ends in a UserError, in one line, that has `match` in it."""
    with pytest.raises(UserError) as end:
        call(*args, **knobs)
    assert match in str(end.value) and '\n' not in str(end.value), end.value


# ---- what a file may claim: memory is bounded, nothing waits for ever

@pytest.fixture
def small(monkeypatch):
    for name, value in dict(LONGEST=1000, CHUNK_BYTES=4000, MOST_INPUTS=50, MOST_ARRAY=4000).items():
        for module in (files, tables, sequence_readers, arrays):  # each has its own name for the number
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize('name, content, word', [
    ('a.txt', b'x' * 1001, 'line of more'), ('a.txt.gz', gzip.compress(bytes(10 ** 6)), 'line of more'),
    ('a.csv', b'a,b\n1,"' + b'2\n' * 600 + b'"\n', 'field larger'), ('a.fasta', b'>a\n' + b'ACD\n' * 400, 'record'),
    ('a.json', b'[{"a": "' + b'x' * 1001 + b'"}]', 'object of more'),
    ('a.json', json.dumps({'data': [{'a': 1}] * 200}).encode(), 'object of more')])
def test_lines_and_objects_are_bounded(tmp_path, small, name, content, word):
    (tmp_path / name).write_bytes(content)
    fails(word, opened, tmp_path, tmp_path / name)


def test_a_list_inside_an_object_is_refused_before_long(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps({'data': [{'a': i} for i in range(500_000)]}))
    begin = time.process_time()
    fails('no JSON list of objects', opened, tmp_path, tmp_path / 'a.json')
    assert time.process_time() - begin < 5


@pytest.mark.parametrize('content, word', [
    (b'[{"a": ' + b'9' * 5000 + b', "b": 1}]', '4300 digits'), (b'[{"a": ' + b'[' * 10 ** 5, 'recursion')])
def test_json_beyond_python(tmp_path, content, word):
    (tmp_path / 'a.json').write_bytes(content)
    fails(word, opened, tmp_path, tmp_path / 'a.json')


def test_large_rows_come_in_small_chunks(small):
    chunks = list(files.in_chunks([bytes(1500)] * 10))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]
    assert [len(chunk) for chunk in files.in_chunks(iter('abcdefg'), 3)] == [3, 3, 1]


def test_arrays_are_bounded(tmp_path, small):
    def header(shape):
        with open(tmp_path / 'x.npy', 'wb') as f:
            np.lib.format.write_array_header_1_0(f, dict(descr='<f4', fortran_order=False, shape=shape))
    for shape in ((0, 10 ** 9), (10 ** 12, 4)):
        header(shape)
        fails('x.npy', opened, tmp_path, tmp_path / 'x.npy')
    np.save(tmp_path / 'x.npy', np.ones((3, 51), np.float32))
    fails('MOST_INPUTS', opened, tmp_path, tmp_path / 'x.npy')
    np.savez_compressed(tmp_path / 'x.npz', X=np.ones((500, 3), np.float32), y=np.ones(500))
    fails('MOST_ARRAY', opened, tmp_path, tmp_path / 'x.npz')
    np.save(tmp_path / 'x.npy', np.arange(2000, dtype=np.float32).reshape(100, 20))
    assert np.array_equal(opened(tmp_path, tmp_path / 'x.npy').x.ravel(), np.arange(2000))  # in pieces of 50 rows


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'a.csv')
    fails('a pipe', opened, tmp_path, tmp_path / 'a.csv')


def test_a_small_parquet_takes_little_memory(tmp_path):
    """20,000 times the same half a megabyte: 10 GB, were each of them unpacked."""
    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ['x' * 500_000])
    pq.write_table(pa.table({'s': text}), tmp_path / 'a.parquet')
    assert (tmp_path / 'a.parquet').stat().st_size < 10 ** 6
    code = f'''if 1:
        import itertools, resource, sys
        sys.path.insert(0, {str(ROOT)!r})
        from collections import Counter
        from util import readers
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        chunks = readers.read_file({str(tmp_path / 'a.parquet')!r}, dict(columns=None, left_out=Counter()),
                                   input_column='s')
        n = sum(len(x) for x, _, _ in itertools.islice(chunks, 3))
        print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)'''
    n, mb = map(int, subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                                    check=True).stdout.split())
    assert n > 100 and mb < 600


def test_labels_and_columns_that_cannot_be(tmp_path):
    (tmp_path / 'a.csv').write_text('a,b,y\n1,2,inf\n3,4,1\n')
    fails('label inf', opened, tmp_path, tmp_path / 'a.csv', label_column='y')
    for header in ('a,a,y', 'y,a,y'):
        (tmp_path / 'b.csv').write_text(f'{header}\n1,2,0\n')
        fails('two columns of the name', opened, tmp_path, tmp_path / 'b.csv', label_column='y')


def test_what_steers_a_terminal_is_escaped(tmp_path, run):
    (tmp_path / 'a.txt').write_bytes(b'abc\x1b[31mdef\n' * 9)
    (tmp_path / 'b.csv').write_bytes(b'a\x1b[2J,b\n1,x\x1b[2J\n1,7\n')
    (tmp_path / 'c.csv').write_bytes(b'a\x1b[2J,b\n1,x\x1b[2J\n')
    done = run('data.py', 'a.txt')
    assert '\x1b' not in done.stdout and 'abc\\x1b[31mdef' in done.stdout
    assert '\x1b' not in run('data.py', 'b.csv', status=2).stderr
    assert '\x1b' not in run('data.py', 'c.csv').stdout


def test_a_prepared_folder_that_lost_its_end_is_not_read(tmp_path):
    (tmp_path / 'a.txt').write_text('abc\n' * 40)
    d = opened(tmp_path, tmp_path / 'a.txt')
    for name in ('split.bin', 'x.bin', 'y.bin', 'offsets.bin'):
        content = (d.folder / name).read_bytes()
        (d.folder / name).write_bytes(content[:len(content) // 2])
        fails('cut short', opened, tmp_path, tmp_path / 'a.txt')
        (d.folder / name).write_bytes(content)
    opened(tmp_path, tmp_path / 'a.txt')


def test_a_full_disk_leaves_no_data_set(tmp_path, file_limit):
    """The bytes fit and the labels do not, of which numpy's tofile would say nothing."""
    (tmp_path / 'a.txt').write_text('a\n' * 20_000)
    with file_limit(100_000):
        fails('File too large', open_dataset, str(tmp_path / 'a.txt'), data_dir=str(tmp_path / 'd'))
    assert os.listdir(tmp_path / 'd') == []


# ---- sequences and tables

@pytest.mark.parametrize('ending, text, want, left_out', [
    ('.txt', b'CCO\nc1ccc\r\n\nN\n  \nC C', [b'CCO', b'c1ccc', b'N', b'C C'], {'blank lines': 2}),
    ('.smi', b'CCO ethanol\nC#N\tx\n', [b'CCO', b'C#N'], {}),
    ('.fasta', b'\n>one\nMKV\nLL*\n>empty\n>two x\n\nACD\n', [b'MKVLL', b'ACD'], {'empty sequences': 1})])
def test_sequences(tmp_path, ending, text, want, left_out):
    for packed, pack in (('', bytes), ('.gz', gzip.compress), ('.xz', lzma.compress)):
        (tmp_path / f'a{ending}{packed}').write_bytes(pack(text))
        d = opened(tmp_path, tmp_path / f'a{ending}{packed}')
        assert sequences(d) == want and d.meta['left_out'] == left_out and np.isnan(d.y).all()


def test_windows_lose_nothing_and_cut_no_character(tmp_path):
    text = '\n'.join(('añb€𝄞' * (i % 9)) for i in range(900))
    (tmp_path / 'a.txt').write_text(text)
    parts = sequences(opened(tmp_path, tmp_path / 'a.txt', window=50))
    assert all(len(p) <= 50 for p in parts) and all(len(p) > 46 for p in parts[:-1])
    want = '\n'.join(line for line in text.split('\n') if line.strip())
    assert b''.join(parts).decode() == want.rstrip('\n') and all(p.decode() for p in parts)


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
    (tmp_path / 'c.arff').write_text("@attribute 'two words' numeric\n@ATTRIBUTE class {p}\n@data\n1,p\n2,?\n")
    d = opened(tmp_path, tmp_path / 'c.arff', label_column='class')
    assert d.columns == ['two words'] and d.labels([0, 1]) == ['p', None]


def test_parquet_and_json_are_read_as_the_csv_is(tmp_path):
    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    table = dict(a=np.arange(50) / 8, b=np.arange(50), y=['no', 'yes'] * 25, s=[f's{i}é' for i in range(50)])
    pq.write_table(pa.table(table), tmp_path / 'a.parquet', row_group_size=16)
    rows = [*zip(*(np.asarray(v).tolist() for v in table.values()))]
    (tmp_path / 'a.json').write_text(json.dumps([dict(zip(table, row)) for row in rows]))
    (tmp_path / 'a.csv').write_text('\n'.join(','.join(map(str, row)) for row in [[*table], *rows]))
    for knobs in (dict(input_column='a,b', label_column='y'), dict(input_column='s', label_column='a'),
                  dict(input_column='s,y')):
        want = opened(tmp_path, tmp_path / 'a.csv', **knobs)
        for d in (opened(tmp_path, tmp_path / f'a.{kind}', **knobs) for kind in ('parquet', 'json')):
            assert np.array_equal(d.x, want.x) and np.array_equal(d.y, want.y, equal_nan=True)
    (tmp_path / 'b.parquet').write_bytes((tmp_path / 'a.parquet').read_bytes()[:300])
    fails('b.parquet', opened, tmp_path, tmp_path / 'b.parquet')


def test_jsonl_is_objects_alone(tmp_path):
    """And null is no text: not 'None', nor a class of that name."""
    (tmp_path / 'a.jsonl').write_text('{"s": "ab", "y": 1}\n{"s": null, "y": 2}\n{"s": "c", "y": null}\n')
    d = opened(tmp_path, tmp_path / 'a.jsonl', input_column='s', label_column='y')
    assert sequences(d) == [b'ab', b'c'] and d.labels([0, 1]) == [1, None] and d.meta['left_out'] == {'empty inputs': 1}
    (tmp_path / 'b.jsonl').write_text('{"s": "ab"}\n{"s": "c"')
    fails('cut short', opened, tmp_path, tmp_path / 'b.jsonl', input_column='s')


def noted(d):
    return ' '.join(d.meta['notes'])


@pytest.mark.parametrize('text, knobs, columns, x, note', [
    ('a;b\n1,5;2\n-3;1,25\n', {}, 'ab', [[1.5, 2], [-3, 1.25]], "parted by ';', 1,5 is read as 1.5"),
    ('a\tb\n1.5\t2\n', {}, 'ab', [[1.5, 2]], r"parted by '\t'"),
    ('a,b\n1.5,2\n', {}, 'ab', [[1.5, 2]], ''),
    ('0,1\n4,5\n', {}, '01', [[4, 5]], 'read as names: --header=False'),  # as pandas writes an array
    ('0,1\n4,5\n', dict(header=False), ['c0', 'c1'], [[0, 1], [4, 5]], ''),
    ('4,5\n6,7\n', {}, ['c0', 'c1'], [[4, 5], [6, 7]], 'read as a row: --header=True'),
    ('4,5\n6,7\n', dict(header=True), '45', [[6, 7]], ''),
    ('x,5\n1,2\n', dict(drop_column='x'), '5', [[2]], ''),
    ('a,b,y\n1,2,3\n', dict(label_column='-1'), 'ab', [[1, 2]], ''),
    ('a,b,c,y\n1,2,3,4\n', dict(label_column='-1', drop_column='-2,a'), 'b', [[2]], ''),
    ('a,b\n7,True\n7,False\n', {}, 'ab', [[7, 0], [7, 1]], "column 'b' holds text, whose 2 kinds"),
    ('a,b\n7,8\n7,7\n', {}, 'ab', [[7, 8], [7, 7]], 'columns that are constant: a'),
    ('a,b\n1,NA\n3,?\n,8\n5,6\n', dict(missing='drop'), 'ab', [[5, 6]], '')])
def test_tables_as_they_are_in_the_world(tmp_path, text, knobs, columns, x, note):
    (tmp_path / 'a.csv').write_text(text)
    d = opened(tmp_path, tmp_path / 'a.csv', **knobs)
    assert d.columns == [*columns] and d.x[:, :, 0].tolist() == x
    assert note in noted(d) and bool(note) == bool(noted(d))


def test_texts_among_numbers_are_numbered_and_a_new_one_is_none_of_them(tmp_path):
    rows = [(i, ['red', 'blue', ' green'][i % 3], i % 2) for i in range(30)]
    path = tmp_path / 'a.csv'
    path.write_text('a,colour,y\n' + ''.join(f'{a},{c},{y}\n' for a, c, y in rows))
    d = opened(tmp_path, path, label_column='y')
    assert d.meta['categories'] == {'colour': {'red': 0, 'blue': 1, 'green': 2}}
    assert d.x[:, 1, 0].tolist() == [i % 3 for i in range(30)]
    assert "column 'colour' holds text, whose 3 kinds are numbered: red, blue, green" in noted(d)
    # another file, read as a checkpoint knows it: columns in its order, texts by its numbers
    new = tmp_path / 'new.csv'
    new.write_text('colour,z,a\ngreen,0,5\npink,0,6\n')
    known = dict(input_column=['a', 'colour'], categories=d.meta['categories'])
    fails("'pink' is not a finite number, nor one of the texts red, blue, green", opened, tmp_path, new, **known)
    other = opened(tmp_path, new, **known, missing='mean')
    np.testing.assert_array_equal(other.x[:, :, 0], [[5, 2], [6, np.nan]])
    assert "1 cells say 'pink', which is not known" in noted(other)
    from util.scaling import fit_norm
    d.norm = other.norm = fit_norm(d, d.rows('train'), 'standard')
    assert other.batch(np.array([1]))[0][0, 1] == 0 and other.batch(np.array([0]))[0][0, 1] != 0  # the mean


def test_quotation_marks_may_mean_nothing(tmp_path):
    (tmp_path / 'a.tsv').write_text('s\ty\n"a\t0\nb"\t1\nc\t1\n')
    d = opened(tmp_path, tmp_path / 'a.tsv', input_column='s', quotes=False)
    assert sequences(d) == [b'"a', b'b"', b'c'] and not noted(d)


def test_labels_that_are_not_there(tmp_path):
    """NA is no label among numbers, and a class among text, where it may be Namibia."""
    for labels, want in (('1.5 NA 2', [1.5, None, 2]), ('de NA fr', ['de', 'NA', 'fr'])):
        (tmp_path / 'a.csv').write_text('x,y\n' + ''.join(f'{i},{v}\n' for i, v in enumerate(labels.split())))
        assert opened(tmp_path, tmp_path / 'a.csv', label_column='y').labels([0, 1, 2]) == want


def test_text_that_is_not_utf8_is_said(tmp_path):
    for encoding, said in (('utf-8', False), ('latin-1', True), ('utf-16', True)):
        (tmp_path / 'a.txt').write_bytes('café\nthé\n'.encode(encoding))
        assert ('not UTF-8' in noted(opened(tmp_path, tmp_path / 'a.txt'))) == said


def test_values_far_from_all_others_are_said(tmp_path):
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    x[7, 1], x[8, 2] = 1e30, 5
    np.save(tmp_path / 'a.npy', x)
    note, = opened(tmp_path, tmp_path / 'a.npy').meta['notes']
    assert 'have values 20 standard deviations off' in note and note.endswith('--norm=quantile: c1')
    np.save(tmp_path / 'b.npy', x[10:])
    assert not noted(opened(tmp_path, tmp_path / 'b.npy'))


@pytest.mark.parametrize('kind', ['csv', 'txt', 'npy'])
def test_a_row_that_is_added_moves_no_other(tmp_path, kind):
    rows = [f'{i * 7 % 251},{i * i % 197}' for i in range(2000)]

    def split(rows, **knobs):
        path = tmp_path / f'a.{kind}'
        if kind == 'npy':
            np.save(path, np.array([row.split(',') for row in rows], float))
        else:
            path.write_text('\n'.join(['a,b'] * (kind == 'csv') + rows))
        os.utime(path, (len(os.listdir(tmp_path)), hash(tuple(rows)) % 10 ** 9))  # a changed file is read again
        return opened(tmp_path, path, **knobs).split
    before = split(rows)
    assert (split(['250,196'] + rows)[1:] == before).all() and (split(rows[::-1])[::-1] == before).all()
    shares = np.bincount(before) / len(before)
    assert abs(shares - [0.6, 0.2, 0.2]).max() < 0.04  # three deviations: sqrt(0.2 * 0.8 / 2000) = 0.009, and ties
    other = split(rows, split_seed=1)
    agree, chance = (other == before).mean(), 0.6 ** 2 + 0.2 ** 2 + 0.2 ** 2
    assert abs(agree - chance) < 0.05
    twice = split(rows + rows)
    assert (twice[:2000] == twice[2000:]).all()  # none is trained on in one place and tested in the other
    larger = split(rows, val_share=0.3)
    assert ((larger == 2) == (before == 2)).all()  # the test stays what it was


def test_known_data_sets_are_split_as_ever(tmp_path):
    """The permutation by which the printed numbers were made."""
    d = opened(tmp_path, 'collider')
    order = np.random.default_rng(0).permutation(120_000)
    assert (np.sort(order[:24_000]) == d.rows('test')).all()
    assert (np.sort(order[24_000:48_000]) == d.rows('val')).all() and not (d.folder / 'keys.bin').exists()


def test_json_objects_need_not_fit_in_a_block(tmp_path):
    items = [{'a': 'x' * (1 << 19), 'n': i, 'one': [i / 2], 'nested': [[1], {'b': ']'}]} for i in range(9)]
    (tmp_path / 'a.json').write_text(json.dumps(items, indent=1))
    header, *rows = tables.json_rows(tmp_path / 'a.json')
    assert header == (0, ['a', 'n', 'one', 'nested'])
    assert rows == [(i + 1, [item['a'], str(i), str(i / 2), '']) for i, item in enumerate(items)]


def test_arrays(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 3, 2)), np.arange(20) % 2
    np.save(tmp_path / 'x.npy', x)
    np.save(tmp_path / 'y.npy', y)
    np.savez(tmp_path / 'a.npz', X=x, y=y)
    np.savez(tmp_path / 'b.npz', A=x, B=y[:, None])
    for name, knobs in ((f'{tmp_path}/x.npy,{tmp_path}/y.npy', {}), (tmp_path / 'a.npz', {}),
                        (tmp_path / 'b.npz', dict(input_column='A', label_column='B'))):
        d = opened(tmp_path, name, **knobs)
        assert (d.x == x.astype(np.float32)).all() and (d.y == y).all() and (d.n, d.d_raw) == (3, 2)


def test_splits_by_share_and_by_file(tmp_path):
    paths = {name: tmp_path / f'{name}.txt' for name in 'abc'}
    for name, n in (('a', 50), ('b', 7), ('c', 9)):
        paths[name].write_text('\n'.join(f'{name}{i}' for i in range(n)))
    b, c = str(paths['b']), str(paths['c'])
    d = opened(tmp_path, paths['a'])
    assert counts(d) == [29, 8, 13]  # of 30, 10, 10 in the mean, see test_a_row_that_is_added_moves_no_other
    assert (d.split == opened(tmp_path, paths['a'], data_dir=str(tmp_path / 'elsewhere')).split).all()
    d = opened(tmp_path, paths['a'], val_file=b, test_file=c)
    assert counts(d) == [50, 7, 9] and sequences(d)[d.rows('test')[0]] == b'c0'
    assert counts(opened(tmp_path, paths['a'], val_file=b)) == [50, 7, 0]
    n, *val_test = counts(opened(tmp_path, paths['a'], test_file=b))
    assert (n + val_test[0], val_test[1]) == (50, 7) and 3 < val_test[0] < 18  # and not the folder of val_file=b


# ---- what is wrong ends in one line

@pytest.mark.parametrize('text, knobs, word', [
    ('a,b\n1,2\n3,nan\n', {}, "line 3, column 'b': 'nan'"),
    ('a,b\n1,2\n3,\n', {}, "line 3, column 'b': ''"),
    ('a,b\n1,2\n3,x\n', {}, "'x' is not a finite number"),
    ('a,b\n1,inf\n', {}, "'inf' is not a finite number"),
    ('a,b\n1,2\n3\n', {}, 'line 3: 1 cells where the header has 2'),
    ('a,b\n' + ''.join(f'{i},C{i}\n' for i in range(11)), {}, '--input_column'),
    ('a,b,c\n' + ''.join(f'1,C{i},D\n' for i in range(11)), dict(input_column='a,b,c'), "column 'b' holds text"),
    ('a,b\n1,2\n', dict(drop_column='a, c'), "no column 'c' (drop_column)"),
    ('a,b\n1,2\n', dict(label_column='-3'), "no column '-3'"),
    ('a,b\n1,2\n', dict(label_column='-0'), "no column '-0'"),
    ('a,y\n1,2\n', dict(input_column='a,y', label_column='y'), "'y' is the label or the split, and an input too"),
    ('a,y\n1,2\n', dict(input_column='a', label_column='-2'), "'a' is the label or the split, and an input too"),
    ('a,b\n1,NA\n', {}, "'NA' is not a finite number; correct it, or, where one is missing, say --missing"),
    ('a,b\n1,2\n3,x\n', dict(missing='mean'), "column 'b': 'x' is not"),  # a mistake is not missing
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


@pytest.mark.parametrize('name, content, word, knobs', [
    ('a.txt.gz', gzip.compress(b'hello\nworld\n' * 1000)[:-20], 'cut short', {}),
    ('a.txt.xz', b'no xz at all', 'damaged', {}), ('a.txt', b'\n\n', 'no rows', {}),
    ('a.fasta', b'MKV', 'FASTA', {}), ('a.doc', b'x', 'unknown ending', {}),
    ('a.csv', b'a,b\n\xe9,1\n', 'UTF-8', {}), ('a.arff', b'@attribute caf\xe9 real\n@data\n1\n', 'UTF-8', {}),
    ('a.npz', b'PK', 'a.npz', {}),
    ('a.txt', b'x', 'at least 4', dict(window=3)), ('a.txt', b'x', 'no such columns', dict(input_column='x')),
    ('a.json', b'[{"a": 1}', 'cut short', {}), ('a.json', b'{"a": 1}]x', 'a.json', {}),
    ('a.json', b'', 'a.json', {}), ('a.json', b'[1]', 'item 1', {}),
    ('a.json', b'[{"a": []}]', "no column 'b'", dict(input_column='b')),
    ('a.npy', np.array([{'a': 1}], object), 'cannot read', {}), ('a.npy', np.arange(3), 'shape (3,)', {}),
    ('a.npy', np.array([[1.0, 2.0], [np.nan, 1.0]]), 'row 1, column 0', {}),
    ('a.npy', np.zeros((5, 0)), 'wanted are numbers', {}),
    ('a.npy', np.zeros((2, 2)), 'label_column', dict(label_column='y')),
    ('a.npz', dict(X=np.array([[{'a': 1}]], object)), 'cannot read', {}),  # nothing is unpickled
    ('a.npz', dict(A=np.zeros((3, 2))), "no array 'X'", {}),
    ('a.npz', dict(X=np.zeros((1, 2)), y=np.array(['2020-01-01'], 'datetime64[D]')), 'labels of shape', {})])
def test_files_that_are_wrong(tmp_path, name, content, word, knobs):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content) if isinstance(content, dict) else np.save(path, content, allow_pickle=True)
    fails(word, opened, tmp_path, path, **knobs)
    if not isinstance(content, bytes):  # cut short, or with a name that lies
        path.write_bytes(path.read_bytes()[:100])
        fails('cannot read', opened, tmp_path, path)


def test_settings_that_are_wrong(tmp_path):
    for name, text in (('a', 'a,b,y\n1,2,0\n'), ('c', 'b,a,y\n1,2,0\n'), ('s', 'a,b,y\n1,x,0\n')):
        (tmp_path / f'{name}.csv').write_text(text)
    a, c, s = (str(tmp_path / f'{name}.csv') for name in 'acs')
    d = opened(tmp_path, a, label_column='y', val_file=c)  # matched by name
    assert d.columns == ['a', 'b'] and d.x[:, :, 0].tolist() == [[1, 2], [2, 1]]
    (tmp_path / 'd.csv').write_text('a,d,y\n1,2,0\n')
    fails('its inputs are a, d', opened, tmp_path, a, label_column='y', val_file=str(tmp_path / 'd.csv'))
    fails('differ', opened, tmp_path, a, input_column='a,b', val_file=s)
    np.savez(tmp_path / 'x.npz', X=np.zeros((2, 2)))
    fails('brings its own labels', opened, tmp_path, f'{tmp_path}/x.npz,{tmp_path}/x.npz')
    (tmp_path / 'x.npz').rename(tmp_path / 'x.npy')
    fails('x.npy', opened, tmp_path, tmp_path / 'x.npy')
    fails("'collider'", opened, tmp_path, 'colider')
    fails('mean or drop', opened, tmp_path, a, missing='mode')
    fails('say which', opened, tmp_path, '')
    fails('has its own', opened, tmp_path, 'collider', val_file='a.csv')


def test_no_archive_writes_anywhere(tmp_path):
    tarred(tmp_path / 'a.tar.gz', {'../../evil.json': '[{"a": "b"}]', 'good.json': '[{"a": "b"}]'})
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr('../../evil.json', '[{"a": "b"}]')
    with tarfile.open(tmp_path / 'b.tar.gz', 'w:gz') as archive:  # a link out of the archive
        link = tarfile.TarInfo('good.json')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    before = sorted(tmp_path.rglob('*'))
    for part in ('a.tar.gz!good.json', 'a.tar.gz!../../evil.json', 'a.zip!../../evil.json'):
        assert list(tables.json_rows(tmp_path / part)) == [(0, ['a']), (1, ['b'])]
    for part in ('b.tar.gz!good.json', 'a.zip!x.json', 'a.tar.gz!x.json'):
        fails('no file', lambda: list(tables.json_rows(tmp_path / part)))
    assert sorted(tmp_path.rglob('*')) == before and not (tmp_path.parent.parent / 'evil.json').exists()


# ---- every data set from a few rows in its own format

# rows, train, val, test with val_share = test_share = 0.2
COUNTS = {
    **dict.fromkeys(('higgs', 'year', 'higgs_small'), (40, 26, 6, 8)), 'pfam': (42, 26, 8, 8),
    **dict.fromkeys(('guacamol', 'remote_homology', 'fluorescence', 'stability'), (120, 40, 40, 40)),
    **dict.fromkeys(('mnli', 'mnli_mm', 'qqp', 'qnli', 'sst2', 'cola', 'stsb', 'rte'), (80, 32, 8, 40)),
    **dict.fromkeys(('bbbp', 'bace', 'hiv', 'esol', 'freesolv', 'lipo'), (51, 39, 6, 6)),
    'mrpc': (40, 24, 6, 10)}


@pytest.mark.parametrize('name', COUNTS)
def test_each_data_set_is_read_from_its_own_format(mirror, tmp_path, monkeypatch, name):
    row, (n, *splits) = DATASETS[name], COUNTS[name]
    if row['read'].func.__name__ == 'molecules':
        pytest.importorskip('rdkit')
    (mirror / 'some/where').mkdir(parents=True)
    sample(mirror / 'some/where', name)  # found at any depth
    if name in ('higgs', 'year'):
        assert row['read'].keywords['first_test_row'] == {'higgs': 10_500_000, 'year': 463_715}[name]
        shrink(monkeypatch, name)
    d = opened(tmp_path, name)
    assert len(d.y) == n and counts(d) == splits
    assert (d.meta['target'], d.meta['metric'], d.meta['source']) == (row['target'], row['metric'], name)
    if row['target']:
        classes = len(set(d.labels(np.arange(n))))
        assert not np.isnan(d.y).any() and (classes == 2 if row['target'] == 'binary' else classes > 2)
    if d.is_bytes:
        assert (d.firsts is not None) == (name in ('mnli', 'mnli_mm', 'qqp', 'qnli', 'stsb', 'rte', 'mrpc'))
    if name == 'pfam':
        lengths = {len(s) for s in sequences(d)}
        assert min(lengths) == 50 and max(lengths) == 1024 and sum(d.meta['left_out'].values()) == 2
    if name == 'mrpc':
        assert d.rows('test').tolist() == list(range(0, 40, 4))
    if name == 'rte':  # pairs, and quotation marks that mean nothing, as the csv module reads them
        with zipfile.ZipFile(mirror / 'some/where/RTE.zip') as archive:
            lines = archive.read('RTE/train.tsv').decode().splitlines()
        rows = list(csv.DictReader(lines, delimiter='\t', quoting=csv.QUOTE_NONE))
        pairs = [(text[:first].decode(), text[first:].decode()) for text, first in zip(sequences(d), d.firsts)]
        assert pairs[:40] == [(row['sentence1'].strip(), row['sentence2'].strip()) for row in rows]
        assert d.labels(np.arange(40)) == [row['label'] for row in rows]
    if name == 'higgs_small':  # the last row's last nine are holes: they get the mean of the training rows
        assert d.x.shape == (40, 28, 1) and d.columns == HIGGS_COLUMNS
        others = np.where(np.arange(40)[:, None] == 39, np.nan, d.x[:, :, 0])
        np.testing.assert_allclose(d.x[39, -9:, 0], np.nanmean(others[d.split == 0], axis=0)[-9:], rtol=1e-5)
    if name in ('higgs', 'year'):
        path = next((mirror / 'some/where').iterdir())
        f = gzip.open(path) if name == 'higgs' else zipfile.ZipFile(path).open('YearPredictionMSD.txt')
        want = np.loadtxt(f, delimiter=',')
        np.testing.assert_array_equal(d.x[:, :, 0], want[:, 1:].astype(np.float32))
        np.testing.assert_array_equal(d.y, want[:, 0])
        assert d.rows('test').tolist() == list(range(32, 40))
        assert d.columns == (HIGGS_COLUMNS if name == 'higgs' else [f'c{i}' for i in range(1, 91)])


def test_stratified_splits_have_the_published_counts():
    """On labels counted as OpenML's, the class counts of Gorishniy et al. 2021 (rtdl's stats.json)."""
    y = np.random.default_rng(3).permutation(np.repeat([0.0, 1.0], [46_223, 51_827]))
    from config.datasets import stratified_splits
    split = stratified_splits(y)
    assert [np.bincount(y[split == s].astype(int)).tolist() for s in range(3)] == [
        [29_582, 33_170], [7_396, 8_292], [9_245, 10_365]]


def test_wiki_books_is_one_text_in_windows(mirror, tmp_path):
    sample(mirror, 'wiki_books')
    parts = sequences(opened(tmp_path, 'wiki_books'))
    assert max(map(len, parts)) <= 1022 and sum(len(p) < 1000 for p in parts) <= 3  # but for three files' ends
    assert all(p.decode() for p in parts) and '"quoted' in parts[0].decode()


def test_imagenet100_is_the_classes_on_the_list(mirror, tmp_path):
    pytest.importorskip('PIL')
    (mirror / 'here').mkdir()
    sample(tmp_path, 'imagenet100')
    (tmp_path / 'imagenet100.txt').rename(mirror / 'imagenet100.txt')
    (mirror / 'here/imagenet').symlink_to(tmp_path / 'imagenet')
    d = opened(tmp_path, 'imagenet100', image_size=14)
    assert d.meta['classes'] == ['n01749939', 'n02869837'] and d.x.shape == (27, 16, 16, 3)
    assert counts(d) == [18, 4, 5]  # validation rows are drawn from train
    assert opened(tmp_path, 'imagenet100', image_size=21).folder != d.folder
    (mirror / 'here/imagenet').unlink()
    fails(str(tmp_path / 'datasets/downloads/imagenet'), opened, tmp_path, 'imagenet100', image_size=28)


def test_a_corrected_entry_never_reads_stale_data(mirror, tmp_path, monkeypatch):
    """Another value, hash, target or source text of the function: another folder."""
    sample(mirror, 'pfam')
    row, file = DATASETS['pfam'], 'Pfam-A.fasta.gz'
    md5 = 'md5:' + hashlib.md5((mirror / file).read_bytes()).hexdigest()
    source = 'def read(paths, meta):\n    return [(0, [([b"{}"], None, None)])]\n'
    (tmp_path / 'first.py').write_text(source.format('AC'))
    (tmp_path / 'second.py').write_text(source.format('DE'))
    monkeypatch.syspath_prepend(tmp_path)
    import first
    import second
    changes = [{}, dict(target='binary'), dict(files={file: (row['files'][file][0], None, md5)}),
               dict(read=partial(row['read'], longest=100)), dict(read=partial(first.read)),
               dict(read=partial(second.read)), dict(about='what it says of itself is no matter')]
    seen = []
    for change in changes:
        monkeypatch.setitem(DATASETS, 'pfam', {**row, **change})
        seen.append(opened(tmp_path, 'pfam', val_share=0, test_share=0))
    assert len({d.folder for d in seen[:-1]}) == len(seen) - 1 and seen[-1].folder == seen[0].folder
    assert [sequences(d) for d in seen[4:6]] == [[b'AC'], [b'DE']] and len(seen[3].y) < len(seen[0].y)


def test_the_listing_names_every_data_set(run, tmp_path):
    text = run('data.py').stdout
    for name, row in DATASETS.items():
        assert f'\n{name} ' in f'\n{text}' and row['licence'] in text
        for address, size, digest in row['files'].values():
            assert address is None or address in text and address.startswith(
                ('https://', 'http://s3.amazonaws.com/songlabdata/'))
            assert digest is None or digest.startswith(('md5:', 'sha256:'))
    assert os.listdir(tmp_path) == []


def test_what_no_source_claims_is_listed_and_removed(run, tmp_path):
    for name in ('kept', 'changed', 'gone'):
        (tmp_path / f'{name}.txt').write_text('abc\n' * 9)
        run('data.py', f'{name}.txt')
    run('data.py', 'kept.txt', '--val_share=0.3')
    run('data.py', 'collider')
    (tmp_path / 'changed.txt').write_text('abcd\n' * 9)
    (tmp_path / 'gone.txt').unlink()
    folders = {path.name.split('-')[0]: path for path in (tmp_path / 'datasets').iterdir()}
    said = run('data.py').stdout
    for name, folder in folders.items():
        size = sum(file.stat().st_size for file in folder.iterdir())
        line = f'prepared: datasets/{folder.name}, {size:,} bytes'
        assert f'{line}\n' in said if name in ('kept', 'collider') else f'{line}, of a source that is gone' in said
    assert run('data.py', 'clean').stdout.count('removed datasets/') == 2
    assert {path.name.split('-')[0] for path in (tmp_path / 'datasets').iterdir()} == {'kept', 'collider'}


# ---- real files, at SMA_MIRROR

def test_real_files(tmp_path, real):
    d = opened(tmp_path, real('swissprot201401_sample20k_len50-512.fasta.xz'))
    assert d.meta['rows'] == 20_000 and not d.meta['left_out'] and np.isnan(d.y).all()
    assert not any(s != s.strip() or not s for s in sequences(d))
    d = opened(tmp_path, real('higgs_train_42k.npz'))
    assert d.x.shape == (42_265, 28, 1) and not np.isnan(d.y).any()


@pytest.mark.parametrize('name, file, splits, n', [
    ('esol', 'delaney-processed.csv', 'esol', 1128), ('freesolv', 'SAMPL.csv', 'freesolv', 642),
    ('lipo', 'Lipophilicity.csv', 'lipop', 4200), ('bbbp', 'BBBP.csv', 'bbbp', 2050),
    ('bace', 'bace.csv', 'bace', 1513)])
def test_scaffold_splits_equal_deepchems_row_by_row(real, tmp_path, monkeypatch, name, file, splits, n):
    pytest.importorskip('rdkit')
    monkeypatch.setenv('SMA_MIRROR', str(real(file).parent))  # the md5 of the table is checked, too
    with open(real(f'splits/{splits}.csv')) as f:
        want = [row['scaffold_dc_rdkit202609'].replace('valid', 'val') for row in csv.DictReader(f)]
    d = opened(tmp_path, name)
    assert len(want) == n and [SPLITS[k] for k in d.split] == [s for s in want if s]
    assert d.meta['left_out'] == ({'molecules that RDKit cannot read': 11} if name == 'bbbp' else {})


@pytest.mark.parametrize('name, want', [
    ('fluorescence', [21446, 5362, 27217]), ('stability', [53614, 2512, 12851]),
    ('remote_homology', [12312, 736, 718])])
def test_tape_counts(real, mirror, tmp_path, name, want):
    """The real rows, put into TAPE's own format: a .tar.gz of JSON lists."""
    columns, members = DATASETS[name]['read'].keywords, {}
    label, of_number = columns['label_column'], name == 'remote_homology'
    for _, part in columns['parts']:
        member = part.partition('!')[2]
        with gzip.open(real(f'{member.split("/")[1][:-5]}.csv.gz'), 'rt') as f:
            rows = [{'primary': r['primary'], label: int(r[label]) if of_number else [float(r[label])]}
                    for r in csv.DictReader(f)]
        members[member] = json.dumps(rows)
    tarred(mirror / f'{name}.tar.gz', members)
    d = opened(tmp_path, name)
    assert counts(d) == want and d.y[-1] == (rows[-1][label] if of_number else rows[-1][label][0])
    assert not of_number or len(set(d.y)) == 1195


@pytest.mark.parametrize('name, folder, want', [
    ('cola', 'CoLA', [8551, 0, 1043]), ('sst2', 'SST-2', [67349, 0, 872]), ('stsb', 'STS-B', [5749, 0, 1500]),
    ('rte', 'RTE', [2490, 0, 277])])
def test_glue_counts(real, mirror, tmp_path, name, folder, want):
    with zipfile.ZipFile(mirror / f'{folder}.zip', 'w') as archive:
        for split in ('train', 'dev'):
            archive.write(real(f'{folder}/{split}.tsv'), f'{folder}/{split}.tsv')
    d = opened(tmp_path, name, val_share=0)
    assert counts(d) == want and not d.meta['left_out']


def test_mrpc_counts_and_hashes(real, tmp_path, monkeypatch):
    (tmp_path / 'm').mkdir()
    (tmp_path / 'm/msr_paraphrase_train.txt').symlink_to(real('MRPC/msr_paraphrase_train.txt'))
    (tmp_path / 'm/mrpc_dev_ids.tsv').symlink_to(real('MRPC/dev_ids.tsv'))
    monkeypatch.setenv('SMA_MIRROR', str(tmp_path / 'm'))
    d = opened(tmp_path, 'mrpc', val_share=0)  # size and sha256 of the table hold
    assert counts(d) == [3668, 0, 408]
    with open(real('MRPC/dev.tsv'), encoding='utf-8-sig') as f:  # GLUE's own script made it
        dev = {(r['#1 String'].strip(), r['#2 String'].strip(), float(r['Quality']))
               for r in csv.DictReader(f, delimiter='\t', quoting=csv.QUOTE_NONE)}
    assert dev == {(text[:first].decode(), text[first:].decode(), y) for text, first, y, split in zip(
        sequences(d), d.firsts, d.y, d.split) if split == 2}


def test_the_official_higgs_rows(real, mirror, tmp_path, monkeypatch):
    shrink(monkeypatch, 'higgs', 1500)
    (mirror / 'HIGGS.csv.gz').symlink_to(real('HIGGS_first_rows_official_format.csv.gz'))
    d, want = opened(tmp_path, 'higgs'), np.loadtxt(gzip.open(mirror / 'HIGGS.csv.gz'), delimiter=',')
    np.testing.assert_array_equal(d.x[:, :, 0], want[:, 1:].astype(np.float32))
    np.testing.assert_array_equal(d.y, want[:, 0])
    assert d.rows('test').tolist() == list(range(1500, 2000)) and d.columns == HIGGS_COLUMNS


def test_real_images(real, tmp_path):
    """ImageNet's own layout: 9,469 images to train on and 3,925 to test, some of which are read; originals."""
    pytest.importorskip('PIL')
    with tarfile.open(real('imagenette96.tar')) as tar:
        names = [name for name in tar.getnames() if name.endswith('.JPEG')]
        assert Counter(name.split('/')[1] for name in names) == dict(train=9469, val=3925)
        some = names[::500]
        tar.extractall(tmp_path, members=[tar.getmember(name) for name in some], filter='data')
    d = opened(tmp_path, tmp_path / 'imagenette96', image_size=32)
    assert d.x.shape == (len(some), 37, 37, 3) and not d.meta['left_out']
    assert len(d.rows('test')) == sum('/val/' in name for name in some)
    assert set(d.meta['classes']) == {name.split('/')[2] for name in some}
    d = opened(tmp_path, real('imagenet_originals'))
    assert d.x.shape == (12, 219, 219, 3) and not d.meta['left_out'] and len(d.meta['classes']) == 12


# ---- folders of images

@pytest.fixture
def put():
    from pictures import put  # skips where there is no Pillow
    return put


def read_all(folder):
    """All that read_images yields at image_size 14, put together: x, labels, splits, left_out"""
    meta = dict(left_out=Counter(), image_size=14)
    parts = list(images.read_images(folder, meta))
    labels, splits = ([v for part in parts for v in part[k] or [None] * len(part[0])] for k in (1, 2))
    return np.concatenate([x for x, _, _ in parts]), labels, splits, meta['left_out']


@pytest.mark.parametrize('size', [(40, 30), (30, 41), (16, 16), (9, 12), (101, 64)])
@pytest.mark.parametrize('ending', ['png', 'jpg'])
def test_an_image_is_read_as_pillow_resizes_and_crops_it(tmp_path, put, size, ending):
    """torchvision's Resize(16) and CenterCrop(16), written out, enlarging or reducing any shape."""
    from PIL import Image
    path = put(tmp_path / f'a.{ending}', width=size[0], height=size[1])
    x, labels, splits, _ = read_all(tmp_path)
    width, height = size
    new = (16, int(16 * height / width)) if width <= height else (int(16 * width / height), 16)
    left, top = (int(round((v - 16) / 2.0)) for v in new)
    image = Image.open(path).convert('RGB').resize(new, Image.BICUBIC).crop((left, top, left + 16, top + 16))
    np.testing.assert_array_equal(x, np.asarray(image)[None])
    assert x.dtype == np.uint8 and labels == [None] and splits == [None]


def test_a_large_jpeg_loses_nothing_by_being_decoded_small(tmp_path, put):
    from PIL import Image
    path = put(tmp_path / 'a.jpg', width=800, height=640)
    with Image.open(path) as image:
        full = image.convert('RGB').resize((20, 16), Image.BICUBIC).crop((2, 0, 18, 16))
    off = read_all(tmp_path)[0][0].astype(float) - np.asarray(full)
    assert np.abs(off).mean() < 1 and np.abs(off).max() <= 10  # of 255


def test_all_kinds_of_pixels_become_rgb(tmp_path, put):
    """As torchvision's loader has it: convert('RGB'), and a camera's note on rotation is not looked at."""
    from PIL import Image
    picture, want = Image.open(put(tmp_path / 'p/a.png', width=16, height=16)), []
    (tmp_path / 'all').mkdir()
    for name in ('1.bmp', 'L.png', 'L.tiff', 'P.png', 'RGB.png', 'RGBA.png', 'RGB.ppm', 'RGB.webp'):
        mode, ending = name.split('.')
        kind, rotated = picture.convert(mode), Image.Exif()
        rotated[0x0112] = 6  # the tag `orientation`: turn by 90 degrees
        kind.save(tmp_path / 'all' / name, **(dict(lossless=True) if ending == 'webp' else {}),
                  **(dict(exif=rotated) if name in ('RGB.png', 'RGB.webp') else {}))
        want.append((name, np.asarray(kind.convert('RGB'))))
    x, _, _, left_out = read_all(tmp_path / 'all')
    np.testing.assert_array_equal(x, [v for _, v in sorted(want, key=lambda item: item[0])])
    assert not left_out


def test_16_bits_of_grey_are_not_cut_off(tmp_path):
    Image = pytest.importorskip('PIL.Image')
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    for name in ('a.png', 'b.tif'):
        Image.fromarray(grey).save(tmp_path / name)
    x, *_ = read_all(tmp_path)
    assert (x == (grey // 257).astype(np.uint8)[..., None]).all()


def test_layouts_and_links(tmp_path, put):
    for name in ('a/1.png', 'a/deep/2.jpg', 'b/3.JPEG'):
        for layout in ('classes', 'imagenet/train', 'three/train', 'alone/train'):
            put(tmp_path / layout / name)
    for name in ('imagenet/val/b/4.png', 'three/validation/b/5.png', 'three/test/a/6.png', 'flat/8.png',
                 'three/extra/a/7.png', 'flat/.hidden.png', 'flat/notes.png.txt'):  # `extra` is no split
        put(tmp_path / name.removesuffix('.txt')).rename(tmp_path / name)

    def found(folder, **more):
        left_out = Counter()
        listed = images.image_files(tmp_path / folder, left_out, **more)
        return [(path.name, *rest) for path, *rest in listed] + [*left_out.values()]
    classes = [('1.png', 'a'), ('2.jpg', 'a'), ('3.JPEG', 'b')]
    assert found('classes') == [(*image, None) for image in classes]
    assert found('flat') == [('8.png', None, None)]
    some = [(*image, DRAW_VAL) for image in classes]  # ImageNet has no validation rows beside its test rows
    assert found('imagenet') == [*some, ('4.png', 'b', 2)] and found('alone') == some
    *three, extra = found('three')
    assert extra == 1  # said, not dropped in silence
    assert sorted(three) == sorted([*((*image, 0) for image in classes), ('5.png', 'b', 1),
                                             ('6.png', 'a', 2)])
    assert found('imagenet', classes={'b', '../flat', '..'}) == [some[2], ('4.png', 'b', 2)]
    # classes, splits and files may be links; circles end; what leads nowhere is counted
    for link, to in (('train', 'classes'), ('val/a', 'classes/a'), ('val/c/9.png', 'flat/8.png'),
                     ('val/d', 'nowhere'), ('val/c/gone.png', 'nowhere.png'), ('val/c/round', 'linked/val/c'),
                     ('val/c/up', 'linked/val')):
        (tmp_path / 'linked' / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'linked' / link).symlink_to(tmp_path / to)
    # val/c: gone.png; up: d again, and a by another way, but not c; 9.png
    val = [('1.png', 'a'), ('2.jpg', 'a'), ('9.png', 'c'), ('1.png', 'c'), ('2.jpg', 'c')]
    assert found('linked') == [*some, *((*image, 2) for image in val), 3]


def test_a_folder_of_images_is_prepared_once_and_again_when_it_changes(tmp_path, put):
    for i in range(20):
        put(tmp_path / f'p/{"train" if i < 15 else "val"}/{"ab"[i % 2]}/{i:02}.png', i)
    whole = (tmp_path / 'p/train/a/00.png').read_bytes()
    for name, content in (('cut.png', whole[:len(whole) // 2]), ('text.png', b'text'), ('empty.jpg', b'')):
        (tmp_path / 'p/val/b' / name).write_bytes(content)
    first = opened(tmp_path, f'{tmp_path}/p/', image_size=14)
    assert counts(first) == [13, 2, 5] and first.rows('test').min() == 15  # val is the test
    assert first.meta['kind'] == 'images' and first.labels([0, 1, 14, 15]) == ['a', 'a', 'b', 'a']
    assert (first.n, first.d_raw, first.x.shape) == (196, 3, (20, 16, 16, 3))
    (why, n), = first.meta['left_out'].items()
    assert n == 3 and 'cannot be decoded' in why and 'p/val/b/cut.png' in why
    assert opened(tmp_path, f'{tmp_path}/p/', image_size=14).folder == first.folder
    assert opened(tmp_path, f'{tmp_path}/p/', image_size=7).folder != first.folder
    put(tmp_path / 'p/train/b/03.png', 33)
    changed = opened(tmp_path, f'{tmp_path}/p/', image_size=14)
    same = (np.asarray(changed.x) == first.x).all((1, 2, 3))
    assert changed.folder != first.folder and same.sum() == 19


def test_what_a_user_can_do_wrong_with_images(tmp_path, put, run, monkeypatch):
    (tmp_path / 'void').mkdir()
    assert 'no images' in run('data.py', 'void', status=2).stderr
    (tmp_path / 'void/a.png').write_text('no image')
    fails('a.png', opened, tmp_path, tmp_path / 'void')
    put(tmp_path / 'p/a.png')
    fails('input_column', opened, tmp_path, tmp_path / 'p', input_column='x')
    fails('image_size', opened, tmp_path, tmp_path / 'p', image_size=0)
    from PIL import Image
    Image.new('RGB', (40, 40)).save(tmp_path / 'void/a.png', 'EPS')  # whose decoder is Ghostscript, a program
    fails('cannot identify', opened, tmp_path, tmp_path / 'void')
    Image.new('1', (1, 12_000)).save(tmp_path / 'void/a.png')
    fails('32 times the other', opened, tmp_path, tmp_path / 'void')
    Image.new('1', (10_001, 10_000)).save(tmp_path / 'void/a.png')
    fails('the most are 100,000,000', opened, tmp_path, tmp_path / 'void')
    png = bytearray((tmp_path / 'void/a.png').read_bytes())
    png[16:24] = (60_000).to_bytes(4, 'big') * 2  # it claims 60,000 x 60,000
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, 'big')
    (tmp_path / 'void/a.png').write_bytes(png)
    fails('exceeds limit', opened, tmp_path, tmp_path / 'void')
    (tmp_path / 'void/a.png').unlink()
    os.mkfifo(tmp_path / 'void/a.png')
    assert 'no images' in run('data.py', 'void', status=2).stderr  # and does not wait
    real = builtins.__import__

    def without_pillow(name, *args):
        if name.startswith('PIL'):
            raise ImportError
        return real(name, *args)
    monkeypatch.setattr(builtins, '__import__', without_pillow)
    fails('pip install Pillow', opened, tmp_path, tmp_path / 'p')
    assert not list((tmp_path / 'datasets').iterdir())


# ---- processes: whole or not at all

def test_prepared_once_and_again_when_the_file_changes(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('a\nb\nc')
    first = opened(tmp_path, path).folder
    stamp = (first / 'x.bin').stat().st_mtime_ns
    assert opened(tmp_path, path).folder == first and (first / 'x.bin').stat().st_mtime_ns == stamp
    path.write_text('a\nb\nc\nd')
    assert opened(tmp_path, path).folder != first


def test_of_two_processes_the_slower_finds_the_folder_done(tmp_path, monkeypatch):
    """A second process prepares the same from beginning to end, as this one is about to rename its folder."""
    (tmp_path / 'a.csv').write_text('a,b\n' + '1.5,2.5\n' * 300)
    monkeypatch.chdir(tmp_path)
    write, others = prepare.write, []

    def slow_write(building, *args):
        write(building, *args)
        command = [sys.executable, str(ROOT / 'data.py'), 'a.csv']
        done = subprocess.run(command, text=True, capture_output=True)
        assert done.returncode == 0 and '300 rows' in done.stdout, done.stderr
        assert building.exists()  # the other took it for what it is: the work of a process that lives
        others.extend((tmp_path / 'datasets').glob('a-??????????'))
    monkeypatch.setattr(prepare, 'write', slow_write)
    d = open_dataset('a.csv')
    assert [d.folder.resolve()] == others == list((tmp_path / 'datasets').iterdir()) and len(d.y) == 300


def test_under_torchrun_the_others_wait_for_the_first(tmp_path, monkeypatch, capsys):
    (tmp_path / 'a.txt').write_text('a\nb\nc')
    for name, value in dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1').items():
        monkeypatch.setenv(name, value)

    def while_it_sleeps(seconds):
        monkeypatch.setenv('LOCAL_RANK', '0')
        opened(tmp_path, tmp_path / 'a.txt')
        monkeypatch.setattr(prepare, 'write', None)  # it must not build itself
    monkeypatch.setattr(time, 'sleep', while_it_sleeps)
    assert len(opened(tmp_path, tmp_path / 'a.txt').y) == 3
    assert capsys.readouterr().out.count('waiting until rank 0 has prepared') == 1
    assert prepare.write is None


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_it_is_prepared_anew(tmp_path, how):
    """It is held up once the rows are written and nothing else is, and killed there."""
    (tmp_path / 'a.csv').write_text('a,b\n' + '1.5,2.5\n' * 20_000)
    script = ('import sys, time; sys.path.insert(0, sys.argv[1]); import data; from util import prepare; '
              'prepare.number_labels = lambda labels: print("here", flush=True) or time.sleep(60); '
              'data.open_dataset("a.csv")')
    process = subprocess.Popen([sys.executable, '-c', script, str(ROOT)], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               # a shell starts its background jobs deaf to SIGINT
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout.readline() == 'here\n'
    assert [p.stat().st_size for p in tmp_path.glob('datasets/a-*.tmp-*/x.bin')] == [20_000 * 2 * 4]
    process.send_signal(how)
    process.communicate(timeout=30)
    left = [p.name for p in tmp_path.glob('datasets/*')]  # nothing passes for a data set
    assert process.returncode and ['.tmp-' in p for p in left] == ([True] if how == signal.SIGKILL else [])
    (tmp_path / 'b.txt').write_text('a\nb\nc')
    opened(tmp_path, tmp_path / 'b.txt')  # whatever is prepared next removes it
    assert not list(tmp_path.glob('datasets/*.tmp-*'))
    assert len(opened(tmp_path, tmp_path / 'a.csv').y) == 20_000


def test_memory_does_not_grow_with_the_file(tmp_path):
    """The peak of a process that prepares four times the rows: labels and splits grow, the inputs do not."""
    if not os.path.exists('/proc/self/status'):
        pytest.skip('no /proc here to read the peak from')
    script = ('import sys; sys.path.insert(0, sys.argv[2]); import data; from util import prepare; '
              'prepare.prepare({**data.PREPARE_KNOBS, "dataset": sys.argv[1], "label_column": "y"}); '
              'print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))')
    peaks = []
    for n in (25_000, 100_000):
        (tmp_path / f'{n}.csv').write_text(','.join([*(f'c{i}' for i in range(28)), 'y']) + '\n'
                                           + ('0.123456,' * 28 + '1\n') * n)
        done = subprocess.run([sys.executable, '-c', script, f'{n}.csv', str(ROOT)], cwd=tmp_path, text=True,
                              capture_output=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 4_000, peaks  # kB, where the floats alone take 8,400 more and the text 19,500
