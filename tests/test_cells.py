"""util/cells.py: what a cell of a table says."""

import math

import pytest

from util.cells import advice_on_amounts, count_numbers, is_amount, is_date, number


@pytest.mark.parametrize('cell, value', [
    ('1.5', 1.5), (' -3 ', -3), ('+2e-3', 0.002), ('.5', 0.5), ('007', 7), ('-0.0', 0), ('1e999', math.inf),
    ('Infinity', math.inf), ('-inf', -math.inf), ('9007199254740992', 2 ** 53),
    ('1.2345678901234567e19', 1.2345678901234567e19),
    ('0.12345678901234567890', 0.12345678901234568), ('0' * 5000 + '1', 1)])
def test_numbers(cell, value):
    assert number(cell) == value


@pytest.mark.parametrize('cell', [
    '', ' ', 'NA', 'nan', '-nan', 'NaN', 'NULL', 'null', '?', '#N/A', '<NA>', 'None', '\\N'])
def test_missing_numbers(cell):
    assert math.isnan(number(cell))


@pytest.mark.parametrize('cell', [
    'a', '1_11', '11_1', '0x1F', '1,5', '5%', '$3', '<0.01', '1 234', '-', '.', 'True', '#DIV/0!', '−1',
    '1.2.3',
    '12345678901234567', '12345678901234568', '-12345678901234567', '9' * 400 + 'a'])
def test_text(cell):
    assert number(cell) is None


def test_different_texts_never_become_one_number():
    """Of identifiers as laboratories and databases write them."""
    for a, b in (('1_11', '11_1'), ('1_2', '12'), ('12345678901234567', '12345678901234568'),
                 ('1_000', '1000'), ('36893488147419103232', '36893488147419103233')):
        values = {number(a), number(b)}
        assert values == {None} or None in values


def test_count_numbers():
    assert count_numbers(['1', 'NA', '', 'x', '2.5', '1_1']) == (2, 2)


@pytest.mark.parametrize('text', [
    '2023-01-31', '31.01.2023', '1/31/23', '2023/01/31 12:30:00', '2023-01-31T12:30:00Z', '31-Jan-2023',
    'Jan 31, 2023', 'Jan-23',
    '2023-01', '12:30', '7:05:09 PM', '2023-Q1', 'Q4 2022', '2023-W05', '3 days 02:00:00'])
def test_dates(text):
    assert is_date(text) and not is_amount(text)


@pytest.mark.parametrize('text', [
    '0,5', '-1,5e-3', '1,234', '1.234,50', '1 234', '5%', '$3.50', '3 €', '−0.5', "1'234.5",
    "'5", '(5.00)', '1.0D+05', '="5"'])
def test_amounts(text):
    assert is_amount(text) and not is_date(text)


@pytest.mark.parametrize('text', [
    'red', '18-25', '1_11', '1.2.3', 'A1', '12345678901234567', '01', 'octane 95', 'decile 10', 'market 5',
    '192.168.0.1', '10:30 Elm', '3D', ''])
def test_names_are_neither_dates_nor_amounts(text):
    assert not is_date(text) and not is_amount(text)


def test_advice_is_for_most_texts():
    assert advice_on_amounts([]) == ''
    assert advice_on_amounts(['2023-01-01', 'unknown']) == ''
    assert 'dates' in advice_on_amounts(['2023-01-01', '2023-01-02', 'unknown'])
    assert '1234.5' in advice_on_amounts(['5%', '7%', 'unknown'])
