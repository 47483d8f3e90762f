"""AdamW, the schedule of the learning rate, and the update of the weights."""

import math

import torch
import torch.nn as nn

from util.errors import fail


def make_optimizer(model, config, device):
    """
    AdamW with betas 0.9 and 0.999 (appendix B). Only the matrices of Linear layers decay. With floats, E is one
    of them. The table of byte embeddings, P, latents, LayerNorms and biases do not decay. config: a stage's
    knobs, of which lr and weight_decay are read.

    To add a knob of the optimiser, declare it in pretrain.py and in finetune.py, and read it here as
    config.get(name, default): a run that was made before the knob existed takes the default.
    """
    matrices = []
    others = []
    linear_weights = {module.weight for module in model.modules() if isinstance(module, nn.Linear)}
    for p in model.parameters():
        if p in linear_weights:
            matrices.append(p)
        else:
            others.append(p)
    groups = [{'params': matrices, 'weight_decay': config['weight_decay']},
              {'params': others, 'weight_decay': 0.0}]
    fused = torch.device(device).type in ('cuda', 'cpu')
    return torch.optim.AdamW(groups, lr=config['lr'], betas=(0.9, 0.999), fused=fused)


def lr_at(step, total, config):
    """
    The learning rate of a step: linear warm-up to lr, then a cosine that reaches min_lr after `total` steps.
    config: a stage's knobs, of which lr, min_lr and warmup_steps are read.

    To add a knob of the schedule, declare it in pretrain.py and in finetune.py, and read it here as
    config.get(name, default): a run that was made before the knob existed takes the default.
    """
    warmup_steps = config['warmup_steps']
    if step < warmup_steps:
        return config['lr'] * (step + 1) / warmup_steps
    return cosine(step - warmup_steps, total - warmup_steps, config['lr'], config['min_lr'])


def cosine(step, total, start, end):
    """Half a cosine, from `start` at step 0 to `end` at step `total`."""
    done = step / max(total, 1)  # 0 to 1
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def set_lr(optimizer, rate):
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group['lr'] = rate


def make_scaler(run):
    """
    torch's GradScaler, which leaves out a step whose gradients are not finite, without waiting for the device.
    In float16 it also scales the loss; in all other types its scale stays 1. (`fixed_scale` is ours: `update`
    reads it.)
    """
    if run.dtype == 'float16':
        scaler = torch.amp.GradScaler(run.device.type, init_scale=2.0 ** 16)
        scaler.fixed_scale = None
    else:
        scaler = torch.amp.GradScaler(run.device.type, init_scale=1.0)
        scaler.fixed_scale = 1.0
    return scaler


def update(model, optimizer, scaler, grad_clip):
    """
    One step of the optimiser on the gradients that are there, which are cleared afterwards. grad_clip: the
    largest norm of all gradients together; 0 = no limit. -> the norm before clipping, 0-d tensor
    """
    scaler.unscale_(optimizer)
    if grad_clip == 0:
        grad_clip = math.inf
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    scaler.step(optimizer)
    scaler.update(scaler.fixed_scale)
    optimizer.zero_grad(set_to_none=True)
    return norm


class Skips:
    """Counts the steps in a row that were left out. Too many end the run, as nothing is learned any more."""

    def __init__(self, run):
        self.in_a_row = torch.zeros((), device=run.device)
        # the scale of float16 starts far too large: it is halved, and the step left out, until it fits
        self.limit = 30 if run.dtype == 'float16' else 10

    def note(self, norm):
        """norm: that of a step's gradients. -> 0-d bool tensor, True = the step was left out"""
        skipped = ~norm.isfinite()
        self.in_a_row = (self.in_a_row + 1) * skipped
        return skipped

    def check(self, step):
        """Fail if too many were left out. Call it now and then, as it waits for the device."""
        if self.in_a_row >= self.limit:
            fail(f'the gradients of the last {int(self.in_a_row)} steps up to step {step} are not finite, so '
                 'nothing is learned: lower --lr, or look for extreme values in the data')
