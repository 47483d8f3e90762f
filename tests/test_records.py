"""util/records.py: JSON, JSON lines and Parquet."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from reading import fails, new_meta, read, sequences, write
from test_data import opened

from util import records
from util.files import CHUNK
from util.records import JsonTable, ParquetTable

# ---- JSON

def lines_of(items):
    return [json.dumps(item) for item in items]


def test_jsonl_is_objects_alone(tmp_path):
    """And null is no text: not 'None', nor a class of that name."""
    (tmp_path / 'a.jsonl').write_text('{"s": "ab", "y": 1}\n{"s": null, "y": 2}\n{"s": "c", "y": null}\n')
    d = opened(tmp_path, tmp_path / 'a.jsonl', input_column='s', label_column='y')
    assert sequences(d) == [b'ab', b'c'] and d.labels([0, 1]) == [1, None]
    assert d.meta['left_out'] == {'empty inputs': 1}
    (tmp_path / 'b.jsonl').write_text('{"s": "ab"}\n{"s": "c"')
    fails('cut short', opened, tmp_path, tmp_path / 'b.jsonl', input_column='s')


def test_keys_that_the_first_object_lacks_are_columns(tmp_path):
    path = write(tmp_path / 'a.jsonl',
                 lines_of([{'a': 1, 'y': 1}, {'a': 2, 'key': 3, 'y': 0}, {'key': 4, 'y': 1, 'a': 5}]))
    fails("item 1, column 'key': '' is a missing number; where numbers are missing pass --missing=mean", read,
          path,
          label_column='y')
    table = read(path, label_column='y', missing='mean')
    assert table.columns == ['a', 'key'] and table.labels == ['1', '0', '1']
    np.testing.assert_array_equal(table.x, [[1, np.nan], [2, 3], [5, 4]])
    assert read(path, label_column='y', missing='drop').x == [[2, 3], [5, 4]]
    assert read(path, label_column='y', drop_column='key').x == [[1], [2], [5]]


def test_a_key_that_comes_late_is_told(tmp_path):
    items = [{'a': i % 7} for i in range(CHUNK + 5)]
    items[-2]['late'] = 1
    items[-1]['late'] = 2
    table = read(write(tmp_path / 'a.jsonl', lines_of(items)))
    assert table.columns == ['a'] and len(table.x) == len(items)
    assert "the key 'late', in 2 objects, is left out: none of the first 8,192 objects has it" in table.notes
    items[0]['late'] = 0
    assert read(write(tmp_path / 'b.jsonl', lines_of(items)), missing='mean').columns == ['a', 'late']


def test_json_objects_need_not_fit_in_a_block(tmp_path):
    items = [{'a': 'x' * (1 << 19), 'n': i, 'one': [i / 2], 'nested': [[1], {'b': ']'}]} for i in range(9)]
    (tmp_path / 'a.json').write_text(json.dumps(items, indent=1))
    table = JsonTable(tmp_path / 'a.json', '.json', new_meta())
    assert table.names == ['a', 'n', 'one', 'nested']
    wanted = []
    for i, item in enumerate(items):
        wanted.append((i + 1, [item['a'], str(i), str(i / 2)]))
    assert list(table.rows([0, 1, 2])) == wanted


@pytest.mark.parametrize('value', [[1, 2], [], {}, {'b': 1}, [[1, 2]], [{}]])
def test_nested_values_are_refused_where_they_are_wanted(tmp_path, value):
    path = write(tmp_path / 'a.jsonl', lines_of([{'a': 1, 'v': 2, 'y': 0}, {'a': 2, 'v': value, 'y': 1}]))
    fails("item 2: 'v' holds a list or an object, not a single value", read, path, label_column='y')
    assert read(path, label_column='y', drop_column='v').x == [[1], [2]]
    assert read(path, input_column='a').x == [[1], [2]]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    assert read(write(tmp_path / 'a.json', ['\ufeff[{"a": 1}, {"a": 2.5}]'])).x == [[1], [2.5]]
    assert read(write(tmp_path / 'a.jsonl', ['\ufeff{"a": 1}'])).x == [[1]]


@pytest.mark.parametrize('text', [
    '{"a": 1}\n{"a": 2}',  # Spark writes it under the name of .json
    '{"a": {"0": 1, "1": 2}}', '{"columns": ["a"], "data": [[1], [2]]}',  # pandas, unless told orient='records'
    '[{"a": 1}', '[]', ''])
def test_json_of_another_form(tmp_path, text):
    fails('is no JSON list of objects', read, write(tmp_path / 'a.json', [text]))


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


def test_large_objects_are_read_once(tmp_path, monkeypatch):
    """In blocks of a fixed size, an object of a hundred blocks would be decoded a hundred times."""
    monkeypatch.setattr(records, 'BLOCK', 100)
    decoded = []
    raw_decode = json.JSONDecoder.raw_decode

    def counted(self, text, at):
        decoded.append(len(text))
        return raw_decode(self, text, at)
    monkeypatch.setattr(json.JSONDecoder, 'raw_decode', counted)
    read(write(tmp_path / 'a.jsonl', lines_of([{'a': 'x' * 10_000}])), input_column='a')
    assert sum(decoded) < 40_000


# ---- Parquet

@pytest.fixture
def put():
    """put(path, {name: array}): writes a Parquet file. -> its path"""
    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')

    def put(path, columns):
        pq.write_table(pa.table(columns), path)
        return path
    return put


def test_parquet_and_json_are_read_as_the_csv_is(tmp_path, put):
    columns = dict(a=np.arange(50) / 8, b=np.arange(50), y=['no', 'yes'] * 25, s=[f's{i}é' for i in range(50)])
    put(tmp_path / 'a.parquet', columns)
    rows = [*zip(*(np.asarray(v).tolist() for v in columns.values()))]
    (tmp_path / 'a.json').write_text(json.dumps([dict(zip(columns, row)) for row in rows]))
    (tmp_path / 'a.csv').write_text('\n'.join(','.join(map(str, row)) for row in [[*columns], *rows]))
    for knobs in (dict(input_column='a,b', label_column='y'), dict(input_column='s', label_column='a'),
                  dict(input_column='s,y')):
        want = opened(tmp_path, tmp_path / 'a.csv', **knobs)
        for ending in ('parquet', 'json'):
            d = opened(tmp_path, tmp_path / f'a.{ending}', **knobs)
            assert np.array_equal(d.x, want.x) and np.array_equal(d.y, want.y, equal_nan=True)
    (tmp_path / 'b.parquet').write_bytes((tmp_path / 'a.parquet').read_bytes()[:300])
    fails('b.parquet', opened, tmp_path, tmp_path / 'b.parquet')


def test_nested_columns_are_read_over_unless_they_are_wanted(tmp_path, put):
    pa = pytest.importorskip('pyarrow')
    columns = {'a': [1.0, 2.0], 'emb': pa.array([[1.0, 2.0], [3.0]]), 's': pa.array([{'p': 1}, {'p': 2}]),
               'y': [0, 1]}
    path = put(tmp_path / 'a.parquet', columns)
    for knobs in (dict(drop_column='emb,s'), dict(input_column='a')):
        table = read(path, label_column='y', **knobs)
        assert table.x == [[1], [2]] and table.labels == ['0', '1']
    fails("column 'emb' holds lists or objects (list<", read, path, label_column='y')
    fails("column 's' holds lists or objects (struct<", read, path, input_column='a,s')
    fails("column 's' holds lists or objects", read, path, input_column='a', label_column='s')


def test_the_types_of_parquet(tmp_path, put):
    pa = pytest.importorskip('pyarrow')
    from decimal import Decimal
    columns = {
        'a.b': [0.5, None], 'whole': pa.array([7, None]), 'half': np.array([0.25, 2], np.float16),
        'exact': pa.array([Decimal('1.25'), Decimal('-2')]), 'flag': [True, False],
        'category': pa.array(['red', 'blue']).dictionary_encode(), 'bytes': [b'x', None],
        'large': pa.array(['u', 'v'], pa.large_string())}
    path = put(tmp_path / 'a.parquet', columns)
    table = read(path, missing='mean')
    nan = np.nan
    np.testing.assert_array_equal(table.x, [[0.5, 7, 0.25, 1.25, 0, 0, 0, 0], [nan, nan, 2, -2, 1, 1, nan, 1]])
    assert table.meta['categories'] == {
        'flag': {'True': 0, 'False': 1}, 'category': {'red': 0, 'blue': 1}, 'bytes': {'x': 0},
        'large': {'u': 0, 'v': 1}}
    assert read(path, input_column='large').x == [b'u', b'v']
    fails("row 2, column 'a.b': '' is a missing number", read, path)


def test_nanoseconds_have_no_type_in_python(tmp_path, put):
    pa = pytest.importorskip('pyarrow')
    when = pa.array([1_700_000_000_000_000_123, None], pa.timestamp('ns'))
    path = put(tmp_path / 'a.parquet', {'when': when, 'a': [1, 2]})
    fails("column 'when', such as '2023-11-14 22:13:20.000000123', holds dates or times", read, path)
    assert read(path, input_column='when').x == [b'2023-11-14 22:13:20.000000123']


def test_only_what_is_wanted_is_read(tmp_path, put, monkeypatch):
    pq = pytest.importorskip('pyarrow.parquet')
    path = put(tmp_path / 'a.parquet', {'a': [1], 'b': [2], 'y': [0]})
    asked = []
    iter_batches = pq.ParquetFile.iter_batches

    def counted(self, *args, columns, **options):
        asked.append(columns)
        return iter_batches(self, *args, columns=columns, **options)
    monkeypatch.setattr(pq.ParquetFile, 'iter_batches', counted)
    assert list(ParquetTable(path).rows([2, 0])) == [(1, ['0', '1'])] and asked == [['y', 'a']]


def test_a_small_parquet_takes_little_memory(tmp_path, put):
    """20,000 times the same half a megabyte: 10 GB, were each of them unpacked."""
    pa = pytest.importorskip('pyarrow')
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ['x' * 500_000])
    put(tmp_path / 'a.parquet', {'s': text})
    assert (tmp_path / 'a.parquet').stat().st_size < 10 ** 6
    code = f'''if 1:
        import itertools, resource, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]
        from reading import new_meta
        from util import readers
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        chunks = readers.read_file({str(tmp_path / 'a.parquet')!r}, new_meta(), input_column='s')
        n = sum(len(x) for x, _, _ in itertools.islice(chunks, 3))
        print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    n, megabytes = map(int, done.stdout.split())
    assert n > 100 and megabytes < 600


def test_half_an_emoji_is_a_question_mark(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": "hello \\ud83d", "y": "a\\ud83d"}\n{"text": "b", "y": "c"}\n')
    table = read(tmp_path / 'a.jsonl', label_column='y')
    assert table.x == [b'hello ?', b'b'] and table.labels == ['a?', 'c']
