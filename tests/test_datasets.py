"""
The table of data sets: each one read from a few rows in its own format, and from the real file where there is one.
Downloads against a server that misbehaves; two processes at once; a process killed in the middle; memory.
"""

import csv
import gzip
import hashlib
import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest

import data
from conftest import ROOT
from samples import bz2_tar, sample
from test_data import fails, opened, sequences


# ---- every data set from a few rows in its own format

# rows, train, valid, test with valid_share = test_share = 0.2
COUNTS = {
    'higgs_small': (40, 26, 6, 8), 'pfam': (42, 26, 8, 8), 'guacamol': (120, 40, 40, 40),
    'remote_homology': (120, 40, 40, 40), 'fluorescence': (120, 40, 40, 40), 'stability': (120, 40, 40, 40),
    'mnli': (80, 32, 8, 40), 'mnli_mm': (80, 32, 8, 40), 'qqp': (80, 32, 8, 40), 'qnli': (80, 32, 8, 40),
    'sst2': (80, 32, 8, 40), 'cola': (80, 32, 8, 40), 'stsb': (80, 32, 8, 40), 'rte': (80, 32, 8, 40),
    'mrpc': (40, 24, 6, 10), 'bbbp': (51, 39, 6, 6), 'bace': (51, 39, 6, 6), 'hiv': (51, 39, 6, 6),
    'esol': (51, 39, 6, 6), 'freesolv': (51, 39, 6, 6), 'lipo': (51, 39, 6, 6)}


@pytest.mark.parametrize('name', COUNTS)
def test_each_data_set_is_read_from_its_own_format(mirror, tmp_path, name):
    if data.DATASETS[name].get('scaffold'):
        pytest.importorskip('rdkit')
    sample(mirror, name)
    d = opened(tmp_path, name)
    rows, *splits = COUNTS[name]
    counts = [len(d.rows(s)) for s in data.SPLITS]
    assert len(d.y) == rows and counts == splits
    entry = data.DATASETS[name]
    if 'target' in entry:
        assert not np.isnan(d.y).any()
        classes = len(set(d.labels(np.arange(rows))))
        assert classes == 2 if entry['target'] == 'binary' else classes > 2
    if name == 'higgs_small':
        assert d.x.shape == (40, 28, 1)
    else:
        assert (d.firsts is not None) == (name in ('mnli', 'mnli_mm', 'qqp', 'qnli', 'stsb', 'rte', 'mrpc'))


def test_higgs_and_year_end_in_their_test_rows(mirror, tmp_path, monkeypatch):
    for name, n_test in (('higgs', 500_000), ('year', 51_630)):
        assert data.DATASETS[name]['last_test'] == n_test
        monkeypatch.setitem(data.DATASETS[name], 'last_test', 8)
        sample(mirror, name)
        d = opened(tmp_path, name)
        assert d.rows('test').tolist() == list(range(32, 40)) and len(d.rows('valid')) == 6
    with zipfile.ZipFile(mirror / 'YearPredictionMSD.txt.zip') as archive:
        want = np.loadtxt(archive.open('YearPredictionMSD.txt'), delimiter=',')
    np.testing.assert_array_equal(d.y, want[:, 0])
    np.testing.assert_array_equal(d.x[:, :, 0], want[:, 1:].astype(np.float32))


def test_higgs_small_is_stratified_and_its_holes_are_filled(mirror, tmp_path):
    """On labels counted as OpenML's, the sizes and class counts of Gorishniy et al. 2021 (rtdl's stats.json)."""
    y = np.random.default_rng(3).permutation(np.repeat([0.0, 1.0], [46_223, 51_827]))
    split = data.stratified_splits(y)
    assert [np.bincount(y[split == s].astype(int)).tolist() for s in range(3)] == [
        [29_582, 33_170], [7_396, 8_292], [9_245, 10_365]]
    sample(mirror, 'higgs_small')
    d = opened(tmp_path, 'higgs_small')
    mean = np.nanmean(np.where(np.arange(40)[:, None] == 39, np.nan, d.x[:, :, 0])[d.split == 0], axis=0)
    np.testing.assert_allclose(d.x[39, -9:, 0], mean[-9:], rtol=1e-5)


def test_pfam_keeps_50_to_1024_residues(mirror, tmp_path):
    sample(mirror, 'pfam')
    d = opened(tmp_path, 'pfam')
    lengths = {len(s) for s in sequences(d)}
    assert min(lengths) == 50 and max(lengths) == 1024 and sum(d.meta['left_out'].values()) == 2


def test_glue_pairs_and_quotes(mirror, tmp_path):
    """Compared with the csv module's own reading."""
    sample(mirror, 'rte')
    d = opened(tmp_path, 'rte')
    d.set_lengths(None)
    with zipfile.ZipFile(mirror / 'RTE.zip') as archive:
        lines = archive.read('RTE/train.tsv').decode().splitlines()
    rows = list(csv.DictReader(lines, delimiter='\t', quoting=csv.QUOTE_NONE))
    x, valid = d.batch(np.arange(40))
    for ids, ok, row in zip(x, valid, rows):
        a, b = (row[k].strip().encode() for k in ('sentence1', 'sentence2'))
        want = [data.CLS, *(v + 6 for v in a), data.SEP, *(v + 6 for v in b), data.SEP]
        assert ids[ok].tolist() == want
    assert d.labels(np.arange(40)) == [row['label'] for row in rows]


@pytest.mark.parametrize('a, b, max_len', [(5, 5, 20), (30, 5, 20), (5, 30, 20), (30, 31, 20), (9, 8, 20), (9, 9, 19)])
def test_a_pair_that_is_too_long_loses_the_end_of_the_longer(tmp_path, a, b, max_len):
    """Brute force: take a byte off the longer one, the second if they are alike, until it fits."""
    (tmp_path / 'p.csv').write_text(f'p,q\n{"a" * a},{"b" * b}\n')
    d = opened(tmp_path, tmp_path / 'p.csv', input_column='p,q', valid_share=0, test_share=0)
    d.set_lengths(max_len)
    x, _ = d.batch(np.array([0]))
    while a + b + 3 > max_len:
        a, b = (a, b - 1) if b >= a else (a - 1, b)
    text = ''.join({0: '', 4: 'C', 5: 'S'}.get(v) if v < 6 else chr(v - 6) for v in x[0].tolist())
    got = text.split('S')
    assert (len(got[0]) - 1, len(got[1])) == (a, b)


def test_windows_are_whole_characters_and_lose_nothing(tmp_path):
    text = ''.join(np.random.default_rng(0).choice(list('aé€😀 \n'), 5000))
    (tmp_path / 't.txt').write_text(text)
    d = opened(tmp_path, tmp_path / 't.txt', window=50)
    parts = sequences(d)
    assert all(len(p) <= 50 for p in parts) and all(len(p) > 46 for p in parts[:-1])
    want = '\n'.join(line for line in text.split('\n') if line.strip())
    assert b''.join(parts).decode() == want.rstrip('\n') and all(p.decode() for p in parts)


def test_wiki_books_is_one_text_in_windows(mirror, tmp_path):
    sample(mirror, 'wiki_books')
    d = opened(tmp_path, 'wiki_books')
    parts = sequences(d)
    assert max(map(len, parts)) <= 1022 and sum(len(p) < 1000 for p in parts) <= 3  # but for the ends of three files
    assert all(p.decode() for p in parts) and '"quoted' in parts[0].decode()


def test_mrpc_dev_rows_are_those_of_the_id_list(mirror, tmp_path):
    sample(mirror, 'mrpc')
    d = opened(tmp_path, 'mrpc')
    assert d.rows('test').tolist() == list(range(0, 40, 4))


def test_imagenet100_is_the_classes_on_the_list(mirror, tmp_path, capsys):
    pytest.importorskip('PIL')
    sample(mirror, 'imagenet100')
    d = opened(tmp_path, 'imagenet100', image_size=14)
    assert d.meta['classes'] == ['n01749939', 'n02869837'] and d.x.shape == (27, 16, 16, 3)
    assert [len(d.rows(s)) for s in data.SPLITS] == [18, 4, 5]  # validation rows are drawn from train
    assert opened(tmp_path, 'imagenet100', image_size=21).folder != d.folder
    (mirror / 'imagenet').rename(mirror / 'elsewhere')
    fails(capsys, str(tmp_path / 'datasets/downloads/imagenet'), opened, tmp_path, 'imagenet100', image_size=28)


def test_parquet_is_read_as_the_csv_is(tmp_path, capsys):
    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    table = dict(a=np.arange(50) / 8, b=np.arange(50), y=['no', 'yes'] * 25, s=[f's{i}é' for i in range(50)])
    pq.write_table(pa.table(table), tmp_path / 'a.parquet', row_group_size=16)
    (tmp_path / 'a.csv').write_text('a,b,y,s\n' + ''.join(f'{a},{b},{y},{s}\n' for a, b, y, s in zip(*table.values())))
    for knobs in (dict(input_column='a,b', label_column='y'), dict(input_column='s', label_column='a'),
                  dict(input_column='s,y')):
        one, two = (opened(tmp_path, tmp_path / f'a.{kind}', **knobs) for kind in ('csv', 'parquet'))
        assert np.array_equal(one.x, two.x) and np.array_equal(one.y, two.y, equal_nan=True)
    (tmp_path / 'b.parquet').write_bytes((tmp_path / 'a.parquet').read_bytes()[:300])
    fails(capsys, 'b.parquet', opened, tmp_path, tmp_path / 'b.parquet')


@pytest.mark.parametrize('text', ['[{"a": 1}', '{"a": 1}]x', '[{"a": 1}, {"b": 2}]', ''])
def test_json_that_is_none(tmp_path, capsys, text):
    (tmp_path / 'a.json').write_text(text)
    fails(capsys, 'a.json', opened, tmp_path, tmp_path / 'a.json', input_column='a')


def test_json_objects_need_not_fit_in_a_block(tmp_path):
    items = [{'a': 'x' * (1 << 19), 'n': i, 'nested': [[1], {'b': ']'}]} for i in range(9)]
    (tmp_path / 'a.json').write_text(json.dumps(items, indent=1))
    assert list(data.json_objects(tmp_path / 'a.json')) == items


# ---- the real files

REAL = {'esol': (1128, 'esol'), 'freesolv': (642, 'freesolv'), 'lipo': (4200, 'lipop'), 'bbbp': (2050, 'bbbp'),
        'bace': (1513, 'bace')}


@pytest.mark.parametrize('name', REAL)
def test_scaffold_splits_equal_deepchems_row_by_row(shared, tmp_path, monkeypatch, name):
    pytest.importorskip('rdkit')
    monkeypatch.setenv('SMA_MIRROR', str(shared / 'chemistry'))  # the md5 of the table is checked, too
    n, file = REAL[name]
    with open(shared / f'chemistry/splits/{file}.csv') as f:
        want = [row['scaffold_dc_rdkit202609'] for row in csv.DictReader(f)]
    d = opened(tmp_path, name)
    assert len(want) == n and [data.SPLITS[k] for k in d.split] == [s for s in want if s]
    assert d.meta['left_out'] == ({'molecules that RDKit cannot read': 11} if name == 'bbbp' else {})


@pytest.mark.parametrize('name, counts', [('fluorescence', (21446, 5362, 27217)), ('stability', (53614, 2512, 12851)),
                                          ('remote_homology', (12312, 736, 718))])
def test_tape_counts(shared, mirror, tmp_path, name, counts):
    """The real rows, put into TAPE's own format: a .tar.gz of JSON lists."""
    members, label = {}, data.DATASETS[name]['options']['label_column']
    for (split, part), count in zip(data.DATASETS[name]['parts'], counts):
        member = part.partition('!')[2]
        with gzip.open(shared / 'protein' / f'{member.split("/")[1][:-5]}.csv.gz', 'rt') as f:
            rows = [{'primary': r['primary'], label: int(r[label]) if name == 'remote_homology' else [float(r[label])]}
                    for r in csv.DictReader(f)]
        members[member] = json.dumps(rows)
    bz2_tar(mirror / f'{name}.tar.gz', members)
    d = opened(tmp_path, name)
    assert tuple(len(d.rows(s)) for s in data.SPLITS) == counts
    if name == 'remote_homology':
        assert len(set(d.y)) == 1195
    last = rows[-1][label]
    assert d.y[-1] == (last if name == 'remote_homology' else last[0])


@pytest.mark.parametrize('name, folder, counts', [
    ('cola', 'CoLA', (8551, 1043)), ('sst2', 'SST-2', (67349, 872)), ('stsb', 'STS-B', (5749, 1500)),
    ('rte', 'RTE', (2490, 277))])
def test_glue_counts(shared, mirror, tmp_path, name, folder, counts):
    with zipfile.ZipFile(mirror / f'{folder}.zip', 'w') as archive:
        for split in ('train', 'dev'):
            archive.write(shared / f'text/glue/{folder}/{split}.tsv', f'{folder}/{split}.tsv')
    d = opened(tmp_path, name, valid_share=0)
    assert (len(d.rows('train')), len(d.rows('test'))) == counts and not d.meta['left_out']


def test_mrpc_counts_and_hashes(shared, tmp_path, monkeypatch):
    (tmp_path / 'm').mkdir()
    for name, there in (('msr_paraphrase_train.txt', 'msr_paraphrase_train.txt'), ('mrpc_dev_ids.tsv', 'dev_ids.tsv')):
        (tmp_path / 'm' / name).symlink_to(shared / 'text/glue/MRPC' / there)
    monkeypatch.setenv('SMA_MIRROR', str(tmp_path / 'm'))
    d = opened(tmp_path, 'mrpc', valid_share=0)  # size and sha256 of the table hold
    assert (len(d.rows('train')), len(d.rows('test'))) == (3668, 408)
    with open(shared / 'text/glue/MRPC/dev.tsv', encoding='utf-8-sig') as f:  # GLUE's own script made it
        dev = {(r['#1 String'].strip(), r['#2 String'].strip(), r['Quality'])
               for r in csv.DictReader(f, delimiter='\t', quoting=csv.QUOTE_NONE)}
    got = set()
    for i in d.rows('test'):
        start, end = d.offsets[i:i + 2]
        text = bytes(d.x[start:end])
        got.add((text[:d.firsts[i]].decode(), text[d.firsts[i]:].decode(), f'{d.y[i]:.0f}'))
    assert got == dev


def test_the_official_higgs_rows(shared, mirror, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS['higgs'], 'last_test', 500)
    (mirror / 'HIGGS.csv.gz').symlink_to(shared / 'physics/HIGGS_first_rows_official_format.csv.gz')
    d = opened(tmp_path, 'higgs')
    want = np.loadtxt(gzip.open(mirror / 'HIGGS.csv.gz'), delimiter=',')
    np.testing.assert_array_equal(d.x[:, :, 0], want[:, 1:].astype(np.float32))
    np.testing.assert_array_equal(d.y, want[:, 0])
    assert len(d.rows('test')) == 500 and d.columns == data.HIGGS_COLUMNS


# ---- downloads

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))
GOOD = dict(size=len(CONTENT), digest=f'sha256:{hashlib.sha256(CONTENT).hexdigest()}')


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT the way the next word of `plan` says; the last word stays."""
    plan, asked = [], []

    def log_message(self, *args):
        pass

    def do_GET(self):
        how = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        want = self.headers.get('Range')
        self.asked.append((self.path, want))
        start = int(want[6:].rstrip('-')) if want else 0
        if isinstance(how, int):
            self.send_response(how)
            self.end_headers()
            return
        if start >= len(CONTENT):
            self.send_response(416)
            self.end_headers()
            return
        if how == 'no ranges':
            start = 0
        self.send_response(206 if start else 200)
        if start:
            shown = start - 7 if how == 'wrong range' else start
            self.send_header('Content-Range', f'bytes {shown}-{len(CONTENT) - 1}/{len(CONTENT)}')
        if how != 'no length':
            self.send_header('Content-Length', str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if how == 'corrupt':
            body = body[:-1] + bytes([body[-1] ^ 1])
        if how in ('cut', 'stall', 'hang'):
            self.wfile.write(body[:100_000] if how != 'hang' else b'')
            self.wfile.flush()
            if how != 'cut':
                time.sleep(1.0)
            self.connection.close()
            return
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """server(*plan) -> a function that downloads from a server that behaves so."""
    class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def handle_error(self, *args):
            pass
    with Threads(('127.0.0.1', 0), Server) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        monkeypatch.setattr(data, 'WAITS', (0, 0, 0))
        monkeypatch.setattr(data, 'TIMEOUT', (0.3, 0.3))
        monkeypatch.delenv('SMA_MIRROR', raising=False)

        def plan(*words):
            Server.plan, Server.asked = list(words), []
            return lambda **checks: data.download(
                'f.bin', f'http://127.0.0.1:{http_server.server_port}/f.bin', tmp_path, **checks)
        plan.address = f'http://127.0.0.1:{http_server.server_port}'
        yield plan
        http_server.shutdown()


@pytest.mark.parametrize('plan, requests', [
    (['fine'], 1), (['cut', 'fine'], 2), (['cut', 'cut', 'fine'], 3), (['stall', 'fine'], 2), ([503, 'fine'], 2),
    (['cut', 503, 429, 'fine'], 4), (['no length'], 1), (['cut', 'no ranges'], 2), (['corrupt', 'fine'], 2),
    (['cut', 'wrong range', 'fine'], 3), (['cut', 416, 'fine'], 3)])
def test_a_download_comes_whole_from_a_server_that_misbehaves(server, tmp_path, plan, requests):
    path = server(*plan)(**GOOD)
    assert path.read_bytes() == CONTENT and path == tmp_path / 'downloads/f.bin' and len(Server.asked) == requests
    assert not list(path.parent.glob('*.part'))
    if plan[0] == 'cut':  # taken up where it broke, but for a block that was under way
        assert 30_000 < int(Server.asked[1][1][6:-1]) <= 100_000
    assert server('fine')(**GOOD) == path and not Server.asked  # found, and not fetched again


def test_an_interrupted_download_goes_on(server, tmp_path):
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads/f.bin.part').write_bytes(CONTENT[:12345])
    assert server('fine')(**GOOD).read_bytes() == CONTENT and Server.asked == [('/f.bin', 'bytes=12345-')]


def test_a_part_that_is_whole_already(server, tmp_path):
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads/f.bin.part').write_bytes(CONTENT)
    assert server('fine')(**GOOD).read_bytes() == CONTENT


@pytest.mark.parametrize('plan, checks, requests', [
    ([404], GOOD, 1), ([403], {}, 1), ([503], GOOD, 4), (['corrupt'], GOOD, 4), (['hang'], GOOD, 4),
    (['fine'], dict(size=77), 4), (['fine'], dict(digest='md5:00'), 4)])
def test_a_download_that_fails_says_what_to_do(server, tmp_path, capsys, plan, checks, requests):
    fails(capsys, f'{server.address}/f.bin', server(*plan), **checks)
    assert len(Server.asked) >= requests and not (tmp_path / 'downloads/f.bin').exists()
    with pytest.raises(SystemExit):
        server(*plan)(**checks)
    message = capsys.readouterr().err
    assert str(tmp_path / 'downloads/f.bin') in message and 'SMA_MIRROR' in message


def test_mirrors(server, tmp_path, monkeypatch, capsys):
    get = server('fine')
    monkeypatch.setenv('SMA_MIRROR', f'{server.address}/some/where/')
    get(**GOOD)
    assert Server.asked == [('/some/where/f.bin', None)]
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/g.bin').write_bytes(CONTENT)
    monkeypatch.setenv('SMA_MIRROR', str(tmp_path / 'mine'))
    assert data.download('g.bin', 'http://127.0.0.1:9/g.bin', tmp_path, **GOOD) == tmp_path / 'mine/g.bin'
    (tmp_path / 'mine/g.bin').write_bytes(CONTENT[:-1])  # a file put there by hand is checked as well
    fails(capsys, 'g.bin', data.download, 'g.bin', 'http://127.0.0.1:9/g.bin', tmp_path, **GOOD)


def test_no_archive_writes_anywhere(tmp_path, capsys):
    bz2_tar(tmp_path / 'a.tar.gz', {'../../evil.json': '[{"a": "b"}]', 'good.json': '[{"a": "b"}]'})
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr('../../evil.json', '[{"a": "b"}]')
    before = sorted(tmp_path.rglob('*'))
    for part in ('a.tar.gz!good.json', 'a.tar.gz!../../evil.json', 'a.zip!../../evil.json'):
        assert list(data.json_objects(tmp_path / part)) == [{'a': 'b'}]
    assert sorted(tmp_path.rglob('*')) == before and not (tmp_path.parent.parent / 'evil.json').exists()
    with tarfile.open(tmp_path / 'b.tar.gz', 'w:gz') as archive:  # a link out of the archive
        link = tarfile.TarInfo('good.json')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    for part in ('b.tar.gz!good.json', 'a.zip!x.json'):
        fails(capsys, 'no file', lambda: list(data.json_objects(tmp_path / part)))


def test_no_pickle_is_read(tmp_path, capsys):
    np.save(tmp_path / 'x.npy', np.array([{'a': 1}], object), allow_pickle=True)
    fails(capsys, 'x.npy', opened, tmp_path, tmp_path / 'x.npy')


# ---- one process at a time, and whole or not at all

def start(tmp_path, path, *options):
    return subprocess.Popen([sys.executable, str(ROOT / 'data.py'), str(path), *options], cwd=tmp_path, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_two_processes_prepare_once(tmp_path):
    """This one holds the lock until both wait for it; one then prepares, the other finds it done."""
    fcntl = pytest.importorskip('fcntl')
    (tmp_path / 'a.csv').write_text('a,b\n' + '1.5,2.5\n' * 300)
    (tmp_path / 'datasets').mkdir()
    with open(tmp_path / 'datasets/.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = [start(tmp_path, 'a.csv') for _ in range(2)]
        assert all('waiting for another process' in p.stdout.readline() for p in both)
        assert not list((tmp_path / 'datasets').glob('a-*'))
    said = [p.communicate(timeout=60)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and all('300 rows' in s for s in said), said
    assert len(list((tmp_path / 'datasets').glob('a-*'))) == 1


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_it_is_prepared_anew(tmp_path, how):
    """It is held up once the rows are written and nothing else is, and killed there."""
    (tmp_path / 'a.csv').write_text('a,b\n' + '1.5,2.5\n' * 20_000)
    script = ('import sys, time; sys.path.insert(0, sys.argv[1]); import data; '
              'data.number_labels = lambda labels: print("here", flush=True) or time.sleep(60); '
              'data.prepare({**vars(data), "dataset": "a.csv"})')
    process = subprocess.Popen([sys.executable, '-c', script, str(ROOT)], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               # a shell starts its background jobs deaf to SIGINT
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout.readline() == 'here\n'
    assert [p.stat().st_size for p in tmp_path.glob('datasets/a-*.tmp-*/x.bin')] == [20_000 * 2 * 4]
    process.send_signal(how)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not [p for p in tmp_path.glob('datasets/a-*') if '.tmp-' not in p.name]  # nothing passes for a data set
    d = opened(tmp_path, tmp_path / 'a.csv', **{k: getattr(data, k) for k in ('valid_share', 'test_share')})
    assert len(d.y) == 20_000 and not list(tmp_path.glob('datasets/*.tmp-*'))


def test_memory_does_not_grow_with_the_file(tmp_path):
    """The peak of a process that prepares five times the rows: labels and splits grow, the inputs do not."""
    if not os.path.exists('/proc/self/status'):
        pytest.skip('no /proc here to read the peak from')
    script = ('import sys; sys.path.insert(0, sys.argv[2]); import data; '
              'data.prepare({**vars(data), "dataset": sys.argv[1], "label_column": "y"}); '
              'print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))')
    peaks = []
    for n in (25_000, 100_000):
        (tmp_path / f'{n}.csv').write_text(','.join([*(f'c{i}' for i in range(28)), 'y']) + '\n'
                                           + ('0.123456,' * 28 + '1\n') * n)
        done = subprocess.run([sys.executable, '-c', script, f'{n}.csv', str(ROOT)], cwd=tmp_path, text=True,
                              capture_output=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 4_000, peaks  # kB, where the floats alone take 8,400 more and the text 19,500


def test_the_listing_names_every_data_set(run):
    text = run('data.py').stdout
    for name, entry in data.DATASETS.items():
        assert f'\n{name} ' in f'\n{text}' and entry['licence'] in text
        for address, size, digest in entry.get('files', {}).values():
            assert address in text and address.startswith(('https://', 'http://s3.amazonaws.com/songlabdata/'))
            assert digest is None or digest.startswith(('md5:', 'sha256:'))
    assert os.listdir('.') == []
