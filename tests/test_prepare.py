"""
util/prepare.py: prepared once, and again when the source changes; processes that meet, are stopped or killed.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from conftest import ROOT
from reading import fails, sequences
from samples import sample
from test_data import opened

from data import PREPARE_KNOBS, open_dataset
from util import prepare
from util.prepare import DATASETS, Request


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'a.csv')
    fails('a pipe', opened, tmp_path, tmp_path / 'a.csv')


def test_what_steers_a_terminal_is_escaped(tmp_path, run):
    (tmp_path / 'a.txt').write_bytes(b'abc\x1b[31mdef\n' * 9)
    (tmp_path / 'b.csv').write_bytes(b'a\x1b[2J,b\n1,x\x1b[2J\n1,7\n')
    (tmp_path / 'c.csv').write_bytes(b'a\x1b[2J,b\n1,x\x1b[2J\n')
    done = run('data.py', 'a.txt')
    assert '\x1b' not in done.stdout and 'abc\\x1b[31mdef' in done.stdout
    assert '\x1b' not in run('data.py', 'b.csv', status=2).stderr
    assert '\x1b' not in run('data.py', 'c.csv').stdout


def test_settings_that_are_wrong(tmp_path):
    for name, text in (('a', 'a,b,y\n1,2,0\n'), ('c', 'b,a,y\n1,2,0\n'), ('s', 'a,b,y\n1,x,0\n')):
        (tmp_path / f'{name}.csv').write_text(text)
    a, c, s = (str(tmp_path / f'{name}.csv') for name in 'acs')
    d = opened(tmp_path, a, label_column='y', val_file=c)  # matched by name
    assert d.columns == ['a', 'b'] and d.x[:, :, 0].tolist() == [[1, 2], [2, 1]]
    (tmp_path / 'd.csv').write_text('a,d,y\n1,2,0\n')
    fails('its inputs are a, d', opened, tmp_path, a, label_column='y', val_file=str(tmp_path / 'd.csv'))
    fails('differ', opened, tmp_path, a, input_column='a,b', val_file=s)
    np.savez(tmp_path / 'x.npz', X=np.zeros((2, 2)))
    fails('brings its own labels', opened, tmp_path, f'{tmp_path}/x.npz,{tmp_path}/x.npz')
    (tmp_path / 'x.npz').rename(tmp_path / 'x.npy')
    fails('x.npy', opened, tmp_path, tmp_path / 'x.npy')
    fails("'collider'", opened, tmp_path, 'colider')
    fails('mean or drop', opened, tmp_path, a, missing='mode')
    fails('say which', opened, tmp_path, '')
    fails('has its own', opened, tmp_path, 'collider', val_file='a.csv')


def test_a_corrected_entry_never_reads_stale_data(mirror, tmp_path, monkeypatch):
    """Another value, hash, target or source text of the function: another folder."""
    sample(mirror, 'pfam')
    row, file = DATASETS['pfam'], 'Pfam-A.fasta.gz'
    md5 = 'md5:' + hashlib.md5((mirror / file).read_bytes()).hexdigest()
    source = 'def read(paths, meta):\n    return [(0, [([b"{}"], None, None)])]\n'
    (tmp_path / 'first.py').write_text(source.format('AC'))
    (tmp_path / 'second.py').write_text(source.format('DE'))
    monkeypatch.syspath_prepend(tmp_path)
    import first
    import second
    changes = [{}, dict(target='binary'), dict(files={file: (row['files'][file][0], None, md5)}),
               dict(read=partial(row['read'], longest=100)), dict(read=partial(first.read)),
               dict(read=partial(second.read)), dict(about='what it says of itself is no matter')]
    seen = []
    for change in changes:
        monkeypatch.setitem(DATASETS, 'pfam', {**row, **change})
        seen.append(opened(tmp_path, 'pfam', val_share=0, test_share=0))
    assert len({d.folder for d in seen[:-1]}) == len(seen) - 1 and seen[-1].folder == seen[0].folder
    assert [sequences(d) for d in seen[4:6]] == [[b'AC'], [b'DE']] and len(seen[3].y) < len(seen[0].y)


def test_a_changed_generator_draws_its_rows_anew(tmp_path, monkeypatch):
    """The function of glyphs only calls util/glyphs.py, and what is changed there counts too."""
    (tmp_path / 'pen.py').write_text('WIDTH = 1\ndef draw(n):\n    return n * WIDTH\n')
    (tmp_path / 'rows.py').write_text('from pen import draw\ndef read(paths, meta):\n    return draw(3)\n')
    monkeypatch.syspath_prepend(tmp_path)
    import rows
    row = {**DATASETS['glyphs'], 'read': partial(rows.read)}
    folders = []
    for text in ('WIDTH = 1', 'WIDTH = 2'):
        pen = tmp_path / 'pen.py'
        pen.write_text(pen.read_text().replace('WIDTH = 1', text))
        monkeypatch.setitem(DATASETS, 'glyphs', row)
        folders.append(Request.of({**PREPARE_KNOBS, 'dataset': 'glyphs'}).folder())
    assert folders[0] != folders[1]


def test_the_listing_names_every_data_set(run, tmp_path):
    text = run('data.py').stdout
    for name, row in DATASETS.items():
        assert f'\n{name} ' in f'\n{text}' and row['licence'] in text
        for address, _, digest in row['files'].values():
            assert address is None or address in text and address.startswith(
                ('https://', 'http://s3.amazonaws.com/songlabdata/'))
            assert digest is None or digest.startswith(('md5:', 'sha256:'))
    assert os.listdir(tmp_path) == []


def test_what_is_prepared_is_listed_and_nothing_else_is_touched(run, tmp_path):
    """Also not a folder of the user's that has a meta.json too, nor is there a command that removes any."""
    (tmp_path / 'mine.txt').write_text('abc\n' * 9)
    run('data.py', 'mine.txt')
    run('data.py', 'collider')
    for name, text in (('list', '[1]'), ('no_json', 'x'), ('other', '{"kind": "mine"}')):
        (tmp_path / 'datasets' / name).mkdir()
        (tmp_path / 'datasets' / name / 'meta.json').write_text(text)
    (tmp_path / 'datasets/a.unfinished-x').mkdir()
    (tmp_path / 'datasets/a.unfinished-x/x.bin').write_bytes(b'123')
    folders = sorted(path.name for path in (tmp_path / 'datasets').iterdir())

    lines = run('data.py').stdout.splitlines()
    prepared = [line for line in lines if line.startswith('prepared: ')]
    sources = ('collider', tmp_path / 'mine.txt')
    for line, name, source in zip(prepared, ('collider', 'mine'), sources, strict=True):
        folder, = (tmp_path / 'datasets').glob(f'{name}-*')
        size = sum(file.stat().st_size for file in folder.iterdir())
        assert line == f'prepared: datasets/{folder.name}, {size:,} bytes, from {source}'
    assert 'unfinished: datasets/a.unfinished-x, 3 bytes: remove it, unless it is being made now' in lines

    assert "no file 'clean'" in run('data.py', 'clean', status=2).stderr
    assert sorted(path.name for path in (tmp_path / 'datasets').iterdir()) == folders


# ---- processes: whole or not at all

def test_prepared_once_and_again_when_the_file_changes(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('a\nb\nc')
    first = opened(tmp_path, path).folder
    stamp = (first / 'x.bin').stat().st_mtime_ns
    assert opened(tmp_path, path).folder == first and (first / 'x.bin').stat().st_mtime_ns == stamp
    path.write_text('a\nb\nc\nd')
    assert opened(tmp_path, path).folder != first


@pytest.mark.parametrize('change', ['unpacked', 'swapped'])
def test_another_file_of_the_same_size_and_time_is_read_again(tmp_path, change):
    """As a new release of a reproducible archive has them, or two files that were swapped."""
    for name, text in (('a', 'abc\ndef\n'), ('b', 'ABC\nDEF\n')):
        (tmp_path / f'{name}.txt').write_text(text)
        os.utime(tmp_path / f'{name}.txt', (10 ** 9, 10 ** 9))
    assert sequences(opened(tmp_path, tmp_path / 'a.txt')) == [b'abc', b'def']
    assert sequences(opened(tmp_path, tmp_path / 'b.txt')) == [b'ABC', b'DEF']
    if change == 'unpacked':
        (tmp_path / 'a.txt').write_text('ABC\nDEF\n')
        os.utime(tmp_path / 'a.txt', (10 ** 9, 10 ** 9))
    else:
        for old, new in (('a', 'c'), ('b', 'a'), ('c', 'b')):
            (tmp_path / f'{old}.txt').rename(tmp_path / f'{new}.txt')
    assert sequences(opened(tmp_path, tmp_path / 'a.txt')) == [b'ABC', b'DEF']


def test_two_containers_that_share_a_disk_leave_each_others_work_alone(tmp_path, monkeypatch):
    """They may have one host name, and process numbers of their own: no name is made of those."""
    (tmp_path / 'a.txt').write_text('a\nb\nc')
    seen = []
    write = prepare.write

    def look(new, request):
        seen.append(new.parent)
        if len(seen) == 1:
            opened(tmp_path, tmp_path / 'a.txt')  # the other, from beginning to end
            assert new.parent.exists()
        return write(new, request)
    monkeypatch.setattr(prepare, 'write', look)
    assert len(opened(tmp_path, tmp_path / 'a.txt').y) == 3
    assert len(set(seen)) == 2 and len(os.listdir(tmp_path / 'datasets')) == 1


@pytest.mark.slow
def test_of_two_processes_the_slower_finds_the_folder_done(tmp_path, monkeypatch):
    """A second process prepares the same from beginning to end, as this one is about to rename its folder."""
    (tmp_path / 'a.csv').write_text('a,b\n' + '1.5,2.5\n' * 300)
    monkeypatch.chdir(tmp_path)
    write, others = prepare.write, []

    def slow_write(new, request):
        answer = write(new, request)
        command = [sys.executable, str(ROOT / 'data.py'), 'a.csv']
        done = subprocess.run(command, text=True, capture_output=True)
        assert done.returncode == 0 and '300 rows' in done.stdout, done.stderr
        assert new.exists()  # the other did not touch it
        others.extend((tmp_path / 'datasets').glob('a-??????????'))
        return answer
    monkeypatch.setattr(prepare, 'write', slow_write)
    d = open_dataset('a.csv')
    assert [d.folder.resolve()] == others == list((tmp_path / 'datasets').iterdir()) and len(d.y) == 300


def test_under_torchrun_the_others_wait_for_the_first(tmp_path, monkeypatch, capsys):
    (tmp_path / 'a.txt').write_text('a\nb\nc')
    for name, value in (('RANK', '1'), ('WORLD_SIZE', '2'), ('LOCAL_RANK', '1')):
        monkeypatch.setenv(name, value)

    def while_it_sleeps(seconds):
        monkeypatch.setenv('LOCAL_RANK', '0')
        opened(tmp_path, tmp_path / 'a.txt')
        monkeypatch.setattr(prepare, 'write', None)  # it must not build itself
    monkeypatch.setattr(time, 'sleep', while_it_sleeps)
    assert len(opened(tmp_path, tmp_path / 'a.txt').y) == 3
    assert capsys.readouterr().out.count('waiting until rank 0 has prepared') == 1
    assert prepare.write is None


def test_a_rank_left_in_the_environment_does_not_wait(tmp_path, monkeypatch):
    (tmp_path / 'a.txt').write_text('a\nb\nc')
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert len(opened(tmp_path, tmp_path / 'a.txt').y) == 3


HELD_UP = '''
import signal, sys, time
sys.path.insert(0, sys.argv[1])
import data
from util import labels

def wait(self):
    print("here", flush=True)
    time.sleep(60)

labels.Labels.finish = wait  # the rows are written, and nothing else is
for number in (signal.SIGINT, signal.SIGTERM):  # as the stages do, which end a step first
    signal.signal(number, lambda *args: print("heard", flush=True))
data.open_dataset("a.csv")
'''


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_leaves_nothing_that_passes_for_a_data_set(tmp_path, number):
    """Ctrl-C and SIGTERM end it at once, and nothing is left; after SIGKILL what is left is listed."""
    (tmp_path / 'a.csv').write_text('a,b\n' + '1.5,2.5\n' * 20_000)
    process = subprocess.Popen([sys.executable, '-c', HELD_UP, str(ROOT)], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               # a shell starts its background jobs deaf to SIGINT
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout.readline() == 'here\n'
    half_made, = tmp_path.glob('datasets/a-*.unfinished-*/*/x.bin')
    assert half_made.stat().st_size == 20_000 * 2 * 4
    begin = time.monotonic()
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert time.monotonic() - begin < 20 and 'heard' not in out
    left = [path.name for path in tmp_path.glob('datasets/*')]
    if number == signal.SIGKILL:
        assert len(left) == 1 and '.unfinished-' in left[0]
        listing = subprocess.run([sys.executable, str(ROOT / 'data.py')],
                                 cwd=tmp_path, text=True, capture_output=True)
        assert f'unfinished: datasets/{left[0]}, 160,' in listing.stdout
    else:
        assert left == [] and process.returncode == 128 + number
        assert error == 'stopped while a.csv was prepared; nothing of it is kept\n'
    assert len(opened(tmp_path, tmp_path / 'a.csv').y) == 20_000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """The peak of a process that prepares four times the rows: labels and splits grow, the inputs do not."""
    if not os.path.exists('/proc/self/status'):
        pytest.skip('no /proc here to read the peak from')
    script = ('import sys; sys.path.insert(0, sys.argv[2]); import data; from util import prepare; '
              'prepare.prepare({**data.PREPARE_KNOBS, "dataset": sys.argv[1], "label_column": "y"}); '
              'print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))')
    peaks = []
    for n in (40_000, 160_000):  # five chunks and more: after four of them the heap does not grow
        (tmp_path / f'{n}.csv').write_text(','.join([*(f'c{i}' for i in range(14)), 'y']) + '\n'
                                           + ('0.123456,' * 14 + '1\n') * n)
        done = subprocess.run([sys.executable, '-c', script, f'{n}.csv', str(ROOT)], cwd=tmp_path, text=True,
                              capture_output=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 4_000, peaks  # kB, where the floats alone take 6,700 more and the text 15,400
