"""Device, precision, processes, seeds, signals and the log."""

import gc
import json
import math
import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from util.errors import fail, printable
from util.files import atomic_write

# machine
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere


def set_up(config):
    """Finds device and ranks, and says so. -> namespace: device, dtype, autocast, compile, rank, world"""
    run = SimpleNamespace(rank=int(os.environ.get('RANK', 0)), world=int(os.environ.get('WORLD_SIZE', 1)))
    run.is_main = run.rank == 0
    device = config['device']
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    if device == 'cuda':
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
    try:
        run.device = torch.device(device)
        torch.empty(1, device=run.device)
    except (RuntimeError, AssertionError) as error:
        fail(f'device={config["device"]!r} cannot be used here: {str(error).splitlines()[0]}')
    kind = run.device.type
    if kind == 'cuda':
        torch.cuda.set_device(run.device)
    torch.set_float32_matmul_precision('high')  # TF32 where there is any
    run.dtype = config['dtype']
    if run.dtype == 'auto':
        bf16 = kind == 'cuda' and torch.cuda.is_bf16_supported()
        run.dtype = 'float32' if kind != 'cuda' else 'bfloat16' if bf16 else 'float16'
    if run.dtype not in ('float32', 'bfloat16', 'float16'):
        fail(f'dtype={run.dtype!r}: auto, float32, bfloat16 or float16')
    low = None if run.dtype == 'float32' else getattr(torch, run.dtype)
    run.autocast = (lambda: torch.autocast(kind, low)) if low else nullcontext
    modes = {'none': 'default' * (kind == 'cuda'), 'false': '', 'true': 'default'}  # torch.compile's; '' = off
    run.compile = str(config.get('compile')).lower()
    if run.compile not in (*modes, 'reduce-overhead'):
        fail(f'compile={config["compile"]!r}: true, false or reduce-overhead')
    run.compile = modes.get(run.compile, run.compile)
    if run.world > 1:
        dist.init_process_group('nccl' if kind == 'cuda' else 'gloo')
        sys.excepthook = partial(lost, run)
    name = torch.cuda.get_device_name() if kind == 'cuda' else f'{torch.get_num_threads()} threads'
    print0(run, f'device: {run.device} ({name}), {run.dtype}, {run.world} process(es)'
             + ', compiled' * bool(run.compile))
    return run


def lost(run, kind, error, trace):
    """One line where another process of the run has died; torchrun then ends them all, with a status not 0."""
    if isinstance(error, dist.DistError) or 'gloo' in str(error):
        print(f'error: rank {run.rank} waited for another process, which has died', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def print0(run, text):
    """One line, from one rank; above the progress bar if there is one."""
    if run.rank == 0:
        tqdm.write(printable(text), file=sys.stdout)
        sys.stdout.flush()


def warn(run, text):
    """A warning, if there is one."""
    if text:
        print0(run, f'warning: {text}')


def log_line(path, run, **values):
    """One JSON object a line in log.jsonl; a number that is not finite, which JSON does not know, is null."""
    if run.rank == 0:
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, 'a') as f:
                f.write(json.dumps(values) + '\n')
        except OSError as error:
            fail(f'cannot write {path}: {error.strerror or error}')


def lock_output_dir(folder, run):
    """
    Makes an out_dir this run's own, until its process ends, however it does. Fails if another run writes to
    it, or nobody can: now, not at the first save.
    """
    if run.rank == 0:
        with atomic_write(folder / '.try') as f:
            f.write(bytes(4096))
        (folder / '.try').unlink()
        if os.name == 'posix':
            import fcntl
            run.lock = open(folder / '.lock', 'w')  # noqa: SIM115
            try:
                fcntl.flock(run.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fail(f'another run is writing to {folder}: wait for its end, or choose another --out_dir')
            except OSError:  # a disk over the network that knows no locks
                pass


def rewrite_log(path, run, keep):
    """Takes out of a log.jsonl the entries for which keep(entry) is false, at once or not at all."""
    if run.rank == 0 and path.exists():
        lines = [s for s in path.read_text().splitlines() if s.endswith('}')]  # the last may be half written
        with atomic_write(path, 'w') as f:
            f.writelines(s + '\n' for s in lines if keep(json.loads(s)))


def seed_all(*numbers):
    """Seeds torch from several integers, mixed (torch's CPU generator looks at 32 bits only)."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


class Stop:
    """
    Ctrl-C and SIGTERM: finish the step, save, leave. A second Ctrl-C leaves at once. Several processes leave
    also when the torchrun that started them is gone.
    """

    def __init__(self):
        self.signal, self.parent = None, os.getppid()
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self.catch)

    def catch(self, number, frame):
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def asked(self, run, step, every):
        """Whether to stop after this step. Several processes agree on it, once in `every` steps."""
        if run.world == 1:
            return self.signal is not None
        if (step + 1) % every:
            return False
        orphan = os.getppid() != self.parent
        flag = torch.tensor(float(self.signal is not None or orphan), device=run.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)


def sum_ranks(t, run):
    """The sum of a tensor over all processes."""
    if run.world > 1:
        dist.all_reduce(t)
    return t


def decide_on_main(value, run):
    """Rank 0's value of a bool, on every rank: another rank could see another state of the disk."""
    if run.world == 1:
        return value
    flag = torch.tensor(float(value), device=run.device)
    dist.broadcast(flag, 0)
    return bool(flag)


def finish(run):
    """Leaves the process group, all together, and without old DDP wrappers, whose threads would outlive it."""
    if run.world > 1:
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


def no_sync(model, run, last):
    """Context of a micro-batch's two passes: processes add up their gradients in the last one alone."""
    return nullcontext() if run.world == 1 or last else model.no_sync()


def wrap(model, run):
    """
    The model as the loop calls it: averaged over processes, then compiled, which in this order leaves the
    gradients to be sent during the backward pass. The bare one is what is saved.
    """
    if run.world > 1:
        model = DistributedDataParallel(model, device_ids=[run.device] if run.device.type == 'cuda' else None)
    if run.compile:
        model = torch.compile(model, mode=run.compile)
        model.register_forward_pre_hook(any_width)
    return model


def any_width(model, args):
    """Says of x and valid of bytes, (B, n), that n varies: else the first n has a program of its own."""
    for t in args[:2]:
        if torch.is_tensor(t) and t.ndim == 2:
            torch._dynamo.mark_dynamic(t, 1)
