"""
Raw bytes or floats on disk -> batches.

    python data.py                              the data sets known by name
    python data.py collider                     fetch and prepare one, print counts and a sample
    python data.py molecules.csv --input_column=smiles --label_column=solubility      the same for a file of yours

A data set is prepared once into a folder of flat files, which the stages then map into memory:

    meta.json     kind ('bytes', 'floats' or 'images'), counts, column names, what was left out and why
    x.bin         bytes: all sequences end to end (uint8), or floats: (rows, n, d_raw) float32, or images:
                  (rows, S, S, 3) uint8, S a seventh larger than image_size
    offsets.bin   bytes only: sequence i is x[offsets[i]:offsets[i + 1]], int64
    firsts.bin    pairs only: the length of the first of the two, int64
    y.bin         float64 label of each row, NaN where it has none; text labels are numbered in sorted order
    split.bin     int8 of each row: 0 train, 1 valid, 2 test; 3 and 4: drawn by the shares when it is opened

Files read: .txt .smi (a line each), .fasta .fa, .csv .tsv .arff .json (a list of objects), all also .gz,
.bz2 or .xz; .npz (arrays X and y), .npy (its labels in a second file: --dataset=X.npy,y.npy); .parquet (needs
pyarrow); a folder of images (needs Pillow). Downloads go to DATA_DIR/downloads.
"""

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import itertools
import json
import lzma
import math
import os
import re
import shutil
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue

import numpy as np
import requests
import torch
from tqdm import tqdm

from configurator import configure, fail, nearest
from masking import FIRST_BYTE

# knobs of `python data.py NAME`; the stages have the same
dataset = ''  # a name from DATASETS, or a file
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: one text column, or number columns 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # csv: the label's column. npz: 'y'
split_column: str | None = None  # csv: a column that says train, valid or test
valid_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
valid_share = 0.02  # without those: the share of rows drawn for validation
test_share = 0.1  # and for the test
window: int | None = None  # text: join the lines and cut them into windows of so many bytes; None = a line a sequence
image_size = 192  # images: side in pixels that the model sees

SPLITS = ('train', 'valid', 'test')
SPLIT_NAMES = {'train': 0, 'training': 0, 'valid': 1, 'val': 1, 'validation': 1, 'dev': 1, 'test': 2, '': -1,
               'draw': 3, 'draw valid': 4}  # drawn by the shares: all three splits; train and valid only
PAD, CLS, SEP = 0, 4, 5  # ids of Perceiver IO: byte b is b + FIRST_BYTE
CHUNK = 8192  # rows read or written at a time, which bounds the memory
FORMAT = 2  # part of a prepared folder's name: raise it when the layout or a reader changes
TIMEOUT, WAITS = (10, 30), (1, 4, 15, 60)  # downloads: seconds to connect and between bytes; before each new try


# -----------------------------------------------------------------------------
# The data sets known by name. `files`: name -> (address, bytes, hash), the last two where a public source states them;
# `parts`: (split, file or archive!member, options of its own), or a `folder` of images and the list of classes to
# `keep`; `options` go to the reader; `target` and `metric` are what finetune.py does.
# Each address stands in the public code named beside it.

def moleculenet(file, md5, smiles, label, target, metric, about):
    """deepchem/deepchem: deepchem/molnet/load_function/; md5: DeepGraphLearning/torchdrug: torchdrug/datasets/"""
    url = f'https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/{file}'
    return dict(files={file: (url, None, md5 and f'md5:{md5}')}, parts=[('', file)], scaffold=True, target=target,
                metric=metric, options=dict(input_column=smiles, label_column=label), licence='not stated',
                about=f'MoleculeNet: {about}; scaffold split')


def tape(task, label, target, metric, test, about):
    """songlab-cal/tape: README.md, tape/datasets.py"""
    url = f'http://s3.amazonaws.com/songlabdata/proteindata/data_raw_pytorch/{task}.tar.gz'
    parts = [(split, f'{task}.tar.gz!{task}/{task}_{name}.json')
             for split, name in zip(SPLITS, ('train', 'valid', test))]
    return dict(files={f'{task}.tar.gz': (url, None, None)}, parts=parts, target=target, metric=metric,
                options=dict(input_column='primary', label_column=label), licence='not stated (code: BSD 3-clause)',
                about=f'TAPE: {about}')


def glue(file, size, sha256, text, label, target, metric, about, folder=None, dev='dev', **options):
    """huggingface/datasets: datasets/glue/glue.py and dataset_infos.json. Test labels are secret: dev is our test."""
    folder = folder or file.removesuffix('.zip')
    parts = [('draw valid', f'{file}!{folder}/train.tsv'), ('test', f'{file}!{folder}/{dev}.tsv')]
    return dict(files={file: (f'https://dl.fbaipublicfiles.com/glue/data/{file}', size, f'sha256:{sha256}')},
                parts=parts, options=dict(input_column=text, label_column=label, quotes=False, **options),
                target=target, metric=metric, licence='GLUE card: CC BY 4.0; those of the tasks differ',
                about=f'GLUE: {about}; tested on its dev rows')


MNLI = ('MNLI.zip', 312_783_507, 'e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633',
        'sentence1,sentence2', 'gold_label', 'multiclass', 'accuracy')
SENTEVAL = 'https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase'  # huggingface/datasets: as glue

DATASETS = {
    'collider': dict(
        make=lambda: collider(120_000, seed=0), names=lambda: HIGGS_COLUMNS, target='binary', metric='accuracy',
        licence='ours', about='simulated here: a toy Monte Carlo of UCI HIGGS (arXiv:1402.4735), 120,000 events'),
    # particle physics and tables
    'higgs': dict(  # tensorflow/datasets: tensorflow_datasets/url_checksums/higgs.txt
        files={'HIGGS.csv.gz': ('https://archive.ics.uci.edu/ml/machine-learning-databases/00280/HIGGS.csv.gz',
                                2_816_407_858,
                                'sha256:ea302c18164d4e3d916a1e2e83a9a8d07069fa6ebc7771e4c0540d54e593b698')},
        parts=[('draw valid', 'HIGGS.csv.gz')], last_test=500_000, names=lambda: HIGGS_COLUMNS,
        options=dict(label_column='c0'), target='binary', metric='accuracy', licence='CC BY 4.0',
        about='UCI HIGGS: 11,000,000 simulated collisions, 28 numbers, signal or background; the last 500,000 test'),
    'higgs_small': dict(  # IBM/lale: lale/datasets/openml/openml_datasets.py
        files={'higgs_small.arff': ('https://www.openml.org/data/download/2063675/phpZLgL9q', None, None)},
        parts=[('', 'higgs_small.arff')], stratified=True, names=lambda: HIGGS_COLUMNS,
        options=dict(label_column='class', missing=True), target='binary', metric='accuracy',
        licence='Public (OpenML); CC BY 4.0 (UCI)',
        about='OpenML 23512: 98,050 events of HIGGS, 62,752 / 15,688 / 19,610 as Gorishniy et al. 2021'),
    'year': dict(  # JackDunnNZ/UCIData.jl: src/data/regression/year-prediction-msd.jl; NVIDIA/gbm-bench: datasets.py
        files={'YearPredictionMSD.txt.zip': (
            'https://archive.ics.uci.edu/ml/machine-learning-databases/00203/YearPredictionMSD.txt.zip', None,
            'sha256:06f801af323bb7798e800583acce4ea1ed2697ac12c23f4424aea0a7a3d09e11')},
        parts=[('draw valid', 'YearPredictionMSD.txt.zip!YearPredictionMSD.txt')], last_test=51_630,
        options=dict(label_column='c0', kind='.csv'), target='regression', metric='rmse', licence='CC BY 4.0',
        about='YearPredictionMSD: 515,345 songs, 90 numbers about the sound, the year; the last 51,630 test'),
    # proteins
    'pfam': dict(  # ProteinsWebTeam/pfam-docs: docs/ftp-site.rst has the https form of the current release
        files={'Pfam-A.fasta.gz': ('https://ftp.ebi.ac.uk/pub/databases/Pfam/releases/Pfam32.0/Pfam-A.fasta.gz', None,
                                   None)},
        parts=[('draw', 'Pfam-A.fasta.gz')], options=dict(shortest=50, longest=1024), licence='CC0',
        about='Pfam 32.0: domains of proteins, of 50 to 1,024 residues'),
    'remote_homology': tape('remote_homology', 'fold_label', 'multiclass', 'accuracy', 'test_fold_holdout',
                            'which of 1,195 folds; 12,312 / 736 / 718 proteins'),
    'fluorescence': tape('fluorescence', 'log_fluorescence', 'regression', 'spearman', 'test',
                         'how brightly a mutant of GFP shines; 21,446 / 5,362 / 27,217'),
    'stability': tape('stability', 'stability_score', 'regression', 'spearman', 'test',
                      'how well a small protein withstands proteases; 53,614 / 2,512 / 12,851'),
    # molecules
    'guacamol': dict(  # BenevolentAI/guacamol: README.md (with the md5); the files are drawn from ChEMBL 24
        files={f'guacamol_v1_{split}.smiles': (f'https://ndownloader.figshare.com/files/{n}', None, f'md5:{md5}')
               for split, n, md5 in (('train', 13612760, '05ad85d871958a05c02ab51a4fde8530'),
                                     ('valid', 13612766, 'e53db4bff7dc4784123ae6df72e3b1f0'),
                                     ('test', 13612757, '677b757ccec4809febd83850b43e1616'))},
        parts=[(split, f'guacamol_v1_{split}.smiles') for split in SPLITS],
        licence='files not stated (code: MIT; ChEMBL: CC BY-SA 3.0)', about='GuacaMol: 1,591,378 molecules as SMILES'),
    'bbbp': moleculenet('BBBP.csv', '66286cb9e6b148bd75d80c870df580fb', 'smiles', 'p_np', 'binary', 'roc_auc',
                        'does it pass from blood to brain; 2,050 molecules, of which RDKit reads 2,039'),
    'bace': moleculenet('bace.csv', 'ba7f8fa3fdf463a811fa7edea8c982c2', 'mol', 'Class', 'binary', 'roc_auc',
                        'does it inhibit beta-secretase 1; 1,513 molecules'),
    'hiv': moleculenet('HIV.csv', '9ad10c88f82f1dac7eb5c52b668c30a7', 'smiles', 'HIV_active', 'binary', 'roc_auc',
                       'does it stop the virus; 41,127 molecules'),
    'esol': moleculenet('delaney-processed.csv', '0c90a51668d446b9e3ab77e67662bd1c', 'smiles',
                        'measured log solubility in mols per litre', 'regression', 'rmse',
                        'log solubility in water; 1,128 molecules'),
    'freesolv': moleculenet('SAMPL.csv', None, 'smiles', 'expt', 'regression', 'rmse',
                            'free energy of solvation in kcal/mol; 642 molecules'),
    'lipo': moleculenet('Lipophilicity.csv', '85a0e1cb8b38b0dfc3f96ff47a57f0ab', 'smiles', 'exp', 'regression', 'rmse',
                        'log of the octanol / water ratio; 4,200 molecules'),
    # text
    'wiki_books': dict(
        files={'psgs_w100.tsv.gz': (  # facebookresearch/DPR: dpr/data/download_data.py; huggingface/datasets: wiki_dpr
                   'https://dl.fbaipublicfiles.com/dpr/wikipedia_split/psgs_w100.tsv.gz', 4_694_541_059,
                   'sha256:c39b020c855a2b5c25ffef3abe4a3b6f9b829ad7dbc14ec3d163d34d7c53ea8d'),
               'bookcorpus.tar.bz2': (  # huggingface/datasets: datasets/bookcorpus
                   'https://storage.googleapis.com/huggingface-nlp/datasets/bookcorpus/bookcorpus.tar.bz2',
                   1_179_510_242, 'sha256:03a29333b2b35e98a375b6ad7d2f1651835655cd348fb89c864136bce69a964c')},
        parts=[('draw', 'psgs_w100.tsv.gz', dict(input_column='text')),
               ('draw', 'bookcorpus.tar.bz2!books_large_p1.txt'),
               ('draw', 'bookcorpus.tar.bz2!books_large_p2.txt')],
        options=dict(window=1022),
        licence='Wikipedia: CC BY-SA 3.0 (this file: CC BY-NC 4.0); BooksCorpus: none granted',
        about='English Wikipedia (21 M passages) and BooksCorpus (74 M sentences) in windows of 1,022 bytes'),
    'mnli': glue(*MNLI, 'does the first sentence entail the second; 392,702 / 9,815 matched', dev='dev_matched'),
    'mnli_mm': glue(*MNLI, 'mnli on the 9,832 mismatched rows', dev='dev_mismatched'),
    'qqp': glue('QQP-clean.zip', 41_696_084, '40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0',
                'question1,question2', 'is_duplicate', 'binary', 'f1', 'the same question; 363,846 / 40,430',
                folder='QQP'),
    'qnli': glue('QNLIv2.zip', 10_627_589, 'e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5',
                 'question,sentence', 'label', 'binary', 'accuracy', 'is the answer in it; 104,743 / 5,463',
                 folder='QNLI'),
    'sst2': glue('SST-2.zip', 7_439_277, 'd67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa',
                 'sentence', 'label', 'binary', 'accuracy', 'praise or blame; 67,349 / 872'),
    # The paper says accuracy for CoLA, but prints 0.0 for scratch: that is Matthews correlation, as GLUE scores it.
    # (Always answering "acceptable" has an accuracy of 69.1 % and a correlation of 0.)
    'cola': glue('CoLA.zip', 376_971, 'f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff',
                 'c3', 'c1', 'binary', 'matthews', 'is it English; 8,551 / 1,043', header=False),
    'stsb': glue('STS-B.zip', 802_872, 'e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85',
                 'sentence1,sentence2', 'score', 'regression', 'spearman', 'how alike, 0 to 5; 5,749 / 1,500'),
    'rte': glue('RTE.zip', 697_150, '6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee',
                'sentence1,sentence2', 'label', 'binary', 'accuracy', 'entailment; 2,490 / 277'),
    'mrpc': dict(
        files={'msr_paraphrase_train.txt': (
                   f'{SENTEVAL}_train.txt', 1_047_044,
                   'sha256:60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89'),
               'mrpc_dev_ids.tsv': (
                   'https://dl.fbaipublicfiles.com/glue/data/mrpc_dev_ids.tsv', 6_222,
                   'sha256:971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7')},
        parts=[('draw valid', 'msr_paraphrase_train.txt')], test_ids='mrpc_dev_ids.tsv',
        options=dict(input_column='#1 String,#2 String', label_column='Quality', kind='.tsv', quotes=False),
        target='binary', metric='f1', licence='not stated',
        about='GLUE: a paraphrase or not; 3,668 / 408; tested on its dev rows'),
    # images
    'imagenet100': dict(  # HobbitLong/CMC: imagenet100.txt
        files={'imagenet100.txt': ('https://raw.githubusercontent.com/HobbitLong/CMC/master/imagenet100.txt', 1_000,
                                   None)},
        folder='imagenet', keep='imagenet100.txt', target='multiclass', metric='accuracy',
        licence='ImageNet: for non-commercial research, on request',
        about='100 classes of ImageNet: put or link its folder, with train/ and val/, at DATA_DIR/downloads/imagenet'),
}


# -----------------------------------------------------------------------------
# files: fetched, opened, read as a stream

def download(name, address, data_dir, size=None, digest=None):
    """
    The path of a file that a data set is made from: found in DATA_DIR/downloads, or fetched to there.

    size in bytes and digest 'md5:..' or 'sha256:..' are checked where given, of a file put there by hand too. Broken
    connections are taken up where they broke (HTTP Range); what has come so far waits in NAME.part. The environment's
    SMA_MIRROR is a folder that has the file, or an http address to put before its name.
    """
    mirror, folder = os.environ.get('SMA_MIRROR', ''), Path(data_dir) / 'downloads'
    if mirror.startswith(('http://', 'https://')):
        address, mirror = f'{mirror.rstrip("/")}/{name}', ''
    found = [path for path in (folder / name, Path(mirror or folder) / name) if path.exists()]
    if found:
        problem = wrong(found[0], size, digest)
        if problem:
            fail(f'{found[0]}: {problem}; remove it to fetch it again from {address}')
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'{name}.part'
    problem = None
    for wait in (0, *WAITS):
        if problem:
            print(f'{address}: {problem}; trying again in {wait} s', flush=True)
        time.sleep(wait)
        try:
            problem = fetch(address, part, size) or wrong(part, size, digest)
        except requests.RequestException as error:
            problem = type(error).__name__
        if problem is None:
            return part.rename(folder / name)
        if problem.startswith('HTTP 4') and problem not in ('HTTP 416', 'HTTP 429'):  # no use in asking again
            break
    fail(f'could not fetch {address} ({problem}). Put the file there by hand, as {(folder / name).resolve()}, or let '
         f'the environment variable SMA_MIRROR name a folder or an http address that has {name}')


def fetch(address, part, size):
    """One attempt to bring the rest of a file into `part`. -> None, or what went wrong"""
    have = part.stat().st_size if part.exists() else 0
    ask = {'Accept-Encoding': 'identity', **({'Range': f'bytes={have}-'} if have else {})}
    with requests.get(address, headers=ask, stream=True, timeout=TIMEOUT) as answer:
        status, start = answer.status_code, answer.headers.get('Content-Range', '').removeprefix('bytes ').split('-')[0]
        if status == 416 and have == size:  # there is nothing past what we have
            return None
        if status == 416 or status == 206 and start != str(have):
            part.unlink()  # not a part of this file
            return f'HTTP {status}'
        if status not in (200, 206):
            return f'HTTP {status}'
        have = have if status == 206 else 0  # 200: it sends the whole file again
        left = answer.headers.get('Content-Length')
        total = have + int(left) if left else size
        with open(part, 'ab' if have else 'wb') as f, progress(f'fetching {part.stem}', total, have) as bar:
            for block in answer.iter_content(1 << 16):
                f.write(block)
                bar.update(len(block))
        if total and part.stat().st_size < total:
            return f'cut off after {part.stat().st_size:,} of {total:,} bytes'


def wrong(path, size, digest):
    """What is wrong with a file that ought to be whole, or None. A bad .part is removed: it cannot be gone on with."""
    problem = None
    if size is not None and path.stat().st_size != size:
        problem = f'it has {path.stat().st_size:,} bytes, not {size:,}'
    elif digest is not None:
        kind, _, wanted = digest.partition(':')
        with open(path, 'rb') as f:
            problem = None if hashlib.file_digest(f, kind).hexdigest() == wanted else f'its {kind} is not {wanted}'
    if problem and path.suffix == '.part':
        path.unlink()
    return problem


def progress(what, total, done=0):
    """A bar in bytes on a terminal; a line in a log, for large files only."""
    on_terminal = sys.stderr.isatty()
    if total and total > 1e8 and not on_terminal:
        print(f'{what}: {total:,} bytes', flush=True)
    return tqdm(desc=what, total=total, initial=done, unit='B', unit_scale=True, leave=False, disable=not on_terminal)


class Counted(io.FileIO):
    """A file opened for reading that moves a bar."""

    def __init__(self, path, bar):
        super().__init__(path)
        self.bar = bar

    def readinto(self, buffer):
        n = super().readinto(buffer)
        self.bar.update(n)
        return n


@contextmanager
def open_stream(path):
    """
    A file as a stream of bytes, unpacked if it is .gz, .bz2 or .xz; 'a.zip!member' is a member of an archive, which may
    also be .tar, .tar.gz or .tar.bz2. Archives are never unpacked to disk, so none can write outside a folder.
    """
    match = re.fullmatch(r'(.+\.(?:zip|tar|tar\.gz|tgz|tar\.bz2))!(.+)', str(path))
    path, member = match.groups() if match else (str(path), None)
    try:
        with ExitStack() as stack:
            bar = stack.enter_context(progress(f'reading {Path(path).name}', os.path.getsize(path)))
            f = stack.enter_context(io.BufferedReader(Counted(path, bar)))
            if member:
                if path.endswith('.zip'):
                    archive = stack.enter_context(zipfile.ZipFile(f))
                    f = archive.open(member) if member in archive.namelist() else None
                else:
                    archive = stack.enter_context(tarfile.open(fileobj=f))
                    found = next((m for m in archive if m.name == member and m.isfile()), None)
                    f = found and archive.extractfile(found)
                if f is None:
                    fail(f'{path} has no file {member} in it')
                stack.enter_context(f)
            elif Path(path).suffix.lower() in ('.gz', '.bz2', '.xz'):
                unpack = {'.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open}[Path(path).suffix.lower()]
                f = stack.enter_context(unpack(f))
            yield f
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        fail(f'{path} is damaged or cut short ({error}): fetch it again')
    except OSError as error:
        fail(f'cannot read {path}: {error.strerror or error}')


def open_bytes(path):
    """The lines of open_stream(path), as bytes."""
    with open_stream(path) as f:
        yield from f


def kind_of(path):
    """'.csv' for a.csv, a.csv.gz and a.CSV.xz; '.tsv' for b.zip!c/train.tsv."""
    suffixes = [s.lower() for s in Path(str(path).rpartition('!')[2]).suffixes]
    return next((s for s in reversed(suffixes) if s not in ('.gz', '.bz2', '.xz')), '')


# -----------------------------------------------------------------------------
# readers: each yields chunks (inputs, labels, splits): inputs a list of bytes (or of pairs of bytes), or a float32
# array (k, n, d_raw); labels and splits lists of str or float, or None where there are none

def chunks(items, size=CHUNK):
    """Lists of up to `size` items."""
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def read_lines(path, left_out):
    """One sequence a line; of SMILES lines the first word (a name may follow). Blank lines are left out."""
    first_word = kind_of(path) in ('.smi', '.smiles')

    def sequences():
        for line in open_bytes(path):
            words = line.split()
            if words:
                yield words[0] if first_word else line.rstrip(b'\r\n')
            else:
                left_out['blank lines'] += 1
    for chunk in chunks(sequences()):
        yield chunk, None, None


def read_fasta(path, left_out, shortest=0, longest=math.inf):
    """Header lines start with '>'; a sequence may run over several lines; a final '*' (stop) is dropped."""
    def sequences():
        parts = None  # None until the first header
        for line in itertools.chain(open_bytes(path), [b'>']):
            line = line.strip()
            if line.startswith(b'>'):
                if parts is not None:
                    yield b''.join(parts).rstrip(b'*')
                parts = []
            elif line and parts is None:
                fail(f'{path} does not look like FASTA: its first line is no ">" header')
            elif line:
                parts.append(line)

    def wanted():
        for sequence in sequences():
            if shortest <= len(sequence) <= longest and sequence:
                yield sequence
            else:
                left_out[f'of {"fewer" if len(sequence) < shortest else "more"} residues than the data set\'s '
                         f'{shortest} to {longest}' if sequence else 'empty sequences'] += 1
    for chunk in chunks(wanted()):
        yield chunk, None, None


def windows(source, size):
    """The lines of another reader joined again and cut into windows of `size` bytes, never inside a UTF-8 character."""
    def cut_up():
        rest = b''
        for lines, _, _ in source:
            if len(lines) and not isinstance(lines[0], bytes):
                fail(f'window={size}: only lines of text can be joined')
            text, at = rest + b'\n'.join(lines) + b'\n', 0
            while len(text) - at > size:
                # a character's later bytes are 10xxxxxx: step back, 3 bytes at most, to one that starts a character
                end = next((e for e in range(at + size, at + size - 4, -1) if text[e] & 0xC0 != 0x80), at + size)
                yield text[at:end]
                at = end
            rest = text[at:]
        if rest.strip():
            yield rest.rstrip(b'\n')
    for chunk in chunks(cut_up()):
        yield chunk, None, None


def is_number(cell):
    try:
        float(cell)
        return True
    except ValueError:
        return False


def table_rows(path, kind, left_out, header=None, quotes=True, keys=()):
    """
    The rows of a table: first its column names, then (line number, cells as text), an empty cell where there is none.

    .csv .tsv .arff (a CSV under a list of attributes, where ? is an empty cell), .json (one list of objects, of which
    the `keys` are taken; TAPE) and .parquet. A .csv without a header has only numbers in its first line, or header is
    False; its columns are c0, c1, ...; quotes=False: quotation marks mean nothing (GLUE), and lines of another number
    of cells are left out.
    """
    if kind == '.parquet':
        try:
            import pyarrow.parquet
        except ImportError:
            fail(f'reading {path} needs pyarrow: pip install pyarrow')
        try:
            table = pyarrow.parquet.ParquetFile(path)
            yield 0, table.schema_arrow.names
            rows = (row for batch in table.iter_batches(CHUNK) for row in zip(*(c.to_pylist() for c in batch.columns)))
            for number, row in enumerate(rows, 1):
                yield number, ['' if v is None else v.decode() if isinstance(v, bytes) else str(v) for v in row]
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            fail(f'cannot read {path}: {error}')
        return
    if kind == '.json':
        yield 0, keys
        for number, item in enumerate(json_objects(path), 1):
            if not isinstance(item, dict) or not set(keys) <= set(item):
                fail(f'{path}, object {number}: lacks one of {", ".join(keys)}')
            yield number, [str(v[0] if isinstance(v, list) and v else v) for v in (item[k] for k in keys)]
        return
    text = (line.decode('utf-8-sig' if i == 0 else 'utf-8') for i, line in enumerate(open_bytes(path)))
    names, above, reader = [], 0, None
    csv.field_size_limit(2**31 - 1)
    try:
        if kind == '.arff':
            for above, line in enumerate(text, 1):
                attribute = re.match(r"""@attribute\s+('[^']*'|"[^"]*"|\S+)""", line, re.IGNORECASE)
                if attribute:
                    names.append(attribute[1].strip('\'"'))
                if line.lower().startswith('@data'):
                    break
        rows = reader = csv.reader(text, delimiter='\t' if kind == '.tsv' else ',', strict=True,
                                   quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        first = next(rows, None)
        if first is None:
            fail(f'{path} is empty')
        if header is False or names or all(is_number(cell) for cell in first):
            names, rows = names or [f'c{i}' for i in range(len(first))], itertools.chain([first], rows)
        else:
            names = [cell.strip() for cell in first]
        yield 0, names
        for row in rows:
            number = above + reader.line_num
            if len(row) == len(names):
                yield number, ['' if cell == '?' else cell for cell in row] if kind == '.arff' else row
            elif row and not quotes:
                left_out['lines with missing cells'] += 1
            elif row:
                fail(f'{path}, line {number}: {len(row)} cells where the header has {len(names)}')
    except UnicodeDecodeError:
        fail(f'{path} is not UTF-8 text')
    except csv.Error as error:
        fail(f'{path}, line {above + reader.line_num}: {error}')


def json_objects(path):
    """The objects of a file that is one JSON list, one after the other: the list need not fit in memory."""
    decoder, between, text, at = json.JSONDecoder(), re.compile(r'[\[,\s]*'), '', 0
    with open_stream(path) as f:
        try:
            for block in codecs.iterdecode(iter(lambda: f.read(1 << 20), b''), 'utf-8'):
                text, at = text[at:] + block, 0
                while True:
                    at = between.match(text, at).end()
                    try:
                        item, at = decoder.raw_decode(text, at)
                    except json.JSONDecodeError:
                        break  # the list's end, or this object's has not been read yet
                    yield item
        except UnicodeDecodeError:
            fail(f'{path} is not UTF-8 text')
    if text[at:].strip() != ']':
        fail(f'{path} is no JSON list of objects, or it is cut short')


def read_table(path, kind, left_out, about, input_column=None, label_column=None, split_column=None, split_of=None,
               missing=False, **options):
    """
    Columns: one text column makes byte sequences, two make pairs, number columns a float table (d_raw 1).

    split_of: a function row -> split, for a table that says it in a way of its own. missing: an empty cell is NaN.
    """
    keys = [c for c in (input_column, label_column) if c] if kind == '.json' else ()
    rows = table_rows(path, kind, left_out, keys=keys, **options)
    header = next(rows)[1]

    def column(name, knob):
        if name not in header:
            fail(f'{path} has no column {name!r} ({knob}); the nearest of its {len(header)} is '
                 f'{nearest(name, header)!r}')
        return header.index(name)
    label = None if label_column is None else column(label_column, 'label_column')
    split = None if split_column is None else column(split_column, 'split_column')
    names = [h for i, h in enumerate(header) if i not in (label, split)]
    if input_column is not None:
        names = [name.strip() for name in input_column.split(',')] if input_column not in header else [input_column]
    if not names:
        fail(f'{path} has no inputs beside {", ".join(header) or "nothing"}: name them with --input_column')
    inputs = [column(name, 'input_column') for name in names]
    if about.setdefault('columns', names) != names:
        fail(f'{path}: its inputs are {", ".join(names)}; those of the file before it {", ".join(about["columns"])}')
    head = list(itertools.islice(rows, CHUNK))
    if not head:
        fail(f'{path} has a header and no rows')
    first = head[0]
    # one named column is text if a cell of the first chunk is: a first line may be empty, or a word like 1984
    looked_at = head if len(inputs) == 1 and input_column else head[:1]
    numbers = all(is_number(row[i] or 'nan') for _, row in looked_at for i in inputs)
    if not numbers and len(inputs) > 1 and (len(inputs) > 2 or input_column is None):
        bad = next(name for name, i in zip(names, inputs) if not is_number(first[1][i]))
        fail(f'{path}: column {bad!r} holds text: name the input with --input_column=NAME (one text column, two a,b '
             'for a pair, or number columns a,b,c), and the label with --label_column')

    for chunk in chunks(itertools.chain(head, rows)):
        if numbers:
            try:
                x = np.array([[float(row[i] or 'nan') for i in inputs] for _, row in chunk], np.float32)[:, :, None]
            except ValueError:
                number, i = next((number, i) for number, row in chunk for i in inputs if not is_number(row[i] or 'nan'))
                cell = dict(chunk)[number][i]
                fail(f'{path}, line {number}, column {header[i]!r}: {cell!r} is not a number')
            if not missing and not np.isfinite(x).all():
                k, j, _ = np.argwhere(~np.isfinite(x))[0]
                fail(f'{path}, line {chunk[k][0]}, column {names[j]!r}: empty, NaN or infinite; '
                     'fill it in or drop the row')
        else:
            full = [(number, row) for number, row in chunk if all(row[i].strip() for i in inputs)]
            left_out['empty inputs'] += len(chunk) - len(full)
            chunk, cells = full, [tuple(row[i].strip().encode() for i in inputs) for _, row in full]
            x = cells if len(inputs) == 2 else [cell for cell, in cells]
        y = None if label is None else [row[label].strip() for _, row in chunk]
        s = None if split is None else [row[split].strip().lower() for _, row in chunk]
        yield x, y, [split_of(row) for _, row in chunk] if split_of else s


def scaffold_splits(smiles):
    """
    Which split each molecule is in: 'train', 'valid' or 'test', or None where RDKit cannot read it.

    As DeepChem's ScaffoldSplitter: molecules with one Bemis-Murcko scaffold stay together; the largest sets come first,
    a tie goes to the set with the later first molecule; 80 % train, 10 % validation, 10 % test.
    """
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
    except ImportError:
        fail('scaffold splits need rdkit: pip install rdkit')
    RDLogger.DisableLog('rdApp.*')
    sets = {}
    for i, molecule in enumerate(map(Chem.MolFromSmiles, smiles)):
        if molecule is not None:
            sets.setdefault(MurckoScaffoldSmiles(mol=molecule), []).append(i)
    n, count, result = sum(map(len, sets.values())), Counter(), [None] * len(smiles)
    for rows in sorted(sets.values(), key=lambda rows: (len(rows), rows[0]), reverse=True):
        split = 'test'
        if count['train'] + len(rows) <= 0.8 * n:
            split = 'train'
        elif count['train'] + count['valid'] + len(rows) <= 0.9 * n:
            split = 'valid'
        count[split] += len(rows)
        for i in rows:
            result[i] = split
    return result


def by_scaffold(source, left_out):
    """All chunks of a reader of molecules as one, with scaffold splits."""
    x, y, _ = zip(*source)
    x, y = list(itertools.chain(*x)), list(itertools.chain(*y))
    splits = scaffold_splits([s.decode() for s in x])
    kept = [i for i, split in enumerate(splits) if split]
    left_out['molecules that RDKit cannot read'] += len(x) - len(kept)
    yield [x[i] for i in kept], [y[i] for i in kept], [splits[i] for i in kept]


def read_arrays(path, about, input_column=None, label_column=None):
    """.npz with arrays X and y (input_column and label_column rename them), or .npy alone, or 'X.npy,y.npy'."""
    x_path, _, y_path = path.partition(',')
    if y_path and kind_of(x_path) == '.npz':
        fail(f'{path}: an .npz brings its own labels, see label_column')
    try:
        if kind_of(x_path) == '.npz':
            arrays = np.load(x_path, allow_pickle=False)
            x_name, y_name = input_column or 'X', label_column or ('y' if 'y' in arrays else None)
            for name in (x_name, y_name):
                if name is not None and name not in arrays:
                    fail(f'{x_path} has no array {name!r}, only {", ".join(arrays)}: see input_column, label_column')
            x, y = arrays[x_name], None if y_name is None else arrays[y_name]
        else:
            x = np.load(x_path, mmap_mode='r', allow_pickle=False)
            y = np.load(y_path, mmap_mode='r', allow_pickle=False) if y_path else None
        x, y = np.asanyarray(x), y if y is None else np.asanyarray(y)
    except Exception as error:  # numpy and zipfile raise many kinds on what is damaged or not what its name says
        fail(f'cannot read {path}: {error}')
    if x.ndim not in (2, 3) or 0 in x.shape[1:] or x.dtype.kind not in 'fiu':
        fail(f'{x_path}: shape {x.shape}, type {x.dtype}; wanted are numbers (rows, inputs) or (rows, inputs, d_raw)')
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in 'biufU'):
        fail(f'{path}: labels of shape {y.shape}, type {y.dtype}, for {len(x)} rows')
    about['columns'] = [f'c{i}' for i in range(x.shape[1])]
    for at in range(0, len(x), CHUNK):
        part = np.asarray(x[at:at + CHUNK], np.float32).reshape(-1, x.shape[1], x.shape[2] if x.ndim == 3 else 1)
        if not np.isfinite(part).all():
            row, column, _ = np.argwhere(~np.isfinite(part))[0]
            fail(f'{x_path}, row {at + row}, column {column}: NaN or infinite; fill it in or drop the row')
        yield part, None if y is None else y[at:at + CHUNK].tolist(), None


IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm')


def image_files(folder, wnids=None):
    """
    [(path, label or None, split or None)] of the images in a folder, sorted. Folders train, val (or valid) and test at
    its top are the splits; val without test, as ImageNet has it, is the test, and train gives some validation rows.
    Inside, an image's label is the name of the topmost folder it is in; wnids, a set of such names, leaves the others
    out. No link leads out of the folder.
    """
    root = Path(folder)

    def inside(path):
        return not path.is_symlink() or path.exists() and path.resolve().is_relative_to(root.resolve())
    splits = {d: SPLIT_NAMES.get(d.name.lower(), -1) for d in root.iterdir() if d.is_dir() and inside(d)}
    splits = {d: SPLITS[k] for d, k in splits.items() if 0 <= k < len(SPLITS)}
    if 'train' not in splits.values():
        splits = {root: None}
    else:
        if 'test' not in splits.values():
            splits = {d: 'train' if split == 'train' else 'test' for d, split in splits.items()}
        if 'valid' not in splits.values():
            splits = {d: 'draw valid' if split == 'train' else split for d, split in splits.items()}
    found = []
    for base, split in splits.items():
        for top in base.iterdir():
            if not inside(top) or top.name.startswith('.') or (wnids is not None and top.name not in wnids):
                continue
            label, paths = (top.name, top.rglob('*')) if top.is_dir() else (None, [top])
            found += [(path, label, split) for path in paths if path.suffix.lower() in IMAGE_ENDINGS and inside(path)]
    return sorted(found)


def read_images(folder, image_size, left_out, about, wnids=None):
    """
    The images of a folder (see image_files), decoded and resized once: chunks of uint8 (k, S, S, 3), labels, splits.

    The short side becomes S = image_size / 0.875 (bicubic), then the central square is kept, as torchvision's Resize
    and CenterCrop do. Training crops are taken from that square later, anew each time (Dataset.inputs).
    """
    try:
        from PIL import Image
    except ImportError:
        fail('images are read with Pillow, which is not installed: pip install Pillow')
    files, side, broken, about['image_size'] = image_files(folder, wnids), stored_side(image_size), [], image_size

    def pixels(file):
        try:
            with Image.open(file[0]) as image:
                image.draft('RGB', (3 * side, 3 * side))  # a large JPEG is decoded at 1/2, 1/4, 1/8 while that is ample
                short = min(image.size)
                image = image.convert('RGB').resize([side * v // short for v in image.size], Image.BICUBIC)
            left, top = (round((v - side) / 2) for v in image.size)
            return np.asarray(image.crop((left, top, left + side, top + side)))
        except Exception as error:  # decoders raise many kinds on a damaged file
            broken.append(f'{file[0]} ({error})')

    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(  # Pillow works without the interpreter's lock
            total=len(files), desc=str(folder), unit=' images', disable=not sys.stderr.isatty()) as bar:
        for chunk in chunks(files, 256):
            done = [(x, *file[1:]) for x, file in zip(pool.map(pixels, chunk), chunk) if x is not None]
            bar.update(len(chunk))
            if done:
                x, labels, splits = zip(*done)
                yield np.stack(x), labels, None if splits[0] is None else splits
    if len(broken) == len(files):
        fail(f'{folder} holds no images that can be read: ' + min(
            broken, default='wanted are CLASS/*.jpg, folders train and val of such, or images alone'))
    if broken:
        left_out[f'images that cannot be decoded, {min(broken)} for one'] += len(broken)


def read(path, left_out, about, kind=None, window=None, **options):
    """The chunks of one file, by the ending of its name. `options` go to its reader; None counts as not given."""
    columns = {k: v for k, v in options.items() if v is not None}
    kind = kind or kind_of(path)
    if kind in ('.csv', '.tsv', '.arff', '.json', '.parquet'):
        source = read_table(path, kind, left_out, about, **columns)
    elif kind == '.npz' and 'split_column' not in columns or kind == '.npy' and not columns:
        source = read_arrays(path, about, **columns)
    elif kind in ('.fasta', '.fa', '.faa', '.txt', '.smi', '.smiles', '.npy', '.npz'):
        unfit = next((k for k in ('input_column', 'label_column', 'split_column') if k in columns), None)
        if unfit:
            fail(f'{unfit}={columns[unfit]!r}: {path} has no such columns, leave it unset')
        source = read_fasta(path, left_out, **columns) if kind[:3] == '.fa' else read_lines(path, left_out)
    else:
        fail(f'{path}: unknown ending {kind!r}; known: .txt .smi .fasta .fa .csv .tsv .arff (also .gz .bz2 .xz), '
             '.json .parquet .npy .npz, and folders of images')
    if window is not None and ('label_column' in columns or 'split_column' in columns):
        fail('window joins lines, so their labels and splits are lost: leave label_column and split_column unset')
    return source if window is None else windows(source, window)


# -----------------------------------------------------------------------------
# preparing: any reader's chunks -> the folder described at the top

def prepare(config):
    """
    The folder of a prepared data set, made if it is not there yet, by one process at a time.

    config: a dict with the knobs at the top of this file. The folder's name holds a hash of the source (path, size,
    time) and of every knob that matters, so a changed file is read again and another column is another data set.
    It is built under a temporary name and renamed when whole: a half-prepared one is never taken for a data set.
    """
    name, own = config['dataset'], ('input_column', 'label_column', 'split_column', 'valid_file', 'test_file', 'window')
    if not name:
        fail('say which data set: a name that `python data.py` lists, or a file')
    if name in DATASETS:
        for k in own:
            if config[k] is not None:
                fail(f'{k}={config[k]!r}: the data set {name} has its own inputs and splits, leave it unset')
    files = [] if name in DATASETS else [f for f in (name, config['valid_file'], config['test_file']) if f]
    for part in (part for f in files for part in f.split(',')):
        if not os.path.exists(part):
            fail(f'no file {part!r}, and no data set of that name; nearest: {nearest(part, DATASETS)!r}; '
                 '`python data.py` lists all')
    read_from = [path for f in files for part in f.split(',')
                 for path in ([str(path) for path, _, _ in image_files(part)] if os.path.isdir(part) else [part])]
    stats = [(os.path.abspath(path), os.stat(path)) for path in read_from]
    if config['window'] is not None and config['window'] < 4:
        fail(f'window={config["window"]} must be at least 4, the longest UTF-8 character')
    if config['image_size'] < 1:
        fail(f'image_size={config["image_size"]} must be at least 1')
    pixels = config['image_size'] if any(map(os.path.isdir, files)) or 'folder' in DATASETS.get(name, {}) else None
    given = {k: k.endswith('file') or config[k] for k in own if config[k] is not None}  # files: their part; see stats
    key = [FORMAT, name if name in DATASETS else '', given, pixels,
           [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]]
    stem = name if name in DATASETS else Path(name).name.split('.')[0]
    key = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]
    folder = Path(config['data_dir']) / f'{stem}-{key}'
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(folder.parent / '.lock', 'w')
    except OSError as error:
        fail(f'data_dir={config["data_dir"]!r}: {error.strerror}')
    with lock:
        alone = wait_for(lock)
        if folder.exists():  # another process has made it meanwhile
            return folder
        for old in folder.parent.glob('*.tmp-*') if alone else ():  # of one that was killed
            shutil.rmtree(old, ignore_errors=True)
        building = folder.parent / f'{folder.name}.tmp-{os.getpid()}'
        try:
            building.mkdir()
            write(building, config, files)
            building.rename(folder)
        except OSError as error:
            if not folder.exists():  # else another process was faster
                fail(f'cannot write {building}: {error.strerror or error}')
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder


def wait_for(lock):
    """Waits until no other process holds this open file locked; the lock goes with the process. -> whether it has it"""
    try:
        import fcntl
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'{lock.name}: waiting for another process, which prepares a data set', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        return True
    except (ImportError, OSError):  # Windows, or a file system without locks: the work may be done twice
        return False


def sources(config, files, left_out, about):
    """Where the rows come from: a list of (split, chunks)."""
    entry = DATASETS.get(config['dataset'])
    columns = {k: config[k] for k in ('input_column', 'label_column', 'split_column', 'window')}
    if entry is None:  # files of the user's
        first = 'train' if config['valid_file'] else 'draw valid' if config['test_file'] else 'draw'
        named = zip((first, 'valid', 'test'), (config['dataset'], config['valid_file'], config['test_file']))
        given = [k for k, v in columns.items() if v is not None]
        if given and any(map(os.path.isdir, files)):
            fail(f'{config["dataset"]} is a folder of images, without columns or lines: leave {", ".join(given)} unset')
        return [(split, read_images(f, config['image_size'], left_out, about) if os.path.isdir(f) else
                 read(f, left_out, about, **columns)) for split, f in named if f]
    if 'make' in entry:
        x, y = entry['make']()
        return [('draw', [(x[:, :, None], y.tolist(), None)])]
    paths = {file: download(file, address, config['data_dir'], size, digest)
             for file, (address, size, digest) in entry['files'].items()}
    options = dict(entry.get('options', {}))
    if 'test_ids' in entry:  # MRPC: the pairs of ids that make its dev rows
        dev = {tuple(line.decode().split()) for line in open_bytes(paths[entry['test_ids']])}
        options['split_of'] = lambda row: 'test' if (row[1], row[2]) in dev else 'draw valid'
    if 'folder' in entry:
        downloads = Path(config['data_dir']) / 'downloads'
        places = [Path(p) / entry['folder'] for p in (downloads, os.environ.get('SMA_MIRROR') or downloads)]
        found = next((place for place in places if place.is_dir()), None)
        if found is None:
            fail(f'{config["dataset"]} is not for download: put its folder, with train/ and val/ in it, or a '
                 f'link to that folder, at {places[0].resolve()} (links inside it that lead out are not followed)')
        kept = set(Path(paths[entry['keep']]).read_text().split())
        return [('draw', read_images(found, config['image_size'], left_out, about, kept))]
    result = []
    for split, part, *more in entry['parts']:
        file, _, member = part.partition('!')
        source = read(f'{paths[file]}!{member}' if member else paths[file], left_out, about, **options, **dict(*more))
        result.append((split, by_scaffold(source, left_out) if entry.get('scaffold') else source))
    return result


def write(folder, config, files):
    """Streams every chunk of the sources to disk, then settles labels, splits and meta.json."""
    left_out, about, entry = Counter(), {}, DATASETS.get(config['dataset'], {})
    shape, lengths, firsts, codes, splits = None, [], [], [], []  # shape: () for bytes, (n, d_raw) for floats
    code_of = {}  # distinct label as read -> its number, so that 11 million labels take no more room than they must
    with open(folder / 'x.bin', 'wb') as x_file:
        for split, source in sources(config, files, left_out, about):
            for x, y, s in source:
                if not len(x):
                    continue
                this = x.shape[1:] if isinstance(x, np.ndarray) else ('pairs',) if isinstance(x[0], tuple) else ()
                if shape is not None and shape != this:
                    fail(f'the files of {config["dataset"]} differ: text, pairs, or rows of {shape} and {this} numbers')
                shape = this
                if isinstance(x, np.ndarray):
                    x_file.write(x.tobytes())
                else:
                    if shape:
                        firsts.append(np.array([len(a) for a, _ in x], np.int64))
                        x = [a + b for a, b in x]
                    x_file.write(b''.join(x))
                    lengths.append(np.fromiter(map(len, x), np.int64, len(x)))
                codes.append(np.array([code_of.setdefault(v, len(code_of)) for v in (y or [None] * len(x))], np.int32))
                unknown = set(s or ()) - set(SPLIT_NAMES)
                if unknown:
                    fail(f'{config["split_column"]!r} holds {sorted(unknown)[0]!r}: a split is train, valid or test')
                splits.append(np.array([SPLIT_NAMES[v] for v in (s or [split] * len(x))], np.int8))
    if not codes:
        fail(f'{config["dataset"]} holds no rows')
    values, classes = number_labels(list(code_of))
    y, split = values[np.concatenate(codes)], np.concatenate(splits)
    is_bytes = shape in ((), ('pairs',))
    if 'last_test' in entry:
        split[-entry['last_test']:] = SPLIT_NAMES['test']
    if entry.get('stratified'):
        split = stratified_splits(y)
        x = np.memmap(folder / 'x.bin', np.float32, 'r+', shape=(len(y), *shape))
        holes = np.isnan(x)
        x[holes] = np.broadcast_to(np.nanmean(x[split == 0], axis=0), x.shape)[holes]
        x.flush()
    if is_bytes:
        np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64).tofile(folder / 'offsets.bin')
    if firsts:
        np.concatenate(firsts).tofile(folder / 'firsts.bin')
    y.tofile(folder / 'y.bin')
    split.tofile(folder / 'split.bin')
    size = about.get('image_size')
    if 'names' in entry:
        about['columns'] = entry['names']()
    meta = dict(kind='bytes' if is_bytes else 'images' if size else 'floats', rows=len(y), image_size=size,
                n=None if is_bytes else size ** 2 if size else shape[0], d_raw=0 if is_bytes else shape[-1],
                columns=about.get('columns'), classes=classes, left_out={why: n for why, n in left_out.items() if n},
                source=[os.path.abspath(part) for f in files for part in f.split(',')] or config['dataset'])
    (folder / 'meta.json').write_text(json.dumps(meta, indent=1))


def number_labels(labels):
    """Distinct labels as read (numbers, text, or None) -> float64 of each, NaN for none, and the names of text classes,
    which are numbered in sorted order, or None."""
    blank = {None, ''}
    try:
        return np.array([np.nan if v in blank else float(v) for v in labels], np.float64), None
    except ValueError:
        classes = sorted({str(v) for v in labels if v not in blank})
        number = {c: i for i, c in enumerate(classes)}
        return np.array([np.nan if v in blank else number[str(v)] for v in labels], np.float64), classes


def stratified_splits(y):
    """20 % of each class for the test, 20 % of the rest for validation: (rows,) int8. On HIGGS-small these are the
    sizes and class counts of Gorishniy et al. 2021; which rows they drew is not public."""
    rng, split = np.random.default_rng(0), np.zeros(len(y), np.int8)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        n_test = round(0.2 * len(rows))
        n_valid = round(0.2 * (len(rows) - n_test))
        split[rows[:n_test]], split[rows[n_test:n_test + n_valid]] = 2, 1
    return split


class Dataset:
    """A prepared folder, mapped into memory. Where the source does not say the splits, seeded shares are drawn."""

    def __init__(self, folder, valid_share=0.0, test_share=0.0):
        self.folder, self.meta = Path(folder), json.loads((Path(folder) / 'meta.json').read_text())
        self.is_bytes, self.is_images = self.meta['kind'] == 'bytes', self.meta['kind'] == 'images'
        self.d_raw, self.n, self.columns = self.meta['d_raw'], self.meta['n'], self.meta['columns']
        self.y = np.fromfile(self.folder / 'y.bin', np.float64)
        self.split = np.fromfile(self.folder / 'split.bin', np.int8)
        if min(valid_share, test_share) < 0 or valid_share + test_share >= 1:
            fail(f'valid_share={valid_share} and test_share={test_share} must leave something to train on')
        for said, test_share in (('draw', test_share), ('draw valid', 0.0)):
            rows = np.flatnonzero(self.split == SPLIT_NAMES[said])
            order = np.random.default_rng(0).permutation(rows)  # not the run's seed: all stages must agree
            n_test, n_valid = round(test_share * len(rows)), round(valid_share * len(rows))
            self.split[rows] = 0
            self.split[order[:n_test]], self.split[order[n_test:n_test + n_valid]] = 2, 1
        if self.is_bytes:
            self.x = np.memmap(self.folder / 'x.bin', np.uint8, 'r')
            self.offsets = np.fromfile(self.folder / 'offsets.bin', np.int64)
            firsts = self.folder / 'firsts.bin'
            self.firsts = np.fromfile(firsts, np.int64) if firsts.exists() else None
        elif self.is_images:
            side = stored_side(self.meta['image_size'])
            self.x = np.memmap(self.folder / 'x.bin', np.uint8, 'r', shape=(len(self.y), side, side, 3))
        else:
            self.x = np.memmap(self.folder / 'x.bin', np.float32, 'r', shape=(len(self.y), self.n, self.d_raw))
        self.norm = {'kind': 'none'}  # how floats are scaled: fit_norm's answer, or a checkpoint's
        self.max_len = None  # most tokens of a row, CLS and SEP included; a longer sequence loses its end
        self.n_cut = 0  # how many do

    def set_lengths(self, seq_len, max_len=None):
        """Settles max_len, counts what it cuts. seq_len None = what the longest row has. -> the model's seq_len"""
        if not self.is_bytes:
            if seq_len not in (None, self.n):
                fail(f'seq_len={seq_len}, but each row of {self.folder.name} has {self.n} inputs: '
                     'is --dataset missing?')
            return self.n
        lengths = self.lengths(np.arange(len(self.y)))
        if seq_len is None:
            seq_len = max_len or -(-int(lengths.max()) // 16) * 16
        self.max_len = max_len or seq_len
        if not 3 <= self.max_len <= seq_len:
            fail(f'max_len={self.max_len} must leave a byte between CLS and SEP and not pass seq_len={seq_len}')
        self.n_cut = int((lengths > self.max_len).sum())
        return seq_len

    def rows(self, split):
        """The row numbers of a split, 'train', 'valid' or 'test'. -> (k,) int64"""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def lengths(self, rows):
        """Tokens of each row: CLS + bytes + SEP, or CLS + a + SEP + b + SEP, cut at max_len; or n. -> (k,) int64"""
        if not self.is_bytes:
            return np.full(len(rows), self.n, np.int64)
        full = self.offsets[rows + 1] - self.offsets[rows] + (2 if self.firsts is None else 3)
        return full if self.max_len is None else np.minimum(full, self.max_len)

    def width(self, rows):
        """
        The width a batch of these rows is padded to: its longest row's. A multiple of 16 would make one place in seven
        of a SMILES batch padding, and save torch.compile nothing: one program takes any width.
        """
        return int(self.lengths(rows).max())

    def labels(self, rows):
        """The labels of rows as the file has them: floats, or text where they are text. None where there is none."""
        names = self.meta['classes']
        return [None if np.isnan(v) else names[int(v)] if names else float(v) for v in self.y[rows]]

    def batch(self, rows, width=None):
        """
        rows (B,) -> x, valid. Bytes: x (B, width) int64 ids CLS bytes SEP PAD.., valid (B, width) bool, False = PAD.
        Floats: x (B, n, d_raw) float32, scaled by self.norm, valid None. Images: x (B, S, S, 3) uint8, valid None.
        """
        if self.is_images:
            return torch.from_numpy(self.x[rows]), None
        if not self.is_bytes:
            return torch.from_numpy(normalise(self.x[rows], self.norm)), None
        lengths, width = self.lengths(rows), width or self.width(rows)
        ids = np.full((len(rows), width), PAD, np.int64)
        ids[:, 0] = CLS
        for i, (row, n) in enumerate(zip(rows, lengths)):
            start, end = self.offsets[row], self.offsets[row + 1]
            if self.firsts is None:
                ids[i, 1:n - 1] = self.x[start:start + n - 2]
                ids[i, 1:n - 1] += FIRST_BYTE
            else:  # a pair: if it is too long, the longer of the two loses its end
                a, room = self.firsts[row], n - 3
                middle = start + a
                b = min(end - middle, max(room // 2, room - a))
                a = room - b
                ids[i, 1:a + 1] = self.x[start:start + a]
                ids[i, a + 2:n - 1] = self.x[middle:middle + b]
                ids[i, 1:n - 1] += FIRST_BYTE
                ids[i, a + 1] = SEP
            ids[i, n - 1] = SEP
        return torch.from_numpy(ids), torch.from_numpy(np.arange(width) < lengths[:, None])

    def inputs(self, x, scale=None, change=None):
        """
        What the model reads, made on the device from the x of `batch`. Bytes and floats are that already. Images
        (B, S, S, 3) uint8 -> (B, image_size**2, 3) float32, scaled by self.norm: the central square, or, with a scale,
        random crops of that share of the area, half of them mirrored. `change`: a function of the pictures
        (B, 3, image_size, image_size) in [0, 1], before they are scaled. Randomness: torch's global generators.
        """
        if not self.is_images:
            return x
        x, size = x.permute(0, 3, 1, 2) / 255, self.meta['image_size']  # (B, 3, S, S)
        if scale is None:
            at = round((x.shape[2] - size) / 2)
            x = x[:, :, at:at + size, at:at + size]
        else:
            boxes = random_boxes(len(x), x.shape[2], scale, x.device)
            x = crop(x, *boxes, torch.rand(len(x), device=x.device) < 0.5, size)
        x = x if change is None else change(x)
        x = x.flatten(2).transpose(1, 2)  # (B, n, 3), one input a pixel, row by row
        if self.norm['kind'] == 'none':
            return x
        return (x - self.norm['mean'].to(x.device)) / self.norm['std'].to(x.device)


def open_dataset(config):
    """The data set that the knobs in `config` name, prepared if need be."""
    return Dataset(prepare(config), config['valid_share'], config['test_share'])


# -----------------------------------------------------------------------------
# batches

def epoch_batches(dataset, rows, batch_size, seed, epoch):
    """
    One epoch in random order: (n_batch, batch_size) row numbers. A pure function of (seed, epoch): every rank computes
    the same, and a resumed run finds its place in it. What does not fill a last batch waits for another epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    n_batch = len(rows) // batch_size
    order = rng.permutation(rows)[:n_batch * batch_size]
    if dataset.is_bytes:
        # alike lengths share a batch, so little is padding: sort inside pools of 64 batches, then shuffle the batches
        pools = [order[i:i + 64 * batch_size] for i in range(0, len(order), 64 * batch_size)]
        order = np.concatenate([pool[np.argsort(dataset.lengths(pool), kind='stable')] for pool in pools])
    return rng.permutation(order.reshape(n_batch, batch_size))


def scoring(dataset, rows, batch_size, run):
    """
    All rows once, for scoring, on the device: (batch number, places of its rows in `rows`, x, valid). Rows of alike
    length share a batch, the longest first, so that lack of memory shows early. Ranks take the batches in turn.
    """
    order = np.argsort(-dataset.lengths(rows), kind='stable')
    starts = list(range(0, len(rows), batch_size))[run.rank::run.world]
    parts = ((i // batch_size, order[i:i + batch_size]) for i in starts)
    batches = ((i, torch.from_numpy(at), *dataset.batch(rows[at])) for i, at in parts)
    for i, at, x, valid in prefetch(batches, run.device):
        yield i, at, dataset.inputs(x), valid


def micro_batches(dataset, rows, config, seed, step, run, labels=None):
    """
    Endless micro-batches of this rank from optimiser step `step` on: (x, valid, labels or None, the whole step's rows).
    A step's rows are dealt out among ranks and accumulation in turn, so all share one width and one mix of lengths.
    """
    n_micro = config['accumulation'] * run.world
    steps_per_epoch = len(rows) // config['batch_size']
    for epoch in itertools.count(step // steps_per_epoch):
        batches = epoch_batches(dataset, rows, config['batch_size'], seed, epoch)
        for whole in batches[step - epoch * steps_per_epoch:]:
            for micro in range(run.rank, n_micro, run.world):
                mine = whole[micro::n_micro]
                yield (*dataset.batch(mine, dataset.width(whole)), None if labels is None else labels[mine], whole)
            step += 1


def prefetch(batches, device):
    """
    Moves (x, valid, ...) to the device. On CUDA a thread builds the next batches in pinned memory meanwhile; elsewhere
    there is nothing to overlap with and it is a plain loop. None and non-tensors pass through.
    """
    on_cuda = torch.device(device).type == 'cuda'

    def move(t, pin=False):
        if not torch.is_tensor(t):
            return t
        return t.pin_memory() if pin else t.to(device, non_blocking=on_cuda)  # only from pinned memory is that safe

    if not on_cuda:
        for batch in batches:
            yield tuple(move(t) for t in batch)
        return
    queue, done = Queue(maxsize=3), threading.Event()

    def work():
        try:
            for batch in batches:
                queue.put(tuple(move(t, pin=True) for t in batch))
                if done.is_set():
                    return
            queue.put(None)
        except BaseException as error:
            queue.put(error)
    threading.Thread(target=work, daemon=True).start()
    try:
        while (batch := queue.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield tuple(move(t) for t in batch)
    finally:
        done.set()
        while not queue.empty():  # let a thread that waits for room see that it is done
            queue.get_nowait()


# -----------------------------------------------------------------------------
# normalisation of floats, by statistics of the training rows; the result is plain tensors for the checkpoint

def fit_norm(dataset, rows, kind):
    """
    'standard': mean and standard deviation of each input. 'quantile': ranks mapped to a Gaussian, as Gorishniy et al.
    2021 (github.com/yandex-research/rtdl) do with scikit-learn's QuantileTransformer: up to 1,000 quantiles of the
    values plus a little noise, which spreads the ties of discrete features. 'none': as they are.
    """
    if kind not in ('standard', 'quantile', 'none'):
        fail(f'norm={kind!r}: standard, quantile or none')
    if dataset.is_bytes or kind == 'none':
        return {'kind': 'none'}
    if dataset.is_images:  # of each channel, over the pixels of 1,000 images
        if kind != 'standard':
            fail(f'norm={kind!r}: images take standard or none')
        some = (dataset.x[row] / 255 for row in np.random.default_rng(0).permutation(rows)[:1000])
        mean, square = torch.tensor(np.mean([(x.mean((0, 1)), (x ** 2).mean((0, 1))) for x in some], 0))
        std = (square - mean ** 2).clamp(min=0).sqrt()
        return {'kind': kind, 'mean': mean.float(), 'std': torch.where(std > 1e-6, std, 1.0).float()}
    if kind == 'standard':
        n, total, square = 0, 0.0, 0.0
        shift = dataset.x[rows[:CHUNK]].astype(np.float64).mean(0)  # about the mean: no cancellation in the squares
        for at in range(0, len(rows), CHUNK):
            x = dataset.x[rows[at:at + CHUNK]].astype(np.float64) - shift
            n, total, square = n + len(x), total + x.sum(0), square + (x ** 2).sum(0)
        std = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0))
        std[std == 0] = 1  # a constant input stays constant
        return {'kind': kind, 'mean': torch.from_numpy((shift + total / n).astype(np.float32)),
                'std': torch.from_numpy(std.astype(np.float32))}
    rng = np.random.default_rng(0)
    x = dataset.x[np.sort(rng.permutation(rows)[:200_000])].astype(np.float64)  # (k, n, d_raw)
    x += rng.normal(size=x.shape) * 1e-3 / np.maximum(x.std(0), 1e-3)
    n_quantiles = max(min(len(rows) // 30, 1000), 10)
    return {'kind': kind, 'quantiles': torch.from_numpy(np.quantile(x, np.linspace(0, 1, n_quantiles), axis=0))}


def normalise(x, norm):
    """x (B, n, d_raw) float32 -> the same, scaled by fit_norm's statistics."""
    if norm['kind'] == 'none':
        return x
    if norm['kind'] == 'standard':
        return (x - norm['mean'].numpy()) / norm['std'].numpy()
    q = norm['quantiles'].numpy()  # (n_quantiles, n, d_raw) float64
    levels, rank = np.linspace(0, 1, len(q)), np.empty(x.shape, np.float64)
    for i, j in np.ndindex(x.shape[1:]):
        # from below and from above, so that a value repeated in many quantiles gets the middle of its ranks
        v, q_ij = x[:, i, j].astype(np.float64), q[:, i, j]
        rank[:, i, j] = (np.interp(v, q_ij, levels) - np.interp(-v, -q_ij[::-1], -levels[::-1])) / 2
        rank[v - 1e-7 < q_ij[0], i, j], rank[v + 1e-7 > q_ij[-1], i, j] = 0, 1
    return torch.special.ndtri(torch.from_numpy(rank)).clamp(-5.199337582605575, 5.19933758270342).float().numpy()


# -----------------------------------------------------------------------------
# images on the device: x (B, 3, H, W) float32 in [0, 1]; each function treats the whole batch at once

def stored_side(image_size):
    """S: evaluation resizes to image_size / 0.875 and keeps the centre (reference notes)."""
    return round(image_size / 0.875)


def random_boxes(n, side, scale, device):
    """
    RandomResizedCrop's rule (Szegedy et al. 2015, as torchvision has it): a share of the area drawn from `scale`, a
    ratio of width to height of 3/4 to 4/3, uniform in its logarithm, whole pixels; the first of ten tries that fits
    the square, else all of it. -> top, left, height, width, each (n,) float
    """
    area = side ** 2 * torch.empty(10, n, device=device).uniform_(*scale)
    ratio = torch.empty(10, n, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    whole = torch.full((1, n), float(side), device=device)
    width, height = (torch.cat([v.sqrt().round().clamp(min=1), whole]) for v in (area * ratio, area / ratio))
    first = ((width <= side) & (height <= side)).int().argmax(0, keepdim=True)  # argmax: the first of equals
    width, height = width.gather(0, first)[0], height.gather(0, first)[0]
    top, left = (torch.floor(torch.rand(n, device=device) * (side - v + 1)) for v in (height, width))
    return top, left, height, width


def resize_weights(start, length, n_in, n_out):
    """
    The matrix that resizes a line of n_in pixels, from `start` on over `length`, to n_out: (B,), (B,) -> (B, n_out,
    n_in). Bicubic (a = -0.5) and, where it shrinks, wider by as much (antialiased), as Pillow does.
    """
    scale = (length / n_out)[:, None]
    centre = start[:, None] + (torch.arange(n_out, device=start.device) + 0.5) * scale  # (B, n_out)
    pixel = torch.arange(n_in, device=start.device) + 0.5
    t = (pixel - centre[..., None]).abs() / scale.clamp(min=1)[..., None]  # (B, n_out, n_in)
    w = torch.where(t < 1, (1.5 * t - 2.5) * t ** 2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2) * (t < 2)
    start, end = start[:, None, None], (start + length)[:, None, None]
    w = w * ((pixel > start) & (pixel < end))  # what lies outside the box is not seen
    return w / w.sum(-1, keepdim=True)


def crop(x, top, left, height, width, mirror, size):
    """Boxes (B,) each, resized to size x size; those where mirror (B,) bool is up are flipped left to right."""
    rows = resize_weights(top, height, x.shape[2], size)
    columns = resize_weights(left, width, x.shape[3], size)
    columns = torch.where(mirror[:, None, None], columns.flip(1), columns)
    return (rows[:, None] @ x @ columns[:, None].transpose(2, 3)).clamp(0, 1)  # bicubic overshoots at edges


# -----------------------------------------------------------------------------
# metrics: y (N,) true labels; p (N,) predictions, scores or (N, C) logits

def ranks(v):
    """Ranks 1..N, ties share the mean of theirs."""
    _, inverse, counts = np.unique(v, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def chosen(p):
    """Class numbers from (N,) logits of class 1 or (N, C) logits."""
    return (p > 0).astype(np.int64) if p.ndim == 1 else p.argmax(1)


def accuracy(y, p):
    return float((chosen(p) == y).mean())


def roc_auc(y, p):
    """Area under the ROC curve: the chance that a positive scores above a negative (Mann-Whitney)."""
    n_pos, n_neg = int((y == 1).sum()), int((y != 1).sum())
    if not n_pos or not n_neg:
        fail('roc_auc needs both classes among the rows that are scored')
    return float((ranks(p)[y == 1].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def f1(y, p):
    """Of class 1: the harmonic mean of precision and recall; 0 where neither is defined."""
    hit = int(((chosen(p) == 1) & (y == 1)).sum())
    return 2 * hit / max(int((chosen(p) == 1).sum() + (y == 1).sum()), 1)


def correlation(a, b):
    """Pearson's; 0 where all of one are the same."""
    a, b = a - np.mean(a), b - np.mean(b)
    scale = np.sqrt((a ** 2).sum() * (b ** 2).sum())
    return float((a * b).sum() / scale) if scale else 0.0


def matthews(y, p):
    """Matthews correlation of two classes (GLUE's measure for CoLA)."""
    return correlation(y, chosen(p))


def rmse(y, p):
    return float(np.sqrt(((p.astype(np.float64) - y) ** 2).mean()))


def spearman(y, p):
    """Correlation of the ranks."""
    return correlation(ranks(y), ranks(p))


def class_numbers(labels, classes):
    """Labels -> their numbers in the list of classes (N,) int64; fails on a label that is not among them."""
    number = {c: i for i, c in enumerate(classes)}
    odd = [v for v in labels if v not in number]
    if odd:
        fail(f'{len(odd)} rows have labels outside the classes to learn, {odd[0]!r} for one; the classes are '
             f'{", ".join(map(str, classes[:10]))}{", ..." * (len(classes) > 10)}')
    return np.array([number[v] for v in labels], np.int64)


def score(head, labels, p):
    """
    The metric of predictions p (N, n_out) from the fine-tuning head. `head` travels in the checkpoint: target, metric,
    classes (of binary and multiclass), mean and std (of regression: predictions go back to the labels' own units).
    """
    p = p.astype(np.float64)
    if head['target'] == 'regression':
        return METRICS[head['metric']](np.array(labels), p[:, 0] * head['std'] + head['mean'])
    return METRICS[head['metric']](class_numbers(labels, head['classes']), p[:, 0] if head['target'] == 'binary' else p)


METRICS = {'accuracy': accuracy, 'roc_auc': roc_auc, 'f1': f1, 'matthews': matthews, 'rmse': rmse, 'spearman': spearman}
LOWER_IS_BETTER = ('rmse',)


# -----------------------------------------------------------------------------
# The collider: a toy Monte Carlo of the UCI HIGGS benchmark (Baldi, Sadowski, Whiteson, arXiv:1402.4735).
#   signal      g g -> H0 -> W H+-, H+- -> W h0, h0 -> b b        background  g g -> t t, each t -> W b
# One W makes a lepton and a neutrino, the other two quarks. Both classes end in the same particles,
# l nu q q b b: only the masses on the way tell them apart. Four-vectors are (E, px, py, pz), in GeV (c = 1).
M_H0, M_HPM, M_h0, M_TOP, M_W, M_B = 425., 325., 125., 173., 80.4, 4.7
HIGGS_COLUMNS = (['lepton_pt', 'lepton_eta', 'lepton_phi', 'met', 'met_phi']
                 + [f'jet{k}_{what}' for k in (1, 2, 3, 4) for what in ('pt', 'eta', 'phi', 'btag')]
                 + ['m_jj', 'm_jjj', 'm_lv', 'm_jlv', 'm_bb', 'm_wbb', 'm_wwbb'])


def mass(p):
    return np.sqrt(np.maximum(p[..., 0]**2 - (p[..., 1:]**2).sum(-1), 0))


def massless(pt, eta, phi):
    """Transverse momentum, pseudorapidity and azimuth (...) -> four-momentum (..., 4)."""
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], -1)


def pt_eta_phi(p):
    pt = np.hypot(p[..., 1], p[..., 2])
    return pt, np.arcsinh(p[..., 3] / pt), np.arctan2(p[..., 2], p[..., 1])


def boost(p, parent):
    """Takes p (n, 4) from the rest frame of parent to the frame where parent (n, 4) is given."""
    energy = (parent[:, 0] * p[:, 0] + (parent[:, 1:] * p[:, 1:]).sum(1)) / mass(parent)
    gain = (p[:, 0] + energy) / (parent[:, 0] + mass(parent))
    return np.column_stack([energy, p[:, 1:] + gain[:, None] * parent[:, 1:]])


def two_body(parent, m1, m2, rng):
    """Isotropic decay of parent (n, 4) into masses m1 and m2 -> two (n, 4). Spin is left out."""
    n, m = len(parent), mass(parent)
    k = np.sqrt((m**2 - (m1 + m2)**2) * (m**2 - (m1 - m2)**2)) / (2 * m)       # the momentum of each, at rest
    cos, phi = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    sin = np.sqrt(1 - cos**2)
    p = k[:, None] * np.stack([sin * np.cos(phi), sin * np.sin(phi), cos], 1)
    return tuple(boost(np.column_stack([np.hypot(k, m_i), p_i]), parent) for m_i, p_i in ((m1, p), (m2, -p)))


def partons(signal, n, rng):
    """The truth of n events of one class, a dict of (n, 4): 'initial' is the H0 or the t t pair, which decays
    to lepton, nu, q1, q2, b1, b2; 'isr' is the gluon (initial-state radiation) that it recoils against."""
    m = np.full(n, M_H0) if signal else 2 * M_TOP + rng.gamma(1.5, 70., n)     # a threshold, then falling
    rapidity, pt, phi = rng.normal(0, 0.8, n), rng.exponential(70., n), rng.uniform(-np.pi, np.pi, n)
    mt, px, py = np.hypot(m, pt), pt * np.cos(phi), pt * np.sin(phi)
    initial = np.stack([mt * np.cosh(rapidity), px, py, mt * np.sinh(rapidity)], 1)
    p = {'initial': initial, 'isr': massless(pt, rng.normal(0, 2., n), phi + np.pi)}
    if signal:
        w1, p['hpm'] = two_body(initial, M_W, M_HPM, rng)
        w2, p['h0'] = two_body(p['hpm'], M_W, M_h0, rng)
        p['b1'], p['b2'] = two_body(p['h0'], M_B, M_B, rng)
    else:
        p['t1'], p['t2'] = two_body(initial, M_TOP, M_TOP, rng)
        w1, p['b1'] = two_body(p['t1'], M_W, M_B, rng)
        w2, p['b2'] = two_body(p['t2'], M_W, M_B, rng)
    first = rng.random((n, 1)) < 0.5                                           # which W is the leptonic one
    p['w_lep'], p['w_had'] = np.where(first, w1, w2), np.where(first, w2, w1)
    p['lepton'], p['nu'] = two_body(p['w_lep'], 0., 0., rng)
    p['q1'], p['q2'] = two_body(p['w_had'], 0., 0., rng)
    return p


def detect(p, rng):
    """What the detector makes of the partons -> 28 columns (n, 28), and which events pass the cuts (n,)."""
    # measure: energies fluctuate with the number of shower particles, so by 1 / sqrt(E); directions a little
    l_pt, l_eta, l_phi = pt_eta_phi(p['lepton'])
    l_pt = l_pt * (1 + 0.02 * rng.normal(size=l_pt.shape))
    pt, eta, phi = pt_eta_phi(np.stack([p[k] for k in ('b1', 'b2', 'q1', 'q2', 'isr')], 1))      # each (n, 5)
    sigma = np.hypot(1 / np.sqrt(pt * np.cosh(eta)), 0.1)
    pt = pt * np.maximum(1 + sigma * rng.normal(size=pt.shape), 0.1)
    eta, phi = rng.normal(eta, 0.05), (rng.normal(phi, 0.05) + np.pi) % (2 * np.pi) - np.pi
    u, is_b = rng.random(pt.shape), np.arange(5) < 2
    btag = 1. * (u < np.where(is_b, 0.8, 0.08)) + (u < np.where(is_b, 0.65, 0.02))   # none, loose, tight
    lepton, jets = massless(l_pt, l_eta, l_phi), massless(pt, eta, phi)
    # the beams bring no transverse momentum: what is missing is the neutrino, and every error of measurement
    met = rng.normal(-(lepton + jets.sum(1))[:, 1:3], 15.)

    # the cuts, and the four hardest jets: the gluon may be among them
    seen = (pt > 20) & (abs(eta) < 2.5)
    lead = np.argsort(np.where(seen, -pt, 0), 1)[:, :4]
    pt, eta, phi, btag = (np.take_along_axis(a, lead, 1) for a in (pt, eta, phi, btag))
    passed = (l_pt > 20) & (abs(l_eta) < 2.5) & (seen.sum(1) >= 4) & (btag.sum(1) > 0)

    # the neutrino's pz solves m_lv = m_W, a quadratic: the smaller |pz|, or the real part where it is complex
    met_sq, a = (met**2).sum(1), M_W**2 / 2 + (lepton[:, 1:3] * met).sum(1)
    root = lepton[:, 0] * np.sqrt(np.maximum(a**2 - l_pt**2 * met_sq, 0))
    nu_pz = (a * lepton[:, 3] - np.sign(l_eta) * root) / l_pt**2
    nu = np.column_stack([np.sqrt(met_sq + nu_pz**2), met, nu_pz])

    # who is who is a guess: the best two tags (then the harder) are the b's, the other two jets the hadronic
    # W, and the b's go to the W's in the way that makes two masses most alike, as two tops would be
    order = np.argsort(-btag, 1, kind='stable')
    b1, b2, j1, j2 = massless(*(np.take_along_axis(a, order, 1).T for a in (pt, eta, phi)))      # each (n, 4)
    w_had, w_lep, bb = j1 + j2, lepton + nu, b1 + b2
    tops = np.array([[mass(w_had + b1), mass(w_lep + b2)], [mass(w_had + b2), mass(w_lep + b1)]])
    m_jjj, m_jlv = np.where(np.diff(abs(tops[:, 0] - tops[:, 1]), axis=0) < 0, tops[1], tops[0])
    low = [l_pt, l_eta, l_phi, np.sqrt(met_sq), np.arctan2(met[:, 1], met[:, 0])]
    low += [a[:, k] for k in range(4) for a in (pt, eta, phi, btag)]
    high = [mass(w_had), m_jjj, mass(w_lep), m_jlv, mass(bb), mass(w_had + bb), mass(w_had + w_lep + bb)]
    return np.stack(low + high, 1), passed


def collider(n, seed):
    """Events in the columns of UCI HIGGS: 21 measured quantities, then 7 masses computed from them.
    -> x (n, 28) float32, y (n,) int64: 1 is signal, 53 %, and 0 background."""
    rng = np.random.default_rng(seed)
    x, y = np.empty((n, 28), np.float32), (rng.random(n) < 0.53).astype(np.int64)
    for label in (0, 1):
        todo = np.flatnonzero(y == label)
        while len(todo):                                                    # until each has passed the cuts
            events, passed = detect(partons(label, len(todo), rng), rng)
            x[todo[passed]] = events[passed]
            todo = todo[~passed]
    return x, y


# -----------------------------------------------------------------------------

def describe(dataset):
    """Prints what was read: rows, lengths or columns, labels, a sample, what was left out and why."""
    meta, first = dataset.meta, next(iter(dataset.rows('train')), 0)
    counts = ', '.join(f'{name} {len(dataset.rows(name)):,}' for name in SPLITS)
    print(f'{dataset.folder}: {meta["rows"]:,} rows of {meta["kind"]}: {counts}')
    for why, n in meta['left_out'].items():
        print(f'left out: {n:,} {why}')
    if dataset.is_bytes:
        lengths = dataset.lengths(np.arange(meta['rows']))
        print('tokens a row (CLS and SEP included): ' + ', '.join(
            f'{name} {int(v):,}' for name, v in zip(('min', 'median', '95 %', 'max'),
                                                    np.percentile(lengths, (0, 50, 95, 100)))))
        sample = bytes(dataset.x[dataset.offsets[first]:dataset.offsets[first + 1]])
        print('sample:', sample[:100].decode('utf-8', errors='replace'))
    elif dataset.is_images:
        print(f'{meta["image_size"]} x {meta["image_size"]} pixels of {dataset.d_raw} channels, cut from '
              f'{" x ".join(map(str, dataset.x.shape[1:3]))}')
    else:
        print(f'{dataset.n} inputs of {dataset.d_raw} float(s); the first row: ' + ', '.join(
            f'{c} {v:.3g}' for c, v in list(zip(dataset.columns, dataset.x[first, :, 0]))[:8]) + ', ...')
    y = dataset.y[~np.isnan(dataset.y)]
    if len(y):
        values, n = np.unique(y, return_counts=True)
        names = meta['classes'] or [f'{v:g}' for v in values]
        few = ', '.join(f'{name} {k:,}' for name, k in zip(names, n)) if len(values) <= 10 else \
            f'{len(values):,} values, mean {y.mean():.4g}, std {y.std():.4g}, min {y.min():.4g}, max {y.max():.4g}'
        print(f'labels on {len(y):,} rows: {few}')


if __name__ == '__main__':
    if len(sys.argv) == 1:
        for name, entry in DATASETS.items():
            print(f'{name:16} {entry["about"]}\n{"":16} licence: {entry["licence"]}')
            for file, (address, size, _) in entry.get('files', {}).items():
                print(f'{"":16} {address} ' + (f'({size:,} bytes)' if size else '(size not stated)'))
    else:
        named = [f'--dataset={sys.argv[1]}'] if not sys.argv[1].startswith('-') else sys.argv[1:2]
        describe(open_dataset(configure(globals(), named + sys.argv[2:])))
