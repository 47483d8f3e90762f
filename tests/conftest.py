"""Tests import the rooms of the project, and run its scripts as a user would: `run('pretrain.py', '--lr=1')`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / 'shared' / 'data'
torch.set_num_threads(2)


@pytest.fixture
def run(tmp_path):
    """run(script, *options) in an empty folder -> CompletedProcess; checks the exit status."""
    def call(script, *options, status=0, env=None):
        done = subprocess.run([sys.executable, str(ROOT / script), *map(str, options)], cwd=tmp_path, text=True,
                              capture_output=True, env={**os.environ, **(env or {})}, timeout=300)
        assert done.returncode == status, f'{script} {options}: {done.returncode}\n{done.stdout}\n{done.stderr}'
        return done
    return call


@pytest.fixture
def shared():
    """The real data beside the project; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip('no ../shared/data here')
    return SHARED
