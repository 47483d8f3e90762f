"""util/readers.py and the reading part of util/files.py: which reader a file has, and what a file may claim."""

import bz2
import gzip
import json
import tarfile
import zipfile

import numpy as np
import pytest
from reading import fails, read, write
from samples import tarred
from test_data import opened

from util import arrays, delimited, files, records
from util import sequences as sequence_readers
from util.files import file_format, in_chunks, open_lines
from util.readers import label_advice
from util.records import json_objects

# ---- what a file may claim: memory is bounded, nothing waits for ever

@pytest.fixture
def small(monkeypatch):
    """Small bounds. Each module has its own name for the number."""
    for name, value in dict(LONGEST=1000, CHUNK_BYTES=4000, MOST_INPUTS=50, MOST_ARRAY=4000).items():
        for module in (files, delimited, records, sequence_readers, arrays):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize('name, content, word', [
    ('a.txt', b'x' * 1001, 'line of more'), ('a.txt.gz', gzip.compress(bytes(10 ** 6)), 'line of more'),
    ('a.csv', b'a,b\n1,"' + b'2\n' * 600 + b'"\n', 'field larger'),
    ('a.fasta', b'>a\n' + b'ACD\n' * 400, 'record'),
    ('a.json', b'[{"a": "' + b'x' * 1001 + b'"}]', 'object of more'),
    ('a.json', json.dumps({'data': [{'a': 1}] * 200}).encode(), 'object of more')])
def test_lines_and_objects_are_bounded(tmp_path, small, name, content, word):
    (tmp_path / name).write_bytes(content)
    fails(word, opened, tmp_path, tmp_path / name)


def test_large_rows_come_in_small_chunks(small):
    chunks = list(in_chunks([bytes(1500)] * 10))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]
    assert [len(chunk) for chunk in in_chunks(iter('abcdefg'), 3)] == [3, 3, 1]


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
    assert np.array_equal(opened(tmp_path, tmp_path / 'x.npy').x.ravel(),
                          np.arange(2000))  # in pieces of 25 rows


# ---- what is wrong ends in one line

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
    ('a.npy', np.array([[1.0, 2.0], [np.nan, 1.0]]), 'row 2, column c0', {}),
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
        assert list(json_objects(tmp_path / part, ']')) == [(1, {'a': 'b'}, 10)]
    for part in ('b.tar.gz!good.json', 'a.zip!x.json', 'a.tar.gz!x.json'):
        fails('no file', lambda part=part: list(json_objects(tmp_path / part, ']')))
    assert sorted(tmp_path.rglob('*')) == before and not (tmp_path.parent.parent / 'evil.json').exists()


# ---- which reader

@pytest.mark.parametrize('path, ending', [
    ('a.csv', '.csv'), ('a.csv.gz', '.csv'), ('a.CSV.xz', '.csv'), ('b.zip!c/train.tsv', '.tsv'), ('a.gz', ''),
    ('a', ''),
    ('my.data.json.bz2', '.json')])
def test_file_format(path, ending):
    assert file_format(path) == ending


def test_lines_in_an_encoding_and_without_a_mark(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes('\ufeffcafé\n\ufeffthé'.encode())
    assert list(open_lines(path)) == ['café\n'.encode(), '\ufeffthé'.encode()]  # only the first is a mark
    assert list(open_lines(path, 'utf-8')) == ['café\n', '\ufeffthé']
    path.write_bytes('\ufeff'.encode())
    assert list(open_lines(path)) == []
    path.write_bytes('café'.encode('latin-1'))
    fails('is not UTF-8 text', lambda: list(open_lines(path, 'utf-8')))


def test_labels_of_an_npy_are_a_second_file(tmp_path):
    np.save(tmp_path / 'x.npy', np.ones((3, 2)))
    fails('--dataset=X.npy,y.npy', read, tmp_path / 'x.npy', label_column='y')
    fails("drop_column='a'", read, tmp_path / 'x.npy', drop_column='a')


def test_an_ending_may_be_given(tmp_path):
    assert read(write(tmp_path / 'a.data', ['a,b', '1,2']), ending='.csv').x == [[1, 2]]
    fails("unknown ending '.data'", read, tmp_path / 'a.data')


@pytest.mark.parametrize('name, word', [
    ('a.csv', 'its inputs are u, v; name the column of the labels with --label_column'),
    ('a.npz', 'no array y'),
    ('a.npy', '--dataset=X.npy,y.npy'), ('a.fasta', 'a .csv'), ('', 'into a folder of its name')])
def test_where_labels_could_be(tmp_path, name, word):
    assert word in label_advice({'source': [str(tmp_path / name)], 'columns': ['u', 'v']})
    assert label_advice({'source': 'guacamol', 'columns': None}) == 'it has none'


@pytest.mark.parametrize('name, start, ending', [
    ('a.csv', gzip.compress(b'a,y\n1,2\n'), 'is packed, as a .gz'),
    ('a.txt', b'\xfd7zXZ\x00', 'is packed, as a .xz'),
    ('b.txt', bz2.compress(b'abc\n'), 'is packed, as a .bz2'), ('a.jsonl', b'PK\x03\x04', 'a.jsonl'),
    ('a.fasta', b'PK\x03\x04', 'is a .zip: unpack it')])
def test_a_packed_file_of_another_name(tmp_path, name, start, ending):
    (tmp_path / name).write_bytes(start)
    fails(ending, read, tmp_path / name)


@pytest.mark.parametrize('content, rows', [
    (b'BZhang hello\nfoo\n', [b'BZhang hello', b'foo']), (b'a\rb', [b'a\rb'])])
def test_a_text_is_not_taken_for_a_packed_file_or_for_an_old_macs(tmp_path, content, rows):
    (tmp_path / 'a.txt').write_bytes(content)
    assert list(read(tmp_path / 'a.txt').x) == rows


@pytest.mark.parametrize('name, content', [
    ('a.csv', b'a,y\r1,2\r3,4\r'), ('a.fasta', b'>a\rMKV\r'), ('a.txt', b'abc\rdef\rghi'),
    ('a.smi', b'CCO\rCC\r')])
def test_line_ends_of_old_macs_are_told(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    fails('has line ends of another kind', read, tmp_path / name)


def test_a_carriage_return_inside_a_line_is_text(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'ab\rc\nd\n')
    assert read(tmp_path / 'a.txt').x == [b'ab\rc', b'd']


@pytest.mark.parametrize('name', ['x.xlsx', 'iris.data', 'noext', 'a.csv.zst'])
def test_an_unknown_ending_is_named_before_its_knobs(tmp_path, name):
    (tmp_path / name).write_text('a,y\n1,2\n')
    fails('unknown ending', read, tmp_path / name, label_column='y')


def test_a_folder_called_like_a_table(tmp_path):
    (tmp_path / 'my.parquet').mkdir()
    fails('is a folder, not a .parquet file: name a file in it', read, tmp_path / 'my.parquet',
          label_column='y')
