"""A few rows of every data set in prepare.DATASETS, in the format of its own files: sample(folder, name)."""

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


def glue_rows(name, n, rng):
    """The text of train.tsv or dev.tsv of a GLUE task, tab-separated, quotation marks meaning nothing."""
    labels = {'mnli': ['entailment', 'neutral', 'contradiction'], 'qnli': ['entailment', 'not_entailment'],
              'rte': ['entailment', 'not_entailment'], 'stsb': ['0.000', '2.500', '5.000']}
    labels = labels.get(name, ['0', '1'])
    rows = [(sentence(rng), sentence(rng, 9), labels[i % len(labels)], i) for i in range(n)]
    if name == 'cola':
        return ''.join(f'gj04\t{y}\t*\t{a}\n' for a, b, y, i in rows)
    if name == 'sst2':
        return 'sentence\tlabel\n' + ''.join(f'{a} \t{y}\n' for a, b, y, i in rows)
    columns = DATASETS[name]['read'].keywords
    first, second, label = *columns['input_column'].split(','), columns['label_column']
    return f'index\t{first}\t{second}\t{label}\n' + ''.join(f'{i}\t{a}\t{b}\t{y}\n' for a, b, y, i in rows)


def sample(folder, name, n=40):
    """Writes the files of one data set, n rows or so each; seeded by its name."""
    rng, entry = random.Random(name), DATASETS[name]
    columns = entry['read'].keywords
    for i in range(n if name == 'imagenet100' else 0):  # two of the classes, and one that is not on the list
        wnid = ('n02869837', 'n01749939', 'n00000000')[i % 3]
        path = folder / 'imagenet' / ('val' if i % 5 == 0 else 'train') / wnid / f'{i}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        from PIL import Image
        Image.effect_noise((40 + i, 60), 80).convert('RGB').save(path)
    for file, (address, _, _) in entry['files'].items():
        path = folder / file
        if address is None:  # the folder above
            continue
        if name == 'higgs':
            path.write_bytes(gzip.compress('\n'.join(','.join(f'{v:.18e}' for v in e)
                                                     for e in events(n, rng)).encode()))
        elif name == 'higgs_small':
            rows = [','.join(map(str, e)) for e in events(n, rng)]
            rows[-1] = ','.join(rows[-1].split(',')[:20] + ['?'] * 9)  # as in the last row of OpenML's
            path.write_text('% a comment\n@relation higgs\n\n@attribute class {0,1}\n' + ''.join(
                f'@attribute {c} numeric\n' for c in HIGGS_COLUMNS) + '\n@data\n' + '\n'.join(rows) + '\n')
        elif name == 'year':
            rows = [[str(rng.randrange(1922, 2012))] + [f'{rng.gauss(0, 9):.5f}' for _ in range(90)]
                    for _ in range(n)]
            zipped(path, {'YearPredictionMSD.txt': '\n'.join(map(','.join, rows))})
        elif name == 'pfam':
            lengths = [30, 50, 1024, 1025] + [rng.randrange(50, 200) for _ in range(n)]
            text = ''.join(f'>A{i}/1-{k} A{i}.1 PF{i % 7:05}.{i};X;\n' + protein(rng, k, k + 1) + '\n'
                           for i, k in enumerate(lengths))
            path.write_bytes(gzip.compress(text.encode()))
        elif name == 'imagenet100':
            path.write_text('n02869837\nn01749939\nn02488291\n')
        elif file.endswith('.smiles'):
            path.write_text('\n'.join(rng.choice(MOLECULES) for _ in range(n)) + '\n')
        elif name in ('remote_homology', 'fluorescence', 'stability'):
            label, members = columns['label_column'], {}
            for _, part in columns['parts']:
                labels = [i % 3 if name == 'remote_homology' else [rng.gauss(0, 1)] for i in range(n)]
                rows = [{'primary': protein(rng), label: y, 'protein_length': 1, 'evolutionary': [[0.5] * 3]}
                        for y in labels]
                members[part.partition('!')[2]] = json.dumps(rows)
            tarred(path, members)
        elif entry['read'].func.__name__ == 'molecules':
            binary = entry['target'] == 'binary'
            # each molecule three times, so that every scaffold has both classes
            rows = [f'{s},x,{i // len(MOLECULES) % 2 if binary else rng.gauss(0, 1)}'
                    for i, s in enumerate(MOLECULES * 3)]
            header = f'{columns["input_column"]},other,{columns["label_column"]}'
            path.write_text('\n'.join([header, *rows]) + '\n')
        elif file == 'psgs_w100.tsv.gz':
            texts = [sentence(rng, 100).replace('"', '""') for _ in range(n)]
            rows = ''.join(f'{i}\t"{text}"\ttitle\n' for i, text in enumerate(texts))
            path.write_bytes(gzip.compress(('id\ttext\ttitle\n' + rows).encode()))
        elif file == 'bookcorpus.tar.bz2':
            tarred(path, {f'books_large_p{k}.txt': ''.join(sentence(rng, 12) + ' .\n' for _ in range(n))
                           for k in (1, 2)})
        elif name == 'mrpc':
            pairs = [(i % 2, 100 + i, 900 + i, sentence(rng), sentence(rng)) for i in range(n)]
            path.write_text('\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n' + ''.join(
                '\t'.join(map(str, p)) + '\n' for p in pairs) if file.startswith('msr') else
                ''.join(f'{100 + i}\t{900 + i}\n' for i in range(0, n, 4)))
        elif file.endswith('.zip'):  # GLUE
            task = 'mnli' if name == 'mnli_mm' else name
            folder_in = columns['parts'][0][1].partition('!')[2].split('/')[0]
            names = ['train', 'dev_matched', 'dev_mismatched'] if task == 'mnli' else ['train', 'dev']
            zipped(path, {f'{folder_in}/{k}.tsv': glue_rows(task, n, rng) for k in names})
