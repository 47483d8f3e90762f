"""Tests import the rooms of the project, and run its scripts: `run('pretrain.py', '--lr=1')`."""

import os
import resource
import runpy
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # threads that spin make a busy machine crawl
os.environ.setdefault('OMP_NUM_THREADS', '1')  # in tests and in the processes that they start: one rounding
REAL = os.environ.pop('SMA_MIRROR', None)  # a folder of real files; what tests do does not depend on it
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from util import optim  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True)
def no_waits_for_the_disk(monkeypatch):
    """What a test writes need not survive a power cut: hundreds of flushes, of 8 ms each, are left out."""
    monkeypatch.setattr(os, 'fsync', lambda handle: None)


@pytest.fixture
def file_limit():
    """with file_limit(1000): no file grows past 1,000 bytes, which ends in an OSError as on a full disk."""
    @contextmanager
    def limited(size):
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    return limited


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
    """
    two_processes(script, *options) runs a script in the same folder under torchrun, on two gloo processes.
    """
    def call(script, *options):
        done = subprocess.run([*TORCHRUN, str(ROOT / script), *options], cwd=tmp_path, text=True,
                              capture_output=True, timeout=120, env={**os.environ, 'OMP_NUM_THREADS': '1'})
        assert done.returncode == 0, done.stderr
        return done
    return call


@pytest.fixture
def read_picture():
    """read_picture(path): the pixels (height, width, 3) of a PNG that has more than one colour."""
    image = pytest.importorskip('matplotlib.image')

    def read(path):
        pixels = image.imread(path)[..., :3]
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1
        return pixels
    return read


@pytest.fixture
def real():
    """
    real('BBBP.csv') is the path of a real file, found where users' files are: in the folder that SMA_MIRROR
    named when pytest started, at any depth. The test is skipped, by the file's name, where there is none.
    """
    def find(name):
        found = next(Path(REAL).resolve().rglob(name), None) if REAL else None
        if found is None:
            pytest.skip(f'no {name} in SMA_MIRROR')
        return found
    return find


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder that stands for the internet; samples there need not have the real files' size and hash."""
    from samples import unchecked
    folder = tmp_path / 'mirror'
    folder.mkdir()
    monkeypatch.setenv('SMA_MIRROR', str(folder))
    unchecked(monkeypatch)
    return folder


class Copies(TorchDispatchMode):
    """Counts the tensors that come from the host to another device: each copy would wait for a GPU."""
    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            self.n += len({t.device for t in (*args, result) if torch.is_tensor(t)}) > 1
        return result


@pytest.fixture
def copies(run, monkeypatch):
    """
    copies(script, *options): how many tensors come to the device in each optimiser step but the first of a run.
    The device is 'meta', which computes no numbers; asking it for one, as .item() and .nonzero() do,
    is an error.
    """
    update = optim.update

    # the real one decides on the GPU which steps to skip, by a kernel that there is not for meta
    def scaler(run):
        off = torch.amp.GradScaler(enabled=False)
        off.fixed_scale = None
        return off

    def call(script, *options):
        seen, mode = [], Copies()

        def counting(make):  # what is made of Python numbers is a copy too, which the mode cannot see
            def made(*args, **kwargs):
                t = make(*args, **kwargs)
                mode.n += t.device.type == 'meta'
                return t
            return made
        for owner, name in ((torch, 'tensor'), (torch, 'as_tensor'), (torch.Tensor, 'new_tensor')):
            monkeypatch.setattr(owner, name, counting(getattr(owner, name)))

        def counted(*args):
            norm = update(*args)
            seen.append(mode.n)
            return norm if len(seen) < 5 else sys.exit(0)
        monkeypatch.setattr(optim, 'update', counted)
        monkeypatch.setattr(optim, 'make_scaler', scaler)
        # reads all inputs, before the first step
        monkeypatch.setattr('util.baseline.constant_loss', lambda *args: 1.0)
        with mode:
            run(script, *options, '--device=meta', '--max_steps=9')
        return [b - a for a, b in zip(seen, seen[1:])]
    return call
