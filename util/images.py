"""Folders of images -> chunks of pixels."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from util.errors import fail
from util.files import in_chunks
from util.splits import DRAW_VAL, SPLIT_WORDS, TEST, TRAIN, VAL

FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'PPM')  # that Pillow may decode, whatever a file is called
IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm')
MOST_PIXELS, LONGEST_SIDE = 10 ** 8, 32  # of an image; its long side over its short one


def stored_side(image_size):
    """S: evaluation resizes to image_size / 0.875 and keeps the centre (the authors' code)."""
    return round(image_size / 0.875)


def image_files(folder, left_out, classes=None):
    """
    [(path, label or None, split code or None)] of the images in a folder, sorted. Folders train, val (or
    valid) and test at its top are the splits; of train and val alone, as ImageNet has them, val is the test
    and train gives some validation rows. Inside, an image's label is the topmost folder it is in; `classes`,
    a set of such names, leaves the others out. Links are followed, but no circle of them twice; those that
    lead nowhere are left out.
    """
    inside = [d for d in Path(folder).iterdir() if d.is_dir() and d.name[0] != '.']
    splits = {d: SPLIT_WORDS[d.name.lower()] for d in inside if d.name.lower() in SPLIT_WORDS}
    others = len(inside) - len(splits)
    if TRAIN not in splits.values():
        splits, others = {Path(folder): None}, 0
    elif not {VAL, TEST} <= {*splits.values()}:
        splits = {d: DRAW_VAL if split == TRAIN else TEST for d, split in splits.items()}
    left_out.update({'folders beside train that name no split': others} if others else {})
    found = []
    for base, top in ((base, top) for base in splits for top in base.iterdir()):
        if top.name.startswith('.') or classes is not None and top.name not in classes:
            continue
        label, seen = top.name if top.is_dir() else None, set()
        for at, folders, names in os.walk(top, followlinks=True) if label else [(base, [], [top.name])]:
            if os.path.realpath(at) in seen:  # entered before, by another link
                folders.clear()
                continue
            seen.add(os.path.realpath(at))
            folders.sort()  # else it would depend on the disk by which of its names a place is entered
            for path in (Path(at, name) for name in names):
                if not path.exists():
                    left_out['links that lead nowhere'] += 1
                elif path.suffix.lower() in IMAGES and path.is_file():  # no pipe, at which reading would wait
                    found.append((path, label, splits[base]))
    return sorted(found)


def read_images(folder, meta, classes=None):
    """
    The images of a folder (see image_files), decoded and resized once: chunks of uint8 (k, S, S, 3).

    The short side becomes S = image_size / 0.875 (bicubic), then the central square is kept, as torchvision's
    Resize and CenterCrop do. Training crops are taken from that square later, anew each time.
    """
    try:
        from PIL import Image
    except ImportError:
        fail('images are read with Pillow, which is not installed: pip install Pillow')
    files, side, broken = image_files(folder, meta['left_out'], classes), stored_side(meta['image_size']), []

    def pixels(path):
        try:
            with Image.open(path, formats=FORMATS) as image:
                if math.prod(image.size) > MOST_PIXELS or max(image.size) > LONGEST_SIDE * min(image.size):
                    raise ValueError(f'{image.size} pixels, where the most are {MOST_PIXELS:,}, one side '
                                     f'{LONGEST_SIDE} times the other')
                image.draft('RGB', (3 * side, 3 * side))  # a large JPEG is decoded at 1/2, 1/4, 1/8: ample
                short = min(image.size)
                if image.mode[0] in 'IF':  # up to 65,535, and convert would turn all from 255 on white
                    if image.mode == 'F':
                        raise ValueError('its pixels are floats')
                    image = Image.fromarray((np.asarray(image) / 256).clip(0, 255).astype(np.uint8))
                image = image.convert('RGB').resize([side * v // short for v in image.size], Image.BICUBIC)
            left, top = (round((v - side) / 2) for v in image.size)
            return np.asarray(image.crop((left, top, left + side, top + side)))
        except Exception as error:  # decoders raise many kinds on a damaged file
            broken.append(f'{path} ({error})')

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow works without the interpreter's lock
        for chunk in in_chunks(files, 256, lambda file: 3 * side ** 2):
            decoded = zip(pool.map(pixels, [path for path, _, _ in chunk]), chunk)
            done = [(x, label, split) for x, (_, label, split) in decoded if x is not None]
            if done:
                x, labels, splits = zip(*done)
                yield np.stack(x), labels, None if splits[0] is None else splits
    if len(broken) == len(files):
        fail(f'{folder} holds no images that can be read: ' + min(
            broken, default='wanted are CLASS/*.jpg, folders train and val of such, or images alone'))
    if broken:
        meta['left_out'][f'images that cannot be decoded, {min(broken)} for one'] += len(broken)
