"""What one cell of a table says: a number, that a number is missing, or text."""

import math
import re

# How tables spell that a number is missing, in lower case: the spellings that pandas.read_csv knows, the ? of
# ARFF, and the \N of MySQL and PostgreSQL.
MISSING = frozenset((
    '', '#n/a', '#n/a n/a', '#na', '-1.#ind', '-1.#qnan', '-nan', '1.#ind', '1.#qnan', '<na>', 'n/a', 'na',
    'nan', 'none', 'null', '?', '\\n'))

LARGEST_EXACT = 2.0 ** 53  # float64 holds every whole number up to this


def number(cell: str) -> float | None:
    """
    The number that a cell spells: NaN if it says that the number is missing, None if it is text.

    Python's float() reads more than a table means. 1_11 is text: else the wells 1_11 and 11_1 would be one
    number. A whole number above 2^53 is an identifier, and text too: float64 would make 12345678901234567 and
    12345678901234568 one number.
    """
    try:
        value = float(cell)
    except ValueError:
        return math.nan if cell.strip().lower() in MISSING else None
    if '_' in cell:
        return None
    if not -LARGEST_EXACT <= value <= LARGEST_EXACT and is_digits(cell):
        return None
    return value


def is_digits(cell: str) -> bool:
    """Whether the cell is digits alone, with or without a sign."""
    return cell.strip().lstrip('+-').isdecimal()


def count_numbers(cells) -> tuple[int, int]:
    """How many cells are numbers, and how many are text. Those of missing numbers are neither."""
    n_numbers = 0
    n_texts = 0
    for cell in cells:
        value = number(cell)
        if value is None:
            n_texts += 1
        elif not math.isnan(value):
            n_numbers += 1
    return n_numbers, n_texts


# -----------------------------------------------------------------------------
# texts that stand for amounts: as categories, they would lose their order

MONTH = (r'(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|'
         r'nov(ember)?|dec(ember)?)')
DATES = re.compile('|'.join((
    r'\d{4}([-/.])\d{1,2}\1\d{1,2}([t ].*)?',  # 2023-01-31, also with a time after it
    r'\d{1,2}([-/.])\d{1,2}\3\d{4}([t ,].*)?',  # 31.01.2023 or 1/31/2023
    r'\d{1,2}([-/])\d{1,2}\5\d{2}([t ,].*)?',  # 1/31/23
    r'\d{4}[-/](0[1-9]|1[0-2])',  # 2023-01
    r'\d{1,2}[-/ .]?' + MONTH + r'[-/ .,]*\d{2,4}.*',  # 31-Jan-2023
    MONTH + r'[-/ .,]+\d{1,4}.*',  # Jan 31, 2023 and Jan-23
    r'\d{4}[- ]?(q[1-4]|w\d{2})|q[1-4][- ]?\d{4}',  # 2023-Q1, 2023-W05, Q1 2023
    r'\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[ap]m)?',  # 12:30
    r'-?\d+ days?( .*)?',  # 3 days 02:00:00
)), re.IGNORECASE)

PLAIN = r'\d+([.,]\d+)?([ed][+-]?\d+)?'
GROUPED = r"\d{1,3}([,.'’ \u00a0\u202f]\d{3})+([.,]\d+)?"  # 1,234.50 and 1.234,50 and 1 234
AMOUNTS = re.compile(rf"""(['(]|=")?[+−-]?[$€£¥]? ?({PLAIN}|{GROUPED}) ?[%$€£¥]?["')]?""", re.IGNORECASE)


def is_date(text: str) -> bool:
    """Whether a text looks like a date or a time of day."""
    return DATES.fullmatch(text.strip()) is not None


def is_amount(text: str) -> bool:
    """Whether a text looks like a number that `number` does not read: 0,5 or 1,234.50 or 5% or $3."""
    return not is_digits(text) and AMOUNTS.fullmatch(text.strip()) is not None


def advice_on_amounts(texts: list[str]) -> str:
    """What to do about texts of which most are dates or amounts. '' where most are neither."""
    n_dates = sum(is_date(text) for text in texts)
    n_amounts = sum(is_amount(text) for text in texts)
    if 2 * n_dates > len(texts):
        return 'holds dates or times: turn them into numbers, such as days since the first one'
    if 2 * n_amounts > len(texts):
        return ('holds numbers that are written in another way: write 1234.5 for 1,234.5 or 1.234,5, and no % '
                'or currency')
    return ''
