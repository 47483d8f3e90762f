"""
Random input: success, or one line for the user; never a traceback, and nothing half-written is taken for whole.
`python tests/stress.py fuzz 5` looks for five minutes, the suite for seconds.
"""

import gzip
import io
import json
import math
import os
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from reading import read

import configurator
from configurator import configure
from data import open_dataset
from masking import BLIND, GUIDED, Masking
from model import SMA, SMAConfig
from util.cells import number
from util.checkpoint import load, save
from util.checks import check_masking
from util.errors import UserError

hypothesis = pytest.importorskip('hypothesis')
st = hypothesis.strategies
many = hypothesis.settings(max_examples=int(os.environ.get('FUZZ_EXAMPLES', 40)), deadline=None,
                           suppress_health_check=list(hypothesis.HealthCheck), database=None)


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


FILES = {
    'a.txt': b'hello\nworld and more\n\nx\n' * 3, 'a.smi': b'CCO ethanol\nc1ccccc1\n' * 5,
    'a.fasta': b'>a\nMKV\nLLA\n>b\nAC*\n' * 4, 'a.csv': b'a,b,y\n1,2,0\n3,-4.5,1\n5,6,0\n' + b'1,2,1\n' * 9,
    'a.tsv': b'a\tb\ty\n1\t2\tu\n3\t4\tv\n' * 3,
    'a.json': b'[{"a": 1, "b": [2.5], "y": null}, {"a": 3, "b": 4}]',
    'a.arff': b'@relation r\n@attribute a numeric\n@attribute y {0,1}\n@data\n1,0\n2,1\n?,1\n',
    'a.npz': npz(X=np.arange(24.0).reshape(8, 3), y=np.arange(8)), 'a.npy': npy(np.ones((6, 4, 2), np.float32)),
    'a.csv.gz': gzip.compress(b'a,y\n1,0\n2,1\n' * 5),
    'b.csv': b'sep=;\r\na;b;y\r\n1,5;red;0\r\n-3e-1;blue;1\r\n' + b'1.234;red;1\r\n' * 9,
    'c.csv': b'1,red,0\n2,blue,1\n3,red,0\n',
    'd.csv': b',a,y,,\n0,1_1,0,,\n1,1_2,1,,\n,,,,\n', 'b.tsv': b'a\tb\ty\n"x\t1\tu\ny\t2\tv\nz"\t3\tv\n',
    'a.jsonl': b'{"a": 1, "y": 0}\n{"a": true, "b": "x", "y": [1]}\n{"b": null, "y": 1.5}\n',
    'b.arff': b"@attribute a {x,'y, z'}\n@attribute b numeric\n@attribute y {0,1}\n"
              b"@data\n% note\n'y, z',1,0\nx,2,1\n"}
MARKS = [b'\n', b',', b'"', b'nan', b'1e999', b'\xff\xfe', b'{', b'[[', b'\x00', b'>', '\u2028'.encode(),
         b'\xef\xbb\xbf', b"'", b'%', b';',
         b'\t', b'|', b'\r', b'\x1b[2J', b'1_1', b'12345678901234567', b'2023-01-01', b'1,5', b'*', b'-',
         b'sep=|\n']


def mutated(draw, content):
    """A few bytes changed, cut out, put in or repeated."""
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        end = min(at + draw(st.integers(0, 9)), len(content))
        changed = st.one_of(st.binary(max_size=6), st.just(bytes(content[at:end]) * 3), st.sampled_from(MARKS))
        content[at:end] = draw(changed)
    return bytes(content)


@many
@hypothesis.given(st.data())
def test_files(data):
    name = data.draw(st.sampled_from(sorted(FILES)))
    content = mutated(data.draw, FILES[name])
    knobs = data.draw(st.fixed_dictionaries({}, optional=dict(
        label_column=st.sampled_from(['y', 'a', 'z', '-1']),
        input_column=st.sampled_from(['a', 'a,b', 'X', '']),
        split_column=st.sampled_from(['y', 'b']), window=st.integers(-1, 9),
        drop_column=st.sampled_from(['', 'b', '-2,-3']),
        header=st.booleans(), quotes=st.booleans(), missing=st.just('drop'))))
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, name), Path(folder, 'out')
        file.write_bytes(content)
        try:
            d = open_dataset(str(file), data_dir=str(out), **knobs)
        except UserError as error:
            assert '\n' not in str(error) and str(error).isprintable()
            assert not out.exists() or not list(out.iterdir())
        else:
            d.set_lengths(None)
            x, valid = d.batch(np.arange(min(len(d.y), 4)))
            assert len(x) == min(len(d.y), 4) and torch.isfinite(x.float()).all()
            padded = d.is_bytes and not x.all()  # PAD is 0
            assert (valid is not None) == padded and not np.isinf(d.y).any()


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-10 ** 9, 10 ** 9).map(float)
WRITINGS = {  # how the same table may be written: (ending, delimiter, decimal comma)
    'comma': ('.csv', ',', False), 'semicolon': ('.csv', ';', False), 'decimal comma': ('.csv', ';', True),
    'pipe': ('.csv', '|', False),
    'tab': ('.tsv', '\t', False)}


def as_text(draw, rows, delimiter, decimal_comma):
    """
    A table with the header a, b: some cells in quotation marks, perhaps a delimiter at the end of every line.
    """
    end = draw(st.sampled_from(['', delimiter]))
    lines = [f'a{delimiter}b{end}']
    for row in rows:
        cells = [repr(value) for value in row]
        if decimal_comma:
            cells = [cell.replace('.', ',') for cell in cells]
        if draw(st.booleans()):
            cells = [f'"{cell}"' for cell in cells]
        lines.append(delimiter.join(cells) + end)
    return '\n'.join(lines)


@many
@hypothesis.given(st.data())
def test_a_table_is_the_same_in_each_writing(data):
    rows = data.draw(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=5))
    with tempfile.TemporaryDirectory() as folder:
        for name, (ending, delimiter, decimal_comma) in WRITINGS.items():
            path = Path(folder, f'{name}{ending}')
            path.write_text(as_text(data.draw, rows, delimiter, decimal_comma))
            assert read(path).x == [list(row) for row in rows]
        path = Path(folder, 'a.jsonl')
        path.write_text('\n'.join(json.dumps({'a': a, 'b': b}) for a, b in rows))
        assert read(path).x == [list(row) for row in rows]


@many
@hypothesis.given(st.lists(st.text(st.sampled_from('0123456789_.,-+eE xN/:'), min_size=1, max_size=9),
                           min_size=1, max_size=5))
def test_cells_become_one_number_only_if_they_spell_it(cells):
    """What `number` reads is the number that the digits say: two cells become one only if they are equal."""
    for cell in cells:
        value = number(cell)
        if value is not None and not math.isnan(value) and not math.isinf(value):
            exact = Fraction(cell.strip().replace('E', 'e'))
            assert abs(Fraction(value) - exact) <= abs(exact) / 2 ** 52 + Fraction(1, 10 ** 320)


@pytest.mark.slow
@many
@hypothesis.given(st.lists(st.one_of(st.text(max_size=12), st.builds(
    '--{}={}'.format,
    st.sampled_from(['lr', 'seeds', 'dataset', 'epochs', 'input_column', 'mask', 'resume', 'x']),
    st.one_of(st.text(max_size=9), st.integers().map(str), st.floats().map(str), st.just('()'),
              st.just('9' * 400), st.lists(st.integers()).map(str), st.just('[' * 200)))), max_size=3))
def test_command_lines(argv):
    try:
        config = configure({'__file__': configurator.ROOT / 'finetune.py'}, argv)
    except UserError as error:
        assert '\n' not in str(error) and str(error).isprintable()
    except SystemExit:  # --help
        assert {'-h', '--help'} & {*argv}
    else:
        assert isinstance(config['seeds'], tuple) and isinstance(config['lr'], tuple)


@many
@hypothesis.given(st.data())
def test_masks_and_model(data):
    """
    Rows from one input on, any ratio: the mask has its count and the loss is a number, or the ratio is refused.
    """
    draw = data.draw
    d_raw, n_latent, B = draw(st.integers(0, 2)), draw(st.sampled_from([0, 1, 5])), draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, 12), min_size=B, max_size=B))
    lengths = [max(lengths)] * B if d_raw else lengths
    masks = [name for name in (*GUIDED, *BLIND) if not (name == 'word' and d_raw or name == 'patch')]
    mask = draw(st.sampled_from(masks))
    how = Masking(mask, draw(st.floats(0.0, 1.0)), draw(st.integers(1, 9)))
    torch.manual_seed(draw(st.integers(0, 99)))
    n = max(lengths)
    model = SMA(SMAConfig(d_raw=d_raw, embed_dim=8, seq_len=n, n_layer=2, qk_dim=4, n_head=2, v_dim=8,
                          n_latent=n_latent))
    x = torch.randn(B, n, d_raw) if d_raw else torch.randint(6, 262, (B, n))
    valid = None if d_raw else torch.arange(n) < torch.tensor(lengths)[:, None]
    try:
        check_masking(how, np.array(lengths), d_raw)
    except UserError:
        assert any(round(how.mask_ratio * k) == k for k in lengths) or round(how.mask_ratio * n) == 0
        return
    random_fraction = draw(st.sampled_from([None, torch.tensor(0.5)]))
    loss, hidden = model(x, valid, how, random_fraction=random_fraction)
    loss.sum().backward()
    assert hidden.sum(1).tolist() == [round(how.mask_ratio * k) for k in lengths] and torch.isfinite(loss).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@many
@hypothesis.given(st.data())
def test_checkpoints(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'a.pt')
        torch.manual_seed(0)
        model = SMA(SMAConfig(embed_dim=4, seq_len=3, n_layer=1, qk_dim=2, n_head=1, v_dim=4))
        save(path, dict(model=model.state_dict(), model_args=vars(model.config), config={}, step=2))
        path.write_bytes(mutated(data.draw, path.read_bytes()))
        try:
            found = load(path)
        except UserError as error:
            assert '\n' not in str(error) and str(error).isprintable()
        else:
            is_same = all(torch.equal(found['model'][k], v) for k, v in model.state_dict().items())
            assert is_same and found['step'] == 2
