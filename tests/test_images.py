"""util/images.py: folders of images, read as Pillow reads them."""

import builtins
import os
import tarfile
import zlib
from collections import Counter

import numpy as np
import pytest
from reading import counts, fails
from test_data import opened

from util import images
from util.splits import DRAW_VAL
from util.tasks import infer_task


@pytest.fixture
def put():
    from pictures import put  # skips where there is no Pillow
    return put


def read_all(folder):
    """All that read_images yields at image_size 14, put together: x, labels, splits, meta"""
    meta = dict(left_out=Counter(), image_size=14, notes=[])
    parts = list(images.read_images(folder, meta))
    labels, splits = ([v for part in parts for v in part[k] or [None] * len(part[0])] for k in (1, 2))
    return np.concatenate([x for x, _, _ in parts]), labels, splits, meta


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


@pytest.fixture
def square(tmp_path, put):
    """A picture of 16 x 16 pixels, which is read as it is."""
    from PIL import Image
    return Image.open(put(tmp_path / 'square.png', width=16, height=16)).convert('RGB')


def test_all_kinds_of_pixels_become_rgb(tmp_path, square):
    """As Pillow's convert('RGB') has it."""
    from PIL import Image
    (tmp_path / 'all').mkdir()
    want = []
    for name in ('1.bmp', 'L.png', 'L.tiff', 'P.gif', 'P.png', 'RGB.jfif', 'RGB.png', 'RGB.ppm', 'RGB.webp',
                 'RGBA.png'):
        mode, ending = name.split('.')
        options = {'lossless': True} if ending == 'webp' else {}
        square.convert(mode).save(tmp_path / 'all' / name, **options)
        with Image.open(tmp_path / 'all' / name) as image:
            want.append(np.asarray(image.convert('RGB')))
    x, _, _, meta = read_all(tmp_path / 'all')
    np.testing.assert_array_equal(x, want)
    assert not meta['left_out'] and not meta['notes']


@pytest.mark.parametrize('orientation', range(1, 9))
def test_an_image_is_turned_as_its_camera_noted(tmp_path, square, orientation):
    from PIL import Image, ImageOps
    note = Image.Exif()
    note[0x0112] = orientation
    (tmp_path / 'p').mkdir()
    square.save(tmp_path / 'p/a.png', exif=note)
    with Image.open(tmp_path / 'p/a.png') as image:
        want = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(want, np.asarray(square)) == (orientation == 1)
    np.testing.assert_array_equal(read_all(tmp_path / 'p')[0], want[None])


def test_folders_called_by_numbers_are_classes(tmp_path, square):
    for i in range(30):
        (tmp_path / f'p/{i}').mkdir(parents=True)
        for j in range(3):
            square.save(tmp_path / f'p/{i}/{j}.png')
    d = opened(tmp_path, tmp_path / 'p', image_size=8)
    task, _, _ = infer_task(d, None, None, ('train',))
    assert task['target'] == 'multiclass' and len(task['classes']) > 20  # more than numbers may be


def test_an_image_with_a_damaged_note_is_read(tmp_path, square):
    (tmp_path / 'p').mkdir()
    square.save(tmp_path / 'p/a.png', exif=b'Exif\0\0no note at all')
    np.testing.assert_array_equal(read_all(tmp_path / 'p')[0], np.asarray(square)[None])


@pytest.mark.parametrize('mode, ending', [('RGBA', 'png'), ('LA', 'png'), ('P', 'gif'), ('RGBA', 'webp')])
def test_what_is_transparent_is_white_whatever_lies_under_it(tmp_path, mode, ending):
    """Of two pictures that look alike, the pixels are alike."""
    Image = pytest.importorskip('PIL.Image', reason='Pillow reads images')
    (tmp_path / 'p').mkdir()
    for name, under in (('a', 0), ('b', 200)):
        pixels = np.full((16, 16, 4), 90, np.uint8)
        pixels[:, :8, :3] = under
        pixels[:, :8, 3] = 0  # the left half is transparent
        pixels[:, 8:, 3] = 255
        image = Image.fromarray(pixels)
        if mode == 'P':
            image.save(tmp_path / f'p/{name}.gif')
        else:
            options = {'lossless': True, 'exact': True} if ending == 'webp' else {}
            image.convert(mode).save(tmp_path / f'p/{name}.{ending}', **options)
    x, _, _, meta = read_all(tmp_path / 'p')
    assert (x[:, :, :8] == 255).all() and (x[:, :, 8:] == 90).all()
    assert meta['notes'] == ['2 images have transparent pixels: white shows through']


@pytest.mark.parametrize('most, kind', [
    (65_535, np.uint16), (4095, np.uint16), (70_000, np.int32), (0.5, np.float32)])
def test_more_than_8_bits_are_scaled_by_the_files_own_range(tmp_path, most, kind):
    """Neither black, as 12 bits in 16 would be, nor white, as 32 would be."""
    Image = pytest.importorskip('PIL.Image')
    steps = np.arange(256).reshape(16, 16)
    for name in ('a.png', 'b.tif') if kind == np.uint16 else ('b.tif',):
        Image.fromarray((steps / 255 * most).astype(kind)).save(tmp_path / name)
    x, _, _, meta = read_all(tmp_path)
    assert np.abs(x - steps[..., None]).max() <= (0 if most == 65_535 else 1)
    assert x.min() == 0 and x.max() == 255
    note, = meta['notes']
    assert f'{len(x)} images have more than 8 bits a pixel' in note


def test_other_endings_are_counted(tmp_path, square, run):
    for name in ('cat/1.jpg', 'cat/2.JPEG', 'dog/3.gif', 'dog/4.jfif'):
        (tmp_path / 'pets' / name).parent.mkdir(parents=True, exist_ok=True)
        square.save(tmp_path / 'pets' / name, 'GIF' if name.endswith('gif') else 'JPEG')
    for name in ('cat/1.heic', 'cat/2.heic', 'dog/LICENSE'):
        (tmp_path / 'pets' / name).write_text('x')
    out = run('data.py', 'pets', '--image_size=14').stdout
    assert 'labels on 4 rows: cat 2, dog 2' in out
    assert 'note: 3 files in pets are no images by their endings: .heic 2, no ending 1' in out


def test_layouts_and_links(tmp_path, put):
    for name in ('a/1.png', 'a/deep/2.jpg', 'b/3.JPEG'):
        for layout in ('classes', 'imagenet/train', 'three/train', 'alone/train'):
            put(tmp_path / layout / name)
    for name in ('imagenet/val/b/4.png', 'three/validation/b/5.png', 'three/test/a/6.png', 'flat/8.png',
                 'three/extra/a/7.png', 'flat/.hidden.png', 'flat/notes.png.txt'):  # `extra` is no split
        put(tmp_path / name.removesuffix('.txt')).rename(tmp_path / name)

    def found(folder, **more):
        listed, left_out, _ = images.image_files(tmp_path / folder, **more)
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
