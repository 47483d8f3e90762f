"""Folders of images -> chunks of pixels."""

import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from util.errors import fail
from util.files import in_chunks
from util.splits import DRAW_VAL, SPLIT_WORDS, TEST, TRAIN, VAL

FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'PPM', 'GIF')  # that Pillow may decode, whatever a file's name
ENDINGS = ('.jpg', '.jpeg', '.jfif', '.png', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm', '.gif')
MOST_PIXELS = 10 ** 8  # of an image
LONGEST_SIDE = 32  # times the short side
AT_ONCE = 256  # images in a chunk
TRANSPARENT = ('RGBA', 'RGBa', 'LA', 'PA')  # modes that say how transparent each pixel is
BACKGROUND = (255, 255, 255, 255)  # white, seen through transparent pixels


def stored_side(image_size):
    """S: evaluation resizes to image_size / 0.875 and keeps the centre (the authors' code)."""
    return round(image_size / 0.875)


# -----------------------------------------------------------------------------
# which images a folder has

def image_files(folder, classes=None):
    """
    -> [(path, label or None, split code or None)] of the images in a folder, sorted; a Counter of what is left
    out; and a Counter of the endings of files that are no images

    An image's label is the topmost folder that it is in, below that of its split. `classes`, a set of such
    names, leaves the others out. Links are followed, but no circle of them twice.
    """
    splits, n_others = split_folders(Path(folder))
    left_out, other_endings = Counter(), Counter()
    if n_others:
        left_out['folders beside train that name no split'] = n_others
    found = []
    for base, split in splits.items():
        for top in base.iterdir():
            if top.name.startswith('.') or (classes is not None and top.name not in classes):
                continue
            label = top.name if top.is_dir() else None
            for path in files_below(top):
                if not path.exists():
                    left_out['links that lead nowhere'] += 1
                elif path.suffix.lower() not in ENDINGS:
                    other_endings[path.suffix.lower() or 'no ending'] += 1
                elif path.is_file():  # no pipe, at which reading would wait
                    found.append((path, label, split))
    return sorted(found), left_out, other_endings


def split_folders(folder):
    """
    -> {folder of images: split code or None}, and how many other folders there are beside those of splits

    Folders train, val (or valid) and test are the splits. Of train and val alone, as ImageNet has them, val is
    the test, and train gives some validation rows. Without train, the folder itself is all there is.
    """
    splits = {}
    n_others = 0
    for path in folder.iterdir():
        if not path.is_dir() or path.name.startswith('.'):
            continue
        if path.name.lower() in SPLIT_WORDS:
            splits[path] = SPLIT_WORDS[path.name.lower()]
        else:
            n_others += 1
    codes = set(splits.values())
    if TRAIN not in codes:
        return {folder: None}, 0
    if not {VAL, TEST} <= codes:
        for path, code in splits.items():
            splits[path] = DRAW_VAL if code == TRAIN else TEST
    return splits, n_others


def files_below(top):
    """The paths of all files below a folder, or of the one file. Links are followed, but no folder twice."""
    if not top.is_dir():
        yield top
        return
    entered = set()
    for at, folders, names in os.walk(top, followlinks=True):
        place = os.path.realpath(at)
        if place in entered:  # before, by another link
            folders.clear()
            continue
        entered.add(place)
        folders.sort()  # so that it does not depend on the disk by which of its names a folder is entered
        for name in names:
            yield Path(at, name)


# -----------------------------------------------------------------------------
# their pixels

def read_images(folder, meta, classes=None):
    """
    The images of a folder (see image_files), decoded and resized once: chunks of (pixels (k, S, S, 3) uint8,
    labels, split codes or None). What is left out is counted in meta['left_out'], what is changed is told in
    meta['notes'].
    """
    try:
        from PIL import Image  # noqa: F401
    except ImportError:
        fail('images are read with Pillow, which is not installed: pip install Pillow')
    files, left_out, other_endings = image_files(folder, classes)
    meta['left_out'].update(left_out)
    if other_endings:
        n = other_endings.total()
        endings = ', '.join(f'{ending} {count:,}' for ending, count in other_endings.most_common(8))
        meta['notes'].append(f'{n:,} files in {folder} are no images by their endings: {endings}')
    side = stored_side(meta['image_size'])
    reader = ImageReader(side)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow works without the interpreter's lock
        for chunk in in_chunks(files, AT_ONCE, lambda file: 3 * side ** 2):
            pixels, labels, splits = [], [], []
            paths = [path for path, _, _ in chunk]
            for x, (_, label, split) in zip(pool.map(reader.read, paths), chunk):
                if x is not None:
                    pixels.append(x)
                    labels.append(label)
                    splits.append(split)
            if pixels:
                yield np.stack(pixels), labels, None if splits[0] is None else splits

    if len(reader.broken) == len(files):
        wanted = 'wanted are CLASS/*.jpg, folders train and val of such, or images alone'
        fail(f'{folder} holds no images that can be read: {min(reader.broken, default=wanted)}')
    if reader.broken:
        reason = f'images that cannot be decoded, {min(reader.broken)} for one'
        meta['left_out'][reason] += len(reader.broken)
    for change, n in sorted(Counter(reader.changed).items()):
        meta['notes'].append(f'{n:,} images {change}')


class ImageReader:
    """Reads images from several threads, and keeps count of what it could not read or had to change."""

    def __init__(self, side):
        self.side = side
        self.broken = []  # 'path (error)'
        self.changed = []  # how an image was changed, once for each

    def read(self, path):
        """The pixels (S, S, 3) uint8 of one file, or None if it cannot be decoded."""
        try:
            return self.decode(path)
        except Exception as error:  # decoders raise many kinds on a damaged file
            self.broken.append(f'{path} ({error})')
            return None

    def decode(self, path):
        """
        The short side becomes S (bicubic), then the central square is kept, as torchvision's Resize and
        CenterCrop do. Training crops are taken from that square later, anew each time.
        """
        from PIL import Image, ImageOps
        side = self.side
        with Image.open(path, formats=FORMATS) as image:
            if math.prod(image.size) > MOST_PIXELS or max(image.size) > LONGEST_SIDE * min(image.size):
                raise ValueError(f'{image.size} pixels, where the most are {MOST_PIXELS:,}, one side '
                                 f'{LONGEST_SIDE} times the other')
            image.draft('RGB', (3 * side, 3 * side))  # a large JPEG is decoded at 1/2, 1/4 or 1/8: ample
            with suppress(Exception):  # a damaged note on rotation is no reason to leave the image out
                image = ImageOps.exif_transpose(image)
            image = self.to_rgb(image)
            short = min(image.size)
            image = image.resize([side * length // short for length in image.size], Image.BICUBIC)
        left, top = (round((length - side) / 2) for length in image.size)
        return np.asarray(image.crop((left, top, left + side, top + side)))

    def to_rgb(self, image):
        """Any kind of pixels -> 8 bits each of red, green and blue."""
        from PIL import Image
        if image.mode[0] in 'IF':  # 16 or 32 bits, or floats: convert() would turn all from 255 on white
            self.changed.append('have more than 8 bits a pixel: the darkest pixel of each is made black, the '
                                'lightest white')
            image = Image.fromarray(full_range(np.asarray(image)))
        if image.mode in TRANSPARENT or 'transparency' in image.info:
            image = image.convert('RGBA')
            if image.getextrema()[3][0] < 255:
                self.changed.append('have transparent pixels: white shows through')
                image = Image.alpha_composite(Image.new('RGBA', image.size, BACKGROUND), image)
        return image.convert('RGB')


def full_range(values):
    """Numbers (H, W) -> uint8, from 0 for the smallest to 255 for the largest."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError('its pixels are not finite')
    low = values.min()
    spread = max(values.max() - low, 1e-300)
    return np.round((values - low) * (255 / spread)).astype(np.uint8)
