"""Tests import the rooms of the project, and run its scripts: `run('pretrain.py', '--lr=1')`."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # threads that spin make a busy machine crawl
import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import data  # noqa: E402
from configurator import find_knobs  # noqa: E402

DATA_KNOBS = {name: default for name, (default, _) in find_knobs(vars(data))[0].items()}  # of data.py
SHARED = ROOT.parent / 'shared' / 'data'
torch.set_num_threads(2)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """
    run(script, *options) runs a script's main in an empty folder -> its stdout and stderr.
    It checks the exit status.
    """
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)

    def call(script, *options, status=0):
        monkeypatch.setattr(sys, 'argv', [script, *map(str, options)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / script), run_name='__main__')
        except SystemExit as end:
            code = end.code
        done = capsys.readouterr()
        assert code == status, f'{script} {options}: {code}\n{done.out}\n{done.err}'
        return SimpleNamespace(stdout=done.out, stderr=done.err)
    yield call
    for s, handler in handlers.items():
        signal.signal(s, handler)


@pytest.fixture
def two_processes(tmp_path):
    """two_processes(script, *options) runs a script in the same folder under torchrun, on two gloo processes."""
    def call(script, *options):
        torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
        done = subprocess.run([*torchrun, str(ROOT / script), *options], cwd=tmp_path, text=True, capture_output=True,
                              timeout=120, env={**os.environ, 'OMP_NUM_THREADS': '1'})
        assert done.returncode == 0, done.stderr
        return done
    return call


@pytest.fixture
def shared():
    """The real data beside the project; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip('no ../shared/data here')
    return SHARED


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder that stands for the internet; samples there need not have the real files' size and hash."""
    folder = tmp_path / 'mirror'
    folder.mkdir()
    monkeypatch.setenv('SMA_MIRROR', str(folder))
    for name, entry in data.DATASETS.items():
        unchecked = {file: (address, None, None) for file, (address, _, _) in entry.get('files', {}).items()}
        monkeypatch.setitem(data.DATASETS, name, {**entry, 'files': unchecked} if unchecked else entry)
    return folder
