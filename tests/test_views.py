"""
Views of images, made on the device: crops, colours and mixing, against Pillow, torchvision's rules written out, and
brute force; and the stages on tiny folders of images.
"""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from pictures import Image, as_batch, levels, photo, put
from test_data import opened
from test_pretrain import same, weights

import data
from util import augment
from util.augment import blur, crop, grey, jitter, mix, random_boxes, solarise, three_augment
from util.scaling import fit_norm

ImageEnhance, ImageOps = (pytest.importorskip(f'PIL.{name}') for name in ('ImageEnhance', 'ImageOps'))
TINY = ['--image_size=7', '--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--device=cpu',
        '--batch_size=8', '--warmup_steps=1']


# ---- crops (data.py)

def test_scoring_reads_the_centre_exactly_and_training_crops_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(10):
        put(tmp_path / f'p/{i}.png', i)
    d = opened(tmp_path, 'p', image_size=21)  # 24 stored: round(1.5) = 2 off, as torchvision
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


# ---- augmentation (finetune.py)

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
    monkeypatch.setattr(augment, 'jitter', lambda x, kind, factor: x)
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
    Image b is filled with the number b, so its pixels tell what share of it is its own; targets must say the
    same.
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


# ---- images through the stages

@pytest.fixture
def photos(tmp_path):
    """60 images in two classes, dark and less dark (solarising changes neither), in ImageNet's layout."""
    for i in range(60):
        path = tmp_path / f'photos/{"train" if i < 48 else "val"}/{("dusk", "night")[i % 2]}/{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((photo(i, 12, 10) // 10 + 80 * (i % 2 == 0)).astype(np.uint8)).save(path)
    return ['--dataset=photos/', '--val_share=0.2']


def test_from_images_to_a_score(run, photos, tmp_path, monkeypatch):
    """
    Both stages and eval.py, each with its own views; with augmentation and without; checkpoints bring the
    image_size.
    """
    views, inputs = set(), data.Dataset.inputs

    def spy(self, x, scale=None, change=None):
        views.add((scale, change is not None))
        return inputs(self, x, scale, change)
    monkeypatch.setattr(data.Dataset, 'inputs', spy)
    centre = (None, False)  # of every row that is scored
    run('pretrain.py', *TINY, *photos, '--max_steps=2', '--n_latent=4', '--out_dir=pre/guided', '--mask_ratio=0.75')
    assert views == {((0.2, 1.0), False), centre}
    assert 'masked loss on 12 test rows' in run('eval.py', '--ckpt=pre/guided', '--device=cpu').stdout
    tiny = [o for o in TINY if not o.startswith('--image_size')]
    for name, augment in (('plain', []), ('augmented', ['--augment', '--drop_path=0.1', '--accumulation=2'])):
        views.clear()
        run('finetune.py', *tiny, *photos, '--init_from=scratch,pre/guided', '--target=multiclass', '--target=multiclass',
            '--max_steps=4', '--seeds=0', f'--out_dir={name}', *augment)
        assert views == ({((0.08, 1.0), True), centre} if augment else {centre})
        rows = [json.loads(line) for line in (tmp_path / name / 'results.jsonl').read_text().splitlines()]
        out = run('eval.py', f'--ckpt={name}/pre-guided-lr0.001-seed0.pt', '--device=cpu').stdout
        assert f'accuracy on 12 test rows: {rows[1]["test"][0]:.4f}' in out
    assert not same(*(weights(tmp_path / f'{n}/scratch-lr0.001-seed0.pt') for n in ('plain', 'augmented')))
    run('eval.py', '--ckpt=pre/guided', '--embed=photos/val', '--embed_out=e.npy', '--device=cpu')
    assert np.load(tmp_path / 'e.npy').shape == (12, 16)
    error = run('finetune.py', *tiny, *photos, '--init_from=scratch', '--target=binary', '--augment',
                status=2).stderr
    assert 'augment' in error


def test_a_step_on_images_waits_for_nothing_but_its_batch(copies, photos):
    """Crops, colours and mixing need no table, and the scale comes to the device once. Labels come too."""
    assert copies('pretrain.py', *TINY, *photos, '--mask=patch', '--eval_interval=99') == [1] * 4
    tune = ['--init_from=scratch', '--target=multiclass', '--augment', '--seeds=0', '--eval_interval=99']
    assert copies('finetune.py', *TINY, *photos, *tune) == [2] * 4


def test_pixels_can_be_learned_from_augmented_views(run, photos, tmp_path):
    """How dark it is survives every augmentation, and mixing where the labels are mixed alike."""
    run('finetune.py', *TINY, *photos, '--init_from=scratch', '--target=multiclass', '--n_latent=4',
        '--max_steps=200', '--lr=3e-3', '--seeds=0', '--out_dir=ft', '--augment', '--norm=none')
    row = json.loads((tmp_path / 'ft/results.jsonl').read_text())
    assert row['test'][0] > 0.8


def test_a_resumed_run_sees_the_same_crops(run, photos, tmp_path):
    """Ended after 5 steps, in mid-epoch, and gone on to 12 is 12 in one go, bit for bit (at a constant lr)."""
    options = [*TINY, *photos, '--mask_ratio=0.75', '--dropout=0.1', '--accumulation=2', '--lr=1e-2',
               '--min_lr=1e-2']
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=uncut')
    run('pretrain.py', *options, '--max_steps=5', '--out_dir=cut')
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=cut', '--resume')
    a, b = (weights(tmp_path / f'{name}/last.pt') for name in ('uncut', 'cut'))
    assert same(a, b)
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=other', '--seed=1')
    assert not same(a, weights(tmp_path / 'other/last.pt'))
