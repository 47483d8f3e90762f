"""
prepare.py: files made here and real ones, each data set of the table from its own format,
images against Pillow, a server that misbehaves, processes that meet or are killed, memory.
"""

import builtins
import hashlib
import http.server
import os
import signal
import socketserver
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections import Counter
from functools import partial

import numpy as np
import pytest
from conftest import ROOT
from reading import counts, fails, noted, sequences
from samples import sample
from test_data import opened

from data import open_dataset
from util import download, files, images, prepare
from util.errors import UserError
from util.prepare import DATASETS
from util.splits import DRAW_VAL

# ---- what a file may claim: memory is bounded, nothing waits for ever

def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'a.csv')
    fails('a pipe', opened, tmp_path, tmp_path / 'a.csv')


def test_a_label_that_cannot_be(tmp_path):
    (tmp_path / 'a.csv').write_text('a,b,y\n1,2,inf\n3,4,1\n')
    fails('label inf', opened, tmp_path, tmp_path / 'a.csv', label_column='y')


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


# ---- every data set from a few rows in its own format

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


# ---- downloads

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))
GOOD = dict(size=len(CONTENT), digest=f'sha256:{hashlib.sha256(CONTENT).hexdigest()}')


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT the way the next word of `plan` says; the last word stays."""
    plan, asked, ifs = [], [], []

    def log_message(self, *args):
        pass

    def do_GET(self):
        how = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        want = self.headers.get('Range')
        self.asked.append((self.path, want))
        self.ifs.append(self.headers.get('If-Range'))
        start = int(want[6:].rstrip('-'))
        version, content = ('"2"', CONTENT[::-1]) if how == 'changed' else ('"1"', CONTENT)
        if self.headers.get('If-Range', version) != version:
            start = 0  # as RFC 9110 has it: another version is sent whole
        if isinstance(how, int) or start >= len(CONTENT):
            self.send_response(how if isinstance(how, int) else 416)
            self.end_headers()
            return
        if how == 'no ranges':
            start = 0
        self.send_response(206 if start else 200)
        if start:
            shown = start - 7 if how == 'wrong range' else start
            end = start + 9 if how == 'ten bytes' else len(CONTENT) - 1
            self.send_header('Content-Range', f'bytes {shown}-{end}/{len(CONTENT)}')
        body = content[start:start + 10] if how == 'ten bytes' and start else content[start:]
        if how not in ('no length', 'endless'):
            self.send_header('Content-Length', str(len(body)))
        self.send_header('ETag', version)
        if how == 'html':
            self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.end_headers()
        if how == 'endless':
            body *= 100
        if how == 'corrupt':
            body = body[:-1] + bytes([body[-1] ^ 1])
        if how in ('cut', 'stall', 'hang'):
            self.wfile.write(body[:100_000] if how != 'hang' else b'')
            self.wfile.flush()
            if how != 'cut':
                time.sleep(0.5)
            self.connection.close()
            return
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """server(*plan) -> a function that downloads from a server that behaves so."""
    class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def handle_error(self, *args):
            pass
    with Threads(('127.0.0.1', 0), Server) as http_server:
        threading.Thread(target=http_server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setattr(download, 'WAITS', (0, 0, 0, 0))
        monkeypatch.setattr(download, 'TIMEOUT', (0.3, 0.3))

        def plan(*words):
            Server.plan, Server.asked, Server.ifs = list(words), [], []
            file = ('f.bin', f'{plan.address}/f.bin')
            return lambda size=None, digest=None: download.download(*file, size, digest, tmp_path)
        plan.address = f'http://127.0.0.1:{http_server.server_port}'
        yield plan
        http_server.shutdown()


@pytest.mark.parametrize('plan, requests', [
    (['fine'], 1), (['cut', 'fine'], 2), (['cut', 'cut', 'fine'], 3), (['stall', 'fine'], 2),
    ([503, 'fine'], 2), (['cut', 503, 429, 'fine'], 4), (['no length'], 1), (['cut', 'no ranges'], 2),
    (['corrupt', 'fine'], 2), (['cut', 'wrong range', 'fine'], 3), (['cut', 416, 'fine'], 3)])
def test_a_download_comes_whole_from_a_server_that_misbehaves(server, tmp_path, plan, requests):
    path = server(*plan)(**GOOD)
    assert path.read_bytes() == CONTENT and path == tmp_path / 'downloads/f.bin'
    assert len(Server.asked) == requests and os.listdir(path.parent) == ['f.bin']
    if plan[0] == 'cut':  # taken up where it broke, but for a block that was under way
        assert 30_000 < int(Server.asked[1][1][6:-1]) <= 100_000
    assert server('fine')(**GOOD) == path and not Server.asked  # found, and not fetched again


@pytest.mark.parametrize('have, asked', [(12345, ['bytes=12345-']), (len(CONTENT), [])])
def test_a_download_of_a_process_that_is_gone_goes_on(server, tmp_path, monkeypatch, have, asked):
    gone = subprocess.Popen(['true'])
    gone.wait()
    (tmp_path / 'downloads').mkdir()
    for pid, content in ((gone.pid, CONTENT[:have]), (os.getppid(), b'under way')):  # and of one that lives
        with monkeypatch.context() as patch:
            patch.setattr(os, 'getpid', lambda: pid)
            files.temporary(tmp_path / 'downloads/f.bin', 'f.bin')[0].write_bytes(content)
    assert server('fine')(**GOOD).read_bytes() == CONTENT and [want for _, want in Server.asked] == asked
    assert [p.read_bytes() for p in (tmp_path / 'downloads').glob('f.bin.*')] == [b'under way']


@pytest.mark.parametrize('plan, requests', [
    (['cut', 'fine'], 2), (['cut', 'ten bytes', 'fine'], 3), (['cut', 'changed', 'changed'], 2)])
def test_without_a_hash_a_download_is_whole_and_of_one_version(server, tmp_path, plan, requests, capsys):
    got = server(*plan)().read_bytes()
    assert got == (CONTENT[::-1] if 'changed' in plan else CONTENT)
    assert len(Server.asked) == requests and Server.ifs[1] == '"1"'
    assert os.listdir(tmp_path / 'downloads') == ['f.bin']
    assert f'sha256:{hashlib.sha256(got).hexdigest()} in its row of DATASETS pins it' in capsys.readouterr().out


def test_a_part_whose_version_nobody_knows_is_fetched_anew(server, tmp_path, monkeypatch):
    gone = subprocess.Popen(['true'])
    gone.wait()
    (tmp_path / 'downloads').mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, 'getpid', lambda: gone.pid)
        files.temporary(tmp_path / 'downloads/f.bin', 'f.bin')[0].write_bytes(b'of last year')
    assert server('fine')().read_bytes() == CONTENT and Server.asked[0][1] == 'bytes=0-'


@pytest.mark.parametrize('how, word, checks', [
    ('html', 'HTML', {}), ('no length', 'how long', {}), ('endless', 'how long', {}), ('endless', 'not', GOOD),
    ('endless', 'bytes', dict(size=GOOD['size']))])
def test_what_is_not_the_file_is_not_taken_and_fills_no_disk(server, tmp_path, how, word, checks):
    fails(word, server(how), **checks)
    left = sum(path.stat().st_size for path in (tmp_path / 'downloads').iterdir())
    assert left <= 2 * len(CONTENT) and not (tmp_path / 'downloads/f.bin').exists()


def test_a_mirror_that_is_not_there_and_its_password(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SMA_MIRROR', str(tmp_path / 'mirorr'))
    fails('is no folder', server('fine'), **GOOD)
    monkeypatch.setenv('SMA_MIRROR', server.address.replace('//', '//me:secret@'))
    server('fine')(**GOOD)
    assert 'secret' not in capsys.readouterr().out


@pytest.mark.parametrize('plan, checks, requests', [
    ([404], GOOD, 1), ([403], {}, 1), ([503], GOOD, 4), (['corrupt'], GOOD, 4), (['hang'], GOOD, 4),
    (['fine'], dict(size=77), 4), (['fine'], dict(digest='md5:00'), 4)])
def test_a_download_that_fails_says_what_to_do(server, tmp_path, plan, checks, requests):
    get = server(*plan)
    with pytest.raises(UserError) as error:
        get(**checks)
    assert len(Server.asked) == requests and not (tmp_path / 'downloads/f.bin').exists()
    for word in (f'{server.address}/f.bin', str(tmp_path / 'downloads/f.bin'), 'SMA_MIRROR'):
        assert word in str(error.value)


def test_mirrors(server, tmp_path, monkeypatch):
    get = server('fine')
    monkeypatch.setenv('SMA_MIRROR', f'{server.address}/some/where/')
    get(**GOOD)
    assert [path for path, _ in Server.asked] == ['/some/where/f.bin']
    mine = tmp_path / 'mine/at/any/depth/g.bin'
    mine.parent.mkdir(parents=True)
    mine.write_bytes(CONTENT)
    monkeypatch.setenv('SMA_MIRROR', str(tmp_path / 'mine'))
    nowhere = ('g.bin', 'http://127.0.0.1:9/g.bin', *GOOD.values(), tmp_path)
    assert download.download(*nowhere) == mine
    mine.write_bytes(CONTENT[:-1])  # a file put there by hand is checked as well
    fails('g.bin: it has 299,999 bytes', download.download, *nowhere)


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
    monkeypatch.setenv('LOCAL_RANK', '1')

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
