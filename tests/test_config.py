"""The configs: those of the paper hold the numbers of its tables, and all of them run."""

import pytest
from conftest import ROOT
from samples import sample, shrink

from configurator import configure
from util import prepare

# Tables 8-12 (a) and (b) as printed; a pair is (random, guided)
PAPER = {
    'protein': dict(n_latent=256, embed_dim=512, seq_len=1024, n_layer=16, qk_dim=256, n_head=8, v_dim=1024,
                    weight_decay=0.01, lr=(1e-4, 3e-4), epochs=10, batch_size=256, mask_ratio=(0.2, 0.15)),
    'chemistry': dict(n_latent=0, seq_len=256, n_layer=12, qk_dim=768, n_head=12, v_dim=768,
                      weight_decay=0.01, lr=1e-4, epochs=30, batch_size=128, mask_ratio=0.3),
    'higgs': dict(n_latent=0, embed_dim=128, seq_len=28, n_layer=4, qk_dim=128, n_head=8, v_dim=128,
                  weight_decay=0.01, lr=1e-4, epochs=50, batch_size=256, mask_ratio=(0.5, 0.2)),
    'higgs_small': dict(n_latent=0, embed_dim=128, seq_len=28, n_layer=4, qk_dim=128, n_head=8, v_dim=128,
                        weight_decay=0.01, lr=1e-4, epochs=800, batch_size=256, mask_ratio=(0.5, 0.2)),
    'imagenet100': dict(n_latent=512, embed_dim=196, seq_len=36864, n_layer=8, qk_dim=768, n_head=8, v_dim=768,
                        weight_decay=0.01, lr=1e-4, epochs=200, batch_size=128, mask_ratio=(0.85, 0.75)),
    'text': dict(n_latent=256, embed_dim=512, seq_len=1024, n_layer=16, qk_dim=256, n_head=8, v_dim=1024,
                 weight_decay=0.01, lr=1e-4, epochs=10, batch_size=256, mask_ratio=(0.2, 0.15))}
# Tables 8-12 (c)
FINETUNE = {
    'finetune_tape': dict(weight_decay=0.01, lr=(1e-4, 5e-5), epochs=30),
    'finetune_moleculenet': dict(weight_decay=0.01, epochs=30, batch_size=32),  # lr: 1e-4 or 3e-5
    'finetune_higgs': dict(weight_decay=1e-5, lr=(3e-5,), epochs=100, batch_size=128),
    'finetune_imagenet100': dict(weight_decay=0.01, lr=(1e-4,), epochs=200, batch_size=128),
    'finetune_glue': dict(weight_decay=0.01, lr=(2e-5,), epochs=30, batch_size=32)}
TASKS = {'finetune_tape': ('remote_homology', 'fluorescence', 'stability'),
         'finetune_moleculenet': ('bbbp', 'bace', 'hiv', 'esol', 'freesolv', 'lipo'),
         'finetune_higgs': ('higgs', 'higgs_small'), 'finetune_year': (None,), 'finetune_imagenet100': (None,),
         'finetune_glue': ('mnli', 'qqp', 'qnli', 'sst2', 'cola', 'stsb', 'mrpc', 'rte')}


def settings(script, name, *options):
    return configure({'__file__': str(ROOT / script)}, [f'config/{name}.py', *options])


@pytest.mark.parametrize('name', PAPER)
def test_pre_training_configs_hold_the_papers_numbers(name):
    assert settings('pretrain.py', name)['mask'] == 'guided'
    for i, mask in enumerate(('random', 'guided')):
        config = settings('pretrain.py', name, f'--mask={mask}')
        want = {k: v[i] if isinstance(v, tuple) else v for k, v in PAPER[name].items()}
        assert {k: config[k] for k in want} == want
        assert config['out_dir'] == f'out/{name}/{mask}' and config['max_steps'] is None
    widths_fit = config['n_latent'] or config['embed_dim'] == config['v_dim']
    assert config['dataset'] in prepare.DATASETS and widths_fit


@pytest.mark.parametrize('name', FINETUNE)
def test_fine_tuning_configs_hold_the_papers_numbers(name):
    config = settings('finetune.py', name)
    assert {k: config[k] for k in FINETUNE[name]} == FINETUNE[name]
    for task in filter(None, TASKS[name]):
        config = settings('finetune.py', name, f'--task={task}')
        assert config['dataset'] == task in prepare.DATASETS and task in config['out_dir']
        if name == 'finetune_moleculenet':
            assert config['lr'] in ((1e-4,), (3e-5,))


def n_parameters(c, d_raw):
    """
    Counted by hand, layer by layer as in the authors' code: the weights and biases of every Linear, LayerNorm
    and table.
    """
    e, n, d, k, r = c['embed_dim'], c['seq_len'], c['v_dim'], c['qk_dim'], c['mlp_ratio']
    n_out = d_raw or 262

    def layer(q_dim, kv_dim):
        attention = 2 * q_dim + (q_dim + 1) * k + (kv_dim + 1) * k + (kv_dim + 1) * q_dim + (q_dim + 1) * q_dim
        return attention + 2 * q_dim + (q_dim + 1) * r * q_dim + (r * q_dim + 1) * q_dim
    embedding = ((d_raw + 1) * e if d_raw else 262 * e) + n * e + 2 * e
    encoder = c['n_latent'] * d + layer(d, e) + (c['n_layer'] - 1) * layer(d, d)
    return embedding + encoder + 2 * d + layer(e, d) + 2 * e + (e + 1) * n_out


def test_the_protein_model_has_as_many_parameters_as_the_authors_model_of_that_shape():
    """The number that their SMAForSSL has, counted by PyTorch: see tests/make_parity.py."""
    assert n_parameters(settings('pretrain.py', 'protein'), 0) == 77_748_998


def needs(dataset):
    """Skips where the package is missing that reads this data set."""
    packages = {**dict.fromkeys(TASKS['finetune_moleculenet'], 'rdkit'), 'imagenet100': 'PIL'}
    pytest.importorskip(packages.get(dataset, 'torch'))


@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n in PAPER if n != 'higgs_small'] + ['year'])
def test_each_config_of_the_paper_takes_two_steps_on_its_own_data(run, mirror, monkeypatch, name):
    dataset = settings('pretrain.py', name)['dataset']
    needs(dataset)
    sample(mirror, dataset)
    shrink(monkeypatch, dataset)
    monkeypatch.setattr('util.checkpoint.save', lambda *args: None)  # a gigabyte of weights and optimiser state
    out = run('pretrain.py', f'config/{name}.py', '--max_steps=2', '--batch_size=1', '--val_share=0',
              '--mask_ratio=0.25').stdout
    d_raw = {'higgs': 1, 'year': 1, 'imagenet100': 3}.get(name, 0)
    want = n_parameters(settings('pretrain.py', name), d_raw)
    assert f'{want:,} parameters' in out and '\nstep 2: loss' in out


@pytest.mark.slow
@pytest.mark.parametrize('name, task', [(name, task) for name, tasks in TASKS.items() for task in tasks])
def test_each_fine_tuning_task_runs(run, mirror, monkeypatch, name, task):
    dataset = task or settings('finetune.py', name)['dataset']
    needs(dataset)
    sample(mirror, dataset)
    shrink(monkeypatch, dataset)
    smaller = ['--image_size=14', '--seq_len=196', '--n_layer=2', '--n_latent=8'] if 'image' in name else []
    out = run('finetune.py', f'config/{name}.py', *([f'--task={task}'] if task else []), '--init_from=scratch',
              '--max_steps=2', '--batch_size=8', '--n_train=None', '--seeds=0', '--lr=1e-4', '--val_share=0.2',
              *smaller).stdout
    assert '| none (scratch) |' in out and prepare.DATASETS[dataset]['metric'] in out


def test_a_task_needs_a_config_that_reads_it(run):
    assert 'task=' in run('finetune.py', '--task=esol', status=2).stderr
    assert "nearest: 'rte'" in run('finetune.py', 'config/finetune_glue.py', '--task=ret',
                                   '--init_from=scratch', status=2).stderr
