"""tensors.py: files of tensors that claim more than they hold. Damaged .pt files: see test_checkpoint.py."""

import json

import pytest
import torch
from test_parity import TINY

from util.tensors import read_pt, read_safetensors


def safetensors(path, header, numbers=b''):
    """A file with this header, a dict or the bytes that stand for it."""
    if isinstance(header, dict):
        header = json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, 'little') + header + numbers)
    return path


def test_both_formats_hold_the_same_tensors():
    ours = read_safetensors(TINY / 'model.safetensors')
    theirs = read_pt(TINY / 'pytorch_model.bin')
    assert ours and set(ours) <= set(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, theirs[name])


def test_a_tensor_comes_as_it_was_written(tmp_path):
    x = torch.arange(6, dtype=torch.float64).view(2, 3)
    header = {'__metadata__': {'format': 'pt'}, 'x': dict(dtype='F64', shape=[2, 3], data_offsets=[0, 48])}
    found = read_safetensors(safetensors(tmp_path / 'a.safetensors', header, x.numpy().tobytes()))
    assert list(found) == ['x'] and torch.equal(found['x'], x)


def test_a_header_longer_than_the_file(tmp_path):
    path = tmp_path / 'a.safetensors'
    path.write_bytes((2 ** 60).to_bytes(8, 'little') + b'{}')
    with pytest.raises(ValueError, match='longer than the file'):
        read_safetensors(path)


def test_tensors_that_share_their_numbers_are_refused(tmp_path):
    """A small file could fill any memory."""
    header = {f'x{i}': dict(dtype='F32', shape=[1000], data_offsets=[0, 4000]) for i in range(1000)}
    path = safetensors(tmp_path / 'a.safetensors', header, bytes(4000))
    with pytest.raises(ValueError, match='4,000,000 bytes, of which 4,000 are there'):
        read_safetensors(path)


@pytest.mark.parametrize('entry', [
    dict(dtype='F32', shape=[3], data_offsets=[0, 8]), dict(dtype='F32', shape=[10 ** 12], data_offsets=[0, 8]),
    dict(dtype='F4', shape=[2], data_offsets=[0, 8]), dict(dtype='F32', shape=[2], data_offsets=[8, 16])])
def test_an_entry_that_does_not_fit_its_numbers(tmp_path, entry):
    path = safetensors(tmp_path / 'a.safetensors', {'x': entry}, bytes(8))
    with pytest.raises((ValueError, RuntimeError, KeyError)):
        read_safetensors(path)
