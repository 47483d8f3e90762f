"""The drawn digits: the same for a seed, of all kinds, and such that a simple classifier tells them apart."""

import numpy as np
import pytest

from util.glyphs import SIDE, as_text, glyphs


def test_pictures_are_a_function_of_the_seed():
    x, y = glyphs(2500, 0)
    again, labels_again = glyphs(2500, 0)
    other, _ = glyphs(2500, 1)
    assert x.shape == (2500, SIDE * SIDE) and x.dtype == np.float32 and y.dtype == np.int64
    assert (x == again).all() and (y == labels_again).all() and (x != other).any()


def test_every_digit_is_drawn_about_as_often():
    _, y = glyphs(5000, 0)
    counts = np.bincount(y)
    assert len(counts) == 10 and counts.min() > 400 and counts.max() < 600


def test_there_is_ink_and_it_is_in_the_middle():
    x, _ = glyphs(1000, 0)
    ink = x.mean(0).reshape(SIDE, SIDE)
    border = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
    assert -0.3 < x.min() and x.max() < 1.3 and 0.1 < x.mean() < 0.4
    assert ink[3:9, 3:9].mean() > 3 * border.mean()


def test_digits_can_be_told_apart_but_not_easily():
    svm = pytest.importorskip('sklearn.svm', reason='scikit-learn judges the digits')
    neighbors = pytest.importorskip('sklearn.neighbors')
    x, y = glyphs(6000, 3)
    many = svm.SVC(C=10).fit(x[:5000], y[:5000]).score(x[5000:], y[5000:])
    few = neighbors.KNeighborsClassifier(1).fit(x[:100], y[:100]).score(x[5000:], y[5000:])
    assert many > 0.9 and few < many - 0.2


def test_a_picture_in_characters():
    picture = np.zeros(SIDE * SIDE)
    picture[1] = 1.0
    lines = as_text(picture).split('\n')
    assert len(lines) == SIDE and lines[0] == '  ##' + '  ' * (SIDE - 2)
