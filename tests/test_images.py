"""util/images.py: folders of images, read as Pillow reads them."""

import builtins
import os
import tarfile
import zlib
from collections import Counter

import numpy as np
import pytest
from test_data import opened
from test_prepare import counts, fails

from util import images
from util.splits import DRAW_VAL


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
