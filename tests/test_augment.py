"""
util/augment.py against Pillow, torchvision's rules written out, and brute force; and images through the stages.
"""

import json
import math

import numpy as np
import pytest
import torch
from pictures import Image, as_batch, levels, photo, put

import data
from util import augment
from util.augment import (
    blur,
    brightness,
    contrast,
    crop,
    grey,
    mix,
    random_boxes,
    saturation,
    solarise,
    three_augment,
)
from util.scaling import fit_norm

ImageEnhance = pytest.importorskip('PIL.ImageEnhance')
ImageOps = pytest.importorskip('PIL.ImageOps')
TINY = ['--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--device=cpu',
        '--batch_size=8', '--warmup_steps=1']


def weights_of(path):
    return torch.load(path, weights_only=True)['model']


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -----------------------------------------------------------------------------
# crops

def test_scoring_reads_the_centre_exactly_and_training_crops_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(10):
        put(tmp_path / f'p/{i}.png', i)
    d = data.open_dataset('p', image_size=21, val_share=0.2, test_share=0.2)
    x, valid = d.batch(np.arange(4))
    assert x.dtype == torch.uint8 and x.shape == (4, 24, 24, 3) and valid is None
    centre = slice(2, 23)  # 24 are stored: round(1.5) = 2 off, as torchvision
    assert torch.equal(d.inputs(x), (x[:, centre, centre] / 255).flatten(1, 2))

    d.norm = fit_norm(d, np.arange(10), 'standard')
    pixels = np.asarray(d.x).reshape(-1, 3) / 255
    np.testing.assert_allclose(d.norm['mean'].numpy(), pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(d.norm['std'].numpy(), pixels.std(0), rtol=1e-5)
    cut = np.asarray(d.x[:4, centre, centre]) / 255
    expected = ((cut - pixels.mean(0)) / pixels.std(0)).reshape(4, 441, 3)
    np.testing.assert_allclose(d.inputs(x).numpy(), expected, atol=1e-5)

    # training: the generator decides
    torch.manual_seed(0)
    first = d.inputs(x, (0.2, 1.0))
    second = d.inputs(x, (0.2, 1.0))
    torch.manual_seed(0)
    assert torch.equal(first, d.inputs(x, (0.2, 1.0)))
    assert not torch.equal(first, second) and first.shape == (4, 441, 3)


@pytest.mark.parametrize('mirrors', [[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]])
def test_a_crop_is_what_pillow_makes_of_the_box(mirrors):
    """Enlarged, reduced, as it is, and the whole; mirrored or not. Pillow's mode F computes in floats too."""
    boxes = [(3, 5, 11, 9), (0, 0, 32, 32), (10, 2, 20, 26), (6, 8, 16, 16), (31, 31, 1, 1)]
    pictures = [photo(i, 32, 32) for i in range(len(boxes))]
    top, left, height, width = torch.tensor(boxes, dtype=torch.float32).unbind(1)
    ours = crop(as_batch(*pictures), top, left, height, width, torch.tensor(mirrors).bool(), 16)
    for x, picture, (top, left, height, width), mirror in zip(ours, pictures, boxes, mirrors):
        for our_channel, channel in zip(x, np.moveaxis(picture.astype(np.float32), 2, 0)):
            box = Image.fromarray(channel).crop((left, top, left + width, top + height))
            theirs = box.resize((16, 16), Image.BICUBIC)
            if mirror:
                theirs = ImageOps.mirror(theirs)
            np.testing.assert_allclose(our_channel.numpy() * 255, np.asarray(theirs).clip(0, 255), atol=2e-3)


def test_a_crop_of_the_size_wanted_is_not_resized():
    x = as_batch(photo(3, 32, 32))
    numbers = [torch.tensor([v]) for v in (6.0, 8.0, 16.0, 16.0)]
    assert torch.allclose(crop(x, *numbers, torch.tensor([False]), 16), x[:, :, 6:22, 8:24], atol=1e-6)


def boxes_one_at_a_time(n, side, scale, rng):
    """torchvision's RandomResizedCrop.get_params, n times: top, left, height, width."""
    boxes = []
    while len(boxes) < n:
        box = 0, 0, side, side  # if none of ten tries fits
        for _ in range(10):
            area = side * side * rng.uniform(*scale)
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            width = int(round(math.sqrt(area * ratio)))
            height = int(round(math.sqrt(area / ratio)))
            if 0 < width <= side and 0 < height <= side:
                top = rng.integers(0, side - height + 1)
                left = rng.integers(0, side - width + 1)
                box = top, left, height, width
                break
        boxes.append(box)
    return np.array(boxes).T


@pytest.mark.parametrize('scale', [(0.2, 1.0), (0.08, 1.0)])
def test_boxes_follow_torchvisions_rule(scale):
    """The same distribution of area, ratio and place as from the rule written out one box at a time."""
    stats = pytest.importorskip('scipy.stats', reason='scipy is the oracle of distributions')
    torch.manual_seed(0)
    side, n = 37, 4000
    top, left, height, width = (v.numpy() for v in random_boxes(n, side, scale, 'cpu'))
    for v in (top, left, height, width):
        assert (v == np.round(v)).all()
    assert (top >= 0).all() and (top + height <= side).all()
    assert (left >= 0).all() and (left + width <= side).all()
    assert (height >= 1).all() and (top == 0).any() and (top + height == side).any()
    their_top, their_left, h, w = boxes_one_at_a_time(n, side, scale, np.random.default_rng(0))
    pairs = [(top, their_top), (left, their_left), (width, w), (height * width, h * w), (height / width, h / w)]
    for ours, theirs in pairs:
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    assert abs((height * width).min() / side ** 2 - scale[0]) < 0.05


def test_half_of_the_crops_are_mirrored():
    """A picture that is dark on the left: about half of 400 views are dark on the right."""
    picture = np.zeros((400, 16, 16, 3), np.uint8)
    picture[:, :, 8:] = 255
    d = data.Dataset.__new__(data.Dataset)
    d.is_images = True
    d.meta = {'image_size': 14}
    d.norm = {'kind': 'none'}
    torch.manual_seed(0)
    x = d.inputs(torch.from_numpy(picture), (0.9, 1.0)).view(400, 14, 14, 3)
    assert x.min() >= 0 and x.max() <= 1  # bicubic overshoots at the edge, and is clamped
    dark_right = (x[:, :, -1] < 0.5).all((1, 2))
    assert 160 < dark_right.sum() < 240 and torch.equal(dark_right, (x[:, :, 0] > 0.5).all((1, 2)))


# -----------------------------------------------------------------------------
# colours

def test_colours_are_pillows():
    """Grey, solarised, brightness, contrast, saturation; Pillow rounds to whole levels."""
    pictures = [photo(i) for i in range(4)]
    x = as_batch(*pictures)
    factor = torch.tensor([0.7, 0.9, 1.0, 1.3])
    pairs = [(brightness, ImageEnhance.Brightness), (contrast, ImageEnhance.Contrast),
             (saturation, ImageEnhance.Color)]
    for i, picture in enumerate(pictures):
        picture = Image.fromarray(picture)
        grey_picture = levels(ImageOps.grayscale(picture))[..., None]
        np.testing.assert_allclose(levels(grey(x)[i]), grey_picture, atol=1.01)
        np.testing.assert_allclose(levels(solarise(x)[i]), levels(ImageOps.solarize(picture, 128)), atol=1e-3)
        for ours, theirs in pairs:
            changed = ours(x, factor)
            expected = levels(theirs(picture).enhance(factor[i].item()))
            np.testing.assert_allclose(levels(changed[i]), expected, atol=1.6)
            assert changed.amin() >= 0 and changed.amax() <= 1


def test_blur_is_a_gaussian():
    x = as_batch(photo(0, 12, 9), photo(1, 12, 9))
    sigma = 1.7
    ours = blur(x, torch.tensor([0.1, sigma]))
    assert torch.allclose(ours[0], x[0], atol=1e-6)  # 0.1 pixels blur nothing
    expected = np.zeros((3, 9, 12))
    for i, j in np.ndindex(9, 12):
        row, column = np.mgrid[:9, :12]
        weight = np.exp(-((row - i) ** 2 + (column - j) ** 2) / (2 * sigma ** 2))
        expected[:, i, j] = (x[1].numpy() * weight).sum((1, 2)) / weight.sum()
    np.testing.assert_allclose(ours[1].numpy(), expected, atol=1e-5)


def roughness(x):
    """The mean difference between neighbours: (B, 3, H, W) -> (B,)"""
    return (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))


def test_three_augment_does_one_of_three_to_each_image(monkeypatch):
    """Without the later changes, each image is exactly one of the three, and each comes about as often."""
    x = as_batch(photo(0)).expand(300, -1, -1, -1)
    torch.manual_seed(0)
    with monkeypatch.context() as no_changes:
        for name in ('brightness', 'contrast', 'saturation'):
            no_changes.setattr(augment, name, lambda x, factor: x)
        y = three_augment(x)
    is_grey = (y.amax(1) - y.amin(1)).amax((1, 2)) < 1e-6
    is_solarised = (y - solarise(x)).abs().amax((1, 2, 3)) < 1e-6
    is_blurred = ~is_grey & ~is_solarised
    assert (roughness(y) <= roughness(x) + 1e-6)[is_blurred].all()
    assert all(70 < n < 130 for n in (is_grey.sum(), is_solarised.sum(), is_blurred.sum()))
    y = three_augment(x)
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1 and len(torch.unique(y.mean((1, 2, 3)))) > 250


# -----------------------------------------------------------------------------
# mixing

SIDE = 8
CLASSES = torch.tensor([0, 1, 2, 3, 1])
SMOOTH = torch.full((5, 4), 0.1 / 4) + 0.9 * torch.eye(4)[CLASSES]


def mixed_with_seed(seed):
    """
    Image b is filled with the number b, so its pixels tell what share of it is its own.
    -> images, their partners, mixed images, targets, that share
    """
    x = torch.arange(5.0)[:, None, None].expand(5, SIDE * SIDE, 3)
    partner = x.flip(0)
    torch.manual_seed(seed)
    mixed, targets = mix(x, CLASSES, 4)
    share = 1 - ((mixed[0] - x[0]) / (partner[0] - x[0])).mean()
    return x, partner, mixed, targets, share


def test_mixing_weighs_labels_by_pixels():
    for seed in range(300):
        x, _, mixed, targets, share = mixed_with_seed(seed)
        assert torch.allclose(targets, share * SMOOTH + (1 - share) * SMOOTH.flip(0), atol=1e-5)
        assert torch.allclose(targets.sum(1), torch.ones(5), atol=1e-6)
        assert torch.equal(mixed[2], x[2])  # its own partner


def test_half_are_cut_and_half_are_mixed():
    """A cut is one rectangle, the same in all channels; the shares of mixup are those of Beta(0.8, 0.8)."""
    n_cut, mixup_shares = 0, []
    for seed in range(300):
        x, partner, mixed, _, share = mixed_with_seed(seed)
        is_cut = ((mixed == x) | (mixed == partner)).all()
        n_cut += int(is_cut)
        if is_cut and 0 < share < 1:
            swapped = (mixed[0] == partner[0]).view(SIDE, SIDE, 3)
            assert torch.equal(swapped, swapped[..., :1].expand(-1, -1, 3))
            rows = swapped[..., 0].any(1)
            columns = swapped[..., 0].any(0)
            assert torch.equal(swapped[..., 0], rows[:, None] & columns)
            assert rows.int().diff().abs().sum() <= 2  # without a gap
        elif not is_cut:
            assert torch.allclose(mixed, share * x + (1 - share) * partner, atol=1e-5)
            mixup_shares.append(share.item())
    assert 110 < n_cut < 190
    assert abs(np.mean(mixup_shares) - 0.5) < 0.08 and abs(np.var(mixup_shares) - 1 / (4 * 2.6)) < 0.03


# -----------------------------------------------------------------------------
# images through the stages

@pytest.fixture
def photos(tmp_path):
    """60 images in two classes, dark and less dark (solarising changes neither), in ImageNet's layout."""
    for i in range(60):
        split = 'train' if i < 48 else 'val'
        name = 'night' if i % 2 else 'dusk'
        path = tmp_path / f'photos/{split}/{name}/{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = photo(i, 12, 10) // 10
        if name == 'dusk':
            pixels = pixels + 80
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return ['--dataset=photos/', '--val_share=0.2', '--image_size=7']


@pytest.fixture
def views(monkeypatch):
    """Which views of images are made: a set of (scale, whether they are augmented)."""
    seen, inputs = set(), data.Dataset.inputs

    def spy(self, x, scale=None, change=None):
        seen.add((scale, change is not None))
        return inputs(self, x, scale, change)
    monkeypatch.setattr(data.Dataset, 'inputs', spy)
    return seen


CENTRE = (None, False)  # the view of every row that is scored


@pytest.mark.slow
def test_from_images_to_a_score(run, photos, views, tmp_path):
    """Both stages and eval.py, each with its own views; with augmentation and without."""
    run('pretrain.py', *TINY, *photos, '--max_steps=2', '--n_latent=4', '--mask_ratio=0.75',
        '--out_dir=pre/guided')
    assert views == {((0.2, 1.0), False), CENTRE}
    assert 'masked loss on 12 test rows' in run('eval.py', '--ckpt=pre/guided', '--device=cpu').stdout

    photos = [option for option in photos if 'image_size' not in option]  # checkpoints bring it
    options = [*TINY, *photos, '--init_from=scratch,pre/guided', '--target=multiclass', '--max_steps=4',
               '--seeds=0']
    for name, more in (('plain', []), ('augmented', ['--augment', '--drop_path=0.1', '--accumulation=2'])):
        views.clear()
        run('finetune.py', *options, f'--out_dir={name}', *more)
        assert views == ({((0.08, 1.0), True), CENTRE} if name == 'augmented' else {CENTRE})
        results = (tmp_path / name / 'results.jsonl').read_text().splitlines()
        test_score = json.loads(results[1])['test'][0]
        out = run('eval.py', f'--ckpt={name}/pre-guided-lr0.001-seed0.pt', '--device=cpu').stdout
        assert f'accuracy on 12 test rows: {test_score:.4f}' in out
    plain = weights_of(tmp_path / 'plain/scratch-lr0.001-seed0.pt')
    augmented = weights_of(tmp_path / 'augmented/scratch-lr0.001-seed0.pt')
    assert not same_weights(plain, augmented)
    run('eval.py', '--ckpt=pre/guided', '--embed=photos/val', '--embed_out=e.npy', '--device=cpu')
    assert np.load(tmp_path / 'e.npy').shape == (12, 16)


def test_augmentation_needs_classes(run, photos):
    done = run('finetune.py', *TINY, *photos, '--init_from=scratch', '--target=binary', '--augment', status=2)
    assert 'augment' in done.stderr


@pytest.mark.slow
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
    """
    Ended after 5 steps, in mid-epoch, and gone on to 12 is 12 in one go, bit for bit
    (at a constant lr, without a schedule of the masks).
    """
    options = [*TINY, *photos, '--mask_ratio=0.75', '--dropout=0.1', '--accumulation=2', '--lr=1e-2',
               '--min_lr=1e-2', '--mask_anneal=0']
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=uncut')
    run('pretrain.py', *options, '--max_steps=5', '--out_dir=cut')
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=cut', '--resume')
    uncut = weights_of(tmp_path / 'uncut/last.pt')
    assert same_weights(uncut, weights_of(tmp_path / 'cut/last.pt'))
    run('pretrain.py', *options, '--max_steps=12', '--out_dir=other', '--seed=1')
    assert not same_weights(uncut, weights_of(tmp_path / 'other/last.pt'))
