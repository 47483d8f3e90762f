"""
The stages on a GPU that computes no numbers, with the paper's configs at their full size: see fake_cuda.py.

In a step the program waits for the GPU nowhere, mixes no devices, copies nothing but its batch, and takes no
more memory than the docstring of its config states.
"""

import fake_cuda
import pytest
from fake_gpu import why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f'a fake CUDA device: {why_not()}')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where random rows and what is prepared of them are kept for all tests."""
    return tmp_path_factory.mktemp('gpu')


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(fake_cuda.ROOT)


def need_pillow(config):
    if config == 'imagenet100':
        pytest.importorskip('PIL', reason='Pillow reads images')


QUICK = ('higgs', 'protein')  # the other configs are slow tests


def with_marks(configs):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in configs]


@pytest.mark.parametrize('config', with_marks(fake_cuda.PRETRAINING))
def test_pretraining(config, folder):
    need_pillow(config)
    steps, peak_gb = fake_cuda.run_shallow(fake_cuda.run_pretraining, config, [], folder)
    is_bytes = config in ('chemistry', 'protein', 'text')
    assert steps.waits == []
    assert steps.copies == [2 if is_bytes else 1]  # x, and valid of bytes
    assert not fake_cuda.memory_fault(config, peak_gb)


@pytest.mark.slow
@pytest.mark.parametrize('config, n_copies', [('finetune_higgs', 2), ('finetune_tape', 3)])
def test_fine_tuning(config, n_copies, folder):
    """`python tests/fake_cuda.py finetune` runs the other configs."""
    steps, peak_gb = fake_cuda.run_shallow(fake_cuda.run_tuning, config, [], folder)
    assert steps.waits == []
    assert steps.copies == [n_copies]  # x, labels, and valid of bytes
    assert not fake_cuda.memory_fault(config, peak_gb)


@pytest.mark.parametrize('config', fake_cuda.TUNING)
def test_every_config_states_its_memory(config):
    stated, sizes = fake_cuda.stated_memory(config)
    assert sizes == [size for size in fake_cuda.GPU_SIZES if stated + fake_cuda.RESERVE <= size]


SMALL = ['--n_layer=2', '--batch_size=8']


@pytest.mark.slow
@pytest.mark.parametrize('config, options, n_copies', [
    ('higgs', ['--mask=random', '--dtype=float16'], 1),
    ('higgs', ['--mask=guided_exact', '--n_query=4', '--mask_anneal=1', '--dropout=0.1', '--drop_path=0.1'], 1),
    ('protein', ['--mask=word', '--accumulation=2'], 4),
    ('imagenet100', ['--mask=patch', '--decode_pieces=3'], 1)])
def test_other_steps(config, options, n_copies, folder):
    need_pillow(config)
    steps = fake_cuda.run_pretraining(config, [*SMALL, *options], folder, 2)
    assert steps.waits == [] and steps.copies == [n_copies]


@pytest.mark.slow
def test_augmentation(folder):
    """Crops, colours, mixup and CutMix draw on the CPU only what they need not wait for."""
    need_pillow('imagenet100')
    steps = fake_cuda.run_tuning('finetune_imagenet100', [*SMALL, '--augment'], folder, 4)
    assert steps.waits == [] and steps.copies == [2] * 3


# -----------------------------------------------------------------------------
# where whole stages wait: set-up, log lines, validations and saves, never a step

TINY = ['--embed_dim=16', '--v_dim=16', '--qk_dim=16', '--n_head=2', '--n_layer=1', '--batch_size=16',
        '--data_dir=sets', '--dataset=words.csv', '--input_column=text', '--label_column=y',
        '--val_share=0.2', '--test_share=0.2', '--warmup_steps=1']
PRETRAIN = [*TINY, '--compile=false']
TUNE = [*TINY, '--compile=false', '--init_from=scratch', '--seeds=0']


@pytest.fixture
def words(tmp_path, monkeypatch):
    """An empty working folder with words.csv, 100 short texts of two classes."""
    monkeypatch.chdir(tmp_path)
    lines = [f'{"ab c" * (1 + i % 7)}{i},{i % 2}' for i in range(100)]
    (tmp_path / 'words.csv').write_text('\n'.join(['text,y', *lines]) + '\n')


def every(n):
    return [f'--log_interval={n}', f'--eval_interval={n}', f'--save_interval={n}']


@pytest.mark.slow
def test_pretraining_waits_as_often_for_eight_steps_as_for_four(words):
    """Each run has two lines of the log, two validations, and as many saves."""
    four = fake_cuda.run_whole('pretrain.py', [*PRETRAIN, '--max_steps=4', *every(2), '--out_dir=four'])
    eight = fake_cuda.run_whole('pretrain.py', [*PRETRAIN, '--max_steps=8', *every(4), '--out_dir=eight'])
    assert four == eight
    validations = [n for line, n in four.items() if 'at eval.py' in line]
    assert sum(validations) == 2 * 2 * 2  # two numbers for each of the two masks


@pytest.mark.slow
def test_fine_tuning_waits_as_often_for_eight_steps_as_for_four(words):
    four = fake_cuda.run_whole('finetune.py', [*TUNE, '--max_steps=4', '--eval_interval=2', '--out_dir=four'])
    eight = fake_cuda.run_whole('finetune.py', [*TUNE, '--max_steps=8', '--eval_interval=4', '--out_dir=eight'])
    assert four == eight
    scores = [n for line, n in four.items() if 'at eval.py' in line]
    assert sum(scores) == 3  # two validations and the test


@pytest.mark.slow
@pytest.mark.parametrize('action, n_waits', [([], 2), (['--probe'], 2), (['--embed=words.csv'], 1)])
def test_evaluation_waits_as_often_for_many_batches_as_for_one(words, monkeypatch, run, action, n_waits):
    run('pretrain.py', *TINY, '--max_steps=1', '--out_dir=out', '--device=cpu')
    options = ['--ckpt=out', '--data_dir=sets', '--batch_size=4', *action]
    once = fake_cuda.run_whole('eval.py', options)
    monkeypatch.setattr('data.TOKENS', 1)  # a batch of a GPU has 4 rows now
    assert fake_cuda.run_whole('eval.py', options) == once
    assert sum(n for line, n in once.items() if 'at eval.py:1' in line) == n_waits
