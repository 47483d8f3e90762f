"""util/labels.py: what is a number, and what is a class."""

import numpy as np
import pytest
from test_data import opened

from data import open_dataset
from util.labels import Labels
from util.summary import summary


def read(*chunks, are_folders=False):
    """-> the labels as a user would see them, the names of classes, and the notes in one text"""
    labels = Labels(are_folders)
    for chunk in chunks:
        labels.add(chunk)
    y, classes, notes = labels.finish()
    if classes:
        y = [None if np.isnan(value) else classes[int(value)] for value in y]
    else:
        y = [None if np.isnan(value) else value for value in y]
    return y, classes, ' '.join(notes)


def test_numbers_and_empty_cells():
    y, classes, notes = read(['1.5', '2'], [None, '', '1.5'])
    assert y == [1.5, 2, None, None, 1.5] and classes is None and notes == ''


def test_a_word_that_counts_as_no_label_is_told():
    """A severity of none beside 1, 2 and 3 may be a class."""
    y, classes, notes = read(['none', '1', '2', 'NA'], ['3', 'none', ''])
    assert y == [None, 1, 2, None, 3, None, None] and classes is None
    assert notes == "2 labels say 'none', which counts as no label 1 labels say 'NA', which counts as no label"


@pytest.mark.parametrize('names', [
    ['0', '1', 'none'], ['NA', '7', '8'], ['1', '1.0', '2'], ['001', '002'], ['1.5', 'inf']])
def test_each_folder_is_a_class(names):
    y, classes, notes = read(names, names, are_folders=True)
    assert y == [*names, *names] and classes == sorted(names) and notes == ''


def test_one_number_may_be_spelled_in_several_ways():
    y, classes, _ = read(['1', '1.0', '+1', '1e0', '2'])
    assert y == [1, 1, 1, 1, 2] and classes is None


def test_numbers_of_arrays():
    assert read([3, 1, 1], [2.5, float('nan')])[0] == [3, 1, 1, 2.5, None]


def test_texts_are_classes_in_sorted_order():
    y, classes, notes = read(['dog', 'cat'], ['dog', '', 'emu'])
    assert y == ['dog', 'cat', 'dog', None, 'emu'] and classes == ['cat', 'dog', 'emu'] and notes == ''


@pytest.mark.parametrize('labels', [
    ['01', '1', '2'], ['12345678901234567', '12345678901234568'], ['007', '7', 'NA'],
    [12345678901234567, 12345678901234568]])
def test_integers_that_would_be_one_number_are_classes(labels):
    y, classes, _ = read(labels)
    stated = sorted({str(label) for label in labels} - {'NA'})
    assert classes == stated and y == [str(label) if label != 'NA' else None for label in labels]


def test_why_integers_are_classes_is_told():
    _, _, notes = read(['01', '1', '2'])
    assert 'the labels 01 and 1 would be one number: all are read as names of classes' in notes


def test_leading_zeros_alone_are_no_trouble():
    assert read(['01', '02', '12'])[:2] == ([1, 2, 12], None)


def test_na_among_texts_is_a_class():
    """util/tasks.py says so, and names the texts among numbers: see test_tasks.py."""
    y, classes, _ = read(['de', 'NA', 'fr', 'NA'])
    assert y == ['de', 'NA', 'fr', 'NA'] and classes == ['NA', 'de', 'fr']


def test_a_text_among_numbers_makes_all_labels_names():
    numbers = [f'{value:.3f}' for value in np.random.default_rng(0).normal(size=100)]
    numbers[41] = '<0.01'
    _, classes, _ = read(numbers[:30], numbers[30:])
    assert '<0.01' in classes and len(classes) == len(set(numbers))


def test_as_many_texts_as_numbers_are_classes_without_a_word():
    assert read(['0', '1', 'x', 'y'])[1:] == (['0', '1', 'x', 'y'], '')
    assert 'numbers' not in read(['NA', 'NA', 'NA', 'x', '1'])[2]


def test_labels_that_are_not_there(tmp_path):
    """NA is no label among numbers, and a class among text, where it may be Namibia."""
    for labels, want in (('1.5 NA 2', [1.5, None, 2]), ('de NA fr', ['de', 'NA', 'fr'])):
        (tmp_path / 'a.csv').write_text('x,y\n' + ''.join(f'{i},{v}\n' for i, v in enumerate(labels.split())))
        assert opened(tmp_path, tmp_path / 'a.csv', label_column='y').labels([0, 1, 2]) == want


def test_names_of_classes_are_counted_and_not_averaged(tmp_path):
    lines = ['x,y', *[f'{i * i % 97},{i // 2}h' for i in range(60)], '3,4h']
    (tmp_path / 'a.csv').write_text('\n'.join(lines) + '\n')
    d = open_dataset(str(tmp_path / 'a.csv'), label_column='y', data_dir=str(tmp_path / 'datasets'))
    assert summary(d)[-1] == "labels on 61 rows: 30 classes; the most frequent is '4h', with 3 rows"
