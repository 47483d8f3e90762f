"""
The built-in pictures: the ten digits, written by a wobbly pen that numpy moves. They are nobody's handwriting,
and no data set that others report on: they are made up, so that a first run needs no download.

    python -m util.glyphs       prints one of each

A digit is a line through a few corners. For every picture the corners are moved a little, and the whole digit
is stretched, slanted, turned and moved. The pen has a width, and the ink of a pixel falls with its distance
from the line. Then noise is added. To a model these are 144 numbers, and nothing says which of them are
neighbours.
"""

import numpy as np

SIDE = 12  # pixels
N_POINTS = 32  # along a line
CHUNK = 1000  # pictures drawn at a time, to save memory

# how much pictures of one digit differ; the digit itself is 1 wide and 1 high
WOBBLE = 0.06  # of the corners, standard deviation
WIDTH = (0.4, 0.75)  # of the digit, as a share of the picture
HEIGHT = (0.55, 0.85)
SLANT = 0.2  # standard deviation
TURN = 0.2  # radians, standard deviation
SHIFT = 0.06  # standard deviation
PEN = (0.8, 1.2)  # width in pixels
NOISE = 0.05  # of each pixel, standard deviation

# the corners that the pen visits, (x, y) from the top left corner (0, 0) to the bottom right (1, 1)
CORNERS = [
    [(.5, 0), (.2, .2), (.1, .5), (.2, .8), (.5, 1), (.8, .8), (.9, .5), (.8, .2), (.5, 0)],  # 0
    [(.3, .2), (.55, 0), (.55, 1)],  # 1
    [(.1, .2), (.4, 0), (.8, .1), (.8, .4), (.1, 1), (.9, 1)],  # 2
    [(.1, .1), (.5, 0), (.8, .2), (.4, .45), (.85, .7), (.5, 1), (.1, .9)],  # 3
    [(.4, 0), (.1, .65), (.9, .65), (.65, .65), (.65, .35), (.65, 1)],  # 4
    [(.85, 0), (.25, 0), (.2, .45), (.6, .4), (.85, .7), (.5, 1), (.1, .9)],  # 5
    [(.7, 0), (.3, .3), (.15, .7), (.4, 1), (.8, .85), (.7, .55), (.2, .65)],  # 6
    [(.1, 0), (.9, 0), (.6, .5), (.4, 1)],  # 7
    [(.5, .45), (.2, .2), (.5, 0), (.8, .2), (.5, .45), (.15, .75), (.5, 1), (.85, .75), (.5, .45)],  # 8
    [(.8, .35), (.5, .5), (.2, .3), (.4, 0), (.8, .1), (.8, .4), (.6, 1)],  # 9
]


def glyphs(n, seed):
    """
    Pictures of digits. -> x (n, 144) float32, the ink of each pixel, row by row, about 0 to 1; and y (n,)
    int64, which digit each is.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, n)
    x = np.empty((n, SIDE * SIDE), np.float32)
    for digit in range(10):
        rows = np.flatnonzero(y == digit)
        for start in range(0, len(rows), CHUNK):
            some = rows[start:start + CHUNK]
            lines = move_pen(digit, len(some), rng)
            x[some] = draw(lines, rng)
    return x, y


def move_pen(digit, n, rng):
    """Where the pen goes, for n pictures of a digit: points (n, N_POINTS, 2), x and y in pixels."""
    corners = np.array(CORNERS[digit]) - 0.5  # (corners, 2): the middle of the digit is (0, 0)
    corners = corners + rng.normal(0, WOBBLE, (n, len(corners), 2))  # (n, corners, 2)

    # points at equal steps from the first corner to the last, on straight lines between them
    steps = np.linspace(0, corners.shape[1] - 1.001, N_POINTS)  # 2.25 is a quarter of the way past corner 2
    before = steps.astype(int)
    share = (steps - before)[:, None]
    points = (1 - share) * corners[:, before] + share * corners[:, before + 1]  # (n, N_POINTS, 2)

    # the whole digit is stretched, slanted, turned and moved
    x = points[..., 0] * rng.uniform(*WIDTH, (n, 1))
    y = points[..., 1] * rng.uniform(*HEIGHT, (n, 1))
    x = x + y * rng.normal(0, SLANT, (n, 1))
    angle = rng.normal(0, TURN, (n, 1))
    turned_x = x * np.cos(angle) - y * np.sin(angle) + rng.normal(0, SHIFT, (n, 1))
    turned_y = x * np.sin(angle) + y * np.cos(angle) + rng.normal(0, SHIFT, (n, 1))
    return SIDE * (0.5 + np.stack([turned_x, turned_y], axis=2))


def draw(points, rng):
    """Ink on paper: points (n, N_POINTS, 2) in pixels -> pictures (n, 144)."""
    n = len(points)
    middles = np.arange(SIDE) + 0.5  # of the pixels
    across = (middles - points[:, :, :1]) ** 2  # (n, N_POINTS, SIDE): squared distance from each column
    down = (middles - points[:, :, 1:]) ** 2  # (n, N_POINTS, SIDE): from each row
    distance = down[:, :, :, None] + across[:, :, None, :]  # (n, N_POINTS, SIDE, SIDE), squared
    nearest = distance.min(axis=1).reshape(n, SIDE * SIDE)
    pen_width = rng.uniform(*PEN, (n, 1))
    ink = np.exp(-nearest / pen_width ** 2)
    return ink + rng.normal(0, NOISE, ink.shape)


def as_text(picture):
    """A picture (144,) in characters, two for a pixel."""
    shades = (4 * picture.clip(0, 1)).astype(int).reshape(SIDE, SIDE)
    return '\n'.join(''.join(2 * ' .:*#'[shade] for shade in row) for row in shades)


if __name__ == '__main__':
    x, y = glyphs(200, 0)
    for digit in range(10):
        print(as_text(x[y == digit][0]), '\n')
