"""util/loader.py: the same batches in the same order, read by processes or not."""

import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_data import opened, table, text_data

import data
from util import loader
from util.errors import UserError
from util.scaling import fit_norm

CPU = SimpleNamespace(rank=0, world=1, device=torch.device('cpu'))


@pytest.fixture(params=[0, 2])
def workers(request, monkeypatch):
    monkeypatch.setattr(loader, 'workers_for', lambda dataset, index, device: request.param)
    return request.param


def plain_batches(d, rows, batch_size, accumulation, seed, step, n, labels):
    """The micro-batches from `step` on, written out."""
    batches = []
    per_epoch = len(rows) // batch_size
    while len(batches) < n:
        step_rows = data.epoch_batches(d, rows, batch_size, seed, step // per_epoch)[step % per_epoch]
        for micro in range(accumulation):
            mine = step_rows[micro::accumulation]
            batches.append((*d.batch(mine, d.width(step_rows)), labels[mine], step_rows))
        step += 1
    return batches


@pytest.mark.parametrize('kind', ['text', 'table'])
def test_order_and_numbers(tmp_path, workers, kind):
    """Over the ends of epochs, and from the middle of one."""
    d = text_data(tmp_path) if kind == 'text' else table(tmp_path, 300)
    rows = d.rows('train')
    if kind == 'table':
        d.norm = fit_norm(d, rows, 'standard')
    labels = torch.arange(len(d.y), dtype=torch.float32)
    for step in (0, 5):
        got = data.micro_batches(d, rows, 32, 2, 7, step, CPU, labels)
        for want in plain_batches(d, rows, 32, 2, 7, step, 30, labels):
            x, valid, y, step_rows = next(got)
            assert torch.equal(x, want[0]) and torch.equal(y, want[2]) and np.array_equal(step_rows, want[3])
            assert valid is None and want[1] is None or torch.equal(valid, want[1])
        got.close()  # a stage that leaves early does not hang


def test_scoring(tmp_path, workers):
    d = text_data(tmp_path)
    rows = d.rows('val')
    n = 0
    for i, places, x, valid in data.scoring(d, rows, 7, CPU):
        assert i == n
        n += 1
        want_x, want_valid = d.batch(rows[places.numpy()])
        assert torch.equal(x, want_x) and (valid is None) == (want_valid is None)
        assert valid is None or torch.equal(valid, want_valid)
    assert n == (len(rows) - 1) // 7 + 1


def test_the_global_generator_is_left_alone(tmp_path, workers):
    """Masks and dropout are seeded by it."""
    d = text_data(tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    next(data.micro_batches(d, d.rows('train'), 32, 1, 0, 0, CPU))
    list(data.scoring(d, d.rows('val'), 7, CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_is_the_same_line_in_a_worker(tmp_path, workers, monkeypatch):
    d = text_data(tmp_path)

    def batch(rows, width=None):
        raise UserError('row 7 is damaged')
    monkeypatch.setattr(d, 'batch', batch)
    with pytest.raises(UserError) as error:
        next(data.micro_batches(d, d.rows('train'), 32, 1, 0, 0, CPU))
    assert str(error.value) == 'row 7 is damaged'


def test_a_worker_that_is_killed_is_one_line(tmp_path, monkeypatch):
    d = text_data(tmp_path)
    monkeypatch.setattr(loader, 'workers_for', lambda dataset, index, device: 1)
    monkeypatch.setattr(d, 'batch', lambda rows, width=None: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError) as error:
        next(data.micro_batches(d, d.rows('train'), 32, 1, 0, 0, CPU))
    assert 'a process that reads batches has died' in str(error.value) and '\n' not in str(error.value)


def test_signals_to_the_process_group_leave_workers_alive(tmp_path, monkeypatch):
    """Ctrl-C reaches all processes of a terminal, but a run needs its workers until its last step."""
    groups = []
    d = text_data(tmp_path)
    monkeypatch.setattr(loader, 'workers_for', lambda dataset, index, device: 1)
    monkeypatch.setattr(d, 'batch', lambda rows, width=None: (torch.tensor([os.getpid(), os.getpgrp()]), None))
    batches = data.micro_batches(d, d.rows('train'), 32, 1, 0, 0, CPU)
    groups = next(batches)[0].tolist()
    assert groups[0] == groups[1] != os.getpgrp()
    batches.close()
    for _ in range(100):  # and they end with the loop
        if not os.path.exists(f'/proc/{groups[0]}'):
            return
        time.sleep(0.1)
    pytest.fail('the worker lives on')


def test_on_cuda_batches_are_pinned_and_copied_without_waiting(tmp_path, monkeypatch):
    """There is no GPU here: DataLoader and the copy are stood in for."""
    told, copied = {}, []

    def stand_in(batches, sampler, **options):
        told.update(options)
        return [batches[item] for item in sampler]
    monkeypatch.setattr(loader, 'DataLoader', stand_in)
    monkeypatch.setattr(torch.Tensor, 'to', lambda t, device, **options: copied.append((device, options)) or t)
    d = text_data(tmp_path)
    (x, valid, extra), = loader.load(d, iter([(d.rows('val')[:4], None, np.arange(4))]), 'cuda:0')
    assert len(x) == 4 and valid is not None and extra.tolist() == [0, 1, 2, 3]
    n_workers, context = told['num_workers'], told['multiprocessing_context']
    assert told['pin_memory'] and n_workers == loader.N_WORKERS and context == 'fork'
    assert copied == [('cuda:0', {'non_blocking': True})] * 3


def test_who_reads_batches(tmp_path):
    """Processes for a GPU, unless there are few batches, or the whole table lies there."""
    d = table(tmp_path, 30)
    endless, few, many = iter([]), [None] * 5, [None] * 50
    assert [loader.workers_for(d, index, 'cuda:1') for index in (endless, few, many)] == [2, 0, 2]
    assert [loader.workers_for(d, index, 'cpu') for index in (endless, few, many)] == [0, 0, 0]
    d.table = torch.zeros(1)
    assert loader.workers_for(d, endless, 'cuda') == 0


def test_images_come_as_they_are(tmp_path, workers):
    from pictures import put
    for i in range(9):
        put(tmp_path / f'p/{i}.png', i)
    d = opened(tmp_path, tmp_path / 'p', image_size=7, val_share=0, test_share=0)
    for x, valid, _, step_rows in [next(data.micro_batches(d, np.arange(9), 4, 1, 0, 0, CPU))]:
        assert x.dtype == torch.uint8 and valid is None
        np.testing.assert_array_equal(x.numpy(), d.x[step_rows])
