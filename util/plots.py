"""
What eval.py shows: printed as text, and drawn by matplotlib where it is installed.

    plot          curves, as sparklines in the terminal and a panel for each quantity
    heat_map      which columns of a table are hidden together
    image_sheet   images and their masks
    text_sheet    texts and their masks
"""

import math
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from masking import FIRST_BYTE
from util.errors import fail, printable
from util.files import atomic_write
from util.outdir import log_entries

DPI = 110
LARGEST_SIDE = 2 ** 16  # pixels: matplotlib draws nothing larger
GREY = (0.6, 0.6, 0.6)
BLUE = (0.25, 0.45, 0.85)
BLOCKS = '▁▂▃▄▅▆▇█'
RED_IN_A_TERMINAL = '\033[41;97m{}\033[0m'
IN_CURVES = ('loss', 'val_loss', 'val_loss_random', 'val_score', 'mask_entropy', 'hidden_least', 'hidden_most')


@contextmanager
def picture(path, rows, columns, width, height):
    """
    A matplotlib figure of width x height inches and its axes (rows, columns), written to path at the end. Where
    there can be no picture, the program ends here with a line that says so: everything else has been printed by
    then.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, no display
    except ImportError:
        print('no picture, as matplotlib is not installed: pip install matplotlib')
        sys.exit(0)
    if DPI * max(width, height) >= LARGEST_SIDE:
        print('no picture, it would be too large to draw')
        sys.exit(0)
    figure = Figure((width, height), dpi=DPI, layout='constrained')
    yield figure, figure.subplots(rows, columns, squeeze=False)
    with atomic_write(path) as f:
        figure.savefig(f, format='png')
    print(printable(f'wrote {path}'))


# -----------------------------------------------------------------------------
# curves

def panels_of_logs(folders):
    """What the log.jsonl in these folders say, as plot() takes it: {quantity: {label: [(step, value), ..]}}."""
    panels = {}
    for folder in folders:
        for entry in read_log(folder):
            label = folder
            if 'init_from' in entry:
                label += ': {init_from} lr {lr:g} seed {seed}'.format(**entry)
            for quantity in IN_CURVES:
                if quantity in entry:
                    curves = panels.setdefault(quantity, {})
                    curves.setdefault(label, []).append((entry['step'], entry[quantity]))
    return panels


def read_log(folder):
    """The entries of a folder's log.jsonl."""
    try:
        return log_entries(Path(folder).expanduser() / 'log.jsonl')
    except (OSError, ValueError) as error:
        fail(f'runs={folder}: no log of pretrain.py or finetune.py there: {error}')


def plot(panels, x_name, path):
    """
    Print each curve as a sparkline, and draw a panel for each quantity in a PNG file at `path`.
    panels {quantity: {label: [(x, y), ..]}}; a y that is None or not finite, as logs may have, is left out.
    """
    shown = {}
    for quantity, curves in panels.items():
        curves = numbers_only(curves)
        if curves:
            shown[quantity] = curves
    if not shown:
        print('nothing to draw: there are no finite numbers')
        return
    for quantity, curves in shown.items():
        print(quantity)
        for label, points in curves.items():
            ys = [y for _, y in points]
            print(printable(f'  {sparkline(ys):40}  {ys[0]:.4g} -> {ys[-1]:.4g}  {label}'))
    draw_panels(shown, x_name, path)


def draw_panels(panels, x_name, path):
    colours = {}  # label: its colour in every panel
    for curves in panels.values():
        for label in curves:
            colours.setdefault(label, f'C{len(colours) % 10}')
    lines = {}  # label: one of its lines, for the legend
    across = panels_across(len(panels))
    down = len(panels) // across
    height = 3 * down + 0.25 * len(colours)
    with picture(path, down, across, max(4 * across, 6), height) as (figure, axes):
        for ax, (quantity, curves) in zip(axes.flat, panels.items()):
            ax.set(title=quantity, xlabel=x_name)
            for label, points in curves.items():
                xs, ys = zip(*points)
                lines[label], = ax.plot(xs, ys, '.-', color=colours[label])
        figure.legend(lines.values(), map(printable, lines), loc='outside lower left')


def numbers_only(curves):
    """{label: [(x, y), ..]} of the points that are finite numbers; curves without any are left out."""
    kept = {}
    for label, points in curves.items():
        finite = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        if finite:
            kept[label] = finite
    return kept


def sparkline(ys, width=40):
    """A curve as a line of blocks, from the lowest to the highest of up to `width` of its values."""
    ys = np.array(ys)
    some = ys[np.linspace(0, len(ys) - 1, min(width, len(ys))).round().astype(int)]
    spread = np.ptp(some)
    if spread == 0:
        spread = 1
    heights = (some - some.min()) / spread * (len(BLOCKS) - 1)
    return ''.join(BLOCKS[round(height)] for height in heights)


def panels_across(n):
    """How many of n panels stand side by side, so that no row has a gap: 3, 2 or 1."""
    if n % 3 == 0:
        return 3
    return 2 if n % 2 == 0 else 1


# -----------------------------------------------------------------------------
# masks

def heat_map(hidden, names, out):
    """
    Which columns masks (N, n) bool hide together: the correlations, printed in hundredths, and drawn from blue
    to red in out/masks.png. names: the n columns'.
    """
    hidden = hidden.double()
    names = [printable(name) for name in names]
    width = max(len(name) for name in names)
    C = torch.corrcoef(hidden.T).nan_to_num()  # (n, n); a column always hidden, or never, correlates with none
    C.fill_diagonal_(torch.nan)
    print(f'correlation of being hidden, in hundredths; among random masks {-100 / (len(names) - 1):.0f}')
    for name, row in zip(names, C):
        cells = ''.join(f'{100 * value:4.0f}' for value in row)
        print(f'{name:>{width}} ' + cells.replace(' nan', '   .'))
    shares = ', '.join(f'{name} {share:.2f}' for name, share in zip(names, hidden.mean(0)))
    print(f'how often each is hidden: {shares}')

    side = min(0.25 * len(C) + 2, 20)  # inches
    top = C.nan_to_num().abs().max().item()
    if top == 0:
        top = 1
    with picture(out / 'masks.png', 1, 1, side + 1.5, side) as (figure, axes):
        ax = axes[0, 0]
        image = ax.imshow(C.numpy(), 'RdBu_r', vmin=-top, vmax=top)
        figure.colorbar(image, label='correlation', shrink=0.8)
        ax.set(title='hidden together (red) or apart (blue)', facecolor='lightgrey')  # grey: the diagonal
        ax.set_xticks(range(len(names)), names, rotation=90, parse_math=False)  # a $ is no formula
        ax.set_yticks(range(len(names)), names, parse_math=False)


def image_sheet(columns, norm, out):
    """
    Draw images in four rows, a column for each kind of mask, in out/masks.png. columns {name: x (B, n, 3) or
    (B, n, 1)}, square images scaled by `norm`; NaN = hidden, drawn grey, or blue in grey images. The first
    column hides nothing.
    """
    x = torch.stack([images[:4].cpu().float() for images in columns.values()])  # (columns, 4, n, 3)
    if norm['kind'] == 'standard':
        x = x * norm['std'] + norm['mean']
    low, high = x[0].min(), x[0].max()
    x = ((x - low) / (high - low)).clamp(0, 1)
    hidden_colour = GREY if x.shape[3] == 3 else BLUE
    x = torch.where(x.isnan(), torch.tensor(hidden_colour), x)  # (columns, 4, n, 3), of grey images too
    side = math.isqrt(x.shape[2])
    x = x.unflatten(2, (side, side))  # (columns, 4, side, side, 3)
    gap = math.ceil(side / 16)
    x = F.pad(x, (0, 0, 0, 0, 0, gap), value=1)  # white below each image
    pages = x.flatten(1, 2)  # (columns, 4 (side + gap), side, 3): one image below the other
    height = 2.25 * x.shape[1] + 0.4
    with picture(out / 'masks.png', 1, len(pages), 2.1 * len(pages), height) as (_, axes):
        for name, ax, pixels in zip(columns, axes[0], pages):
            ax.imshow(pixels.numpy(), interpolation='nearest')
            ax.set_title(name, fontsize=14)
            ax.set_axis_off()


def text_sheet(texts, out, width=100):
    """
    Print texts and draw them in out/masks.png. What is hidden is red in a terminal and in the picture; where
    the output is piped, it is a block. texts: a list of (name, ids (n,), hidden (n,)), lists of int and of
    bool.
    """
    lines = []  # (characters, which of them are hidden)
    margin = max(15, 1 + max(len(name) for name, _, _ in texts))  # for the names
    for name, ids, hidden in texts:
        text = ''.join(readable(i) for i in ids)
        for start in range(0, len(text), width):
            title = name if start == 0 else ''
            line = f'{title:>{margin - 1}} {text[start:start + width]}'
            is_hidden = [False] * margin + hidden[start:start + width]
            print(marked(line, is_hidden))
            lines.append((line, is_hidden))

    grid = np.full((len(lines), margin + width, 3), 1.0)  # a cell for each character: white, or red
    for row, (_, is_hidden) in enumerate(lines):
        grid[row, np.flatnonzero(is_hidden)] = 0.8, 0.2, 0.2
    with picture(out / 'masks.png', 1, 1, 0.09 * (margin + width), 0.18 * len(lines)) as (_, axes):
        ax = axes[0, 0]
        ax.imshow(grid, extent=(0, margin + width, len(lines), 0), aspect='auto', interpolation='nearest')
        ax.set_axis_off()
        for row, (line, is_hidden) in enumerate(lines):
            for column, character in enumerate(line):
                colour = 'white' if is_hidden[column] else 'black'
                ax.text(column + 0.5, row + 0.75, character, ha='center', size=9, family='monospace',
                        color=colour)


def readable(i):
    """The character of an id; a dot for special tokens and for bytes that are no plain ASCII."""
    byte = i - FIRST_BYTE
    return chr(byte) if 32 <= byte < 127 else '·'


def marked(line, is_hidden):
    """A line for the terminal, with its hidden characters in red; or for a file, with blocks in their place."""
    in_terminal = sys.stdout.isatty()
    characters = []
    for character, hide in zip(line, is_hidden):
        if hide and in_terminal:
            character = RED_IN_A_TERMINAL.format(character)
        elif hide:
            character = '░' if character == ' ' else '█'
        characters.append(character)
    return ''.join(characters)
