"""authors.py: their folders, from a disk and from a server that is laid out as huggingface.co."""

import http.server
import json
import resource
import shutil
import signal
import socketserver
import threading

import numpy as np
import pytest
import torch
from test_parity import STORED, TINY, close, unpacked

from masking import Masking
from model import build
from util import download
from util.authors import from_theirs
from util.checkpoint import load, load_weights
from util.errors import UserError


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
    decoder = config['teacher_args']['reconstruction_decoder_args']
    for name, value in change.items():
        if name in decoder or name == 'add_mask_token':
            decoder[name] = value
        else:
            config[name] = value
        if value is None:
            del config[name]
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


# ---- what config.json may claim: it is compared with the weights before any memory is taken

@pytest.fixture
def half_a_minute():
    """Ends the test after 30 seconds: what it guards against would run for ever."""
    def end(number, frame):
        pytest.fail('it takes too long')
    usual = signal.signal(signal.SIGALRM, end)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, usual)


def folder_with(tmp_path, **change):
    """The tiny model's folder, with these settings in its config.json."""
    config = json.loads((TINY / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps({**config, **change}))
    shutil.copy(TINY / 'model.safetensors', tmp_path)
    return tmp_path


@pytest.mark.parametrize('change', [
    dict(num_self_attends_per_block=10 ** 9), dict(num_self_attends_per_block=1e9), dict(num_latents=10 ** 12),
    dict(max_position_embeddings=10 ** 12), dict(embedded_channels=10 ** 9), dict(latent_channels=10 ** 15),
    dict(self_attention_widening_factor=10 ** 9, cross_attention_widening_factor=10 ** 9),
    dict(qk_channels=2 ** 40), dict(num_self_attention_heads=0), dict(num_self_attention_heads=10 ** 9),
    dict(num_cross_attention_heads=7), dict(num_cross_attention_heads=-2),
    dict(num_self_attends_per_block='2'), dict(num_self_attends_per_block=-5),
    dict(teacher_args=3), dict(architectures=[[]]), dict(cross_train_noising_args=[['x']]),
    dict(cross_train_noising_args=[['x', dict(masking_ratio=float('nan'))]]),
    dict(cross_train_noising_args=[['x', dict(masking_ratio='x')]]),
    dict(cross_train_noising_args=[['x', dict(num_per_query=0)]])])
def test_sizes_that_the_weights_do_not_have(tmp_path, half_a_minute, change):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KB
    with pytest.raises(UserError) as error:
        load(folder_with(tmp_path, **change))
    assert str(tmp_path) in str(error.value) or 'config.json' in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_a_name_at_the_hub_is_an_owner_and_a_model(tmp_path):
    for name in ('hf:', 'hf:one', 'hf:../../x', 'hf:/etc/passwd', 'hf:a/b/c', 'hf:a/..', 'hf:a/b?c'):
        with pytest.raises(UserError, match='hf:OWNER/NAME'):
            load(name, data_dir=tmp_path)


# ---- from the hub

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


@pytest.mark.slow
def test_all_stages_take_their_weights(hub, run, tmp_path):
    rng = np.random.default_rng(0)
    texts = [''.join(rng.choice(list('ABCDEF'), rng.integers(5, 9))) for _ in range(60)]
    (tmp_path / 't.csv').write_text('text,y\n' + ''.join(f'{t},{len(t)}\n' for t in texts))
    data = ['--dataset=t.csv', '--input_column=text', '--label_column=y', '--device=cpu']
    small = ['--batch_size=8', '--max_steps=2', '--val_share=0.2', '--test_share=0.2']
    out = run('finetune.py', *data, *small, '--target=regression', '--init_from=scratch,hf:me/tiny',
              '--seeds=0', '--out_dir=ft').stdout
    assert '| guided masks (hf:me/tiny) |' in out and 'a Perceiver of 3 layers' in out
    shapes = [torch.load(path, weights_only=True)['model_args'] for path in (tmp_path / 'ft').glob('*.pt')]
    assert [shape['embed_dim'] for shape in shapes] == [8, 8]  # scratch has the same shape
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
