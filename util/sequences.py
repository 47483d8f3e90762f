"""Byte sequences: lines of text, SMILES, FASTA records, windows of a text."""

import itertools
import math

from util.errors import fail
from util.files import LONGEST, open_lines


def lines(path, kind, meta):
    """One sequence a line; of SMILES lines the first word (a name may follow). Blank lines are left out."""
    for line in open_lines(path):
        words = line.split()
        if words:
            yield line.rstrip(b'\r\n') if kind == '.txt' else words[0]
        else:
            meta['left_out']['blank lines'] += 1


def fasta(path, meta, shortest=1, longest=math.inf):
    """Header lines start with '>'; a sequence may run over several lines; a final '*' (stop) is dropped."""
    record = None  # until the first header
    for line in itertools.chain(open_lines(path), [b'>']):
        line = line.strip()
        if line.startswith(b'>'):
            sequence = bytes(record or b'').rstrip(b'*')
            if shortest <= len(sequence) <= longest:
                yield sequence
            elif record is not None:
                why = f'sequences of less than {shortest} or more than {longest} residues'
                meta['left_out'][why if sequence else 'empty sequences'] += 1
            record = bytearray()
        elif line and record is None:
            fail(f'{path} does not look like FASTA: its first line is no ">" header')
        elif line:
            record += line
            if len(record) > LONGEST:
                fail(f'{path} has a record of more than {LONGEST:,} bytes (LONGEST in util/files.py)')


def windows(chunks, size):
    """Lines, in chunks, joined again and cut into windows of `size` bytes, never inside a UTF-8 character."""
    rest = b''
    for chunk in chunks:
        if not isinstance(chunk, list) or chunk and not isinstance(chunk[0], bytes):
            fail(f'window={size}: only lines of text can be joined')
        text, at = rest + b'\n'.join(chunk) + b'\n', 0
        while len(text) - at > size:
            # a character's later bytes are 10xxxxxx: step back, by 3 at most, to one that starts a character
            end = next((e for e in range(at + size, at + size - 4, -1) if text[e] & 0xC0 != 0x80), at + size)
            yield text[at:end]
            at = end
        rest = text[at:]
    if rest.strip():
        yield rest.rstrip(b'\n')
