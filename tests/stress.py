"""
Stress tests that take too long for the test suite.

    python tests/stress.py kills 200    200 kills (kill -9) at random moments, spread over four kinds of runs
    python tests/stress.py soak 60      an hour of pre-training with kills, then 50 fine-tunings in one process
    python tests/stress.py fuzz 5       5 minutes of tests/test_fuzz.py with more examples (needs hypothesis)

A run that was killed is resumed, and must leave the same files as a run that was not disturbed. Each test
prints lines for the table under "Stress tests" in docs/RESULTS.md. All files are made in a temporary folder.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from util.prepare import UNFINISHED  # noqa: E402

ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'PASSIVE'}
TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
TINY = ['--embed_dim=16', '--qk_dim=16', '--v_dim=16', '--n_head=2', '--n_layer=2', '--warmup_steps=2',
        '--device=cpu', '--dataset=t.csv', '--label_column=y']
# a line of the log averages since the line before, or since the save after --resume: so both come together
PRE = [*TINY, '--batch_size=8', '--log_interval=15', '--eval_interval=40', '--save_interval=15',
       '--max_steps=900']
FINE = [*TINY, '--batch_size=16', '--epochs=60', '--init_from=scratch', '--seeds=0,1,2', '--target=binary']
KINDS = {  # name: (options of python, script, options of the script, the folder where it writes)
    'pre-training': ([], 'pretrain.py', PRE, 'out'),
    'pre-training, two processes': (TORCHRUN, 'pretrain.py', PRE, 'out'),
    'fine-tuning': ([], 'finetune.py', FINE, 'out'),
    'preparing': ([], 'data.py', ['big.csv', '--label_column=y'], 'datasets')}


def run_cli(kind, folder, resume=False):
    """Starts a run of this kind in the folder. Its output goes to said.txt."""
    options, script, knobs, out = KINDS[kind]
    if script != 'data.py':
        knobs = [*knobs, '--out_dir=out', f'--resume={resume}']
    with open(folder / 'said.txt', 'a') as said:
        return subprocess.Popen([sys.executable, *options, str(ROOT / script), *knobs], cwd=folder, env=ENV,
                                stdout=said, stderr=said)


def kill(process):
    """Ends a run and its child processes at once, with kill -9."""
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    for pid in (process.pid, *map(int, children.read_text().split() if children.exists() else ())):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def made(kind, folder):
    """
    What a run has written, without times: {file name: content}. A temporary file is 'left behind', but for the
    folder of a preparation that was killed: nobody can tell it from one that another machine is making, so it
    stays, and `python data.py` lists it.
    """
    out, found = folder / KINDS[kind][3], {}
    for path in sorted(out.rglob('*')):
        if UNFINISHED in str(path.relative_to(out)):
            continue
        if path.suffix == '.pt':
            checkpoint = torch.load(path, weights_only=True)
            found[path.name] = {k: v.tolist() for k, v in checkpoint['model'].items()}, checkpoint['step']
        elif path.suffix == '.jsonl':
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{k: v for k, v in line.items() if k != 'tokens_per_s'} for line in lines]
        elif path.suffix == '.bin':
            found[path.name] = path.read_bytes()
        elif path.is_file() and path.suffix not in ('.md', '.json', '') and path.name != '.lock':
            found[path.name] = 'left behind'
    return found


def table(path, n):
    """Writes a CSV of n rows: five numbers and a label of two classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 1)) + rng.normal(size=(n, 5))
    columns = np.column_stack([x, x.sum(1) > 0])
    np.savetxt(path, columns, delimiter=',', header='a,b,c,d,e,y', comments='', fmt='%.5g')


def folder_with_data(folder, kind):
    """A new folder with the CSV that this kind of run reads. All folders give it the same time of change."""
    folder.mkdir()
    if kind == 'preparing':
        path, n = folder / 'big.csv', 150_000
    else:
        path, n = folder / 't.csv', 300
    table(path, n)
    os.utime(path, (1, 1))
    return folder


def kills(wanted):
    """Kills runs of each kind at random moments and resumes them. Prints a line for each kind."""
    random.seed(0)
    for kind in KINDS:
        hit = runs = lost = 0
        with tempfile.TemporaryDirectory() as home:
            calm, begin = folder_with_data(Path(home, 'calm'), kind), time.monotonic()
            assert run_cli(kind, calm).wait() == 0, (calm / 'said.txt').read_text()
            usual, right = time.monotonic() - begin, made(kind, calm)
            while hit < wanted / len(KINDS):
                folder, ended = folder_with_data(Path(home, f'run{runs}'), kind), None
                while ended is None:
                    process = run_cli(kind, folder, resume=True)
                    try:
                        ended = process.wait(random.uniform(0.3, 1) * usual)
                    except subprocess.TimeoutExpired:
                        kill(process)
                        hit += 1
                runs += 1
                bad = ended != 0 or made(kind, folder) != right
                lost += bad
                if bad:
                    print((folder / 'said.txt').read_text()[-2000:], flush=True)
        print(f'| kill -9, {kind} | {hit} kills in {runs} runs | {lost} runs ended otherwise |', flush=True)


def soak(minutes):
    """Pre-trains for so many minutes, with kills, and prints how the memory of a process grew."""
    random.seed(0)
    with tempfile.TemporaryDirectory() as home:
        folder, end, hit, memory = Path(home), time.monotonic() + 60 * minutes, 0, []
        table(folder / 't.csv', 20_000)
        endless = ['--max_steps=100000000', '--out_dir=out', '--resume']
        options = [o for o in PRE if 'max_steps' not in o] + endless
        while time.monotonic() < end:
            with open(folder / 'said.txt', 'a') as said:
                process = subprocess.Popen([sys.executable, str(ROOT / 'pretrain.py'), *options],
                                           cwd=folder, env=ENV, stdout=said, stderr=said)
            sizes, until = [], min(time.monotonic() + random.uniform(0.1, 0.4) * 60 * minutes, end)
            while time.monotonic() < until and process.poll() is None:
                time.sleep(1)
                sizes.append(int(Path(f'/proc/{process.pid}/statm').read_text().split()[1]) * 4096 / 1e6)
            assert process.poll() is None, (folder / 'said.txt').read_text()[-2000:]
            process.kill()
            process.wait()
            hit += 1
            if len(sizes) > 60:  # compare the memory after half a minute with that at the end
                memory.append((sizes[30], sizes[-1]))
        growth = max(b / a - 1 for a, b in memory)
        step = torch.load(folder / 'out/last.pt', weights_only=True)['step']
        print(f'| soak of pre-training, {minutes} minutes | {hit} kills, {step:,} steps | '
              f'memory grew by at most {100 * growth:.1f} % within a process |', flush=True)
        tune_again(folder)


def tune_again(folder):
    """Fine-tunes fifty times in one process on t.csv in this folder, and prints its open files and threads."""
    code = f'''if 1:
        import os, runpy, sys
        sys.path.insert(0, {str(ROOT)!r})
        def count():
            return len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))
        seen = []
        for i in range(50):
            sys.argv = ['finetune.py', *{[*FINE, '--out_dir=ft', '--epochs=2']!r}]
            runpy.run_path({str(ROOT / 'finetune.py')!r}, run_name='__main__')
            seen.append(count())
        print('open files and threads:', *seen[2], 'after 3 runs,', *seen[-1], 'after 50', file=sys.stderr)'''
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, env=ENV, capture_output=True, text=True)
    print(f'| 50 fine-tunings in one process | {done.stderr.splitlines()[-1]} | |', flush=True)


def fuzz(minutes):
    """Repeats tests/test_fuzz.py for so many minutes. The first failure ends it with status 1."""
    begin, rounds = time.monotonic(), 0
    while time.monotonic() - begin < 60 * minutes:
        rounds += 1
        done = subprocess.run([sys.executable, '-m', 'pytest', '-q', str(ROOT / 'tests/test_fuzz.py')],
                              cwd=ROOT, env={**ENV, 'FUZZ_EXAMPLES': '1000'})
        if done.returncode:
            raise SystemExit(1)
    print(f'| fuzz, {minutes} minutes | {4000 * rounds:,} examples | '
          'each a success, or one line and status 2 |')


if __name__ == '__main__':
    if len(sys.argv) != 3 or sys.argv[1] not in ('kills', 'soak', 'fuzz'):
        print(__doc__)
        raise SystemExit(2)
    {'kills': kills, 'soak': soak, 'fuzz': fuzz}[sys.argv[1]](int(sys.argv[2]))
