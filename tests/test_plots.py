"""util/plots.py: what is printed, and pictures as files."""

import re
import sys

import numpy as np
import pytest
import torch

from masking import FIRST_BYTE
from util import plots

NORM = {'kind': 'none'}


def share_of(pixels, colour):
    """The share of the pixels that have this colour, three numbers from 0 to 255."""
    return (abs(pixels * 255 - colour) < 2).all(-1).mean()


BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # matplotlib's first two


# -----------------------------------------------------------------------------
# where there is no picture

def test_a_picture_too_large_to_draw_is_said(tmp_path, capsys, read_picture):
    with pytest.raises(SystemExit) as end, plots.picture(tmp_path / 'a.png', 1, 1, 8, 600):
        pass
    assert end.value.code == 0 and 'too large to draw' in capsys.readouterr().out


def test_without_matplotlib_the_text_is_printed(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition('.')[0] == 'matplotlib'] + ['matplotlib']:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as end:
        plots.plot({'loss': {'a': [(0, 3.0), (1, 2.0)]}}, 'step', tmp_path / 'a.png')
    out = capsys.readouterr().out.splitlines()
    assert end.value.code == 0 and '3 -> 2  a' in out[1] and 'matplotlib is not installed' in out[-1]
    assert not list(tmp_path.iterdir())


# -----------------------------------------------------------------------------
# curves

def test_curves_are_printed_and_drawn(tmp_path, capsys, read_picture):
    panels = {'loss': {'a': [(0, 3.0), (10, 2.0), (20, 1.0)], 'b': [(0, 1.0), (10, 1.0), (20, 4.0)]}}
    plots.plot(panels, 'step', tmp_path / 'new/curves.png')
    out = capsys.readouterr().out
    assert re.search('█▅▁ +3 -> 1  a\n', out) and re.search('▁▁█ +1 -> 4  b\n', out)
    pixels = read_picture(tmp_path / 'new/curves.png')
    assert share_of(pixels, BLUE) > 0.001 and share_of(pixels, ORANGE) > 0.001


def test_a_sparkline_has_at_most_40_places():
    assert plots.sparkline([5.0]) == '▁'
    assert plots.sparkline([2.0, 2.0, 2.0]) == '▁▁▁'
    line = plots.sparkline(np.arange(1000.0))
    assert len(line) == 40 and line == ''.join(sorted(line)) and line[0] == '▁' and line[-1] == '█'


def test_what_is_no_finite_number_is_left_out(tmp_path, capsys, read_picture):
    """log.jsonl has null for a loss that was not finite."""
    nan, inf = float('nan'), float('inf')
    panels = {'loss': {'a': [(0, 3.0), (1, None), (2, nan), (3, 1.0)], 'b': [(0, None), (1, inf)]},
              'val_loss': {'a': [(0, None), (1, None)]}}
    plots.plot(panels, 'step', tmp_path / 'curves.png')
    out = capsys.readouterr().out
    assert '█▁' in out and '3 -> 1  a' in out
    assert 'val_loss' not in out and '  b\n' not in out
    read_picture(tmp_path / 'curves.png')
    plots.plot({'val_loss': {'a': [(0, None)]}}, 'step', tmp_path / 'none.png')
    assert 'nothing to draw' in capsys.readouterr().out and not (tmp_path / 'none.png').exists()


@pytest.mark.parametrize('n, across', [(1, 1), (2, 2), (3, 3), (4, 2), (5, 1), (6, 3), (7, 1), (9, 3)])
def test_panels_fill_their_rows(n, across):
    assert plots.panels_across(n) == across


def test_names_of_runs_and_columns_do_not_steer_the_terminal(tmp_path, capsys, read_picture):
    plots.plot({'loss': {'a\033[2Jb': [(0, 1.0), (1, 2.0)]}}, 'step', tmp_path / 'curves.png')
    plots.heat_map(torch.rand(50, 2) < 0.5, ['x\033[31m', 'y'], tmp_path)
    out = capsys.readouterr().out
    assert '\033' not in out and 'a\\x1b[2Jb' in out and 'x\\x1b[31m' in out


# -----------------------------------------------------------------------------
# masks

def test_a_heat_map_shows_correlations(tmp_path, capsys, read_picture):
    """a and b are always hidden together, c where they are not; d is always hidden."""
    a = torch.arange(100) % 2 == 0
    always = torch.ones(100, dtype=torch.bool)
    plots.heat_map(torch.stack([a, a, ~a, always], 1), ['a', 'b', 'c', 'd'], tmp_path)
    out = capsys.readouterr().out.splitlines()
    assert out[1:5] == ['a    . 100-100   0', 'b  100   .-100   0', 'c -100-100   .   0', 'd    0   0   0   .']
    assert out[0].endswith('among random masks -33')
    assert out[5] == 'how often each is hidden: a 0.50, b 0.50, c 0.50, d 1.00'
    pixels = read_picture(tmp_path / 'masks.png')
    assert share_of(pixels, (211, 211, 211)) > 0.02  # the diagonal is lightgrey


def test_hidden_pixels_are_grey(tmp_path, read_picture):
    torch.manual_seed(0)
    x = torch.rand(5, 64, 3)
    half = x.masked_fill((torch.arange(64) < 32)[:, None], torch.nan)
    plots.image_sheet({'reference': x, 'half': half}, NORM, tmp_path)
    left, right = np.array_split(read_picture(tmp_path / 'masks.png'), 2, axis=1)
    grey = [(abs(part - 0.6) < 0.01).all(-1).mean() for part in (left, right)]
    assert grey[0] < 0.01 and 0.3 < grey[1] < 0.5  # the white between the images takes the rest


def test_images_are_taken_off_their_scale(tmp_path, read_picture):
    """Channels that differ in scale only look the same once the scale is taken off."""
    x = torch.rand(4, 64, 1).expand(4, 64, 3)
    norm = {'kind': 'standard', 'mean': torch.tensor([0.1, 0.5, 0.9]), 'std': torch.tensor([1.0, 2.0, 3.0])}
    plots.image_sheet({'reference': (x - norm['mean']) / norm['std']}, norm, tmp_path)
    pixels = read_picture(tmp_path / 'masks.png')
    assert (np.ptp(pixels, axis=2) < 0.01).mean() > 0.99  # grey, whatever the channel


def ids_of(text):
    return [FIRST_BYTE + byte for byte in text.encode()]


def test_hidden_characters_are_blocks_when_piped(tmp_path, capsys, read_picture):
    text = 'two words'
    hidden = [False, True, False, True, True, False, False, False, False]
    plots.text_sheet([('reference', ids_of(text), [False] * 9), ('guided', ids_of(text), hidden)], tmp_path)
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ['     reference two words', '        guided t█o░█ords']
    pixels = read_picture(tmp_path / 'masks.png')
    assert share_of(pixels, (204, 51, 51)) > 3 / (2 * 115) / 2  # three red cells of 230, without their letters


def test_long_texts_are_broken_and_odd_bytes_are_dots(tmp_path, capsys, read_picture):
    plots.text_sheet([('a', [4, *ids_of('xé' + 'y' * 12), 5], [False] * 17)], tmp_path, width=10)
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ['             a ·x··yyyyyy', '               yyyyyy·']


def test_hidden_characters_are_red_in_a_terminal(tmp_path, capsys, monkeypatch, read_picture):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    plots.text_sheet([('a', ids_of('xyz'), [False, True, False])], tmp_path)
    assert 'x\033[41;97my\033[0mz' in capsys.readouterr().out
