"""Batches read ahead for a GPU, by torch's DataLoader."""

import os

import torch
from torch.utils.data import DataLoader

from util.errors import UserError, fail

N_WORKERS = 2  # processes that read batches for a GPU
FEW_BATCHES = 20  # fewer are read before a process has started


def load(dataset, index, device):
    """
    For each item (rows, width, extra) of `index`, a list or an iterator: dataset.batch(rows, width), and
    `extra`, an array or None, as tensors on the device. -> (x, valid, extra), in the order of the index

    On a CPU this is a plain loop. For a GPU, processes read the next batches meanwhile, into pinned memory,
    from which they are copied without waiting. Both give the same numbers.
    """
    on_cuda = torch.device(device).type == 'cuda'
    n_workers = workers_for(dataset, index, device)
    loader = DataLoader(
        Batches(dataset), sampler=index, batch_size=None, collate_fn=as_it_is, pin_memory=on_cuda,
        num_workers=n_workers, worker_init_fn=leave_group,
        multiprocessing_context='fork' if n_workers else None,  # the mapped files are shared, and not copied
        generator=torch.Generator())  # its own, as the global one is for weights and masks
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            x, valid, extra = batch
            yield move(x, device), move(valid, device), move(extra, device)
    except RuntimeError as error:
        if str(error).startswith('DataLoader worker'):  # killed, by a lack of memory for one
            fail(f'a process that reads batches has died: {error}')
        raise
    finally:
        del batches  # the workers end now, and not when the garbage is collected


class Batches:
    """What DataLoader calls, in its workers perhaps."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, item):
        rows, width, extra = item
        try:
            x, valid = self.dataset.batch(rows, width)
        except UserError as error:  # not raised, as the text of a worker's exception has its traceback in it
            return error
        if extra is not None:
            extra = torch.from_numpy(extra)
        return x, valid, extra


def move(t, device):
    """A tensor or None, to the device. From pinned memory alone it is safe not to wait for the copy."""
    if t is None:
        return None
    return t.to(device, non_blocking=torch.device(device).type == 'cuda')


def workers_for(dataset, index, device):
    """How many processes read batches: none for a CPU, which computes itself, or a table kept on the device."""
    if torch.device(device).type != 'cuda' or os.name != 'posix' or dataset.table is not None:
        return 0
    if isinstance(index, list) and len(index) < FEW_BATCHES:
        return 0
    return N_WORKERS


def as_it_is(batch):
    return batch


def leave_group(worker):
    """Ctrl-C and SIGTERM do not reach a worker: the run, which gets them, needs it until its last step."""
    os.setpgrp()
