"""errors.py: how a script ends."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from util.errors import UserError, fail, is_out_of_memory, nearest, printable, run_cli


def test_a_user_error_is_one_printable_line():
    with pytest.raises(UserError) as end:
        fail('no file\n\x1b[31m')
    assert str(end.value) == 'no file \\x1b[31m'
    assert printable('a\tb\nc\x00\udcff') == 'a\tb\nc\\x00\\udcff'


def test_the_nearest_name():
    assert nearest('guidd', ['random', 'guided']) == 'guided'
    assert nearest('guidd', []) == 'none'


def ends(main, capsys):
    """What a script prints to stderr when it ends with status 2."""
    with pytest.raises(SystemExit) as end:
        run_cli(main)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_script_ends_in_one_line_and_status_2(capsys):
    assert ends(lambda: fail('lower --lr'), capsys) == 'error: lower --lr\n'


def test_the_error_lines_of_several_processes_do_not_mix():
    """Without Python's buffer too, the line is written in one piece: here each piece is a packet of its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    code = "from util.errors import fail, run_cli; run_cli(lambda: fail('lower --lr'))"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, stderr=theirs,
                          env={**os.environ, 'PYTHONUNBUFFERED': '1'})
    assert done.returncode == 2 and ours.recv(100) == b'error: lower --lr\n'


@pytest.mark.parametrize('error', [
    torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB.\nOf the allocated memory ..'),
    RuntimeError('MPS backend out of memory (MPS allocated: 1 GB)'), MemoryError(),
    RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')])
def test_a_lack_of_memory_names_the_knobs_that_help(capsys, error):
    def main():
        raise error
    line = ends(main, capsys)
    assert line.count('\n') == 1 and line.startswith('error: not enough memory')
    for knob in ('--accumulation', '--batch_size', '--decode_pieces'):
        assert knob in line


@pytest.mark.parametrize('size', [2 ** 50, 2 ** 62])
def test_a_tensor_too_large_for_this_machine_is_a_lack_of_memory(size):
    with pytest.raises(RuntimeError) as error:
        torch.empty(size)
    assert is_out_of_memory(error.value)


def test_other_errors_keep_their_traceback():
    def main():
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')
    with pytest.raises(RuntimeError, match='mat1'):
        run_cli(main)


@pytest.mark.slow
def test_a_terminal_that_is_not_utf8_gets_escapes(tmp_path):
    """A model's walk has blocks in it, and a user's own text may have anything."""
    (tmp_path / 'a.txt').write_text('café 𝄞\n' * 40)
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0'}
    for command, shown in ((['model.py'], '\\u2588'), (['data.py', 'a.txt'], 'caf\\xe9 \\U0001d11e')):
        done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], cwd=tmp_path, text=True,
                              capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
