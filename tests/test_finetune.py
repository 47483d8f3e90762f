"""finetune.py as a user runs it: every kind of label, honest selection, and the same score from eval.py."""

import json
import re

import numpy as np
import pytest
import torch

TINY = ['--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--device=cpu']
PRE = [*TINY, '--batch_size=16', '--max_steps=3', '--warmup_steps=1', '--mask_ratio=0.4']
FINE = [*TINY, '--batch_size=16', '--epochs=3', '--lr=3e-3', '--dropout=0', '--seeds=0']


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    total = x.sum(1)
    kind = np.array(['low', 'middle', 'top'])[np.digitize(total, (-1, 1))]
    rows = [[*x[i], total[i] * 100 + 5000, int(total[i] > 0), kind[i]] for i in range(300)]
    text = 'a,b,c,d,value,side,kind\n' + '\n'.join(','.join(map(str, row)) for row in rows)
    (tmp_path / 't.csv').write_text(text)
    return ['--dataset=t.csv', '--input_column=a,b,c,d', '--val_share=0.2', '--test_share=0.2']


def results(folder, file='results.jsonl'):
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def test_binary_from_scratch_and_pretrained_and_its_score_again(run, table, tmp_path):
    """A table row for each start, the test score equal to eval.py's and to a recount from the predictions."""
    for mask in ('random', 'guided'):
        run('pretrain.py', *PRE, *table, '--label_column=side', f'--mask={mask}', f'--out_dir=pre/{mask}')
    done = run('finetune.py', *FINE, *table, '--label_column=side', '--target=binary',
               '--init_from=scratch,pre', '--out_dir=ft', '--seeds=0,1', '--lr=3e-3,1e-5')
    rows = results(tmp_path / 'ft')
    assert [r['mask'] for r in rows] == [None, 'guided', 'random']
    saved = (tmp_path / 'ft/results.md').read_text()
    assert '| none (scratch) |' in done.stdout and '| guided masks (pre/guided) |' in saved
    for r, name in zip(rows, ('scratch', 'pre-guided', 'pre-random')):
        for i, seed in enumerate((0, 1)):
            path = f'ft/{name}-lr{r["lr"]:g}-seed{seed}.pt'
            out = run('eval.py', f'--ckpt={path}', '--device=cpu').stdout if seed == 0 else None
            if out:
                assert re.search(rf'accuracy on \d+ test rows: {r["test"][i]:.4f}\n', out)
                out = run('eval.py', f'--ckpt={path}', '--split=val', '--device=cpu').stdout
                assert f': {r["val"][i]:.4f}' in out
        # the learning rate is the one that validates best, whatever the test says
        valid = {}
        for lr in (3e-3, 1e-5):
            paths = [tmp_path / f'ft/{name}-lr{lr:g}-seed{s}.pt' for s in (0, 1)]
            valid[lr] = np.mean([torch.load(path, weights_only=True)['val_score'] for path in paths])
        assert r['lr'] == max(valid, key=valid.get) and np.isclose(np.mean(r['val']), max(valid.values()))
        line = next(text for text in done.stdout.splitlines()
                    if text.startswith('|') and (r['init_from'] in text))
        mean, std = re.search(r'\| ([\d.]+) ± ([\d.]+) \|', line).groups()
        assert float(mean) == round(np.mean(r['test']), 4) and float(std) == round(np.std(r['test'], ddof=1), 4)
    assert np.mean(rows[0]['test']) > 0.8  # a sum of four numbers can be learned


def test_weights_come_from_the_checkpoint_and_the_head_is_new(run, table, tmp_path):
    """With a learning rate of next to nothing, the encoder is still the pre-trained one."""
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre/guided')
    run('finetune.py', *FINE, *table, '--label_column=side', '--target=binary', '--init_from=pre/guided',
        '--out_dir=ft', '--lr=1e-12')
    old = torch.load(tmp_path / 'pre/guided/last.pt', weights_only=True)
    new = torch.load(tmp_path / 'ft/pre-guided-lr1e-12-seed0.pt', weights_only=True)
    for name, w in new['model'].items():
        assert name.startswith('head') or torch.allclose(w, old['model'][name], atol=1e-6), name
    assert not any(name.startswith('decoder') for name in new['model'])
    assert all(torch.equal(new['norm'][k], old['norm'][k]) for k in ('mean', 'std'))


def test_frozen_the_head_alone_learns(run, table, tmp_path):
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre/guided')
    done = run('finetune.py', *FINE, *table, '--label_column=side', '--init_from=pre/guided', '--freeze')
    assert '| guided masks (pre/guided), frozen | ' in done.stdout
    assert 'Only 39 validation rows: model selection will be noisy' in done.stdout
    old = torch.load(tmp_path / 'pre/guided/last.pt', weights_only=True)['model']
    new = torch.load(tmp_path / 'out/finetune_t_frozen/pre-guided-lr0.003-seed0.pt', weights_only=True)['model']
    same = {name: torch.equal(w, old[name]) for name, w in new.items() if not name.startswith('head')}
    assert all(same.values()) and len(same) > 10


def test_the_table_has_a_row_for_no_model_at_all(run, table, tmp_path):
    """And says so where a model does no better: always the same answer, here to inputs that are all alike."""
    lines = (tmp_path / 't.csv').read_text().splitlines()
    splits = ['train', 'train', 'val', 'test'] * 75
    (tmp_path / 's.csv').write_text('\n'.join(f'{a},{s},{c}' for a, s, c in zip(
        lines, ['split', *splits], ['one,two', *['1,2'] * 300])))
    cells = [line.split(',') for line in lines[1:]]
    kinds, values = [c[6] for c in cells], np.array([float(c[4]) for c in cells])
    train, test = ([i for i, s in enumerate(splits) if s == name] for name in ('train', 'test'))
    usual = max({*kinds}, key=[kinds[i] for i in train].count)
    want = {'kind': ('the most frequent class', np.mean([kinds[i] == usual for i in test])),
            'value': ('the mean', np.sqrt(np.mean((values[test] - values[train].mean()) ** 2)))}
    for label, (what, score) in want.items():
        done = run('finetune.py', *FINE, '--dataset=s.csv', '--input_column=one,two', f'--label_column={label}',
                   '--split_column=split', '--init_from=scratch', '--out_dir=ft', '--epochs=1', '--lr=1e-9')
        assert f'| always {what} | {score:.4f} | ' in done.stdout
        assert '1 of them predict the same for all rows |' in done.stdout


def test_a_file_that_has_changed_since_is_said(run, table, tmp_path):
    """By fine-tuning, and by scoring what that made; not where nothing has changed, nor of another file."""
    fine = [*FINE, *table, '--label_column=side', '--target=binary', '--init_from=pre/guided', '--epochs=1']
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre/guided')
    said = 'trained with other contents of t: rows that it learned from may be validation'
    assert said not in run('finetune.py', *fine, '--out_dir=ft').stdout
    score = ['eval.py', '--ckpt=ft/pre-guided-lr0.003-seed0.pt', '--device=cpu']
    assert said not in run(*score).stdout
    text = (tmp_path / 't.csv').read_text()
    (tmp_path / 'u.csv').write_text(text)
    assert said not in run(*score, '--dataset=u.csv', '--label_column=side').stdout
    (tmp_path / 't.csv').write_text(text[:text.rindex('\n', 0, -1) + 1])  # a row less
    assert said in run('finetune.py', *fine, '--out_dir=new').stdout and said in run(*score).stdout


def test_texts_of_another_file_are_numbered_as_the_checkpoint_learned_them(run, tmp_path):
    """Pre-trained on one file, fine-tuned on another, and scored again: what finetune.py writes can be read."""
    rng = np.random.default_rng(0)
    for name, kinds in (('a', ['red', 'green', 'blue']), ('b', ['blue', 'red', 'green'])):
        rows = [f'{u:.3f},{kinds[i % 3]},{int(u > 0)}\n' for i, u in enumerate(rng.normal(size=200))]
        (tmp_path / f'{name}.csv').write_text('u,kind,y\n' + ''.join(rows))
    shares = ['--label_column=y', '--val_share=0.2', '--test_share=0.2']
    run('pretrain.py', *PRE, *shares, '--dataset=a.csv', '--out_dir=pre/guided')
    fine = [*FINE, *shares, '--dataset=b.csv', '--init_from=pre/guided', '--out_dir=ft', '--epochs=1']
    run('finetune.py', *fine)
    score = results(tmp_path / 'ft')[0]['test'][0]
    path = tmp_path / 'ft/pre-guided-lr0.003-seed0.pt'
    assert torch.load(path, weights_only=True)['categories'] == {'kind': {'red': 0, 'green': 1, 'blue': 2}}
    assert f': {score:.4f}' in run('eval.py', f'--ckpt={path}', '--device=cpu').stdout
    assert 'made anew' not in run('finetune.py', *fine, '--resume').stdout
    assert '200 predictions' in run('eval.py', f'--ckpt={path}', '--predict=a.csv', '--device=cpu').stdout


def test_a_knob_that_the_weights_overrule_is_refused_and_the_file_tells_the_shape(run, table, tmp_path):
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre/a', '--mlp_ratio=3')
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre/b')
    fine = [*FINE, *table, '--label_column=side', '--epochs=1', '--out_dir=ft', '--seeds=0']
    err = run('finetune.py', *fine, '--init_from=scratch,pre/a', '--mlp_ratio=2', status=2).stderr
    assert err == 'error: mlp_ratio=2 is given, and the weights of pre/a have mlp_ratio=3: leave it out\n'
    err = run('finetune.py', *fine, '--init_from=pre/a,pre/b', status=2).stderr
    assert 'pre/a has mlp_ratio=3, and pre/b has mlp_ratio=4' in err
    run('finetune.py', *fine, '--init_from=scratch,pre/a')
    for path in (tmp_path / 'ft').glob('*.pt'):
        saved = torch.load(path, weights_only=True)
        assert saved['config']['mlp_ratio'] == saved['model_args']['mlp_ratio'] == 3


def test_every_start_must_know_the_columns(run, table, tmp_path):
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre/a')
    text = (tmp_path / 't.csv').read_text()
    (tmp_path / 'u.csv').write_text(text.replace('a,b,c,d', 'd,c,b,a'))
    (tmp_path / 'v.csv').write_text(text.replace('a,b,c,d', 'a,b,c,e'))
    for name, columns in (('u', 'd,c,b,a'), ('v', 'a,b,c,e')):
        run('pretrain.py', *PRE, f'--dataset={name}.csv', f'--input_column={columns}', f'--out_dir=pre/{name}')
    for start, word in (('u', 'another order'), ('v', "'d' for 'e'")):
        for script, options in (('finetune.py', [*FINE, f'--init_from=pre/a,pre/{start}']),
                                ('pretrain.py', [*PRE, f'--init_from=pre/{start}'])):
            assert word in run(script, *options, *table, '--label_column=side', status=2).stderr
    for option, word in (('--val_share=0.3', 'val_share 0.2 (now 0.3)'),
                         ('--split_seed=3', 'split_seed 0 (now 3)')):
        done = run('finetune.py', *FINE, '--init_from=pre/a', '--epochs=1', option)
        assert f'trained with {word}: rows that it learned from may be validation' in done.stdout


def test_columns_without_names_are_told_apart_in_one_file(run, tmp_path):
    """c1 to c4 are not c0 to c3; in another file without a header they may be."""
    x = np.random.default_rng(0).normal(size=(200, 4))
    text = '\n'.join(','.join([str(int(row[0] > 0)), *map(str, row), str(int(row[1] > 0))]) for row in x)
    (tmp_path / 'h.csv').write_text(text)
    (tmp_path / 'g.csv').write_text(text)
    run('pretrain.py', *PRE, '--dataset=h.csv', '--label_column=-1', '--out_dir=pre')
    fine = [*FINE, '--epochs=1', '--init_from=pre', '--val_share=0.2', '--test_share=0.2']
    err = run('finetune.py', *fine, '--dataset=h.csv', '--label_column=c0', status=2).stderr
    assert "h has other columns than the checkpoint learned, 'c1' for 'c0' at place 1" in err
    run('finetune.py', *fine, '--dataset=h.csv', '--label_column=-1')
    run('finetune.py', *fine, '--dataset=g.csv', '--label_column=-1', '--out_dir=g')


def test_every_start_is_asked_what_it_learned_from(run, table):
    """The second one too, and what pre-training starts from; new labels alone are no matter."""
    run('pretrain.py', *PRE, *table, '--drop_column=side', '--out_dir=pre/a')
    run('pretrain.py', *PRE, *table, '--split_seed=1', '--out_dir=pre/b')
    learned = 'trained with split_seed 1 (now 0): rows that it learned from may be validation or test rows now'
    fine = [*FINE, *table, '--label_column=side', '--epochs=1']
    done = run('finetune.py', *fine, '--init_from=pre/a,pre/b')
    assert f'pre/b: the checkpoint was {learned}' in done.stdout and done.stdout.count('learned from may') == 1
    done = run('pretrain.py', *PRE, *table, '--init_from=pre/b', '--out_dir=pre/c')
    assert learned in done.stdout


def test_regression_is_scored_in_the_labels_units(run, table, tmp_path):
    run('finetune.py', *FINE, *table, '--label_column=value', '--target=regression', '--init_from=scratch',
        '--out_dir=ft', '--epochs=12')
    r, = results(tmp_path / 'ft')
    # labels have a mean of 5,000 and a deviation of 200
    assert r['metric'] == 'rmse' and 5 < r['test'][0] < 150
    out = run('eval.py', '--ckpt=ft/scratch-lr0.003-seed0.pt', '--device=cpu').stdout
    assert f': {r["test"][0]:.4f}' in out


def test_classes_may_be_text_and_other_files_are_scored_by_name(run, table, tmp_path):
    run('finetune.py', *FINE, *table, '--label_column=kind', '--target=multiclass', '--init_from=scratch',
        '--out_dir=ft', '--epochs=8')
    lines = (tmp_path / 't.csv').read_text().splitlines()
    not_low = [line for line in lines[1:] if not line.endswith('low')]
    (tmp_path / 'new.csv').write_text('\n'.join([lines[0]] + not_low))
    common = ['--ckpt=ft/scratch-lr0.003-seed0.pt', '--input_column=a,b,c,d', '--label_column=kind',
              '--split=all', '--device=cpu']
    score = float(run('eval.py', *common, '--dataset=new.csv').stdout.split(': ')[-1])
    assert score > 0.5  # 'middle' is class 1 there although it is the first label of the new file
    (tmp_path / 'odd.csv').write_text((tmp_path / 'new.csv').read_text().replace('top', 'huge'))
    assert "'huge'" in run('eval.py', *common, '--dataset=odd.csv', status=2).stderr


def test_n_train_draws_labelled_rows_by_seed_and_resume_keeps_finished_runs(run, table, tmp_path):
    options = [*FINE, *table, '--label_column=side', '--target=binary', '--init_from=scratch', '--out_dir=ft',
               '--n_train=40', '--epochs=1']
    run('finetune.py', *options)
    path = tmp_path / 'ft/scratch-lr0.003-seed0.pt'
    assert torch.load(path, weights_only=True)['n_train'] == 40
    stamp = path.stat().st_mtime_ns
    run('finetune.py', *options, '--resume', '--seeds=0,1')
    (row,) = results(tmp_path / 'ft')
    assert path.stat().st_mtime_ns == stamp and len(row['test']) == 2
    assert 'epochs=1' in run('finetune.py', *options, '--resume', '--epochs=2', status=2).stderr
    path.replace(tmp_path / 'ft/scratch-lr0.003-seed1.pt')
    err = run('finetune.py', *options, '--resume', '--seeds=1', status=2).stderr
    assert 'seed1.pt holds the run of lr 0.003, seed 0: remove it' in err


@pytest.mark.slow
def test_resume_notices_a_start_that_was_trained_anew(run, table, tmp_path):
    """Its score is not taken for the new weights', nor are log and results written twice."""
    pre = [*PRE, *table, '--label_column=side', '--out_dir=pre/guided']
    fine = [*FINE, *table, '--label_column=side', '--target=binary', '--init_from=scratch,pre/guided',
            '--out_dir=ft']
    run('pretrain.py', *pre)
    run('finetune.py', *fine)

    def log():
        return results(tmp_path / 'ft', 'log.jsonl')
    first, (scratch, tuned) = log(), results(tmp_path / 'ft')
    done = run('finetune.py', *fine, '--resume').stdout
    assert 'made anew' not in done and log() == first and results(tmp_path / 'ft') == [scratch, tuned]
    assert (tmp_path / 'ft/results.md').read_text().count('none (scratch)') == 1
    run('pretrain.py', *pre, '--seed=1')
    earlier = run_files(tmp_path / 'ft')
    done = run('finetune.py', *fine, '--resume').stdout
    assert run_files(tmp_path / 'ft/previous-1') == earlier and done.count('is copied to') == 1
    assert done.count('made anew') == 1 and 'pre/guided or the data have changed' in done
    assert len(log()) == len(first) and log()[:len(first) // 2] == first[:len(first) // 2]  # scratch is kept
    assert results(tmp_path / 'ft')[0] == scratch and results(tmp_path / 'ft')[1] != tuned
    run('finetune.py', *fine, '--out_dir=new')
    assert results(tmp_path / 'new')[1] == results(tmp_path / 'ft')[1]


def test_two_starts_of_one_name_are_refused(run, table, tmp_path):
    for folder in ('a/b-c', 'a-b/c'):
        run('pretrain.py', *PRE, *table, '--label_column=side', f'--out_dir={folder}')
    err = run('finetune.py', *FINE, *table, '--label_column=side', '--init_from=a/b-c,a-b/c', status=2).stderr
    assert 'would both be saved as a-b-c' in err


@pytest.mark.slow
def test_two_processes_are_one(run, two_processes, table, tmp_path):
    """PyTorch's DDP on two gloo processes ends where one process with two micro-batches ends."""
    options = [*FINE, *table, '--label_column=value', '--target=regression', '--init_from=scratch',
               '--dropout=0.1', '--epochs=1']
    run('finetune.py', *options, '--out_dir=one', '--accumulation=2')
    two_processes('finetune.py', *options, '--out_dir=two')
    (a,), (b,) = results(tmp_path / 'one'), results(tmp_path / 'two')
    assert np.isclose(a['val'], b['val'], rtol=1e-3) and np.isclose(a['test'], b['test'], rtol=1e-3)


def test_what_a_checkpoint_knows_need_not_be_said_again(run, table, tmp_path):
    """
    Two commands from a CSV to a score; the columns, shares and scale of the second are those of the first.
    """
    run('pretrain.py', *PRE, *table, '--label_column=side', '--norm=quantile')
    known = [*FINE, '--epochs=1']
    a = run('finetune.py', *known, '--init_from=scratch,out/t/guided', '--out_dir=a').stdout
    b = run('finetune.py', *known, *table, '--label_column=side', '--target=binary', '--norm=quantile',
            '--init_from=scratch,out/t', '--out_dir=b').stdout
    assert results(tmp_path / 'a') == results(tmp_path / 'b') and len(results(tmp_path / 'a')) == 2
    assert 'target: binary, as the labels have 2 values' in a and '--target=' not in b
    run('finetune.py', *known, '--dataset=t.csv', '--label_column=side', '--val_share=0.2', '--test_share=0.2')
    assert len(results(tmp_path / 'out/finetune_t')) == 2  # scratch, and the run that lies in out/t
    # another table, with the columns in another order and more of them
    lines = [line.split(',') for line in (tmp_path / 't.csv').read_text().splitlines()]
    (tmp_path / 'u.csv').write_text('\n'.join(','.join(c[::-1]) for c in lines))
    run('finetune.py', *known, '--init_from=out/t/guided', '--dataset=u.csv', '--label_column=side',
        '--val_share=0.2', '--test_share=0.2', '--out_dir=c')
    assert results(tmp_path / 'c') == results(tmp_path / 'a')[1:]


def test_each_shape_knob_of_pretrain_is_one_of_finetune():
    """Else scratch and checkpoint could differ, or a knob be ignored."""
    from conftest import ROOT

    from configurator import find_knobs
    from model import FREE, SMAConfig
    pre, fine = (find_knobs(ROOT / f'{name}.py')[0] for name in ('pretrain', 'finetune'))
    fields = set(vars(SMAConfig()))
    shape = (fields - {*FREE}) & set(pre)
    assert shape <= set(fine), 'a shape knob that finetune.py lacks; or put it in model.FREE'
    theirs = {'first_heads', 'decoder_heads', 'decoder_qk_dim', 'decoder_mlp_ratio', 'head_mlp_ratio',
              'head_residual'}
    assert fields - {*pre, *fine} == {'d_raw', 'n_out'} | theirs  # the first two come from the data


def test_mistakes_end_in_one_line(run, table, tmp_path):
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=pre/guided')
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'pre/guided/last.pt').read_bytes()[:3000])
    (tmp_path / 's.txt').write_text('abc\n' * 90)
    fine = [*FINE, *table, '--init_from=scratch', '--target=binary', '--label_column=side']
    for options, word in (
            (['--init_from=nowhere'], 'no checkpoint nowhere'),
            (['--init_from=cut.pt'], 'cut short'),
            (['--target=none'], 'binary, multiclass or regression'),
            (['--label_column=value'], 'values'),
            (['--label_column=value', '--target=multiclass'], 'no class'),
            (['--label_column=kind', '--target=regression'], 'text'),
            (['--metric=rmse'], 'does not fit'),
            (['--n_train=5000'], 'n_train=5000'),
            (['--init_from=pre/guided', '--input_column=a,b'], 'wants 4 inputs')):
        err = run('finetune.py', *fine, *options, status=2).stderr
        assert err.count('\n') == 1 and err.startswith('error: ') and word in err, (options, err)
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_few_rows_are_passed_over_until_1200_steps(run, table, tmp_path):
    """One step a pass: 1,200 passes, of which every twelfth is scored; epochs=3 means three."""
    fine = [*TINY, *table, '--batch_size=128', '--label_column=value', '--init_from=scratch', '--seeds=0',
            '--out_dir=ft']
    for epochs, steps in (([], range(12, 1201, 12)), (['--epochs=3'], (1, 2, 3))):
        run('finetune.py', *fine, *epochs)
        assert [line['step'] for line in results(tmp_path / 'ft', 'log.jsonl')] == [*steps]


# ---- nothing is lost, nothing is mixed up

def run_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.is_file() and path.name != '.lock'}


def test_an_earlier_fine_tuning_is_kept(run, table, tmp_path):
    fine = [*FINE, *table, '--label_column=side', '--init_from=scratch', '--out_dir=ft', '--epochs=1']
    run('finetune.py', *fine)
    first = run_files(tmp_path / 'ft')
    assert {'results.md', 'results.jsonl', 'log.jsonl', 'scratch-lr0.003-seed0.pt'} == first.keys()
    done = run('finetune.py', *fine, '--seeds=0,1')  # of seed 0 both runs have log entries
    assert 'ft holds an earlier run' in done.stdout and run_files(tmp_path / 'ft/previous-1') == first
    assert 'scratch-lr0.003-seed1.pt' in run_files(tmp_path / 'ft')
    run('finetune.py', *fine, '--seeds=1')
    assert 'scratch-lr0.003-seed0.pt' not in run_files(tmp_path / 'ft')


def test_the_stages_do_not_share_a_folder(run, table):
    run('pretrain.py', *PRE, *table, '--label_column=side', '--out_dir=both')
    err = run('finetune.py', *FINE, *table, '--label_column=side', '--init_from=scratch', '--out_dir=both',
              status=2).stderr
    assert 'both belongs to pretrain.py' in err


def test_runs_of_other_data_are_no_starts_unless_asked_for(run, tmp_path):
    """
    a/train.npz and b/train.npz are both called train: the second does not start from what learned the first.
    """
    rng = np.random.default_rng(0)
    for name, n in (('a', 4), ('b', 6)):
        (tmp_path / name).mkdir()
        x = rng.normal(size=(200, n)).astype(np.float32)
        np.savez(tmp_path / name / 'train.npz', X=x, y=(x.sum(1) > 0).astype(int))
    run('pretrain.py', *PRE, '--dataset=a/train.npz', '--norm=quantile')
    fine = [*FINE, '--dataset=b/train.npz', '--val_share=0.2', '--test_share=0.2', '--epochs=1']
    done = run('finetune.py', *fine)
    assert 'warning: out/train/guided learned from a/train.npz, not from b/train.npz' in done.stdout
    assert [row['init_from'] for row in results(tmp_path / 'out/finetune_train')] == ['scratch']
    scratch = torch.load(tmp_path / 'out/finetune_train/scratch-lr0.003-seed0.pt', weights_only=True)
    assert scratch['norm']['kind'] == 'standard'  # what is left out decides nothing
    err = run('finetune.py', *fine, '--init_from=out/train/guided', '--out_dir=asked', status=2).stderr
    assert 'holds 6 inputs' in err and 'the checkpoint wants 4' in err
    for i, path in enumerate(('a/train.npz', './a/train.npz', str(tmp_path / 'a/train.npz'))):
        run('finetune.py', *fine, f'--dataset={path}', f'--out_dir=own{i}')
        assert [row['init_from'] for row in results(tmp_path / f'own{i}')] == ['scratch', 'out/train/guided']


def test_rates_that_print_alike_have_files_of_their_own(run, table, tmp_path):
    run('finetune.py', *FINE, *table, '--label_column=side', '--init_from=scratch', '--out_dir=ft',
        '--epochs=1', '--lr=0.00300000001,0.003')
    assert len(list((tmp_path / 'ft').glob('*.pt'))) == 2


@pytest.mark.parametrize('option, word', [('--seeds=0,1,0', 'seeds=(0, 1, 0)'), ('--lr=1e-3,0.001', 'lr=')])
def test_a_seed_or_rate_is_given_once(run, table, option, word):
    err = run('finetune.py', *FINE, *table, '--label_column=side', '--init_from=scratch',
              option, status=2).stderr
    assert word in err and 'give each once' in err


def test_a_start_with_a_long_path_is_refused_before_anything_is_trained(run, table, tmp_path):
    folder = '/'.join(['a' * 60] * 4)
    run('pretrain.py', *PRE, *table, '--label_column=side', f'--out_dir={folder}')
    err = run('finetune.py', *FINE, *table, '--label_column=side', f'--init_from=scratch,{folder}',
              status=2).stderr
    assert 'is too long for a file name' in err and not list(tmp_path.rglob('scratch*.pt'))


def test_validation_looks_at_no_more_rows_than_training(monkeypatch):
    """
    1,000 labels, 3,303 validation rows: 46 validations in 1,204 steps of 128, not 86. Few rows: a hundred.
    """
    import finetune
    for name, value in dict(batch_size=128, epochs=None, max_steps=None, eval_interval=None).items():
        monkeypatch.setattr(finetune, name, value)
    for n_rows, n_val in ((1000, 3303), (1000, 100), (50_000, 1000), (128, 40)):
        steps, interval = finetune.steps_and_interval(n_rows, n_val)
        n_validations = steps // interval
        assert steps >= 1200 and interval % (n_rows // 128) == 0
        assert n_validations <= 100 and (n_validations * n_val <= steps * 128 or n_validations <= 10)
    assert finetune.steps_and_interval(1000, 100_000)[1] <= 1204 / 8  # at least about ten, whatever they cost
    monkeypatch.setattr(finetune, 'eval_interval', 7)
    assert finetune.steps_and_interval(1000, 3303)[1] == 7


@pytest.mark.slow
def test_two_processes_resume_with_one_answer(two_processes, table, tmp_path):
    """Rank 0 says which runs are finished. Each rank asking the disk for itself made them wait for ever."""
    options = [*FINE, *table, '--label_column=side', '--init_from=scratch', '--epochs=1', '--out_dir=ft']
    two_processes('finetune.py', *options)
    two_processes('finetune.py', *options, '--seeds=0,1', '--resume')
    assert len(results(tmp_path / 'ft')[0]['test']) == 2
