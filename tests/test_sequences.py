"""util/sequences.py: lines of text, SMILES, FASTA, windows of a text."""

import gzip
import lzma

import numpy as np
import pytest
from reading import fails, read, sequences
from test_data import opened

from util.sequences import character_start


@pytest.mark.parametrize('ending, text, want, left_out', [
    ('.txt', b'CCO\nc1ccc\r\n\nN\n  \nC C', [b'CCO', b'c1ccc', b'N', b'C C'], {'blank lines': 2}),
    ('.smi', b'CCO ethanol\nC#N\tx\n', [b'CCO', b'C#N'], {}),
    ('.fasta', b'\n>one\nMKV\nLL*\n>empty\n>two x\n\nACD\n', [b'MKVLL', b'ACD'], {'empty sequences': 1})])
def test_sequences(tmp_path, ending, text, want, left_out):
    for packed, pack in (('', bytes), ('.gz', gzip.compress), ('.xz', lzma.compress)):
        (tmp_path / f'a{ending}{packed}').write_bytes(pack(text))
        d = opened(tmp_path, tmp_path / f'a{ending}{packed}')
        assert sequences(d) == want and d.meta['left_out'] == left_out and np.isnan(d.y).all()


def read_bytes(path, content):
    path.write_bytes(content)
    return read(path)


@pytest.mark.parametrize('name, content, want', [
    ('a.txt', b'abc\nd\n', [b'abc', b'd']), ('a.smi', b'CCO ethanol\n', [b'CCO']),
    ('a.fasta', b'>a\nMKV\n', [b'MKV'])])
def test_a_byte_order_mark_is_no_part_of_a_sequence(tmp_path, name, content, want):
    table = read_bytes(tmp_path / name, b'\xef\xbb\xbf' + content)
    assert table.x == want and table.notes == '' and table.left_out == {}


# ---- SMILES

@pytest.mark.parametrize('header', [
    b'SMILES\tName', b'smiles', b'canonical_smiles id', b'#SMILES', b'\xef\xbb\xbfSMILES ID', b'structure',
    b'smi id'])
def test_a_header_is_no_molecule(tmp_path, header):
    table = read_bytes(tmp_path / 'a.smi', header + b'\nCCO\tethanol\nCCN\tamine\n')
    assert table.x == [b'CCO', b'CCN'] and 'is a header and no molecule' in table.notes and table.left_out == {}
    assert read_bytes(tmp_path / 'a.txt', b'SMILES\nCCO\n').x == [b'SMILES', b'CCO']  # it is what the lines say


@pytest.mark.parametrize('content, word', [
    (b'CCO,ethanol\nCC,ethane\n', "line 1: 'CCO,ethanol' has a comma, which no SMILES has"),
    (b'smiles,name\nCCO,ethanol\n', 'line 2'),
    (b'CCO\nCC\x1b[31m,x\n', r"line 2: 'CC\x1b[31m,x'")])
def test_a_comma_is_in_no_smiles(tmp_path, content, word):
    (tmp_path / 'a.smi').write_bytes(content)
    fails(word, read, tmp_path / 'a.smi')
    fails('call the file .csv', read, tmp_path / 'a.smi')


def test_what_is_no_smiles_is_told(tmp_path):
    good = [b'C[C@@H](N)C(=O)[O-]', b'c1cc(Cl)ccc1Br', b'F/C=C\\F', b'[Na+].[Cl-]', b'C%12CC%12', b'CC>>CO',
            b'[13CH4]', b'*C']
    content = b'\n'.join([b'N', *good, b'hello', b'CX', b'N'])
    table = read_bytes(tmp_path / 'a.smi', content)
    assert table.x == content.split(b'\n')
    assert table.notes == "2 lines do not begin with a SMILES: line 10, 'hello' for one"


def test_comments_and_numbers_are_no_molecules(tmp_path):
    table = read_bytes(tmp_path / 'a.smi', b'# my molecules\nCCO\n#CCN\n')
    assert table.x == [b'CCO'] and table.left_out == {'lines that begin with #': 2}
    table = read_bytes(tmp_path / 'b.smi', b'1 CCO\n2 CCN\n')
    assert table.notes == "2 lines do not begin with a SMILES: line 1, '1' for one"
    table = read_bytes(tmp_path / 'd.smi', b'# my molecules\nsmiles name\nCCO a\n')
    assert table.x == [b'CCO'] and 'is a header' in table.notes
    table = read_bytes(tmp_path / 'c.smi', b'\nSMILES\nCCO\n')  # a blank line before the header
    assert table.x == [b'CCO'] and 'is a header and no molecule' in table.notes


def test_commas_after_the_smiles_are_part_of_a_name(tmp_path):
    assert read_bytes(tmp_path / 'a.smi', b'CCO ethanol, pure\nCC |$R1,R2$|\n').x == [b'CCO', b'CC']


# ---- FASTA

def test_what_is_unusual_in_a_protein_is_told(tmp_path):
    assert '1 of 1 sequences have characters that are no letters' in read_bytes(tmp_path / 'a.fa',
                                                                                b'>a\nMK1V').notes
    records = [b'MKTAYIAK\nQRQISFVK*', b'mktayiakqr', b'MKT--AYI..QR', b'MKT*AYI', b'MKTAY IAKQR\tLV', b'MKXBZ',
               b'MKTayi-*']
    content = b''.join(b'>%d\n%s\n' % (i, record) for i, record in enumerate(records))
    table = read_bytes(tmp_path / 'a.fasta', content)
    assert table.x == [b'MKTAYIAKQRQISFVK', b'mktayiakqr', b'MKT--AYI..QR', b'MKT*AYI', b'MKTAYIAKQRLV',
                       b'MKXBZ', b'MKTayi-']
    for note in ('spaces inside 1 lines of sequences are left out', '2 of 7 sequences have lower-case letters',
                 '2 of 7 sequences have gaps (- or .)', '1 of 7 sequences have a * before their end'):
        assert note in table.notes
    assert read_bytes(tmp_path / 'a.fasta', b'>a\nMKV*\n>b\nACDX\n').notes == ''


def test_lengths_of_proteins(tmp_path):
    (tmp_path / 'a.fa').write_bytes(b'>a\nMK\n>b\nMKV\n>c\nMKVLA*\n>d\nMKVLAC\n')
    table = read(tmp_path / 'a.fa', shortest=3, longest=5)
    assert table.x == [b'MKV', b'MKVLA']
    assert table.left_out == {'sequences of less than 3 or more than 5 residues': 2}


# ---- windows

def test_windows_lose_nothing_and_cut_no_character(tmp_path):
    text = '\n'.join(('añb€𝄞' * (i % 9)) for i in range(900))
    (tmp_path / 'a.txt').write_text(text)
    parts = sequences(opened(tmp_path, tmp_path / 'a.txt', window=50))
    assert all(len(p) <= 50 for p in parts) and all(len(p) > 46 for p in parts[:-1])
    want = '\n'.join(line for line in text.split('\n') if line.strip())
    assert b''.join(parts).decode() == want.rstrip('\n') and all(p.decode() for p in parts)


def test_character_start():
    text = 'a€b'.encode()  # the euro sign has three bytes
    assert [character_start(text, at) for at in range(5)] == [0, 1, 1, 1, 4]
    assert character_start(b'\x80' * 9, 7) == 7  # no UTF-8
