"""Files from the internet: fetched once, continued where they were cut off, checked by size and hash."""

import hashlib
import os
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from util.errors import fail
from util.files import sync

TIMEOUT = (10, 30)  # seconds: to connect, and between bytes
WAITS = (0, 1, 4, 15, 60)  # seconds before each try
BLOCK = 2 ** 16  # bytes written at once
MOST_BYTES = 2 ** 40  # of a file whose size nobody states


def download(name, address, size, digest, data_dir):
    """
    The path of a file that a data set is made from: found in DATA_DIR/downloads, or fetched to there.

    size in bytes and digest 'md5:..' or 'sha256:..' are checked where they are given, of a file that was put
    there by hand too. address None: a file that only its owner may hand out. SMA_MIRROR in the environment is a
    folder that has the file, at any depth, or an http address to put before its name.
    """
    target = Path(data_dir) / 'downloads' / name
    mirror = os.environ.get('SMA_MIRROR', '')
    mirror_folder = None
    shown = address  # as it is printed
    if mirror.lower().startswith(('http://', 'https://')):
        if address is not None:
            address = f'{mirror.rstrip("/")}/{name}'
            shown = without_password(address)
    elif mirror:
        mirror_folder = Path(mirror)
        if not mirror_folder.is_dir():
            fail(f'SMA_MIRROR={without_password(mirror)} in the environment is no folder and no http address')

    found = find(target, mirror_folder, name)
    if found is not None:
        problem = check(found, size, digest)
        if problem:
            fail(f'{found}: {problem}. Remove it to fetch it again from {shown}')
        return found
    by_hand = f'as {target.resolve()}, or let SMA_MIRROR in the environment name a folder that has it'
    if address is None:
        fail(f'{name} is not for download: put it, or a link to it (images: a folder with train/ and val/), '
             f'{by_hand}')
    try:
        problem = fetch_with_retries(target, address, shown, size, digest)
    except OSError as error:
        fail(f'cannot write {target}: {error.strerror or error}')
    if problem:
        fail(f'could not fetch {shown} ({problem}). Put the file there by hand, {by_hand}, or an http address')
    return target


def without_password(address):
    """http://me:secret@host/file -> http://host/file. A password may have any character in it, @ and / too."""
    return re.sub('//.*@', '//', address)


def find(target, mirror_folder, name):
    """The file where it was downloaded to, or anywhere in the mirror; None if it is in neither."""
    if target.exists():
        return target
    if mirror_folder is not None:
        paths = sorted(mirror_folder.rglob(name))
        if paths:
            return paths[0]
    return None


def check(path, size, digest):
    """What is wrong with a file that ought to be whole; None if nothing is."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f'it has {found:,} bytes, not {size:,}'
    if digest is not None:
        algorithm, _, wanted = digest.partition(':')
        if hash_of(path, algorithm) != wanted:
            return f'its {algorithm} is not {wanted}'
    return None


def hash_of(path, algorithm):
    with open(path, 'rb') as f:
        return hashlib.file_digest(f, algorithm).hexdigest()


def fetch_with_retries(target, address, shown, size, digest):
    """
    Fetch a file to NAME.part and give it its name when it is whole. Of several processes one fetches, the
    others wait. -> None, or what went wrong
    """
    target.parent.mkdir(parents=True, exist_ok=True)  # a name may have folders in it
    part = target.with_name(f'{target.name}.part')
    problem = None
    with locked(part) as file:
        if target.exists():  # another process has fetched it meanwhile
            part.unlink(missing_ok=True)
            return check(target, size, digest)
        for wait in WAITS:
            if problem:
                print(f'{shown}: {problem}; trying again in {wait} s', flush=True)
            time.sleep(wait)
            problem = fetch(file, address, shown, size, digest)
            if problem is None:
                sync(part)
                part.replace(target)
                if digest is None:
                    print(f'{target.name}: no hash is known; sha256:{hash_of(target, "sha256")} in its row of '
                          'DATASETS pins it', flush=True)
                return None
            if problem.startswith('HTTP 4') and problem not in ('HTTP 416', 'HTTP 429'):
                return problem  # to ask again is of no use
    return problem


@contextmanager
def locked(path):
    """A file to append to, made if it is not there, that one process at a time may have. The others wait."""
    with open(path, 'ab') as file:
        if os.name == 'posix':
            import fcntl
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f'waiting for another process, which fetches {path.stem}', flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a disk over the network that knows no locks
                pass
        yield file


def fetch(file, address, shown, size, digest):
    """
    One attempt to bring the rest of a file. file: open to append, with what is there. -> None, or what went
    wrong
    """
    have = file.seek(0, os.SEEK_END)
    if digest is None:  # nobody could tell whether the rest belongs to what is there
        have = restart(file)
    if size is None or have != size:
        try:
            problem = request(file, address, shown, size, digest)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            problem = type(error).__name__
        if problem:
            return problem
    file.flush()
    problem = check(Path(file.name), size, digest)
    if problem:
        restart(file)  # it is as long as it should be, so to go on with it is of no use
    return problem


def restart(file):
    """Throw away what is there. -> 0, the bytes that are left"""
    file.truncate(0)
    return file.seek(0)


def request(file, address, shown, size, digest):
    """Ask the server for what comes after the end of `file`, and append it. -> None, or what went wrong"""
    have = file.tell()
    headers = {'Accept-Encoding': 'identity'}
    if have:
        headers['Range'] = f'bytes={have}-'
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        status = answer.status_code
        if status not in (200, 206, 416):
            return f'HTTP {status}'
        decode = must_decode(answer, file.name)
        content_range = answer.headers.get('Content-Range', '')
        if status != 206 or not content_range.startswith(f'bytes {have}-') or decode:
            restart(file)  # 200: the whole file comes again. Otherwise what is there is no part of this file.
            if status != 200:
                return f'HTTP {status}'
        total = stated_size(answer, decode)
        problem = check_headers(answer, total, size, digest)
        if problem:
            return problem
        return receive(file, answer, decode, shown, size if total is None else total)


def must_decode(answer, file_name):
    """
    Whether the server has compressed the file to send it, though it was asked not to. Many servers say so of a
    .gz file too, which they send as it is.
    """
    if file_name.endswith('.gz.part'):
        return False
    return answer.headers.get('Content-Encoding', 'identity') != 'identity'


def stated_size(answer, decode):
    """Bytes of the whole file, as the server states them; None if it does not."""
    if answer.status_code == 206:
        return whole_number(answer.headers['Content-Range'].rpartition('/')[2])
    if decode:
        return None
    return whole_number(answer.headers.get('Content-Length'))


def check_headers(answer, total, size, digest):
    """What shows already that this is not the file; None if nothing does."""
    if size is not None and total not in (None, size):
        return f'it has {total:,} bytes, not {size:,}'
    if digest is not None:
        return None
    if answer.headers.get('Content-Type', '').startswith('text/html'):
        return 'a page of HTML, not the file'
    has_length = whole_number(answer.headers.get('Content-Length')) is not None
    if size is None and not has_length and answer.headers.get('Transfer-Encoding') != 'chunked':
        return 'the server does not say how long it is'
    return None


def receive(file, answer, decode, shown, total):
    """Append the body of an answer, after which the file has `total` bytes; None = not known."""
    text = f'fetching {shown}'
    if total is not None:
        text += f': {total:,} bytes'
    print(text, flush=True)
    least = 0
    most = MOST_BYTES
    if total is not None:
        least = most = total
    show = sys.stderr.isatty()
    with tqdm.wrapattr(file, 'write', total=total, initial=file.tell(), leave=False, disable=not show) as out:
        for block in answer.raw.stream(BLOCK, decode_content=decode):
            out.write(block)
            if file.tell() > most:
                break
    length = whole_number(answer.headers.get('Content-Length'))
    is_short = length is not None and answer.raw.tell() < length
    if is_short or file.tell() < least:
        return f'cut off after {file.tell():,} bytes'
    if file.tell() == 0:
        return 'the server sent an empty file'
    return None


def whole_number(text):
    """The whole number that a header has; None if there is none."""
    if text is not None and text.isdecimal():
        return int(text)
    return None
