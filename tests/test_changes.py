"""
Changing the project is safe: a new field of SMAConfig, a new field of Masking, a knob of the optimiser and a
schedule, each added to a copy of the project as a student would add them, reach pre-training, its checkpoint,
--resume, fine-tuning and evaluation. The copy is edited in the file that the README names
and at the top of pretrain.py.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

EDITS = {
    'model.py': [  # a new field of SMAConfig
        ("    mlp_ratio: int = 4\n", "    mlp_ratio: int = 4\n    activation: str = 'gelu'\n"),
        ("        self.dropout_rate = c.dropout\n",
         "        self.dropout_rate = c.dropout\n        self.activation = c.activation\n"),
        ("F.gelu(self.fc(", "getattr(F, self.activation)(self.fc(")],
    'masking.py': [  # a new field of Masking: guided masks hide the least attended inputs
        ("    n_query: int = 1  # |R|, queries drawn for each mask\n",
         "    n_query: int = 1  # |R|, queries drawn for each mask\n    sign: float = 1.0\n"),
        ("        A = attention(R) * ", "        A = masking.sign * attention(R) * ")],
    'util/optim.py': [  # a knob of the optimiser, and a schedule
        ("betas=(0.9, 0.999)", "betas=(0.9, config.get('beta2', 0.999))"),
        ("    warmup_steps = config['warmup_steps']\n",
         "    warmup_steps = config['warmup_steps']\n"
         "    if config.get('schedule', 'cosine') == 'constant':\n        return config['lr']\n")],
    'pretrain.py': [
        ("mlp_ratio = 4  #", "activation = 'gelu'  # of the MLP\nmlp_ratio = 4  #"),
        ("n_query = 1  #", "sign = 1.0  # -1: the least attended\nn_query = 1  #"),
        ("grad_clip = 1.0  #",
         "beta2 = 0.999  # of AdamW\nschedule = 'cosine'  # or constant\ngrad_clip = 1.0  #")]}
NEW = dict(activation='relu', sign=-1.0, beta2=0.95, schedule='constant')
TINY = ['--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--batch_size=16',
        '--device=cpu']


@pytest.fixture
def copy(tmp_path):
    """A copy of the project with the four changes, and a table beside it."""
    project = tmp_path / 'project'
    ignored = shutil.ignore_patterns('.git', 'out', 'datasets', 'assets', '__pycache__', 'tests')
    shutil.copytree(ROOT, project, ignore=ignored)
    for file, edits in EDITS.items():
        text = (project / file).read_text()
        for old, new in edits:
            assert text.count(old) == 1, f'{file} no longer has {old!r}, or has it twice'
            text = text.replace(old, new)
        (project / file).write_text(text)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    table = np.column_stack([x, x.sum(1) > 0])
    np.savetxt(tmp_path / 't.csv', table, delimiter=',', header='a,b,c,d,e,y', comments='', fmt='%.5g')
    return project


def commands(project, tmp_path, *lines):
    """Runs several commands of the project in one process. -> [(exit status, what it printed)]"""
    driver = f'''
import contextlib, io, json, runpy, sys
sys.path.insert(0, {str(project)!r})
results = []
for script, *options in json.loads(sys.argv[1]):
    sys.argv[:] = [script, *options]
    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path({str(project)!r} + '/' + script, run_name='__main__')
        except SystemExit as end:
            status = end.code
    results.append((status, said.getvalue()))
print(json.dumps(results))
'''
    done = subprocess.run([sys.executable, '-c', driver, json.dumps(lines)], cwd=tmp_path, text=True,
                          capture_output=True, timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_new_knobs_reach_every_stage(copy, tmp_path):
    data = ['--dataset=t.csv', '--label_column=y', '--val_share=0.2', '--test_share=0.2']
    new = [f'--{name}={value}' for name, value in NEW.items()]
    pre = ['pretrain.py', *TINY, *data, '--max_steps=4', '--eval_interval=2', '--save_interval=2',
           '--log_interval=2', '--warmup_steps=0', '--mask_ratio=0.4', '--mask_anneal=0', '--out_dir=pre/new']
    resumed = [[*pre, *[option for option in new if not option.startswith(f'--{name}=')],
                '--max_steps=6', '--resume']
               for name in NEW]
    fine = ['finetune.py', '--init_from=scratch,pre/new', '--out_dir=ft', '--epochs=1', '--seeds=0',
            '--batch_size=16', '--device=cpu']
    score = ['eval.py', '--ckpt=ft/pre-new-lr0.001-seed0.pt', '--device=cpu']
    masked = ['eval.py', '--ckpt=pre/new', '--split=val', '--batch_size=16', '--device=cpu']
    (status, said), *refused, fine_tuned, scored, loss = commands(
        copy, tmp_path, [*pre, *new], *resumed, fine, score, masked)

    # pre-training, and its checkpoint
    assert status == 0, said
    saved = torch.load(tmp_path / 'pre/new/last.pt', weights_only=True)
    assert {name: saved['config'][name] for name in NEW} == NEW
    assert saved['model_args']['activation'] == 'relu'
    assert saved['optimizer']['param_groups'][0]['betas'] == (0.9, 0.95)
    log = [json.loads(line) for line in (tmp_path / 'pre/new/log.jsonl').read_text().splitlines()]
    assert [entry['lr'] for entry in log] == [1e-3, 1e-3]  # the constant schedule
    # --resume with any of them left out
    for name, (status, said) in zip(NEW, refused):
        assert status == 2 and name in said, f'{name} may change on --resume: {said}'
    # fine-tuning: the shape is the checkpoint's, of scratch too
    assert fine_tuned[0] == 0, fine_tuned[1]
    for start in ('scratch', 'pre-new'):
        path = tmp_path / f'ft/{start}-lr0.001-seed0.pt'
        model_args = torch.load(path, weights_only=True)['model_args']
        assert model_args['activation'] == 'relu', f'{start} lost activation'
    # evaluation
    result = json.loads((tmp_path / 'ft/results.jsonl').read_text().splitlines()[-1])
    assert f'{result["test"][0]:.4f}' in scored[1]
    assert f'ratio 0.4: {log[-1]["val_loss"]:.4f}' in loss[1], 'eval.py masks in another way than pretrain.py'


class Noting(dict):
    """A dict that notes which keys are asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = set()

    def __getitem__(self, name):
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)


def test_what_the_optimiser_reads_is_a_knob_of_both_stages():
    """A knob that only pretrain.py has leaves fine-tuning at the default: this test names it."""
    from configurator import defaults_of
    from model import SMA, SMAConfig
    from util import optim
    pretrain, finetune = (defaults_of(ROOT / f'{stage}.py') for stage in ('pretrain', 'finetune'))
    config = Noting(pretrain)
    optim.make_optimizer(SMA(SMAConfig()), config, 'cpu')
    for step in (0, 500):
        optim.lr_at(step, 1000, config)
    for name in sorted(config.asked):
        assert name in pretrain, f'{name} is read by util/optim.py, and is no knob of pretrain.py'
        assert name in finetune, f'{name} is a knob of pretrain.py, and finetune.py lacks it'
