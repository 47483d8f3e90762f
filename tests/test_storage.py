"""util/storage.py: the files of a prepared folder, and what tells whether data are the same."""

import json
import os
import shutil

import numpy as np
import pytest
from reading import fails, noted
from test_data import opened

from data import Dataset, open_dataset
from util.storage import FORMAT, same_fingerprint


def table(tmp_path, rows, **knobs):
    (tmp_path / 'a.csv').write_text('a,b,y,s\n' + ''.join(f'{row}\n' for row in rows))
    return opened(tmp_path, tmp_path / 'a.csv', label_column='y', split_column='s', **knobs)


def test_other_labels_and_splits_are_other_data(tmp_path):
    rows = ['1,2,0,train', '3,4,1,train', '5,6,0,test']
    d = table(tmp_path, rows)
    assert d.same_as(d.fingerprint) and set(d.fingerprint.split()[::2]) == {'x.bin', 'y.bin', 'split.bin'}
    for other in (['1,2,1,train'] + rows[1:], rows[:2] + ['5,6,0,val'], ['1,2.5,0,train'] + rows[1:]):
        assert not table(tmp_path, other).same_as(d.fingerprint)


def test_the_same_bytes_cut_in_another_way_are_other_data(tmp_path):
    found = []
    for text in ('ab\ncdef\n', 'abcd\nef\n'):
        (tmp_path / 'a.txt').write_text(text)
        found.append(opened(tmp_path, tmp_path / 'a.txt'))
    assert bytes(found[0].x) == bytes(found[1].x) and not found[0].same_as(found[1].fingerprint)
    pairs = []
    for rows in ('ab,cd\n', 'a,bcd\n'):
        (tmp_path / 'p.csv').write_text('p,q\n' + rows)
        pairs.append(opened(tmp_path, tmp_path / 'p.csv', input_column='p,q'))
    assert bytes(pairs[0].x) == bytes(pairs[1].x) and not pairs[0].same_as(pairs[1].fingerprint)
    (tmp_path / 'one.txt').write_text('abcd\n')
    one = opened(tmp_path, tmp_path / 'one.txt')
    assert not pairs[0].same_as(one.fingerprint) and not one.same_as(pairs[0].fingerprint)


def test_an_older_fingerprint_is_compared_by_what_it_has():
    new = 'x.bin 00000001 y.bin 00000002 split.bin 00000003'
    assert same_fingerprint('x.bin 00000001 split.bin 00000003', new)
    assert not same_fingerprint('x.bin 00000001 split.bin 00000004', new)
    for damaged in (None, 7, '', 'x.bin', ['x.bin']):
        assert not same_fingerprint(damaged, new)


@pytest.mark.parametrize('text', ['', '[]', '[1, 2]', 'null', '"text"', '{"kind": "floats"}', '{"a": ', '\x00'])
def test_a_meta_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / 'a.txt').write_text('abc\n' * 9)
    folder = opened(tmp_path, tmp_path / 'a.txt').folder
    (folder / 'meta.json').write_text(text)
    fails(f'remove {folder}', opened, tmp_path, tmp_path / 'a.txt')
    (folder / 'meta.json').unlink()
    fails(f'remove {folder}', opened, tmp_path, tmp_path / 'a.txt')


def test_a_folder_of_another_format_is_not_read(tmp_path):
    (tmp_path / 'a.txt').write_text('abc\n' * 9)
    folder = opened(tmp_path, tmp_path / 'a.txt').folder
    old = shutil.copytree(folder, tmp_path / 'datasets/a-0123456789')
    meta = json.loads((old / 'meta.json').read_text())
    for changed in ({**meta, 'format': FORMAT - 1}, {k: v for k, v in meta.items() if k != 'format'}):
        (old / 'meta.json').write_text(json.dumps(changed))
        fails('not that of a folder that this version prepares', Dataset, old)


def test_arrays_in_any_order_of_memory(tmp_path):
    x = np.arange(24.0).reshape(8, 3)
    np.save(tmp_path / 'c.npy', x)
    np.save(tmp_path / 'f.npy', np.asfortranarray(x))
    for name in ('c', 'f'):
        assert np.array_equal(opened(tmp_path, tmp_path / f'{name}.npy').x[:, :, 0], x)


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


def test_text_that_is_not_utf8_is_said(tmp_path):
    for encoding, said in (('utf-8', False), ('latin-1', True), ('utf-16', True)):
        (tmp_path / 'a.txt').write_bytes('café\nthé\n'.encode(encoding))
        assert ('not UTF-8' in noted(opened(tmp_path, tmp_path / 'a.txt'))) == said


def test_a_label_that_cannot_be(tmp_path):
    (tmp_path / 'a.csv').write_text('a,b,y\n1,2,inf\n3,4,1\n')
    fails('label inf', opened, tmp_path, tmp_path / 'a.csv', label_column='y')


def test_utf_16_is_told(tmp_path):
    (tmp_path / 'a.txt').write_bytes('\n'.join('abc def' for _ in range(9)).encode('utf-16-le'))
    assert any('not UTF-8 text' in note for note in opened(tmp_path, tmp_path / 'a.txt').meta['notes'])
    (tmp_path / 'b.txt').write_text('für\nalle\n')
    assert not any('UTF-8' in note for note in opened(tmp_path, tmp_path / 'b.txt').meta['notes'])
