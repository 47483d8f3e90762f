"""A few rows of each data set in config/datasets.py, in the format of its own files: sample(folder, name)."""

import gzip
import io
import json
import random
import tarfile
import zipfile
from functools import partial

from util.collider import HIGGS_COLUMNS
from util.prepare import DATASETS

MOLECULES = ['CCO', 'c1ccccc1O', 'CC(=O)Nc1ccc(O)cc1', 'C1CCCCC1', 'CCN(CC)CC', 'c1ccc2ccccc2c1', 'CC(C)=O',
             'OC1CCNCC1', 'c1ccncc1C', 'C1CC1N', 'CC#N', 'O=C1CCCN1', 'Cc1ccccc1', 'CCCCCC',
             'c1ccsc1', 'not a molecule', 'CO', 'CN']


def unchecked(monkeypatch):
    """Samples need not have the size and hash of the real files."""
    for name, entry in DATASETS.items():
        files = {file: (address, None, None) for file, (address, _, _) in entry['files'].items()}
        monkeypatch.setitem(DATASETS, name, {**entry, 'files': files})


def shrink(monkeypatch, name, rows=32):
    """The test rows of higgs and year begin after so many, and not after millions."""
    read = DATASETS[name]['read']
    if 'first_test_row' in read.keywords:
        monkeypatch.setitem(DATASETS[name], 'read', partial(read, first_test_row=rows))


def tarred(path, members):
    with tarfile.open(path, 'w:gz' if path.name.endswith('.gz') else 'w:bz2') as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


def zipped(path, members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def events(n, rng):
    return [[rng.randrange(2)] + [rng.gauss(0, 1) for _ in range(28)] for _ in range(n)]


def protein(rng, low=20, high=90):
    return ''.join(rng.choice('ACDEFGHIKLMNPQRSTVWY') for _ in range(rng.randrange(low, high)))


def sentence(rng, n=6):
    words = ['café', 'the', '"quoted', 'dog', 'runs', "isn't", 'naïve', 'sees']
    return ' '.join(rng.choice(words) for _ in range(n))


GLUE_LABELS = {'mnli': ['entailment', 'neutral', 'contradiction'], 'qnli': ['entailment', 'not_entailment'],
               'rte': ['entailment', 'not_entailment'], 'stsb': ['0.000', '2.500', '5.000']}


def glue_rows(name, n, rng):
    """The text of train.tsv or dev.tsv of a GLUE task, tab-separated; quotation marks have no meaning."""
    labels = GLUE_LABELS.get(name, ['0', '1'])
    rows = [(sentence(rng), sentence(rng, 9), labels[i % len(labels)]) for i in range(n)]
    if name == 'cola':  # without a header
        return ''.join(f'gj04\t{label}\t*\t{first}\n' for first, _, label in rows)
    if name == 'sst2':
        return 'sentence\tlabel\n' + ''.join(f'{first} \t{label}\n' for first, _, label in rows)
    columns = DATASETS[name]['read'].keywords
    lines = ['\t'.join(['index', *columns['input_column'].split(','), columns['label_column']])]
    for i, (first, second, label) in enumerate(rows):
        lines.append(f'{i}\t{first}\t{second}\t{label}')
    return '\n'.join(lines) + '\n'


def sample(folder, name, n=40):
    """Writes the files of one data set, n rows or so each; seeded by its name."""
    rng = random.Random(name)
    files = list(DATASETS[name]['files'])
    WRITERS[name](folder, files, name, n, rng)


def write_higgs(folder, files, name, n, rng):
    lines = [','.join(f'{value:.18e}' for value in event) for event in events(n, rng)]
    (folder / files[0]).write_bytes(gzip.compress('\n'.join(lines).encode()))


def write_higgs_small(folder, files, name, n, rng):
    rows = [','.join(map(str, event)) for event in events(n, rng)]
    rows[-1] = ','.join(rows[-1].split(',')[:20] + ['?'] * 9)  # as in the last row of OpenML's
    attributes = [f'@attribute {column} numeric' for column in HIGGS_COLUMNS]
    lines = ['% a comment', '@relation higgs', '', '@attribute class {0,1}', *attributes, '', '@data', *rows,
             '']
    (folder / files[0]).write_text('\n'.join(lines))


def write_year(folder, files, name, n, rng):
    lines = []
    for _ in range(n):
        year = str(rng.randrange(1922, 2012))
        lines.append(','.join([year] + [f'{rng.gauss(0, 9):.5f}' for _ in range(90)]))
    zipped(folder / files[0], {'YearPredictionMSD.txt': '\n'.join(lines)})


def write_pfam(folder, files, name, n, rng):
    lengths = [30, 50, 1024, 1025] + [rng.randrange(50, 200) for _ in range(n)]
    text = ''
    for i, length in enumerate(lengths):
        text += f'>A{i}/1-{length} A{i}.1 PF{i % 7:05}.{i};X;\n' + protein(rng, length, length + 1) + '\n'
    (folder / files[0]).write_bytes(gzip.compress(text.encode()))


def write_tape(folder, files, name, n, rng):
    columns = DATASETS[name]['read'].keywords
    members = {}
    for _, part in columns['parts']:
        labels = [i % 3 if name == 'remote_homology' else [rng.gauss(0, 1)] for i in range(n)]
        rows = []
        for label in labels:
            row = {'primary': protein(rng), columns['label_column']: label, 'protein_length': 1,
                   'evolutionary': [[0.5] * 3]}
            rows.append(row)
        members[part.partition('!')[2]] = json.dumps(rows)
    tarred(folder / files[0], members)


def write_smiles(folder, files, name, n, rng):
    for file in files:
        lines = [rng.choice(MOLECULES[:15]) for _ in range(n)]  # before the one that is none
        (folder / file).write_text('\n'.join(lines) + '\n')


def write_molecules(folder, files, name, n, rng):
    columns = DATASETS[name]['read'].keywords
    lines = [f'{columns["input_column"]},other,{columns["label_column"]}']
    for i, smiles in enumerate(MOLECULES * 3):  # three times, so that every scaffold has both classes
        label = rng.gauss(0, 1)
        if DATASETS[name]['target'] == 'binary':
            label = i // len(MOLECULES) % 2
        lines.append(f'{smiles},x,{label}')
    (folder / files[0]).write_text('\n'.join(lines) + '\n')


def write_wiki_books(folder, files, name, n, rng):
    wiki, books = files
    lines = ['id\ttext\ttitle']
    for i in range(n):
        text = sentence(rng, 100).replace('"', '""')
        lines.append(f'{i}\t"{text}"\ttitle')
    (folder / wiki).write_bytes(gzip.compress(('\n'.join(lines) + '\n').encode()))
    members = {}
    for part in (1, 2):
        members[f'books_large_p{part}.txt'] = ''.join(sentence(rng, 12) + ' .\n' for _ in range(n))
    tarred(folder / books, members)


def write_glue(folder, files, name, n, rng):
    task = 'mnli' if name == 'mnli_mm' else name
    folder_inside = DATASETS[name]['read'].keywords['parts'][0][1].partition('!')[2].split('/')[0]
    parts = ['train', 'dev']
    if task == 'mnli':
        parts = ['train', 'dev_matched', 'dev_mismatched']
    zipped(folder / files[0], {f'{folder_inside}/{part}.tsv': glue_rows(task, n, rng) for part in parts})


def write_mrpc(folder, files, name, n, rng):
    pairs, dev_ids = files
    lines = ['\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String']
    for i in range(n):
        lines.append(f'{i % 2}\t{100 + i}\t{900 + i}\t{sentence(rng)}\t{sentence(rng)}')
    (folder / pairs).write_text('\n'.join(lines) + '\n')
    (folder / dev_ids).write_text(''.join(f'{100 + i}\t{900 + i}\n' for i in range(0, n, 4)))


def write_imagenet100(folder, files, name, n, rng):
    from PIL import Image
    for i in range(n):
        class_name = ('n02869837', 'n01749939',
                      'n00000000')[i % 3]  # two of the classes, and one that is not on the list
        split = 'val' if i % 5 == 0 else 'train'
        path = folder / 'imagenet' / split / class_name / f'{i}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40 + i, 60), 80).convert('RGB').save(path)
    (folder / 'imagenet100.txt').write_text('n02869837\nn01749939\nn02488291\n')


WRITERS = {
    'higgs': write_higgs, 'higgs_small': write_higgs_small, 'year': write_year, 'pfam': write_pfam,
    'guacamol': write_smiles,
    'wiki_books': write_wiki_books, 'mrpc': write_mrpc, 'imagenet100': write_imagenet100,
    **dict.fromkeys(('remote_homology', 'fluorescence', 'stability'), write_tape),
    **dict.fromkeys(('bbbp', 'bace', 'hiv', 'esol', 'freesolv', 'lipo'), write_molecules),
    **dict.fromkeys(('mnli', 'mnli_mm', 'qqp', 'qnli', 'sst2', 'cola', 'stsb', 'rte'), write_glue)}
