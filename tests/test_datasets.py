"""config/datasets.py: each data set from a few rows in its own format, and real files at SMA_MIRROR."""

import csv
import gzip
import json
import zipfile

import numpy as np
import pytest
from reading import counts, fails, sequences
from samples import sample, shrink, tarred
from test_data import opened

from config.datasets import scaffold_splits, split_at, stratified_splits
from util.collider import HIGGS_COLUMNS
from util.prepare import DATASETS
from util.splits import DRAW_VAL, SPLITS, TEST, TRAIN, VAL

# rows, train, val, test with val_share = test_share = 0.2
COUNTS = {
    **dict.fromkeys(('higgs', 'year', 'higgs_small'), (40, 26, 6, 8)), 'pfam': (42, 26, 8, 8),
    **dict.fromkeys(('guacamol', 'remote_homology', 'fluorescence', 'stability'), (120, 40, 40, 40)),
    **dict.fromkeys(('mnli', 'mnli_mm', 'qqp', 'qnli', 'sst2', 'cola', 'stsb', 'rte'), (80, 32, 8, 40)),
    **dict.fromkeys(('bbbp', 'bace', 'hiv', 'esol', 'freesolv', 'lipo'), (51, 39, 6, 6)),
    'mrpc': (40, 24, 6, 10)}


PAIRS = ('mnli', 'mnli_mm', 'qqp', 'qnli', 'stsb', 'rte', 'mrpc')
MOLECULES = ('bbbp', 'bace', 'hiv', 'esol', 'freesolv', 'lipo')


@pytest.fixture
def prepared(mirror, tmp_path, monkeypatch):
    """prepared(name): the data set from a few rows in its own format, found at any depth of a mirror."""
    folder = mirror / 'some/where'
    folder.mkdir(parents=True)

    def prepare(name):
        if name in MOLECULES:
            pytest.importorskip('rdkit')
        sample(folder, name)
        shrink(monkeypatch, name)
        return opened(tmp_path, name)
    prepare.folder = folder
    return prepare


@pytest.mark.parametrize('name', COUNTS)
def test_each_data_set_is_read_from_its_own_format(prepared, name):
    row = DATASETS[name]
    n, *splits = COUNTS[name]
    d = prepared(name)
    assert len(d.y) == n and counts(d) == splits
    assert (d.meta['target'], d.meta['metric'], d.meta['source']) == (row['target'], row['metric'], name)
    if row['target']:
        classes = len(set(d.labels(np.arange(n))))
        assert not np.isnan(d.y).any() and (classes == 2 if row['target'] == 'binary' else classes > 2)
    if d.is_bytes:
        assert (d.firsts is not None) == (name in PAIRS)


def test_the_lengths_of_pfam(prepared):
    d = prepared('pfam')
    lengths = {len(s) for s in sequences(d)}
    assert min(lengths) == 50 and max(lengths) == 1024 and sum(d.meta['left_out'].values()) == 2


def test_the_dev_rows_of_mrpc_are_the_test(prepared):
    assert prepared('mrpc').rows('test').tolist() == list(range(0, 40, 4))


def test_pairs_are_those_of_the_csv_module(prepared):
    """Quotation marks have no meaning in them."""
    d = prepared('rte')
    with zipfile.ZipFile(prepared.folder / 'RTE.zip') as archive:
        lines = archive.read('RTE/train.tsv').decode().splitlines()
    rows = list(csv.DictReader(lines, delimiter='\t', quoting=csv.QUOTE_NONE))
    pairs = [(text[:first].decode(), text[first:].decode()) for text, first in zip(sequences(d), d.firsts)]
    assert pairs[:40] == [(row['sentence1'].strip(), row['sentence2'].strip()) for row in rows]
    assert d.labels(np.arange(40)) == [row['label'] for row in rows]


def test_missing_numbers_of_higgs_small(prepared):
    """The last nine of the last row are missing: they get the mean of the training rows."""
    d = prepared('higgs_small')
    assert d.x.shape == (40, 28, 1) and d.columns == HIGGS_COLUMNS
    others = np.where(np.arange(40)[:, None] == 39, np.nan, d.x[:, :, 0])
    np.testing.assert_allclose(d.x[39, -9:, 0], np.nanmean(others[d.split == 0], axis=0)[-9:], rtol=1e-5)


@pytest.mark.parametrize('name, first_test_row, columns', [
    ('higgs', 10_500_000, HIGGS_COLUMNS), ('year', 463_715, [f'c{i}' for i in range(1, 91)])])
def test_the_last_rows_are_the_test(prepared, name, first_test_row, columns):
    assert DATASETS[name]['read'].keywords['first_test_row'] == first_test_row
    d = prepared(name)
    path = next(prepared.folder.iterdir())
    file = gzip.open(path) if name == 'higgs' else zipfile.ZipFile(path).open('YearPredictionMSD.txt')
    want = np.loadtxt(file, delimiter=',')
    np.testing.assert_array_equal(d.x[:, :, 0], want[:, 1:].astype(np.float32))
    np.testing.assert_array_equal(d.y, want[:, 0])
    assert d.rows('test').tolist() == list(range(32, 40)) and d.columns == columns


def test_stratified_splits_have_the_published_counts():
    """On labels counted as OpenML's, the class counts of Gorishniy et al. 2021 (rtdl's stats.json)."""
    y = np.random.default_rng(3).permutation(np.repeat([0.0, 1.0], [46_223, 51_827]))
    split = stratified_splits(y)
    assert [np.bincount(y[split == s].astype(int)).tolist() for s in range(3)] == [
        [29_582, 33_170], [7_396, 8_292], [9_245, 10_365]]


def test_wiki_books_is_one_text_in_windows(mirror, tmp_path):
    sample(mirror, 'wiki_books')
    parts = sequences(opened(tmp_path, 'wiki_books'))
    assert max(map(len, parts)) <= 1022 and sum(len(p) < 1000 for p in parts) <= 3  # but for three files' ends
    assert all(p.decode() for p in parts) and '"quoted' in parts[0].decode()


def test_imagenet100_is_the_classes_on_the_list(mirror, tmp_path):
    pytest.importorskip('PIL')
    (mirror / 'here').mkdir()
    sample(tmp_path, 'imagenet100')
    (tmp_path / 'imagenet100.txt').rename(mirror / 'imagenet100.txt')
    (mirror / 'here/imagenet').symlink_to(tmp_path / 'imagenet')
    d = opened(tmp_path, 'imagenet100', image_size=14)
    assert d.meta['classes'] == ['n01749939', 'n02869837'] and d.x.shape == (27, 16, 16, 3)
    assert counts(d) == [18, 4, 5]  # validation rows are drawn from train
    assert opened(tmp_path, 'imagenet100', image_size=21).folder != d.folder
    (mirror / 'here/imagenet').unlink()
    fails(str(tmp_path / 'datasets/downloads/imagenet'), opened, tmp_path, 'imagenet100', image_size=28)


def test_rows_before_the_test_rows_are_drawn_from():
    chunks = [(list('abc'), [1, 2, 3], None), (list('de'), [4, 5], None), (list('f'), [6], None)]
    splits = [split.tolist() for _, _, split in split_at(4, chunks)]
    assert splits == [[DRAW_VAL] * 3, [DRAW_VAL, TEST], [TEST]]


def test_scaffold_splits():
    """The largest sets come first, of two alike the one with the later first row; no set is divided."""
    scaffolds = ['a'] * 6 + ['b', 'c', 'b', 'c', 'd']
    # of 11 rows, at most 8.8 train and 9.9 train or val: a (6) and c (2) train, b (2) is too many for either
    assert scaffold_splits(scaffolds) == [TRAIN] * 6 + [TEST, TRAIN, TEST, TRAIN, VAL]
    assert scaffold_splits([]) == []


# ---- real files, at SMA_MIRROR

def test_real_files(tmp_path, real):
    d = opened(tmp_path, real('swissprot201401_sample20k_len50-512.fasta.xz'))
    assert d.meta['rows'] == 20_000 and not d.meta['left_out'] and np.isnan(d.y).all()
    assert not any(s != s.strip() or not s for s in sequences(d))
    d = opened(tmp_path, real('higgs_train_42k.npz'))
    assert d.x.shape == (42_265, 28, 1) and not np.isnan(d.y).any()


@pytest.mark.slow
@pytest.mark.parametrize('name, file, splits, n', [
    ('esol', 'delaney-processed.csv', 'esol', 1128), ('freesolv', 'SAMPL.csv', 'freesolv', 642),
    ('lipo', 'Lipophilicity.csv', 'lipop', 4200), ('bbbp', 'BBBP.csv', 'bbbp', 2050),
    ('bace', 'bace.csv', 'bace', 1513)])
def test_scaffold_splits_equal_deepchems_row_by_row(real, tmp_path, monkeypatch, name, file, splits, n):
    pytest.importorskip('rdkit')
    monkeypatch.setenv('SMA_MIRROR', str(real(file).parent))  # the md5 of the table is checked, too
    with open(real(f'splits/{splits}.csv')) as f:
        want = [row['scaffold_dc_rdkit202609'].replace('valid', 'val') for row in csv.DictReader(f)]
    d = opened(tmp_path, name)
    assert len(want) == n and [SPLITS[k] for k in d.split] == [s for s in want if s]
    assert d.meta['left_out'] == ({'molecules that RDKit cannot read': 11} if name == 'bbbp' else {})


@pytest.mark.slow
@pytest.mark.parametrize('name, want', [
    ('fluorescence', [21446, 5362, 27217]), ('stability', [53614, 2512, 12851]),
    ('remote_homology', [12312, 736, 718])])
def test_tape_counts(real, mirror, tmp_path, name, want):
    """The real rows, put into TAPE's own format: a .tar.gz of JSON lists."""
    columns, members = DATASETS[name]['read'].keywords, {}
    label, of_number = columns['label_column'], name == 'remote_homology'
    for _, part in columns['parts']:
        member = part.partition('!')[2]
        with gzip.open(real(f'{member.split("/")[1][:-5]}.csv.gz'), 'rt') as f:
            rows = [{'primary': r['primary'], label: int(r[label]) if of_number else [float(r[label])]}
                    for r in csv.DictReader(f)]
        members[member] = json.dumps(rows)
    tarred(mirror / f'{name}.tar.gz', members)
    d = opened(tmp_path, name)
    assert counts(d) == want and d.y[-1] == (rows[-1][label] if of_number else rows[-1][label][0])
    assert not of_number or len(set(d.y)) == 1195


@pytest.mark.parametrize('name, folder, want', [
    ('cola', 'CoLA', [8551, 0, 1043]), ('sst2', 'SST-2', [67349, 0, 872]), ('stsb', 'STS-B', [5749, 0, 1500]),
    ('rte', 'RTE', [2490, 0, 277])])
def test_glue_counts(real, mirror, tmp_path, name, folder, want):
    with zipfile.ZipFile(mirror / f'{folder}.zip', 'w') as archive:
        for split in ('train', 'dev'):
            archive.write(real(f'{folder}/{split}.tsv'), f'{folder}/{split}.tsv')
    d = opened(tmp_path, name, val_share=0)
    assert counts(d) == want and not d.meta['left_out']


def test_mrpc_counts_and_hashes(real, tmp_path, monkeypatch):
    (tmp_path / 'm').mkdir()
    (tmp_path / 'm/msr_paraphrase_train.txt').symlink_to(real('MRPC/msr_paraphrase_train.txt'))
    (tmp_path / 'm/mrpc_dev_ids.tsv').symlink_to(real('MRPC/dev_ids.tsv'))
    monkeypatch.setenv('SMA_MIRROR', str(tmp_path / 'm'))
    d = opened(tmp_path, 'mrpc', val_share=0)  # size and sha256 of the table hold
    assert counts(d) == [3668, 0, 408]
    with open(real('MRPC/dev.tsv'), encoding='utf-8-sig') as f:  # GLUE's own script made it
        dev = {(r['#1 String'].strip(), r['#2 String'].strip(), float(r['Quality']))
               for r in csv.DictReader(f, delimiter='\t', quoting=csv.QUOTE_NONE)}
    assert dev == {(text[:first].decode(), text[first:].decode(), y) for text, first, y, split in zip(
        sequences(d), d.firsts, d.y, d.split) if split == 2}


def test_the_official_higgs_rows(real, mirror, tmp_path, monkeypatch):
    shrink(monkeypatch, 'higgs', 1500)
    (mirror / 'HIGGS.csv.gz').symlink_to(real('HIGGS_first_rows_official_format.csv.gz'))
    d, want = opened(tmp_path, 'higgs'), np.loadtxt(gzip.open(mirror / 'HIGGS.csv.gz'), delimiter=',')
    np.testing.assert_array_equal(d.x[:, :, 0], want[:, 1:].astype(np.float32))
    np.testing.assert_array_equal(d.y, want[:, 0])
    assert d.rows('test').tolist() == list(range(1500, 2000)) and d.columns == HIGGS_COLUMNS
