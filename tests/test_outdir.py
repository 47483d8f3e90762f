"""The folder of a run: one writer, a log of whole lines, and earlier runs that are never lost."""

import json
import math
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import ROOT

from util.errors import UserError
from util.outdir import OutputDir
from util.runtime import Run

MAIN = Run(torch.device('cpu'))
OTHER_RANK = Run(torch.device('cpu'), rank=1, world=2)


def test_a_folder_has_one_writer(tmp_path):
    code = f"""if 1:
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        import torch
        from util.outdir import OutputDir
        from util.runtime import Run
        out = OutputDir({str(tmp_path / 'out')!r}, 'pretrain.py', Run(torch.device('cpu')))
        print('mine', flush=True)
        time.sleep(60)"""
    other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == 'mine\n'
    with pytest.raises(UserError, match='another run'):
        OutputDir(tmp_path / 'out', 'pretrain.py', MAIN)
    OutputDir(tmp_path / 'out', 'pretrain.py', OTHER_RANK)  # ranks are one run
    other.kill()  # -9
    other.wait()
    out = OutputDir(tmp_path / 'out', 'pretrain.py', MAIN)
    assert out.lock_file and os.listdir(tmp_path / 'out') == ['.lock']
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot write'):
        OutputDir(tmp_path / 'file/out', 'pretrain.py', MAIN)


def test_the_two_stages_do_not_share_a_folder(tmp_path):
    out = OutputDir(tmp_path / 'out', 'pretrain.py', MAIN)
    out.lock_file.close()
    with pytest.raises(UserError, match='belongs to pretrain.py'):
        OutputDir(tmp_path / 'out', 'finetune.py', MAIN)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert OutputDir('~/runs', 'pretrain.py', MAIN).path == tmp_path / 'runs'


def test_the_log_is_json_and_is_shortened_whole(tmp_path, monkeypatch):
    out = OutputDir(tmp_path, 'pretrain.py', MAIN)
    path = tmp_path / 'log.jsonl'
    for step in range(5):
        out.log(step=step, loss=math.nan if step == 1 else 1.5)
    with open(path, 'a') as f:
        f.write('{"step": 5, "lo')  # killed here
    out.remove_log_entries(lambda entry: entry['step'] >= 3)
    strict = partial(json.loads, parse_constant=lambda name: pytest.fail(name))
    assert [strict(line) for line in path.read_text().splitlines()] == [
        {'step': 0, 'loss': 1.5}, {'step': 1, 'loss': None}, {'step': 2, 'loss': 1.5}]
    before = path.read_text()

    def full_disk(handle):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(UserError, match='No space left'):
        out.remove_log_entries(lambda entry: True)
    assert path.read_text() == before and sorted(os.listdir(tmp_path)) == ['.lock', 'log.jsonl']


def test_an_earlier_run_moves_when_the_new_one_has_saved(tmp_path):
    """Its log lines wait until then; a save that fails leaves the earlier run in its place."""
    weights = {'w': torch.zeros(2)}
    first = OutputDir(tmp_path, 'pretrain.py', MAIN)
    first.log(step=1)
    first.save('last.pt', dict(model=weights))
    first.lock_file.close()
    files = {name: (tmp_path / name).read_bytes() for name in ('last.pt', 'log.jsonl')}

    def untouched(folder):
        return all((folder / name).read_bytes() == content for name, content in files.items())
    second = OutputDir(tmp_path, 'pretrain.py', MAIN)
    second.keep_earlier_run()
    second.remove_log_entries(lambda entry: True)
    second.log(step=1, loss=0.5)
    with pytest.raises(UserError, match='not finite'):
        second.save('last.pt', dict(model={'w': torch.full((2,), torch.nan)}))
    assert untouched(tmp_path)
    second.save('last.pt', dict(model={'w': torch.ones(2)}))
    assert untouched(tmp_path / 'previous-1')
    assert json.loads((tmp_path / 'log.jsonl').read_text()) == {'step': 1, 'loss': 0.5}
    assert not list(tmp_path.glob('*.new'))
