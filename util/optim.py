"""AdamW, the schedule of the learning rate, and the update."""

import math

import torch
import torch.nn as nn

from util.errors import fail


def make_optimizer(model, config, device):
    """AdamW, betas 0.9, 0.999 (appendix B); only matrices of Linear decay: no embedding, P, latent or bias."""
    matrices = {m.weight for m in model.modules() if isinstance(m, nn.Linear)}
    groups = [dict(params=[p for p in model.parameters() if p in matrices], weight_decay=config['weight_decay']),
              dict(params=[p for p in model.parameters() if p not in matrices], weight_decay=0.0)]
    fused = torch.device(device).type in ('cuda', 'cpu')
    return torch.optim.AdamW(groups, lr=config['lr'], betas=(0.9, 0.999), fused=fused)


def lr_at(step, total, config):
    """Linear warm-up, then a cosine from lr to min_lr at the last step."""
    lr, min_lr, warmup_steps = config['lr'], config['min_lr'], config['warmup_steps']
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(total - warmup_steps, 1)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def cosine(step, total, start, end):
    return lr_at(step, total, dict(lr=start, min_lr=end, warmup_steps=0))


def make_scaler(run):
    """
    For float16 it scales the loss; for all it sees to it that a step whose gradients are not finite is not
    taken, which is settled on the device.
    """
    half = run.dtype == 'float16'
    scaler = torch.amp.GradScaler(run.device.type, init_scale=2.0 ** 16 if half else 1.0)
    scaler.always = None if half else 1.0
    return scaler


class Skips:
    """Steps that were not taken. Ten in a row end the run: what is wrong with them will not pass."""

    def __init__(self, run):
        self.in_a_row = torch.zeros((), device=run.device)
        self.limit = 30 if run.dtype == 'float16' else 10  # whose scale starts far too large, and is halved

    def note(self, norm):
        """norm, of a step's gradients -> 0-d bool, True = the step was skipped"""
        skipped = ~norm.isfinite()
        self.in_a_row = (self.in_a_row + 1) * skipped
        return skipped

    def check(self, step):
        """To be called now and then, as it waits for the device."""
        if self.in_a_row >= self.limit:
            fail(f'step {step} and those before it were skipped, as their gradients are not finite: '
                 'lower lr, or look at the data')


def set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group['lr'] = lr
    return lr


def update(model, optimizer, scaler, grad_clip):
    """
    One step on the gradients that are there: unscaled, clipped, taken if they are finite, cleared. -> their
    norm, unclipped
    """
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip or math.inf)
    scaler.step(optimizer)
    scaler.update(scaler.always)
    optimizer.zero_grad(set_to_none=True)
    return norm
