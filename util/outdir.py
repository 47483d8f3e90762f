"""
The folder that a run writes to: locked while the run's process lives, and an earlier run in it is never lost.

An earlier run is moved to OUT_DIR/previous-1 (then previous-2, and so on) when the new run has something of its
own to save, not before. A run that is stopped or fails before that leaves the folder as it was.
"""

import json
import math
import os
import shutil
from pathlib import Path

from util import checkpoint
from util.errors import fail
from util.files import atomic_write, name_of
from util.runtime import print0

RUN_FILES = ('last.pt', 'best.pt', '*-seed*.pt', 'log.jsonl', 'results.md', 'results.jsonl')


class OutputDir:
    """The folder of a run. Only rank 0 writes to it."""

    def __init__(self, path, script, run):
        """script: 'pretrain.py' or 'finetune.py'."""
        self.path = Path(path).expanduser()
        self.run = run
        self.waiting_lines = []  # log lines of a new run, until an earlier run has been moved away
        self.has_earlier_run = False
        if not run.is_main:
            return
        check_writable(self.path)
        self.lock_file = lock(self.path, script)

    def keep_earlier_run(self):
        """To be called by a run that starts anew. One that goes on finds its own files in the folder."""
        if self.run.is_main and run_files(self.path):
            self.has_earlier_run = True
            print0(self.run, f'{self.path} holds an earlier run. It moves to {free_name(self.path)} when '
                             'this run first saves. To go on with it instead, stop now and add --resume.')

    def copy_earlier_run(self):
        """Copies all files of a run to a folder of their own: to be called before some of them are replaced."""
        if not self.run.is_main:
            return
        folder = free_name(self.path)
        folder.mkdir()
        for file in run_files(self.path):
            shutil.copy2(file, folder / file.name)
        print0(self.run, f'what {self.path} holds up to now is copied to {folder}')

    def log(self, **values):
        """One JSON object a line in log.jsonl. JSON has no infinity and no NaN: they become null."""
        if not self.run.is_main:
            return
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        self.waiting_lines.append(json.dumps(values) + '\n')
        if not self.has_earlier_run:
            self.write_waiting_lines()

    def save(self, name, saved):
        """Writes a checkpoint, whole or not at all."""
        if not self.run.is_main:
            return
        if self.has_earlier_run:
            new = self.path / f'{name}.new'  # the earlier run stays in its place until this file is whole
            checkpoint.save(new, saved)
            self.move_earlier_run()
            new.replace(self.path / name)
        else:
            checkpoint.save(self.path / name, saved)

    def write_text(self, name, text):
        """Writes a text file, whole or not at all."""
        if self.run.is_main:
            if self.has_earlier_run:
                self.move_earlier_run()
            with atomic_write(self.path / name, 'w') as f:
                f.write(text)

    def remove_log_entries(self, is_unwanted):
        """
        Takes the entries out of log.jsonl for which is_unwanted(entry) is true. The log of an earlier run stays
        as it is.
        """
        path = self.path / 'log.jsonl'
        if not self.run.is_main or self.has_earlier_run or not path.exists():
            return
        kept = [entry for entry in log_entries(path) if not is_unwanted(entry)]
        with atomic_write(path, 'w') as f:
            f.writelines(json.dumps(entry) + '\n' for entry in kept)

    def move_earlier_run(self):
        folder = free_name(self.path)
        folder.mkdir()
        for file in run_files(self.path):
            file.rename(folder / file.name)
        self.has_earlier_run = False
        print0(self.run, f'the earlier run is in {folder} now')
        self.write_waiting_lines()

    def write_waiting_lines(self):
        path = self.path / 'log.jsonl'
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(path, 'a') as f:
                f.writelines(self.waiting_lines)
        except OSError as error:
            fail(f'cannot write {path}: {error.strerror or error}')
        self.waiting_lines = []


def usual_folder(dataset):
    """Where pretrain.py puts the runs of a data set, and finetune.py looks for them."""
    return f'out/{name_of(dataset)}'


def log_entries(path):
    """The entries of a log.jsonl, a dict each. Its last line may be half written: it is left out."""
    entries = []
    for line in path.read_text().splitlines():
        if line.endswith('}'):
            entries.append(json.loads(line))
    return entries


def run_files(folder):
    """The files of a run in a folder."""
    found = []
    for pattern in RUN_FILES:
        found += sorted(folder.glob(pattern))
    return found


def free_name(folder):
    """previous-1 in the folder, or the first such name that is free."""
    number = 1
    while (folder / f'previous-{number}').exists():
        number += 1
    return folder / f'previous-{number}'


def check_writable(folder):
    """Fails now, and not at the first save, where nobody can write to the folder."""
    test_file = folder / '.try'
    with atomic_write(test_file) as f:
        f.write(bytes(4096))
    test_file.unlink()


def lock(folder, script):
    """
    Locks the folder for the lifetime of the process. Fails if another run is writing to it, or if it belongs to
    the other script: both write log.jsonl. -> the open lock file, to be kept.
    """
    path = folder / '.lock'
    lock_file = open(path, 'a+')  # noqa: SIM115 (it stays open: closing it ends the lock)
    if os.name == 'posix':
        import fcntl
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(f'another run is writing to {folder}: wait for its end, or choose another --out_dir')
        except OSError:  # a network disk without locks
            pass
    lock_file.seek(0)
    owner = lock_file.read()
    if owner and owner != script:
        fail(f'{folder} belongs to {owner}: choose another --out_dir for {script}')
    if not owner:
        lock_file.write(script)
        lock_file.flush()
    return lock_file
