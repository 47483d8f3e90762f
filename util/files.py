"""Files: written whole or not at all; read as streams of bytes or lines, packed or not."""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

from util.errors import fail


@contextmanager
def atomic_write(path, mode='wb'):
    """A file to write. It takes the place of `path` when all of it is on the disk, or never. Text is UTF-8."""
    path = Path(path)
    new = Path(f'{path}.tmp')
    text = {}
    if 'b' not in mode:
        text = {'encoding': 'utf-8', 'errors': 'surrogateescape'}  # names of files may be no UTF-8
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(new, mode, **text) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        new.replace(path)
        sync(path.parent)
    except OSError as error:
        fail(f'cannot write {path}: {error.strerror or error}')
    finally:
        if new.is_file():
            new.unlink()


def sync(path):
    """Wait until the disk has what was written to a file, or the names in a folder."""
    if os.name == 'posix':  # elsewhere a folder cannot be opened
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def split_paths(dataset):
    """The files that `dataset` names: 'X.npy,y.npy' are two. A file with a comma in its name counts first."""
    if os.path.exists(dataset):
        return [dataset]
    return dataset.split(',')


def name_of(dataset):
    """'esol' for the data set of that name and for some/esol.csv.gz: what its output is called."""
    return base_name(split_paths(dataset)[0])


def same_source(one, other):
    """
    Whether two texts name the inputs of one data set: by the same name, or by two paths to the same file. With
    labels or without: X.npy and X.npy,y.npy have the same inputs.
    """
    if one is None or other is None:
        return False
    return one == other or real_path(one) == real_path(other)


def real_path(dataset):
    return os.path.realpath(os.path.expanduser(split_paths(dataset)[0]))


# what a file may claim, so that memory stays bounded whatever it says:
LONGEST = 2 ** 28  # bytes of a line, a FASTA record, a cell, a JSON object
CHUNK_BYTES = 2 ** 26  # of the rows looked at in one piece
CHUNK = 8192  # rows looked at in one piece, which bounds the memory

ARCHIVE_MEMBER = re.compile(r'(.+\.(?:zip|tar|tar\.gz|tgz|tar\.bz2))!(.+)')  # 'a.zip!member'
OPENERS = {'.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open}
# how a packed file begins: its ending
PACKED = {rb'\x1f\x8b': '.gz', rb'BZh[1-9]1AY&SY': '.bz2', rb'\xfd7zXZ': '.xz', rb'PK\x03\x04': '.zip'}
UTF8_MARK = b'\xef\xbb\xbf'  # the byte-order mark that Windows writes at the start of a text
DAMAGED = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error)


@contextmanager
def open_stream(path):
    """
    A file as a stream of bytes, unpacked if it is .gz, .bz2 or .xz. 'a.zip!member' is a member of an archive,
    which may also be .tar, .tar.gz or .tar.bz2. What goes wrong while it is read becomes a UserError.
    """
    path = str(path)
    found = ARCHIVE_MEMBER.fullmatch(path)
    member = None
    if found:
        path, member = found.groups()
    try:
        if member is None:
            open_file = OPENERS.get(Path(path).suffix.lower(), open)
            with open_file(path, 'rb') as file:
                yield file
        elif path.endswith('.zip'):
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                yield file
        else:
            with tarfile.open(path) as archive:
                yield archive.extractfile(find_member(archive, member))  # no link leads out of the archive
    except KeyError:
        fail(f'{path} has no file {member} in it')
    except UnicodeDecodeError:
        fail(f'{path} is not UTF-8 text: `iconv -f UTF-16 -t UTF-8` (or -f LATIN1) makes it so')
    except DAMAGED as error:
        fail(f'{path} is damaged or cut short ({error}): fetch it again')
    except OSError as error:
        fail(f'cannot read {path}: {error.strerror or error}')


def find_member(archive, name):
    """The first member of a tar archive with this name, for which it need not be read to its end."""
    for member in archive:
        if member.name == name:
            return member
    return name  # there is none: extractfile raises KeyError


def open_lines(path, encoding=None):
    """Yields the lines of open_stream(path), as bytes, or as text in an encoding; without a byte-order mark."""
    with open_stream(path) as file:
        line = file.readline(LONGEST + 1).removeprefix(UTF8_MARK)
        check_first_line(path, line)
        while line:
            if len(line) > LONGEST:
                fail(f'{path} has a line of more than {LONGEST:,} bytes (LONGEST in util/files.py): is it '
                     'text?')
            yield line if encoding is None else line.decode(encoding)
            line = file.readline(LONGEST + 1)


def check_first_line(path, line):
    """Fails on a packed file whose name does not say so, and on the line ends of old Macs."""
    for start, ending in PACKED.items():
        if not re.match(start, line):
            continue
        if ending == '.zip':
            fail(f'{path} is a .zip: unpack it, and name a file that was in it')
        fail(f'{path} is packed, as a {ending}: give its name this ending')
    has_one_line = not line.endswith(b'\n')
    if has_one_line and line.count(b'\r') > 1:
        fail(f"{path} has line ends of another kind (\\r): `tr '\\r' '\\n' < FILE > NEW` changes them")


def file_format(path):
    """'.csv' for a.csv, a.csv.gz and a.CSV.xz; '.tsv' for b.zip!c/train.tsv; '' where there is no ending."""
    name = str(path).rpartition('!')[2]
    for suffix in reversed(Path(name).suffixes):
        if suffix.lower() not in OPENERS:
            return suffix.lower()
    return ''


def base_name(path):
    """'new.2023' for a/new.2023.csv.gz: without the endings of format and compression. Of a folder its name."""
    path = Path(path).expanduser()
    if path.is_dir():
        return path.resolve().name
    name = path.name
    if path.suffix.lower() in OPENERS:
        name = path.stem
    return Path(name).stem


def in_chunks(items, size=CHUNK, weigh=len):
    """Lists of up to `size` items, or of fewer where the items are large: weigh(item) is its bytes, about."""
    chunk = []
    weight = 0
    for item in items:
        chunk.append(item)
        weight += weigh(item)
        if len(chunk) == size or weight > CHUNK_BYTES:
            yield chunk
            chunk = []
            weight = 0
    if chunk:
        yield chunk
