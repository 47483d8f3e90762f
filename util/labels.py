"""Labels as a file has them (numbers, text, or none) -> one float64 a row, and the names of text classes."""

import math
import re

import numpy as np

from util.cells import number

INTEGER = re.compile(r'[+-]?[0-9]+')


class Labels:
    """
    The labels of a data set, in the order of its rows. are_folders: they are the names of folders, each of
    which is a class, even if it is called 7 or none.
    """

    def __init__(self, are_folders=False):
        self.are_folders = are_folders
        self.code_of = {}  # label -> its number in the order of first use: 11 million labels take little memory
        self.codes = []  # (k,) int32 of each chunk

    def add(self, labels):
        """labels: a list of numbers and texts; None and '' are no label."""
        codes = [self.code_of.setdefault(label, len(self.code_of)) for label in labels]
        self.codes.append(np.array(codes, np.int32))

    def finish(self):
        """
        -> y (N,) float64, NaN where there is no label; the names of text classes or None; notes for the user

        If all labels are numbers, so is y, and a cell like NA is no label, which is told. Otherwise labels are
        classes, numbered in the sorted order of their names, and NA is one of them: it may be Namibia.
        (util/tasks.py says so, and which labels are text where most are numbers.)
        """
        codes = np.concatenate(self.codes)
        stated = {}  # label -> the number that it spells, NaN for NA, None for text
        for label in self.code_of:
            if label not in (None, ''):
                stated[label] = spelled_number(label)
        if None in stated.values() or self.are_folders:
            classes = stated
            notes = []
        else:
            classes, notes = distinct_integers(stated)
            notes += self.notes_on_missing(stated, codes)

        names = sorted({str(label) for label in classes}) or None
        place = {name: i for i, name in enumerate(names or ())}
        values = np.full(len(self.code_of), np.nan)
        for label, code in self.code_of.items():
            if label in classes:
                values[code] = place[str(label)]
            elif label in stated:
                values[code] = stated[label]
        return values[codes], names, notes

    def notes_on_missing(self, stated, codes):
        """Which words were taken for a missing label, and how often."""
        counts = np.bincount(codes)
        notes = []
        for label, value in stated.items():
            if isinstance(label, str) and math.isnan(value):
                notes.append(f'{counts[self.code_of[label]]:,} labels say {label!r}, which counts as no label')
        return notes


def spelled_number(label):
    """The number that a label spells: NaN if it says that there is none, None if it is text."""
    if isinstance(label, str):
        return number(label)
    return float(label)


def distinct_integers(stated):
    """
    Labels that all spell numbers are classes nevertheless if numbers would mix up two of them: 01 and 1, or two
    identifiers of 17 digits. stated: {label: number} -> the classes, empty if there are none; notes
    """
    first = {}  # number -> the first label that spells it
    for label, value in stated.items():
        digits = str(label).lstrip('+')
        if not INTEGER.fullmatch(digits):
            continue
        other = first.setdefault(value, digits)
        if other != digits:
            classes = [label for label, value in stated.items() if not math.isnan(value)]
            note = f'the labels {other} and {digits} would be one number: all are read as names of classes'
            return set(classes), [note]
    return set(), []
