"""Files from the net, taken up where they broke, checked by size and hash."""

import hashlib
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

import requests
from tqdm import tqdm

from util.errors import fail
from util.files import sync, temporary

TIMEOUT, WAITS = (10, 30), (0, 1, 4, 15, 60)  # of downloads, in s: to connect, between bytes; before each try
MOST_ARRAY, MOST_DOWNLOAD = 2 ** 34, 2 ** 40  # bytes of an array in an .npz; of a file of unknown size


def download(name, address, size, digest, data_dir):
    """
    The path of a file that a data set is made from: found in DATA_DIR/downloads, or fetched to there.

    size in bytes and digest 'md5:..' or 'sha256:..' are checked where given, of a file put there by hand too.
    SMA_MIRROR in the environment is a folder that has the file, at any depth, or an http address to put before
    its name. address None: a folder that is not ours to hand on.
    """
    mirror, folder, problem = os.environ.get('SMA_MIRROR', ''), Path(data_dir) / 'downloads', None
    if mirror.startswith(('http://', 'https://')):
        address, mirror = address and f'{mirror.rstrip("/")}/{name}', ''
    elif mirror and not os.path.isdir(mirror):
        fail(f'SMA_MIRROR={mirror} in the environment is no folder and no http address')
    shown = re.sub('//[^/@]*@', '//', address or '')  # without a password
    for path in (folder / name, *(sorted(Path(mirror).rglob(name)) if mirror else ())):
        if path.exists():
            problem = wrong(path, size, digest)
            if problem:
                fail(f'{path}: {problem}; remove it to fetch it again from {shown}')
            return path
    by_hand = f'as {(folder / name).resolve()}, or let SMA_MIRROR in the environment name a folder that has it'
    if address is None:
        fail(f'{name} is not for download: put that folder, with train/ and val/ in it, or a link to it, '
             f'{by_hand}')
    (folder / name).parent.mkdir(parents=True, exist_ok=True)  # a name may have folders in it
    part, left_behind = temporary(folder / name, Path(name).name)
    for old in left_behind:
        with suppress(FileNotFoundError):  # another process was faster, or the part has no stamp
            old.replace(part)
            stamp_of(old).replace(stamp_of(part))
    for wait in WAITS:
        if problem:
            print(f'{shown}: {problem}; trying again in {wait} s', flush=True)
        time.sleep(wait)
        try:
            problem = fetch(address, shown, part, size, digest)
        except requests.RequestException as error:
            problem = type(error).__name__
        if problem is None:
            if digest is None:
                with open(part, 'rb') as f:
                    found = hashlib.file_digest(f, 'sha256').hexdigest()
                print(f'{name}: no hash is known; sha256:{found} in its row of DATASETS pins it', flush=True)
            stamp_of(part).unlink(missing_ok=True)
            sync(part)
            return part.replace(folder / name)
        if problem.startswith('HTTP 4') and problem not in ('HTTP 416', 'HTTP 429'):  # no use in asking again
            break
    fail(f'could not fetch {shown} ({problem}). Put the file there by hand, {by_hand}, or an http address')


def stamp_of(part):
    """Beside a part of a file: what its server calls this version of it, an ETag or a date."""
    return part.with_name(f'stamp-{part.name}')


def fetch(address, shown, part, size, digest):
    """One attempt to bring the rest of a file into `part`: taken up where it broke, by HTTP Range, if the
    server can, and if it is the same file still. -> None, or what went wrong"""
    stamp = stamp_of(part)
    if part.exists() and not (stamp.exists() or digest):  # nobody could tell whether the rest belongs to it
        part.unlink()
    have, total = part.stat().st_size if part.exists() else 0, size
    if have != size:
        ask = {'Accept-Encoding': 'identity', 'Range': f'bytes={have}-'}
        if have and stamp.exists():
            ask['If-Range'] = stamp.read_text()
        with requests.get(address, headers=ask, stream=True, timeout=TIMEOUT) as answer:
            status, place = answer.status_code, answer.headers.get('Content-Range', '')
            goes_on = status == 206 and place.startswith(f'bytes {have}-')
            if status in (206, 416) and not goes_on:
                part.unlink(missing_ok=True)  # not a part of this file
            if status != 200 and not goes_on:
                return f'HTTP {status}'
            if digest is None and answer.headers.get('Content-Type', '').startswith('text/html'):
                return 'a page of HTML, not the file'
            have = have if goes_on else 0  # 200: it sends the whole file again
            left, whole = answer.headers.get('Content-Length'), place.rpartition('/')[2]
            stated = int(whole) if goes_on and whole.isdigit() else have + int(left) if left else None
            if size is not None and stated not in (None, size):
                return f'it has {stated:,} bytes, not {size:,}'
            total = stated if size is None else size
            if total is None and digest is None and answer.headers.get('Transfer-Encoding') != 'chunked':
                return 'the server does not say how long it is'
            print(f'fetching {shown}' + (f': {total:,} bytes' if total else ''), flush=True)
            mark = answer.headers.get('ETag', answer.headers.get('Last-Modified', ''))
            if not have:
                stamp.unlink(missing_ok=True)
                if mark and not mark.startswith('W/'):  # a weak one does not tell bytes apart
                    stamp.write_text(mark)
            bar = dict(total=total, initial=have, leave=False, disable=not sys.stderr.isatty())
            with open(part, 'ab' if have else 'wb') as f, tqdm.wrapattr(f, 'write', **bar) as out:
                for block in answer.iter_content(1 << 16):
                    out.write(block)
                    if f.tell() > (MOST_DOWNLOAD if total is None else total):
                        break
    problem = wrong(part, total, digest)
    if problem and part.stat().st_size >= (total or 0):
        part.unlink()  # it is not cut off, but bad: it cannot be gone on with
    return problem


def wrong(path, size, digest):
    """What is wrong with a file that ought to be whole, or None."""
    if size is not None and path.stat().st_size != size:
        return f'it has {path.stat().st_size:,} bytes, not {size:,}'
    if digest is not None:
        kind, _, wanted = digest.partition(':')
        with open(path, 'rb') as f:
            if hashlib.file_digest(f, kind).hexdigest() != wanted:
                return f'its {kind} is not {wanted}'
