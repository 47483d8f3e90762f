"""Device, precision, processes, seeds, signals and what is printed."""

import gc
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from util.errors import fail, print_error, printable

# -----------------------------------------------------------------------------
# ---- device
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere

# How long a process waits for the others before it gives up. One of them may prepare a data set for hours.
LONGEST_WAIT = timedelta(hours=24)


@dataclass
class Run:
    """Where a run computes, and which of its processes this one is."""
    device: torch.device
    dtype: str = 'float32'  # of autocast: float32 (none), bfloat16 or float16
    compile: str = ''  # the mode of torch.compile; '' = not compiled
    rank: int = 0  # number of this process among all
    world: int = 1  # how many processes there are

    @property
    def is_main(self):
        """Whether this is the process that prints and writes files."""
        return self.rank == 0

    def autocast(self):
        """The context of a forward pass: in half precision if dtype says so."""
        if self.dtype == 'float32':
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.dtype))


def set_up(config):
    """
    Find the device and join the other processes, and print both. config: the knobs device, dtype and, where a
    script has it, compile. -> Run
    """
    rank, world, local_rank = processes()
    device = find_device(config['device'], local_rank)
    dtype = find_dtype(config['dtype'], device)
    mode = compile_mode(config.get('compile'), device)
    run = Run(device, dtype, mode, rank, world)
    torch.set_float32_matmul_precision('high')  # TF32 where there is any
    if run.device.type == 'cuda':
        torch.cuda.set_device(run.device)
        name = torch.cuda.get_device_name()
    else:
        name = f'{torch.get_num_threads()} threads'
    if run.world > 1:
        join(run)
    text = f'device: {run.device} ({name}), {run.dtype}, {run.world} process(es)'
    if run.compile:
        text += ', compiled'
    print0(run, text)
    return run


def find_device(name, local_rank):
    """
    The torch.device that the knob `device` names, tried out. local_rank: which of several GPUs is this
    process's.
    """
    found = name
    if found == 'auto':
        found = 'cpu'
        if torch.cuda.is_available():
            found = 'cuda'
        elif torch.backends.mps.is_available():
            found = 'mps'
    if found == 'cuda':
        found = f'cuda:{local_rank}'
    try:
        found = torch.device(found)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split('\n')[0]
        fail(f'device={name!r} cannot be used here: {reason}')
    return found


def find_dtype(name, device):
    """'float32', 'bfloat16' or 'float16': what the knob `dtype` names, or the best that this device has."""
    if name == 'auto':
        if device.type != 'cuda':
            return 'float32'
        return 'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'
    if name not in ('float32', 'bfloat16', 'float16'):
        fail(f'dtype={name!r} must be auto, float32, bfloat16 or float16')
    return name


def compile_mode(name, device):
    """The mode of torch.compile that the knob `compile` names, '' for none. None: compiled on CUDA alone."""
    modes = {'true': 'default', 'false': '', 'reduce-overhead': 'reduce-overhead'}
    if name is None:
        return 'default' if device.type == 'cuda' else ''
    if name.lower() not in modes:
        fail(f'compile={name!r} must be true, false or reduce-overhead')
    return modes[name.lower()]


# -----------------------------------------------------------------------------
# several processes, started by torchrun

def processes():
    """
    (rank, world, local rank) of this process, out of the environment variables that torchrun sets: its number
    among all processes, how many there are, and its number on this machine. A process that runs alone is (0, 1,
    0).
    """
    if 'RANK' not in os.environ or 'WORLD_SIZE' not in os.environ:
        return 0, 1, 0  # one of them alone is a remnant of something else, and so is LOCAL_RANK without them
    numbers = []
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        text = os.environ.get(name, '0')
        if not text.isdecimal():
            fail(f'{name}={text!r} in the environment must be a whole number: torchrun sets it')
        numbers.append(int(text))
    rank, world, local_rank = numbers
    if world <= 1:
        return 0, 1, 0
    if rank >= world:
        fail(f'RANK={rank} in the environment must be less than WORLD_SIZE={world}: torchrun sets both')
    return rank, world, local_rank


def is_first_process():
    """Whether this process is the first of all. For code that has no Run; elsewhere ask run.is_main."""
    rank, _, _ = processes()
    return rank == 0


def is_first_local_process():
    """Whether this process is the first on its machine: the one that prepares data while the others wait."""
    _, _, local_rank = processes()
    return local_rank == 0


def join(run):
    """Meet the other processes. CPU tensors travel by gloo, CUDA tensors by NCCL, which takes no others."""
    for name in ('MASTER_ADDR', 'MASTER_PORT'):
        if name not in os.environ:
            fail(f'WORLD_SIZE={run.world} in the environment asks for several processes, but {name} is not '
                 'set: start them with torchrun, or unset WORLD_SIZE')
    sys.excepthook = partial(report_lost_process, run)
    backend = 'cpu:gloo,cuda:nccl' if run.device.type == 'cuda' else 'gloo'
    dist.init_process_group(backend, timeout=LONGEST_WAIT)


def report_lost_process(run, error_type, error, trace):
    """
    The excepthook of several processes: one line where another one has ended. torchrun then ends them all.
    """
    if isinstance(error, dist.DistError) or 'gloo' in str(error):
        print_error(f'process {run.rank} waited for another process, which has died')
    else:
        sys.__excepthook__(error_type, error, trace)


def sum_ranks(t, run):
    """The sum of a tensor over all processes, in place."""
    if run.world > 1:
        dist.all_reduce(t)
    return t


def decide_on_main(value, run):
    """A bool of rank 0, on every rank: another rank could see another state of the disk. -> bool"""
    if run.world == 1:
        return value
    flag = torch.tensor(float(value), device=run.device)
    dist.broadcast(flag, 0)
    return bool(flag)


def wrap(model, run):
    """
    The model as the training loop calls it. DDP averages its gradients over the processes. torch.compile goes
    around DDP: in this order gradients are sent while the backward pass still runs. What is saved is the bare
    model.
    """
    if run.world > 1:
        device_ids = [run.device] if run.device.type == 'cuda' else None
        model = DistributedDataParallel(model, device_ids=device_ids)
    if run.compile:
        model = torch.compile(model, mode=run.compile)
        model.register_forward_pre_hook(mark_width_as_dynamic)
    return model


def mark_width_as_dynamic(model, args):
    """
    Tell torch.compile that n of x and valid, (B, n), varies. Otherwise the first n gets a program of its own.
    """
    for t in args[:2]:
        if torch.is_tensor(t) and t.ndim == 2:
            torch._dynamo.mark_dynamic(t, 1)


def no_sync(model, run, last):
    """
    The context of a micro-batch's forward and backward: processes share their gradients in the last one only.
    """
    if run.world == 1 or last:
        return nullcontext()
    return model.no_sync()


def finish(run):
    """Leave the other processes, all at the same time."""
    if run.world > 1:
        gc.collect()  # old DDP wrappers have threads, which would outlive the group
        dist.barrier()
        dist.destroy_process_group()


# -----------------------------------------------------------------------------
# what is printed and logged

def print0(run, text):
    """Print from the main process alone; above the progress bar if there is one."""
    if run.is_main:
        tqdm.write(printable(text), file=sys.stdout)
        sys.stdout.flush()


def warn(run, text):
    """Print a warning. An empty text is none."""
    if text:
        print0(run, f'warning: {text}')


def seed_all(*numbers):
    """Seed torch from several integers, mixed into 32 bits, as torch's CPU generator looks at no more."""
    mixed = np.random.SeedSequence(numbers).generate_state(1)[0]
    torch.manual_seed(int(mixed))


class Stop:
    """
    Ctrl-C and SIGTERM: the loop finishes its step and leaves. pretrain.py saves before that; finetune.py has
    saved the runs that are finished, and drops the one that is not. A second Ctrl-C leaves at once. Several
    processes also leave when the torchrun that started them is gone.
    """

    def __init__(self):
        self.signal = None  # the number of the signal that came
        self.parent = os.getppid()
        signal.signal(signal.SIGINT, self.catch)
        signal.signal(signal.SIGTERM, self.catch)

    def catch(self, number, frame):
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def exit_status(self):
        """128 + the number of the signal, as in a shell; SIGTERM's where only another process got one."""
        number = signal.SIGTERM if self.signal is None else self.signal
        return 128 + number

    def asked(self, run, step, every):
        """Whether to stop after this step. Several processes agree on it, once in `every` steps."""
        if run.world == 1:
            return self.signal is not None
        if (step + 1) % every:
            return False
        stops = self.signal is not None or os.getppid() != self.parent
        must_stop = torch.tensor(float(stops), device=run.device)
        dist.all_reduce(must_stop, op=dist.ReduceOp.MAX)
        return bool(must_stop)
