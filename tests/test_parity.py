"""
The authors' code and ours, on the same weights and inputs, in float64: tests/parity.pt holds what theirs
gave, see make_parity.py. And their folders, from a disk and from a server.
"""

import http.server
import json
import math
import shutil
import socketserver
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import masking
from finetune import loss_of
from masking import Masking
from model import build, gather_rows, mask_to_indices
from util import download
from util.authors import THEIR_NAMES, from_theirs
from util.checkpoint import load, load_weights
from util.errors import UserError
from util.optim import make_optimizer, make_scaler, update

HERE = Path(__file__).resolve().parent
TINY = HERE / 'sma_tiny'
STORED = torch.load(HERE / 'parity.pt', weights_only=True)
CASES = [name for name in STORED if name not in ('sma_tiny', 'tuning')]


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-9, atol=1e-9)


def unpacked(packed):
    flat, at = packed
    return {k: flat[i:i + math.prod(shape)].view(shape).double() for k, (i, shape) in at.items()}


def ours(case, which=''):
    checkpoint, about = from_theirs(case[which + 'config'], unpacked(case[which + 'state']))
    model = build(checkpoint['model_args']).double()
    load_weights(model, checkpoint['model'])
    return model


def renamed(names, norms):
    for theirs, name in THEIR_NAMES:
        names = [theirs.sub(name, k) for k in names]
    return dict(zip(names, norms.tolist(), strict=True))


def compare(case, run, n_query):
    """A step of ours against theirs: mask, loss, logits, gradient norms."""
    model, x, valid = ours(case), case['x'], case['valid']
    loss, hidden = model(x, None if valid.all() else valid, Masking('guided', run['ratio'], n_query))
    assert torch.equal(hidden, run['hidden'])
    loss = loss.sum() / hidden.sum()
    close(loss.item(), run['loss'])
    loss.backward()
    norms = renamed(case['names'], run['norms'])
    assert {k for k, p in model.named_parameters() if p.dim() > 1 and k != 'head_query'} <= set(norms)
    for k, p in model.named_parameters():
        assert k in norms or k.endswith('.bias') and not case['config']['dense_use_bias']
        if k in norms:
            close(p.grad.norm().item(), norms[k])
    if 'logits' in run:
        m = round(run['ratio'] * x.shape[1])
        hidden_at, is_hidden = mask_to_indices(hidden, m)
        visible_at, is_visible = mask_to_indices(valid & ~hidden, x.shape[1] - m)
        prediction = model.decode(*model.encode(gather_rows(model.embed(x), visible_at), is_visible), hidden_at)
        close(prediction[is_hidden].detach(), run['logits'])


@pytest.mark.parametrize('i', range(4))
@pytest.mark.parametrize('name', CASES)
def test_a_step_is_theirs_when_all_queries_are_drawn(name, i):
    compare(STORED[name], STORED[name]['every'][i], n_query=1000)


@pytest.mark.parametrize('i', range(3))
@pytest.mark.parametrize('name', CASES)
def test_a_step_is_theirs_with_the_queries_that_they_drew(name, i, monkeypatch):
    run = STORED[name]['few'][i]
    longest = max(map(len, run['queries']))
    assert longest < 12 and min(map(len, run['queries'])) > 0
    # a shorter row draws fewer: filled up with place 11, padding, which asks nothing
    R = torch.tensor([q + [11] * (longest - len(q)) for q in run['queries']])
    monkeypatch.setattr(masking, 'sample_queries', lambda *args: R)
    compare(STORED[name], run, n_query=longest)


@pytest.mark.parametrize('name', CASES)
def test_the_fine_tuned_answers_are_theirs(name):
    case = STORED[name]
    model, valid = ours(case, 'tuned_'), case['valid']
    answer = model(case['x'], None if valid.all() else valid)
    close(answer.detach(), case['answer'])
    answer.square().sum().backward()
    norms, compared = renamed(case['tuned_names'], case['tuned_norms']), 0
    for k, p in model.named_parameters():
        if k in norms:
            close(p.grad.norm().item(), norms[k])
            compared += 1
    assert compared == len(norms)


def test_fine_tuning_their_folder_gives_their_validation_curve():
    """The same batches, no dropout, AdamW and clipping: our encoder, loss and update, a dozen steps."""
    case = STORED['tuning']
    x, y, valid, size = (case[k] for k in ('x', 'y', 'valid', 'size'))
    checkpoint = load(TINY)
    model = build(checkpoint['model_args'], n_out=3).double()
    head = dict(zip(renamed([f'perceiver.decoder.{k}' for k in case['head']], torch.zeros(len(case['head']))),
                    case['head'].values()))
    load_weights(model, {**head, **checkpoint['model']}, dropped=('decoder.',), new=('head.',))
    assert {k for k in model.state_dict() if k.startswith('head')} - set(head) <= {
        k for k, p in model.named_parameters() if k.endswith('.bias') and not p.any()}  # theirs has none
    for k, p in model.named_parameters():
        p.requires_grad_(k in head or k in named(TINY))
    optimizer, curve = make_optimizer(model, 3e-3, 0.0, 'cpu'), []
    scaler = make_scaler(SimpleNamespace(device=torch.device('cpu'), dtype='float32'))
    for step in range(len(case['curve'])):
        at = torch.arange(size) + size * (step % 3)
        scaler.scale(loss_of(model(x[at], valid[at]), y[at], 'multiclass') / size).backward()
        update(model, optimizer, scaler, 1.0)
        val = slice(3 * size, None)
        with torch.no_grad():
            curve.append((loss_of(model(x[val], valid[val]), y[val], 'multiclass') / (2 * size)).item())
    close(curve, case['curve'])


def named(folder):
    """Our names of the weights that are in their file."""
    state = torch.load(folder / 'pytorch_model.bin', weights_only=True)
    return renamed(list(state), torch.zeros(len(state)))


def test_the_masks_depend_on_the_queries():
    """Else their agreement would say little: all queries hide something else than the few in every case."""
    for name in CASES:
        case, model = STORED[name], ours(STORED[name])
        valid = None if case['valid'].all() else case['valid']
        others = [model(case['x'], valid, Masking('guided', run['ratio'], 1000))[1] for run in case['few']]
        assert not all(torch.equal(h, run['hidden']) for h, run in zip(others, case['few'])), name


# ---- their folders

def sum_up(checkpoint):
    """Mask and loss of the tiny model on the inputs of its case."""
    case, run = STORED['cross-attention, bytes, padding'], STORED['sma_tiny']
    model = build(checkpoint['model_args']).double()
    load_weights(model, checkpoint['model'])
    loss, hidden = model(case['x'], case['valid'], Masking('guided', run['ratio'], 1000))
    return (loss.sum() / hidden.sum()).item(), hidden


@pytest.mark.parametrize('file', ['pytorch_model.bin', 'model.safetensors'])
def test_a_folder_of_save_pretrained_is_a_checkpoint(tmp_path, file, capsys):
    for name in ('config.json', file):
        shutil.copy(TINY / name, tmp_path)
    checkpoint = load(tmp_path)
    loss, hidden = sum_up(checkpoint)
    close(loss, STORED['sma_tiny']['loss'])
    assert torch.equal(hidden, STORED['sma_tiny']['hidden'])
    said = capsys.readouterr().out
    copies = 35 + 4 + 4 if file == 'pytorch_model.bin' else 0  # the student, twice what embeds
    assert f'{tmp_path}: SMAForSSL, a Perceiver of 3 layers, ' in said
    assert f' parameters; left out: {copies} copies, 0 unused weights, share_embedding_weights\n' in said
    assert checkpoint['config'] == dict(mask='guided', mask_ratio=0.3, n_query=4)


@pytest.mark.parametrize('change, word', [
    (dict(num_blocks=2), 'num_blocks=2'), (dict(hidden_act='relu'), "hidden_act='relu'"),
    (dict(use_query_residual=False), 'use_query_residual=False'),
    (dict(num_discrete_tokens=300), 'num_discrete_tokens'), (dict(v_channels=32), 'v_channels=32'),
    (dict(cross_attention_widening_factor=1), 'cross_attention_widening_factor'),
    (dict(architectures=['SMAForSemanticSegmentation']), 'SMAForSemanticSegmentation'),
    (dict(share_decoder_queries=False), 'share_decoder_queries=False'),
    (dict(add_mask_token=True), 'add_mask_token'),
    (dict(widening_factor=7), 'another shape'), (dict(latent_channels=None), 'latent_channels'),
    (dict(num_latents=6), 'another shape'), (dict(num_self_attends_per_block=1), 'does not fit')])
def test_what_is_not_here_is_named(tmp_path, change, word):
    config = json.loads((TINY / 'config.json').read_text())
    for k, v in change.items():
        inside = config['teacher_args']['reconstruction_decoder_args']
        (inside if k in inside or k == 'add_mask_token' else config).update({k: v})
        if v is None:
            del config[k]
    shutil.copy(TINY / 'pytorch_model.bin', tmp_path)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match=word):
        load(tmp_path)


def test_what_only_training_knows_and_weights_without_use_are_left_out_aloud():
    case = STORED['self-attention, bytes, padding']
    teacher = {**case['config']['teacher_args'], 'target_mean': [0.5], 'reconstruction_weighted_loss': True}
    noise = [['RandomlySelectedCrossAttentionMasking', dict(masking_ratio=0.2, num_per_query=3, mask_self=True,
                                                            head_aggregation='mean')]]
    config = {**case['config'], 'teacher_args': teacher, 'cross_train_noising_args': noise}
    state = unpacked(case['state'])
    state.update({'perceiver.decoder.pre_layernorm.bias': torch.zeros(16),  # a head that was never tuned
                  'teacher.ema_teacher.model.encoding_latents.latents': torch.zeros(5, 16)})
    checkpoint, about = from_theirs(config, state)
    assert about.endswith(', 2 unused weights, target_mean, reconstruction_weighted_loss, mask_self')
    assert checkpoint['config'] == dict(mask='guided', mask_ratio=0.2, n_query=1)
    pixels = STORED['cross-attention, pixels']
    config = {**pixels['config'], 'cross_train_noising_args': None}
    checkpoint, _ = from_theirs(config, unpacked(pixels['state']))
    assert checkpoint['config']['mask'] == 'random' and checkpoint['config']['image_size'] == 3
    assert checkpoint['norm'] is None


def test_a_fine_tuned_model_of_theirs_embeds(run, tmp_path):
    case = STORED['self-attention, bytes, padding']
    (tmp_path / 'tuned').mkdir()
    (tmp_path / 'tuned/config.json').write_text(json.dumps(case['tuned_config']))
    torch.save(unpacked(case['tuned_state']), tmp_path / 'tuned/pytorch_model.bin')
    (tmp_path / 't.txt').write_text('ABC\nDEFG\nHIJKL\n' * 9)
    run('eval.py', '--ckpt=tuned', '--embed=t.txt', '--device=cpu')
    assert np.load(tmp_path / 't.embeddings.npy').shape == (27, 16)
    assert 'embed or probe it' in run('eval.py', '--ckpt=tuned', '--dataset=t.txt', status=2).stderr
    assert 'fine-tuned model' in run('finetune.py', '--init_from=tuned', '--dataset=t.txt', status=2).stderr


def test_broken_folders_are_one_line(tmp_path):
    shutil.copy(TINY / 'config.json', tmp_path)
    with pytest.raises(UserError, match='pytorch_model.bin'):
        load(tmp_path)
    (tmp_path / 'model.safetensors').write_bytes((TINY / 'model.safetensors').read_bytes()[:5000])
    with pytest.raises(UserError, match='cut short'):
        load(tmp_path)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server laid out as huggingface.co: OWNER/NAME/resolve/main/FILE, of which weights are elsewhere."""
    files = {f'/me/tiny/resolve/main/{name}': name for name in ('config.json', 'pytorch_model.bin')}

    class Server(http.server.BaseHTTPRequestHandler):
        asked = []

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.asked.append(self.path)
            name = files.get(self.path) or self.path.removeprefix('/cdn/')
            if self.path.endswith('/pytorch_model.bin') and self.path in files:
                self.send_response(302)
                self.send_header('Location', f'/cdn/{name}')
                return self.end_headers()
            if self.path in files or self.path.startswith('/cdn/'):
                body = (TINY / name).read_bytes()
                self.send_response(200)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                return self.wfile.write(body)
            self.send_response(404)
            self.end_headers()
    Server.asked = []
    with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Server) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv('SMA_MIRROR', f'http://127.0.0.1:{server.server_address[1]}')
        monkeypatch.setattr(download, 'WAITS', (0, 0))
        yield Server
        server.shutdown()


def test_weights_come_from_the_hub_once_and_through_a_redirect(hub, tmp_path):
    checkpoint = load('hf:me/tiny', data_dir=tmp_path / 'd')
    close(sum_up(checkpoint)[0], STORED['sma_tiny']['loss'])
    main = '/me/tiny/resolve/main'
    assert hub.asked == [f'{main}/config.json', f'{main}/model.safetensors', f'{main}/pytorch_model.bin',
                         '/cdn/pytorch_model.bin']
    hub.asked.clear()
    load('hf:me/tiny', data_dir=tmp_path / 'd')
    assert hub.asked == [f'{main}/model.safetensors']
    with pytest.raises(UserError, match='me/none/resolve/main/config.json'):
        load('hf:me/none', data_dir=tmp_path / 'd')


def test_all_stages_take_their_weights(hub, run, tmp_path):
    rng = np.random.default_rng(0)
    texts = [''.join(rng.choice(list('ABCDEF'), rng.integers(5, 9))) for _ in range(60)]
    (tmp_path / 't.csv').write_text('text,y\n' + ''.join(f'{t},{len(t)}\n' for t in texts))
    data = ['--dataset=t.csv', '--input_column=text', '--label_column=y', '--device=cpu']
    small = ['--batch_size=8', '--max_steps=2', '--val_share=0.2', '--test_share=0.2']
    out = run('finetune.py', *data, *small, '--target=regression', '--init_from=scratch,hf:me/tiny',
              '--seeds=0', '--out_dir=ft').stdout
    assert '| guided masks (hf:me/tiny) |' in out and 'a Perceiver of 3 layers' in out
    assert 'embed_dim 8 (not 64)' in out  # scratch has the same shape
    out = run('pretrain.py', *data, *small, '--init_from=hf:me/tiny', '--out_dir=pre', '--lr=1e-9').stdout
    want = sum(v.numel() for v in torch.load(tmp_path / 'pre/last.pt', weights_only=True)['model'].values())
    assert f'{want:,} parameters' in out and ', 0 new' in out
    run('pretrain.py', *data, *small, '--init_from=hf:me/tiny', '--out_dir=pre', '--lr=1e-9', '--resume')
    out = run('eval.py', '--ckpt=hf:me/tiny', *data, '--split=all').stdout
    assert 'masked loss on 60 all rows, guided masks, ratio 0.3' in out
    mine = run('eval.py', '--ckpt=pre', *data, '--split=all', '--mask_ratio=0.3', '--n_query=4').stdout
    assert out.splitlines()[-1][-6:] == mine.splitlines()[-1][-6:]  # a step at lr 1e-9 changes next to nothing
    run('eval.py', '--ckpt=hf:me/tiny', '--embed=t.csv', *data[1:])
    assert np.load(tmp_path / 't.embeddings.npy').shape == (60, 16)
    run('eval.py', '--ckpt=hf:me/tiny', *data, '--show=masks', '--split=all')
    assert 'also hidden' in run('eval.py', f'--ckpt={TINY}', *data, '--show=masks', '--split=all',
                                f'--show_out={tmp_path}').stdout


def test_floats_are_scaled_by_the_data_at_hand(run, tmp_path):
    case = STORED['self-attention, floats']
    (tmp_path / 'theirs').mkdir()
    (tmp_path / 'theirs/config.json').write_text(json.dumps(case['config']))
    torch.save(unpacked(case['state']), tmp_path / 'theirs/pytorch_model.bin')
    x = np.random.default_rng(0).normal(5, 3, (90, 13))
    np.savetxt(tmp_path / 't.csv', x, delimiter=',', comments='', header=','.join('abcdefghijkly'))
    data = ['--dataset=t.csv', '--label_column=y', '--device=cpu', '--batch_size=8', '--max_steps=2']
    run('pretrain.py', *data, '--init_from=theirs', '--out_dir=pre')
    run('finetune.py', *data, '--init_from=scratch,theirs', '--out_dir=ft', '--seeds=0', '--target=regression')
    norms = [torch.load(tmp_path / path, weights_only=True)['norm'] for path in
             ('pre/last.pt', 'ft/scratch-lr0.001-seed0.pt', 'ft/theirs-lr0.001-seed0.pt')]
    assert all(norm['kind'] == 'standard' and 4 < norm['mean'].mean() < 6 for norm in norms)
    assert all(torch.equal(norm['std'], norms[0]['std']) for norm in norms)
