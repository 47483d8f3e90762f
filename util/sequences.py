"""Byte sequences: lines of text, SMILES, FASTA records, windows of a text."""

import math
import re

from util.errors import fail
from util.files import LONGEST, open_lines

# what is unusual in the sequence of a protein: (what it is called, a pattern that finds it)
UNUSUAL = (
    ('lower-case letters, which are other inputs than capitals', re.compile(rb'[a-z]')),
    ('gaps (- or .), which are kept', re.compile(rb'[-.]')),
    ('a * before their end, which is kept', re.compile(rb'\*')),
    ('characters that are no letters', re.compile(rb'[^A-Za-z*.-]')),
)
# atoms in brackets, atoms without, and the signs of bonds, branches and rings (OpenSMILES)
SMILES = re.compile(rb'(\[[^\]]+\]|Br|Cl|[BCNOPSFIbcnops*]|[-=#$:/\\.()%0-9~>])+')
ATOM = re.compile(rb'[A-Za-z*]')


def read_lines(path, meta):
    """Yields one sequence a line. Blank lines are left out, and counted."""
    for line in open_lines(path):
        if line.strip():
            yield line.rstrip(b'\r\n')
        else:
            meta['left_out']['blank lines'] += 1


def read_smiles(path, meta):
    """
    Yields the first word of each line: a name may follow. A header in the first line is left out, and so are
    blank lines and comments (#). Words that are no SMILES are counted in a note.
    """
    is_first = True
    n_others = 0
    first_other = ''
    for line_number, line in enumerate(open_lines(path), 1):
        words = line.split()
        if not words:
            meta['left_out']['blank lines'] += 1
            continue
        word = words[0]
        is_smiles = SMILES.fullmatch(word) is not None and ATOM.search(word) is not None
        if is_first and is_header(word, is_smiles):
            meta['notes'].append(f'the first line, {shown(line)}, is a header and no molecule')
            is_first = False
            continue
        if word.startswith(b'#'):  # the sign of a bond, with which no SMILES begins
            meta['left_out']['lines that begin with #'] += 1
            continue
        is_first = False
        if b',' in word:
            fail(f'{path}, line {line_number}: {shown(word)} has a comma, which no SMILES has: separate a name '
                 'by a space, or call the file .csv')
        if not is_smiles:
            n_others += 1
            if n_others == 1:
                first_other = f'line {line_number}, {shown(word)}'
        yield word
    if n_others:
        meta['notes'].append(f'{n_others:,} lines do not begin with a SMILES: {first_other} for one')


def is_header(word, is_smiles):
    """Whether the first word of a file of SMILES names its column."""
    if b'smiles' in word.lower():
        return True
    return not is_smiles and word.replace(b'_', b'').isalpha()


def shown(line):
    """The start of a line, for a message."""
    return repr(line.strip()[:60].decode(errors='replace'))


def read_fasta(path, meta, shortest=1, longest=math.inf):
    """
    Yields the sequences of a FASTA file that have `shortest` to `longest` residues; the others are counted.

    A record begins with a line '>'; its sequence may run over several lines. A final '*' (stop) is dropped.
    What is unusual in the sequences is counted in a note.
    """
    counts = dict.fromkeys([what for what, _ in UNUSUAL], 0)
    n = 0
    for sequence in fasta_records(path, meta):
        sequence = sequence.rstrip(b'*')
        if not sequence:
            meta['left_out']['empty sequences'] += 1
            continue
        if not shortest <= len(sequence) <= longest:
            why = f'sequences of less than {shortest} or more than {longest} residues'
            meta['left_out'][why] += 1
            continue
        n += 1
        for what, pattern in UNUSUAL:
            if pattern.search(sequence):
                counts[what] += 1
        yield sequence
    for what, count in counts.items():
        if count:
            meta['notes'].append(f'{count:,} of {n:,} sequences have {what}')


def fasta_records(path, meta):
    """Yields the sequence of each record, without line ends and spaces."""
    record = None  # until the first header
    n_spaced = 0
    for line in open_lines(path):
        line = line.strip()
        if line.startswith(b'>'):
            if record is not None:
                yield bytes(record)
            record = bytearray()
            continue
        if not line:
            continue
        if record is None:
            fail(f'{path} does not look like FASTA: its first line is no ">" header')
        residues = b''.join(line.split())
        n_spaced += len(residues) < len(line)
        record += residues
        if len(record) > LONGEST:
            fail(f'{path} has a record of more than {LONGEST:,} bytes (LONGEST in util/files.py)')
    if record is not None:
        yield bytes(record)
    if n_spaced:
        meta['notes'].append(f'spaces inside {n_spaced:,} lines of sequences are left out')


def windows(chunks, size):
    """Lines, in chunks, joined again and cut into windows of `size` bytes, never inside a UTF-8 character."""
    rest = b''
    for chunk in chunks:
        if not isinstance(chunk, list) or (chunk and not isinstance(chunk[0], bytes)):
            fail(f'window={size}: only lines of text can be joined')
        text = rest + b'\n'.join(chunk) + b'\n'
        begin = 0
        while len(text) - begin > size:
            end = character_start(text, begin + size)
            yield text[begin:end]
            begin = end
        rest = text[begin:]
    if rest.strip():
        yield rest.rstrip(b'\n')


def character_start(text, at):
    """The first byte of the UTF-8 character that `at` is in: the others are 10xxxxxx, and three at most."""
    for start in range(at, at - 4, -1):
        if text[start] & 0xC0 != 0x80:
            return start
    return at  # this is not UTF-8
