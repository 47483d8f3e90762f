"""download.py against a server that misbehaves, and two processes that fetch the same file."""

import gzip
import hashlib
import http.server
import os
import socketserver
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT

from util import download
from util.errors import UserError

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))
GOOD = dict(size=len(CONTENT), digest=f'sha256:{hashlib.sha256(CONTENT).hexdigest()}')
# What ends in 'cut off' has sent this much before.
PIECE = 100_000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT the way the next word of `plan` says; the last word stays. A number is a status alone."""
    plan = []
    asked = []  # (path, the header Range or None) of each request
    go_on = threading.Event()  # 'slow' waits for it in the middle

    def log_message(self, *args):
        pass

    def do_GET(self):
        how = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        wanted = self.headers.get('Range')
        self.asked.append((self.path, wanted))
        start = int(wanted.removeprefix('bytes=').rstrip('-')) if wanted else 0
        if how == 'no ranges':
            start = 0
        if isinstance(how, int) or start >= len(CONTENT):
            self.send_response(how if isinstance(how, int) else 416)
            self.end_headers()
            return
        content = CONTENT[::-1] if how == 'changed' else CONTENT
        body = content[start:]
        if start:
            self.send_response(206)
            shown = start - 7 if how == 'wrong range' else start
            end = len(CONTENT) - 1
            if how == 'ten bytes':
                end = start + 9
                body = body[:10]
            self.send_header('Content-Range', f'bytes {shown}-{end}/{len(CONTENT)}')
        else:
            self.send_response(200)
        self.send_body(how, body)

    def send_body(self, how, body):
        if how == 'gzip':
            body = gzip.compress(body)
            self.send_header('Content-Encoding', 'gzip')
        if how == 'called gzip':  # as many servers do to a .gz file
            self.send_header('Content-Encoding', 'x-gzip')
        if how == 'nothing':
            body = b''
        if how == 'strange length':
            self.send_header('Content-Length', 'many')
        elif how == 'chunked':
            self.send_header('Transfer-Encoding', 'chunked')
        elif how not in ('no length', 'endless'):
            self.send_header('Content-Length', str(len(body)))
        if how == 'html':
            self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.end_headers()
        if how == 'endless':
            body *= 100
        if how == 'corrupt':
            body = body[:-1] + bytes([body[-1] ^ 1])
        if how == 'chunked':
            body = b'%x\r\n%b\r\n0\r\n\r\n' % (len(body), body)
        if how in ('cut', 'stall', 'hang'):
            self.wfile.write(body[:PIECE] if how != 'hang' else b'')
            self.wfile.flush()
            if how != 'cut':
                time.sleep(0.5)
            self.connection.close()
            return
        if how == 'slow':
            self.wfile.write(body[:PIECE])
            self.wfile.flush()
            self.go_on.wait(60)
            body = body[PIECE:]
        self.wfile.write(body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """server(*plan) -> a function that downloads from a server that behaves so."""
    class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def handle_error(self, *args):
            pass

    with Threads(('127.0.0.1', 0), Server) as http_server:
        threading.Thread(target=http_server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setattr(download, 'WAITS', (0, 0, 0, 0))
        monkeypatch.setattr(download, 'TIMEOUT', (0.3, 0.3))

        def plan(*words, name='f.bin'):
            Server.plan = list(words)
            Server.asked = []
            Server.go_on = threading.Event()

            def get(size=None, digest=None):
                return download.download(name, f'{plan.address}/{name}', size, digest, tmp_path)
            return get
        plan.address = f'http://127.0.0.1:{http_server.server_port}'
        yield plan
        http_server.shutdown()


def fails(match, call, *args, **knobs):
    """The call ends in a UserError of one line that has `match` in it."""
    with pytest.raises(UserError) as end:
        call(*args, **knobs)
    assert match in str(end.value) and '\n' not in str(end.value), end.value


# ---- with a size and a hash

@pytest.mark.parametrize('plan, requests', [
    (['fine'], 1), (['cut', 'fine'], 2), (['cut', 'cut', 'fine'], 3), (['stall', 'fine'], 2),
    ([503, 'fine'], 2), (['cut', 503, 429, 'fine'], 4), (['no length'], 1), (['cut', 'no ranges'], 2),
    (['corrupt', 'fine'], 2), (['cut', 'wrong range', 'fine'], 3), (['cut', 416, 'fine'], 3),
    (['strange length'], 1), (['cut', 'strange length'], 2), (['chunked'], 1), (['gzip'], 1),
    (['cut', 'gzip', 'fine'], 3), (['nothing', 'fine'], 2), (['cut', 'changed', 'fine'], 3)])
def test_a_download_comes_whole_from_a_server_that_misbehaves(server, tmp_path, plan, requests):
    path = server(*plan)(**GOOD)
    assert path.read_bytes() == CONTENT and path == tmp_path / 'downloads/f.bin'
    assert len(Server.asked) == requests and os.listdir(path.parent) == ['f.bin']
    if plan[0] == 'cut':  # taken up where it broke, but for a block that was under way
        assert 30_000 < int(Server.asked[1][1][6:-1]) <= PIECE
    assert server('fine')(**GOOD) == path and not Server.asked  # found, and not fetched again


def test_a_server_that_is_busy_does_not_cost_what_is_there(server):
    server('cut', 503, 'fine')(**GOOD)
    wanted = [header for _, header in Server.asked]
    assert wanted[0] is None and wanted[1] == wanted[2] and int(wanted[2][6:-1]) > 30_000


@pytest.mark.parametrize('have, asked', [(12345, ['bytes=12345-']), (len(CONTENT), [])])
def test_a_download_of_a_process_that_is_gone_goes_on(server, tmp_path, have, asked):
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads/f.bin.part').write_bytes(CONTENT[:have])
    assert server('fine')(**GOOD).read_bytes() == CONTENT
    assert [header for _, header in Server.asked] == asked
    assert os.listdir(tmp_path / 'downloads') == ['f.bin']


FETCH = '''
import sys
sys.path.insert(0, {root!r})
from util import download
download.TIMEOUT = (60, 60)
path = download.download('f.bin', {address!r} + '/f.bin', *{checks!r}, {folder!r})
print(path.stat().st_size)
'''


@pytest.mark.parametrize('checks', [tuple(GOOD.values()), (None, None)])
def test_of_two_processes_one_fetches_and_the_other_waits(server, tmp_path, checks):
    server('slow')
    code = FETCH.format(root=str(ROOT), address=server.address, checks=checks, folder=str(tmp_path))
    first = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    while not Server.asked:
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert second.stdout.readline() == 'waiting for another process, which fetches f.bin\n'
    Server.go_on.set()
    for process in (first, second):
        out, _ = process.communicate(timeout=60)
        assert out.splitlines()[-1] == '300000'
    assert len(Server.asked) == 1
    assert os.listdir(tmp_path / 'downloads') == ['f.bin']
    assert (tmp_path / 'downloads/f.bin').read_bytes() == CONTENT


# ---- without a hash

@pytest.mark.parametrize('plan, requests', [
    (['fine'], 1), (['cut', 'fine'], 2), (['cut', 'ten bytes'], 2), (['cut', 'changed'], 2), (['chunked'], 1),
    (['gzip'], 1), (['nothing', 'fine'], 2)])
def test_without_a_hash_a_download_is_whole_and_of_one_version(server, tmp_path, plan, requests, capsys):
    """After a cut it starts anew: nobody could tell whether the rest belongs to the part that is there."""
    got = server(*plan)().read_bytes()
    assert got == (CONTENT[::-1] if 'changed' in plan else CONTENT)
    assert len(Server.asked) == requests
    assert {header for _, header in Server.asked} == {None}
    assert os.listdir(tmp_path / 'downloads') == ['f.bin']
    assert f'sha256:{hashlib.sha256(got).hexdigest()} in its row of DATASETS pins it' in capsys.readouterr().out


def test_a_part_whose_version_nobody_knows_is_fetched_anew(server, tmp_path):
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'downloads/f.bin.part').write_bytes(b'of last year')
    assert server('fine')().read_bytes() == CONTENT
    assert Server.asked[0][1] is None


def test_a_gz_file_that_a_server_calls_encoded_is_kept_as_it_is(server):
    assert server('called gzip', name='f.csv.gz')().read_bytes() == CONTENT


# ---- what is not the file

@pytest.mark.parametrize('how, word, checks', [
    ('html', 'HTML', {}), ('no length', 'how long', {}), ('endless', 'how long', {}), ('endless', 'not', GOOD),
    ('endless', 'bytes', dict(size=GOOD['size'])), ('nothing', 'an empty file', {}),
    ('strange length', 'how long', {}), ('nothing', 'not 300,000', dict(size=GOOD['size']))])
def test_what_is_not_the_file_is_not_taken_and_fills_no_disk(server, tmp_path, how, word, checks):
    fails(word, server(how), **checks)
    left = sum(path.stat().st_size for path in (tmp_path / 'downloads').iterdir())
    assert left <= 2 * len(CONTENT) and not (tmp_path / 'downloads/f.bin').exists()


@pytest.mark.parametrize('plan, checks, requests', [
    ([404], GOOD, 1), ([403], {}, 1), ([503], GOOD, 4), (['corrupt'], GOOD, 4), (['hang'], GOOD, 4),
    (['fine'], dict(size=77), 4), (['fine'], dict(digest='md5:00'), 4)])
def test_a_download_that_fails_says_what_to_do(server, tmp_path, plan, checks, requests):
    get = server(*plan)
    with pytest.raises(UserError) as error:
        get(**checks)
    assert len(Server.asked) == requests and not (tmp_path / 'downloads/f.bin').exists()
    for word in (f'{server.address}/f.bin', str(tmp_path / 'downloads/f.bin'), 'SMA_MIRROR'):
        assert word in str(error.value)


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path, file_limit):
    get = server('fine')
    with file_limit(1000):
        fails('File too large', get, **GOOD)
    assert not (tmp_path / 'downloads/f.bin').exists()


# ---- mirrors

@pytest.mark.parametrize('password', ['secret', 'secret@home', 'sec/ret@', '@secret#?'])
def test_a_password_is_not_printed(server, monkeypatch, capsys, password):
    monkeypatch.setenv('SMA_MIRROR', server.address.replace('//', f'//me:{password}@'))
    text = ''
    try:
        server('fine')(**GOOD)
    except UserError as error:  # requests does not take every password that is not escaped
        text = str(error)
    text += capsys.readouterr().out
    assert server.address in text and 'sec' not in text
    monkeypatch.setenv('SMA_MIRROR', f'ftp://me:{password}@host')
    with pytest.raises(UserError, match='no folder and no http') as error:
        server('fine')(**GOOD)
    assert 'sec' not in str(error.value)


def test_mirrors(server, tmp_path, monkeypatch):
    get = server('fine')
    monkeypatch.setenv('SMA_MIRROR', str(tmp_path / 'mirorr'))
    fails('is no folder', get, **GOOD)
    monkeypatch.setenv('SMA_MIRROR', f'{server.address}/some/where/')
    get(**GOOD)
    assert [path for path, _ in Server.asked] == ['/some/where/f.bin']
    mine = tmp_path / 'mine/at/any/depth/g.bin'
    mine.parent.mkdir(parents=True)
    mine.write_bytes(CONTENT)
    monkeypatch.setenv('SMA_MIRROR', str(tmp_path / 'mine'))
    nowhere = ('g.bin', 'http://127.0.0.1:9/g.bin', *GOOD.values(), tmp_path)
    assert download.download(*nowhere) == mine
    mine.write_bytes(CONTENT[:-1])  # a file put there by hand is checked as well
    fails('g.bin: it has 299,999 bytes', download.download, *nowhere)
