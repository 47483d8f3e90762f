"""
Images: the reader and the device-side crops, colours and mixing, against Pillow, torchvision's rules written out, and
brute force; and the stages on tiny folders of images.
"""

import builtins
import json
import math
import os
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch

import data
import finetune
from conftest import DATA_KNOBS
from data import crop, fit_norm, image_files, open_dataset, random_boxes, read_images, stored_side
from finetune import blur, grey, jitter, mix, solarise, three_augment

Image = pytest.importorskip('PIL.Image', reason='Pillow reads images')
from PIL import ImageEnhance, ImageOps  # noqa: E402

KNOBS = {**DATA_KNOBS, 'valid_share': 0.2, 'test_share': 0.2, 'image_size': 14}
TINY = ['--image_size=7', '--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--device=cpu',
        '--batch_size=8', '--warmup_steps=1']


def photo(seed, width=40, height=30):
    """A smooth picture with sharp edges and noise: (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 10
    waves = [128 + 90 * np.sin(a * x + b * y + c) for a, b, c in rng.normal(size=(3, 3))]
    picture = np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3))
    picture[height // 3:height // 2, width // 4:width // 2] = rng.integers(0, 256, 3)
    return picture.clip(0, 255).astype(np.uint8)


def put(path, seed=0, **kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(seed, **kind)).save(path)
    return path


def as_batch(*pictures):
    """(H, W, 3) uint8 each -> (B, 3, H, W) float32 in [0, 1]"""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def as_image(x):
    """(3, H, W) in [0, 1] -> a PIL image"""
    return Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy())


def levels(x):
    """The 0..255 of (3, H, W) in [0, 1], or of a PIL image: (H, W, 3) float"""
    return (x * 255).permute(1, 2, 0).numpy() if torch.is_tensor(x) else np.asarray(x, np.float32)


def read_all(folder, image_size=14, **more):
    """Everything read_images yields, put together: x, labels, splits, left_out"""
    left_out, about = Counter(), {}
    parts = list(read_images(folder, image_size, left_out, about, **more))
    assert about == {'image_size': image_size}
    x = np.concatenate([x for x, _, _ in parts])
    labels, splits = ([v for part in parts for v in part[k] or [None] * len(part[0])] for k in (1, 2))
    return x, labels, splits, left_out


# ---- reading

@pytest.mark.parametrize('size', [(40, 30), (30, 41), (16, 16), (9, 12), (101, 64)])
@pytest.mark.parametrize('ending', ['png', 'jpg'])
def test_an_image_is_read_as_pillow_resizes_and_crops_it(tmp_path, size, ending):
    """torchvision's Resize(16) and CenterCrop(16), written out, on an enlarged or a reduced image of either shape."""
    path = put(tmp_path / f'a.{ending}', width=size[0], height=size[1])
    x, labels, splits, _ = read_all(tmp_path)
    (width, height), image = size, Image.open(path).convert('RGB')
    new = (16, int(16 * height / width)) if width <= height else (int(16 * width / height), 16)
    image = image.resize(new, Image.BICUBIC)
    left, top = int(round((new[0] - 16) / 2.0)), int(round((new[1] - 16) / 2.0))
    np.testing.assert_array_equal(x, np.asarray(image.crop((left, top, left + 16, top + 16)))[None])
    assert x.dtype == np.uint8 and labels == [None] and splits == [None]


def test_a_large_jpeg_loses_nothing_by_being_decoded_small(tmp_path):
    path = put(tmp_path / 'a.jpg', width=800, height=640)
    with Image.open(path) as image:
        full = image.convert('RGB').resize((20, 16), Image.BICUBIC).crop((2, 0, 18, 16))
    off = read_all(tmp_path)[0][0].astype(float) - np.asarray(full)
    assert np.abs(off).mean() < 1 and np.abs(off).max() <= 10  # of 255


def test_all_kinds_of_pixels_become_rgb(tmp_path):
    """As torchvision's loader has it: convert('RGB'), and a camera's note on rotation is not looked at."""
    picture, want = Image.fromarray(photo(0, 16, 16)), []
    for name in ('1.bmp', 'L.png', 'L.tiff', 'P.png', 'RGB.png', 'RGBA.png', 'RGB.ppm', 'RGB.webp'):
        mode, ending = name.split('.')
        kind, rotated = picture.convert(mode), Image.Exif()
        rotated[0x0112] = 6  # the tag `orientation`: turn by 90 degrees
        kind.save(tmp_path / name, **(dict(lossless=True) if ending == 'webp' else {}),
                  **(dict(exif=rotated) if name in ('RGB.png', 'RGB.webp') else {}))
        want.append((name, np.asarray(kind.convert('RGB'))))
    x, _, _, left_out = read_all(tmp_path)
    np.testing.assert_array_equal(x, [v for _, v in sorted(want, key=lambda item: item[0])])
    assert not left_out


def test_three_layouts(tmp_path):
    for name in ('a/1.png', 'a/deep/2.jpg', 'b/3.JPEG'):
        put(tmp_path / 'classes' / name)
        put(tmp_path / 'imagenet/train' / name)
        put(tmp_path / 'three/train' / name)
    put(tmp_path / 'imagenet/val/b/4.png')
    put(tmp_path / 'three/validation/b/5.png')
    put(tmp_path / 'three/test/a/6.png')
    put(tmp_path / 'three/extra/a/7.png')  # is no split
    put(tmp_path / 'flat/8.png')
    put(tmp_path / 'flat/.hidden.png')
    (tmp_path / 'flat/notes.txt').write_text('no image')

    def found(folder, **more):
        return [(path.name, *rest) for path, *rest in image_files(tmp_path / folder, **more)]
    assert found('classes') == [('1.png', 'a', None), ('2.jpg', 'a', None), ('3.JPEG', 'b', None)]
    assert found('flat') == [('8.png', None, None)]
    train = [('1.png', 'a', 'train'), ('2.jpg', 'a', 'train'), ('3.JPEG', 'b', 'train')]
    some = [(*image, 'draw valid') for *image, _ in train]  # ImageNet has no validation rows beside its test rows
    assert found('imagenet') == some + [('4.png', 'b', 'test')]
    assert sorted(found('three')) == sorted(train + [('5.png', 'b', 'valid'), ('6.png', 'a', 'test')])
    assert found('imagenet', wnids={'b', '../flat', '..'}) == [some[2], ('4.png', 'b', 'test')]
    _, labels, splits, _ = read_all(tmp_path / 'imagenet')
    assert labels == ['a', 'a', 'b', 'b'] and splits == ['draw valid'] * 3 + ['test']


def test_no_link_leads_out_of_the_folder(tmp_path):
    secret = put(tmp_path / 'secret/x.png').parent
    put(tmp_path / 'photos/train/a/1.png')
    for link, to in (('train/a/2.png', secret / 'x.png'), ('train/b', secret), ('test', tmp_path / 'secret'),
                     ('train/a/deep', secret), ('train/a/3.png', tmp_path / 'photos/train/a/1.png'),
                     ('train/a/4.png', tmp_path / 'photos/nowhere.png'), ('train/c', tmp_path / 'photos/train/c')):
        (tmp_path / 'photos' / link).symlink_to(to)
    assert [path.name for path, _, _ in image_files(tmp_path / 'photos')] == ['1.png', '3.png']


def test_broken_images_are_left_out_and_counted(tmp_path, run):
    for i in range(12):
        put(tmp_path / f'p/{"ab"[i % 2]}/{i}.jpg', i)
    whole = (tmp_path / 'p/a/0.jpg').read_bytes()
    (tmp_path / 'p/a/cut.jpg').write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'p/b/text.png').write_text('no image')
    (tmp_path / 'p/b/empty.jpg').write_bytes(b'')
    x, labels, _, left_out = read_all(tmp_path / 'p')
    (why, n), = left_out.items()
    assert n == 3 and 'p/a/cut.jpg' in why and labels == ['a'] * 6 + ['b'] * 6 and len(x) == 12
    out = run('data.py', 'p/', '--image_size=14').stdout
    assert 'left out: 3 images that cannot be decoded' in out and '12 rows of images' in out and 'a 6, b 6' in out


def test_what_a_user_can_do_wrong_is_one_line(tmp_path, run, monkeypatch):
    (tmp_path / 'void').mkdir()
    assert 'no images' in run('data.py', 'void', status=2).stderr
    (tmp_path / 'void/a.png').write_text('no image')
    assert 'a.png' in run('data.py', 'void', status=2).stderr
    put(tmp_path / 'p/a.png')
    assert 'input_column' in run('data.py', 'p', '--input_column=x', status=2).stderr
    assert 'image_size' in run('data.py', 'p', '--image_size=0', status=2).stderr
    real = builtins.__import__

    def without_pillow(name, *args):
        if name.startswith('PIL'):
            raise ImportError
        return real(name, *args)
    monkeypatch.setattr(builtins, '__import__', without_pillow)
    error = run('data.py', 'p', status=2).stderr
    assert 'pip install Pillow' in error and error.count('\n') == 1
    assert [p.name for p in (tmp_path / 'datasets').iterdir()] == ['.lock']


def test_a_folder_is_prepared_once_and_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(10):
        put(tmp_path / f'p/{i}.png', i)
    config = {**KNOBS, 'dataset': 'p/'}
    first = open_dataset(config)
    assert open_dataset(config).folder == first.folder
    assert open_dataset({**config, 'image_size': 7}).folder != first.folder
    assert [len(first.rows(s)) for s in ('train', 'valid', 'test')] == [6, 2, 2] and np.isnan(first.y).all()
    assert first.meta['kind'] == 'images' and (first.n, first.d_raw, first.x.shape) == (196, 3, (10, 16, 16, 3))
    put(tmp_path / 'p/3.png', 33)
    changed = open_dataset(config)
    assert changed.folder != first.folder
    same = (np.asarray(changed.x) == first.x).all((1, 2, 3))
    assert same.tolist() == [i != 3 for i in range(10)]


def test_validation_rows_come_from_train_where_the_folder_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        put(tmp_path / f'p/{"train" if i < 15 else "val"}/{"ab"[i % 2]}/{i:02}.png', i)
    d = open_dataset({**KNOBS, 'dataset': 'p'})
    assert [len(d.rows(s)) for s in ('train', 'valid', 'test')] == [12, 3, 5] and d.rows('test').min() == 15
    assert d.labels([0, 1, 14, 15]) == ['a', 'a', 'b', 'a']


# ---- what the model reads

def test_scoring_reads_the_centre_exactly_and_training_crops_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(10):
        put(tmp_path / f'p/{i}.png', i)
    d = open_dataset({**KNOBS, 'dataset': 'p', 'image_size': 21})  # 24 stored: round(1.5) = 2 off, as torchvision
    x, valid = d.batch(np.arange(4))
    assert x.dtype == torch.uint8 and x.shape == (4, 24, 24, 3) and valid is None
    assert torch.equal(d.inputs(x), (x[:, 2:23, 2:23] / 255).flatten(1, 2))
    d.norm = fit_norm(d, np.arange(10), 'standard')
    pixels = np.asarray(d.x).reshape(-1, 3) / 255
    np.testing.assert_allclose(d.norm['mean'].numpy(), pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(d.norm['std'].numpy(), pixels.std(0), rtol=1e-5)
    want = ((np.asarray(d.x[:4, 2:23, 2:23]) / 255 - pixels.mean(0)) / pixels.std(0)).reshape(4, 441, 3)
    np.testing.assert_allclose(d.inputs(x).numpy(), want, atol=1e-5)
    # training: the generator decides, and a whole crop that is not mirrored is Pillow's resize
    torch.manual_seed(0)
    a, b = d.inputs(x, (0.2, 1.0)), d.inputs(x, (0.2, 1.0))
    torch.manual_seed(0)
    assert torch.equal(a, d.inputs(x, (0.2, 1.0))) and not torch.equal(a, b) and a.shape == (4, 441, 3)


def test_a_crop_is_what_pillow_makes_of_the_box():
    """Enlarged, reduced, as it is, and the whole; mirrored or not. Pillow's mode F computes in floats, as we do."""
    boxes = [(3, 5, 11, 9), (0, 0, 32, 32), (10, 2, 20, 26), (6, 8, 16, 16), (31, 31, 1, 1)]
    pictures = [photo(i, 32, 32) for i in range(len(boxes))]
    for mirrors in ([0, 1, 0, 1, 0], [1, 0, 1, 0, 1]):
        args = torch.tensor(boxes, dtype=torch.float32).unbind(1)
        ours = crop(as_batch(*pictures), *args, torch.tensor(mirrors).bool(), 16)
        for x, picture, (top, left, height, width), mirror in zip(ours, pictures, boxes, mirrors):
            for ours_c, c in zip(x, np.moveaxis(picture.astype(np.float32), 2, 0)):
                box = Image.fromarray(c).crop((left, top, left + width, top + height))
                theirs = box.resize((16, 16), Image.BICUBIC)
                theirs = np.asarray(ImageOps.mirror(theirs) if mirror else theirs).clip(0, 255)
                np.testing.assert_allclose(ours_c.numpy() * 255, theirs, atol=2e-3)
    exact = crop(as_batch(pictures[3]), *(torch.tensor([v]) for v in (6., 8., 16., 16.)), torch.tensor([False]), 16)
    assert torch.allclose(exact, as_batch(pictures[3])[:, :, 6:22, 8:24], atol=1e-6)


@pytest.mark.parametrize('scale', [(0.2, 1.0), (0.08, 1.0)])
def test_boxes_follow_torchvisions_rule(scale):
    """Against the rule written out one box at a time: the same distribution of area, ratio and place."""
    stats = pytest.importorskip('scipy.stats', reason='scipy is the oracle of distributions')
    torch.manual_seed(0)
    side, n = 37, 4000
    top, left, height, width = (v.numpy() for v in random_boxes(n, side, scale, 'cpu'))
    for v in (top, left, height, width):
        assert (v == np.round(v)).all()
    assert (top >= 0).all() and (top + height <= side).all() and (left >= 0).all() and (left + width <= side).all()
    assert (height >= 1).all() and (top == 0).any() and (top + height == side).any()
    rng, theirs = np.random.default_rng(0), []
    while len(theirs) < n:
        for attempt in range(10):
            area = side * side * rng.uniform(*scale)
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
            if 0 < w <= side and 0 < h <= side:
                theirs.append((rng.integers(0, side - h + 1), rng.integers(0, side - w + 1), h, w))
                break
        else:
            theirs.append((0, 0, side, side))
    t, l, h, w = np.array(theirs).T
    for a, b in ((top, t), (left, l), (height * width, h * w), (height / width, h / w), (width, w)):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    assert abs((height * width).min() / side ** 2 - scale[0]) < 0.05


def test_half_of_the_crops_are_mirrored(tmp_path):
    """A picture that is dark on the left: about half of 400 views are dark on the right."""
    picture = np.zeros((400, 16, 16, 3), np.uint8)
    picture[:, :, 8:] = 255
    d = data.Dataset.__new__(data.Dataset)
    d.is_images, d.meta, d.norm = True, {'image_size': 14}, {'kind': 'none'}
    torch.manual_seed(0)
    x = d.inputs(torch.from_numpy(picture), (0.9, 1.0)).view(400, 14, 14, 3)
    assert x.min() >= 0 and x.max() <= 1  # bicubic overshoots at the edge, and is clamped
    dark_right = (x[:, :, -1] < 0.5).all((1, 2))
    assert 160 < dark_right.sum() < 240 and torch.equal(dark_right, (x[:, :, 0] > 0.5).all((1, 2)))


# ---- colours and mixing

def test_colours_are_pillows():
    """Grey, solarised, brightness, contrast, saturation; Pillow rounds to whole levels."""
    pictures = [photo(i) for i in range(4)]
    x, factor = as_batch(*pictures), torch.tensor([0.7, 0.9, 1.0, 1.3])
    for i, picture in enumerate(map(Image.fromarray, pictures)):
        np.testing.assert_allclose(levels(grey(x)[i]), levels(ImageOps.grayscale(picture))[..., None], atol=1.01)
        np.testing.assert_allclose(levels(solarise(x)[i]), levels(ImageOps.solarize(picture, 128)), atol=1e-3)
        for kind, theirs in enumerate((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)):
            want = levels(theirs(picture).enhance(factor[i].item()))
            np.testing.assert_allclose(levels(jitter(x, kind, factor)[i]), want, atol=1.6)
            assert jitter(x, kind, factor).amin() >= 0 and jitter(x, kind, factor).amax() <= 1


def test_blur_is_a_gaussian():
    x, sigma = as_batch(photo(0, 12, 9), photo(1, 12, 9)), [0.1, 1.7]
    ours = blur(x, torch.tensor(sigma))
    assert torch.allclose(ours[0], x[0], atol=1e-6)  # 0.1 pixels blur nothing
    want = np.zeros((3, 9, 12))
    for i, j in np.ndindex(9, 12):
        y, z = np.mgrid[:9, :12]
        w = np.exp(-((y - i) ** 2 + (z - j) ** 2) / (2 * sigma[1] ** 2))
        want[:, i, j] = (x[1].numpy() * w).sum((1, 2)) / w.sum()
    np.testing.assert_allclose(ours[1].numpy(), want, atol=1e-5)


def test_three_augment_does_one_of_three_to_each_image(monkeypatch):
    """Without jitter, each image is exactly one of the three, and each comes about as often."""
    monkeypatch.setattr(finetune, 'jitter', lambda x, kind, factor: x)
    torch.manual_seed(0)
    x = as_batch(photo(0)).expand(300, -1, -1, -1)
    y = three_augment(x)
    is_grey = (y.amax(1) - y.amin(1)).amax((1, 2)) < 1e-6
    is_solar = (y - solarise(x)).abs().amax((1, 2, 3)) < 1e-6
    softer = (y[..., 1:] - y[..., :-1]).abs().mean((1, 2, 3)) <= (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) + 1e-6
    is_blur = ~is_grey & ~is_solar
    assert softer[is_blur].all() and all(70 < n < 130 for n in (is_grey.sum(), is_solar.sum(), is_blur.sum()))
    monkeypatch.undo()
    y = three_augment(x)
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1 and len(torch.unique(y.mean((1, 2, 3)))) > 250


def test_mixing_weighs_labels_by_pixels():
    """
    Image b is filled with the number b, so its pixels tell what share of it is its own; targets must say the same.
    """
    side, seen = 8, Counter()
    y = torch.tensor([0, 1, 2, 3, 1])
    x = torch.arange(5.0)[:, None, None].expand(5, side * side, 3)
    partner = x.flip(0)
    smooth = torch.full((5, 4), 0.1 / 4) + 0.9 * torch.eye(4)[y]
    shares = []
    for seed in range(300):
        torch.manual_seed(seed)
        mixed, targets = mix(x, y, 4)
        share = 1 - ((mixed[0] - x[0]) / (partner[0] - x[0])).mean()
        assert torch.allclose(targets, share * smooth + (1 - share) * smooth.flip(0), atol=1e-5)
        assert torch.allclose(targets.sum(1), torch.ones(5), atol=1e-6)
        assert torch.equal(mixed[2], x[2])  # its own partner
        cut = ((mixed == x) | (mixed == partner)).all()
        seen['cut' if cut else 'mix'] += 1
        if cut and 0 < share < 1:  # one rectangle, the same in all channels
            swapped = (mixed[0] == partner[0]).view(side, side, 3)
            assert torch.equal(swapped, swapped[..., :1].expand(-1, -1, 3))
            rows, columns = swapped[..., 0].any(1), swapped[..., 0].any(0)
            assert torch.equal(swapped[..., 0], rows[:, None] & columns) and rows.int().diff().abs().sum() <= 2
        elif not cut:
            assert torch.allclose(mixed, share * x + (1 - share) * partner, atol=1e-5)
            shares.append(share.item())
    assert 110 < seen['cut'] < 190
    assert abs(np.mean(shares) - 0.5) < 0.08 and abs(np.var(shares) - 1 / (4 * 2.6)) < 0.03  # Beta(0.8, 0.8)


# ---- the stages

@pytest.fixture
def photos(tmp_path):
    """60 images in two classes, dark and less dark (solarising changes neither), in ImageNet's layout."""
    for i in range(60):
        path = tmp_path / f'photos/{"train" if i < 48 else "val"}/{("dusk", "night")[i % 2]}/{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((photo(i, 12, 10) // 10 + 80 * (i % 2 == 0)).astype(np.uint8)).save(path)
    return ['--dataset=photos/', '--valid_share=0.2']


def weights(path):
    return torch.load(path, weights_only=True)['model']


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_from_images_to_a_score(run, photos, tmp_path, monkeypatch):
    """
    Both stages and eval.py, each with its own views; with augmentation and without; checkpoints bring the image_size.
    """
    views, inputs = set(), data.Dataset.inputs

    def spy(self, x, scale=None, change=None):
        views.add((scale, change is not None))
        return inputs(self, x, scale, change)
    monkeypatch.setattr(data.Dataset, 'inputs', spy)
    centre = (None, False)  # of every row that is scored
    run('pretrain.py', *TINY, *photos, '--max_steps=2', '--n_latent=4', '--out_dir=pre', '--mask_ratio=0.75')
    assert views == {((0.2, 1.0), False), centre}
    assert 'masked loss on 12 test rows' in run('eval.py', '--ckpt=pre/guided', '--device=cpu').stdout
    tiny = [o for o in TINY if not o.startswith('--image_size')]
    for name, augment in (('plain', []), ('augmented', ['--augment', '--drop_path=0.1', '--accumulation=2'])):
        views.clear()
        run('finetune.py', *tiny, *photos, '--init_from=scratch,pre/guided', '--target=multiclass', '--n_train=None',
            '--max_steps=4', '--seeds=0', f'--out_dir={name}', *augment)
        assert views == ({((0.08, 1.0), True), centre} if augment else {centre})
        rows = [json.loads(line) for line in (tmp_path / name / 'results.jsonl').read_text().splitlines()]
        out = run('eval.py', f'--ckpt={name}/pre-guided-lr0.001-seed0.pt', '--device=cpu').stdout
        assert f'accuracy on 12 test rows: {rows[1]["test"][0]:.4f}' in out
    assert not same(*(weights(tmp_path / f'{n}/scratch-lr0.001-seed0.pt') for n in ('plain', 'augmented')))
    run('eval.py', '--ckpt=pre/guided', '--embed=photos/val', '--embed_out=e.npy', '--device=cpu')
    assert np.load(tmp_path / 'e.npy').shape == (12, 16)
    error = run('finetune.py', *tiny, *photos, '--init_from=scratch', '--target=binary', '--augment', '--n_train=None',
                status=2).stderr
    assert 'augment' in error


def test_pixels_can_be_learned_from_augmented_views(run, photos, tmp_path):
    """How dark it is survives every augmentation, and mixing where the labels are mixed alike."""
    run('finetune.py', *TINY, *photos, '--init_from=scratch', '--target=multiclass', '--n_train=None', '--n_latent=4',
        '--max_steps=40', '--lr=3e-3', '--seeds=0', '--out_dir=ft', '--augment', '--norm=none')
    row = json.loads((tmp_path / 'ft/results.jsonl').read_text())
    assert row['test'][0] > 0.8


def test_a_resumed_run_sees_the_same_crops(run, photos, tmp_path):
    """Ended after 5 steps, in mid-epoch, and gone on to 12 is 12 in one go, bit for bit (at a constant lr)."""
    options = [*TINY, *photos, '--mask=guided', '--mask_ratio=0.75', '--dropout=0.1', '--accumulation=2', '--lr=1e-2',
               '--min_lr=1e-2']
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=uncut')
    run('pretrain.py', *options, '--max_steps=5', '--out_dir=cut')
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=cut', '--resume')
    a, b = (weights(tmp_path / f'{name}/guided/last.pt') for name in ('uncut', 'cut'))
    assert same(a, b)
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=other', '--seed=1')
    assert not same(a, weights(tmp_path / 'other/guided/last.pt'))


# ---- real images

def test_imagenette(shared, tmp_path, monkeypatch):
    """ImageNet's own layout: 9,469 images to train on and 3,925 to test; some of them are read."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(shared / 'images/imagenette96.tar') as tar:
        names = [name for name in tar.getnames() if name.endswith('.JPEG')]
        assert sum('/train/' in name for name in names) == 9469 and sum('/val/' in name for name in names) == 3925
        some = names[::500]
        tar.extractall(tmp_path, members=[tar.getmember(name) for name in some], filter='data')
    d = open_dataset({**KNOBS, 'dataset': 'imagenette96', 'image_size': 32})
    assert d.x.shape == (len(some), 37, 37, 3) and not d.meta['left_out']
    assert len(d.rows('test')) == sum('/val/' in name for name in some)
    assert set(d.meta['classes']) == {name.split('/')[2] for name in some}


def test_full_size_photographs(shared):
    """The twelve originals, at the paper's size."""
    folder = shared / 'images/imagenet_originals'
    x, labels, _, left_out = read_all(folder, 192)
    assert x.shape == (12, 219, 219, 3) and stored_side(192) == 219 and not left_out
    assert labels == sorted(f for f in os.listdir(folder) if (folder / f).is_dir())
    assert len(read_all(folder, 32, wnids={labels[0], labels[5]})[0]) == 2
