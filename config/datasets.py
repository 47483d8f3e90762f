"""
The data sets known by name: where their files are, how they are read, what their splits are.

    python data.py               lists them
    python data.py esol          fetches and prepares one

Each is read by a function from the paths of its files, by name, to [(split code, chunks)]. The chunks are those
of the readers in util/; `meta` becomes meta.json. The name of the prepared folder depends on the entry of the
table and on the source of its function: if they change, the files are read again.
"""

from functools import partial

import numpy as np

from util.arff import ArffTable
from util.cells import number
from util.collider import HIGGS_COLUMNS, collider
from util.delimited import DelimitedTable
from util.errors import fail
from util.files import open_lines
from util.glyphs import glyphs
from util.images import read_images
from util.readers import read_file
from util.splits import DRAW, DRAW_VAL, TEST, TRAIN, VAL

# -----------------------------------------------------------------------------
# how they are read


def simulated(paths, meta, n, seed):
    x, y = collider(n, seed)  # (n, 28) float32, (n,)
    meta['columns'] = HIGGS_COLUMNS
    return [(DRAW, [(x[:, :, None], y.tolist(), None)])]


def drawn(paths, meta, n, seed):
    x, y = glyphs(n, seed)  # (n, 144) float32, (n,)
    meta['columns'] = [f'pixel{i}' for i in range(x.shape[1])]
    meta['is_picture'] = True  # eval.py --show=masks draws them
    return [(DRAW, [(x[:, :, None], y.tolist(), None)])]


def as_it_stands(paths, meta, parts, **options):
    """parts: [(split code, 'file' or 'archive!member')]. The options go to its reader."""
    sources = []
    for split, part in parts:
        file, mark, member = part.partition('!')
        sources.append((split, read_file(f'{paths[file]}{mark}{member}', meta, **options)))
    return sources


def last_rows_test(paths, meta, part, first_test_row, **options):
    """The rows from number first_test_row on are the test; validation rows are drawn from those before."""
    _, chunks = as_it_stands(paths, meta, [(None, part)], **options)[0]
    return [(None, split_at(first_test_row, chunks))]


def split_at(first_test_row, chunks):
    """Yields the chunks with the split code of each row."""
    start = 0
    for x, y, _ in chunks:
        row = np.arange(start, start + len(x))
        yield x, y, np.where(row < first_test_row, DRAW_VAL, TEST)
        start += len(x)


def higgs_small(paths, meta):
    """Stratified splits. The missing numbers, all in the last row, get the mean of the training rows."""
    file = ArffTable(paths['higgs_small.arff'])
    rows = []
    for _, cells in file.rows(range(len(file.names))):
        rows.append([number(cell) for cell in cells])
    table = np.array(rows, np.float32)  # (98050, 29)
    label = file.names.index('class')
    y = table[:, label]
    x = np.delete(table, label, 1)[:, :, None]  # (98050, 28, 1)
    meta['columns'] = HIGGS_COLUMNS
    split = stratified_splits(y)
    x = np.where(np.isnan(x), np.nanmean(x[split == TRAIN], 0), x)
    return [(None, [(x, y.tolist(), split)])]


def stratified_splits(y):
    """
    20 % of each class for the test, 20 % of the rest for validation: (rows,) int8.

    On HIGGS-small these are the sizes and class counts of Gorishniy et al. 2021; which rows they drew is not
    public.
    """
    rng = np.random.default_rng(0)
    split = np.zeros(len(y), np.int8)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        n_test = round(0.2 * len(rows))
        n_val = round(0.2 * (len(rows) - n_test))
        split[rows[:n_test]] = TEST
        split[rows[n_test:n_test + n_val]] = VAL
    return split


def molecules(paths, meta, file, **columns):
    """SMILES with labels; scaffold splits. Molecules that RDKit cannot read are left out."""
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
    except ImportError:
        fail('scaffold splits need rdkit: pip install rdkit')
    RDLogger.DisableLog('rdApp.*')
    x = []
    y = []
    scaffolds = []
    for all_smiles, labels, _ in read_file(paths[file], meta, **columns):
        for smiles, label in zip(all_smiles, labels):
            molecule = Chem.MolFromSmiles(smiles.decode())
            if molecule is None:
                meta['left_out']['molecules that RDKit cannot read'] += 1
                continue
            x.append(smiles)
            y.append(label)
            scaffolds.append(MurckoScaffoldSmiles(mol=molecule))
    return [(None, [(x, y, scaffold_splits(scaffolds))])]


def scaffold_splits(scaffolds):
    """
    As DeepChem's ScaffoldSplitter: molecules with one Bemis-Murcko scaffold stay together; the largest sets
    come first, a tie goes to the set with the later first molecule; 80 % train, 10 % val, 10 % test. -> the
    split code of each
    """
    n = len(scaffolds)
    sets = {}
    for row, scaffold in enumerate(scaffolds):
        sets.setdefault(scaffold, []).append(row)
    largest_first = sorted(sets.values(), key=lambda rows: (len(rows), rows[0]), reverse=True)
    n_train = 0
    n_val = 0
    splits = [TEST] * n
    for rows in largest_first:
        if n_train + len(rows) <= 0.8 * n:
            n_train += len(rows)
            code = TRAIN
        elif n_train + n_val + len(rows) <= 0.9 * n:
            n_val += len(rows)
            code = VAL
        else:
            code = TEST
        for row in rows:
            splits[row] = code
    return splits


def wiki_books(paths, meta):
    books = paths['bookcorpus.tar.bz2']
    sources = [(DRAW, read_file(paths['psgs_w100.tsv.gz'], meta, window=1022, input_column='text'))]
    for part in ('books_large_p1.txt', 'books_large_p2.txt'):
        sources.append((DRAW, read_file(f'{books}!{part}', meta, window=1022)))
    return sources


def mrpc(paths, meta):
    """The rows whose two ids are in GLUE's list are its dev rows, which are our test."""
    dev_ids = set()
    for line in open_lines(paths['mrpc_dev_ids.tsv'], 'utf-8'):
        dev_ids.add(tuple(line.split()))
    table = DelimitedTable(paths['msr_paraphrase_train.txt'], '.tsv', meta, header=True, quotes=False)
    meta['columns'] = table.names[3:]  # the first are Quality, #1 ID, #2 ID
    pairs = []
    labels = []
    splits = []
    for _, cells in table.rows(range(5)):
        label, id_1, id_2, text_1, text_2 = [cell.strip() for cell in cells]
        pairs.append((text_1.encode(), text_2.encode()))
        labels.append(label)
        splits.append(TEST if (id_1, id_2) in dev_ids else DRAW_VAL)
    return [(None, [(pairs, labels, splits)])]


def imagenet100(paths, meta):
    classes = set(paths['imagenet100.txt'].read_text().split())
    return [(DRAW, read_images(paths['imagenet'], meta, classes))]


# -----------------------------------------------------------------------------
# The table. `files`: name -> (address, bytes, hash), the last two where a public source states them;
# target and metric are what finetune.py does. Each address is in the public code named beside it.

def entry(about, licence, files, target, metric, read, **options):
    """A row of the table. The options go to the function `read`."""
    return dict(about=about, licence=licence, files=files, target=target, metric=metric,
                read=partial(read, **options))


def moleculenet(file, md5, smiles, label, target, metric, about):
    """deepchem/deepchem: deepchem/molnet/load_function; md5: DeepGraphLearning/torchdrug: datasets"""
    address = f'https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/{file}'
    return entry(f'MoleculeNet: {about}; scaffold split', 'not stated', {file: (address, None, md5)},
                 target, metric, molecules, file=file, input_column=smiles, label_column=label)


def tape(task, label, target, metric, test, about):
    """songlab-cal/tape: README.md, tape/datasets.py"""
    file = f'{task}.tar.gz'
    address = f'https://s3.amazonaws.com/songlabdata/proteindata/data_raw_pytorch/{file}'
    parts = []
    for split, name in ((TRAIN, 'train'), (VAL, 'valid'), (TEST, test)):
        parts.append((split, f'{file}!{task}/{task}_{name}.json'))
    return entry(f'TAPE: {about}', 'not stated (code: BSD 3-clause)', {file: (address, None, None)},
                 target, metric, as_it_stands, parts=parts, input_column='primary', label_column=label)


def glue(file, size, sha256, text, label, target, metric, about, folder=None, dev='dev', **options):
    """huggingface/datasets: datasets/glue/glue.py. Test labels are secret: dev is our test."""
    if folder is None:
        folder = file.removesuffix('.zip')
    folder = f'{file}!{folder}'
    return entry(f'GLUE: {about}; tested on its dev rows', 'GLUE card: CC BY 4.0; those of the tasks differ',
                 {file: (f'{FACEBOOK}/glue/data/{file}', size, f'sha256:{sha256}')}, target, metric,
                 as_it_stands, parts=[(DRAW_VAL, f'{folder}/train.tsv'), (TEST, f'{folder}/{dev}.tsv')],
                 input_column=text, label_column=label, quotes=False, **options)


UCI = 'https://archive.ics.uci.edu/ml/machine-learning-databases'
FACEBOOK = 'https://dl.fbaipublicfiles.com'
FIGSHARE = 'https://ndownloader.figshare.com/files'
MNLI = ('MNLI.zip', 312_783_507, 'e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633',
        'sentence1,sentence2', 'gold_label', 'multiclass', 'accuracy')

DATASETS = {
    'collider': entry(
        'simulated here: a toy Monte Carlo of UCI HIGGS (arXiv:1402.4735), 120,000 events', 'ours', {},
        'binary', 'accuracy', simulated, n=120_000, seed=0),
    'glyphs': entry(
        'drawn here: the ten digits by a wobbly pen, 20,000 pictures of 12 x 12 grey values', 'ours', {},
        'multiclass', 'accuracy', drawn, n=20_000, seed=0),
    # particle physics and tables
    'higgs': entry(  # tensorflow/datasets: tensorflow_datasets/url_checksums/higgs.txt
        'UCI HIGGS: 11,000,000 simulated collisions, 28 numbers; the last 500,000 are the test', 'CC BY 4.0',
        {'HIGGS.csv.gz': (f'{UCI}/00280/HIGGS.csv.gz', 2_816_407_858,
                          'sha256:ea302c18164d4e3d916a1e2e83a9a8d07069fa6ebc7771e4c0540d54e593b698')},
        'binary', 'accuracy', last_rows_test, part='HIGGS.csv.gz', first_test_row=10_500_000,
        header=['class', *HIGGS_COLUMNS], label_column='class'),
    'higgs_small': entry(  # IBM/lale: lale/datasets/openml/openml_datasets.py
        'OpenML 23512: 98,050 events of HIGGS, 62,752 / 15,688 / 19,610 as Gorishniy et al. 2021',
        'Public (OpenML); CC BY 4.0 (UCI)',
        {'higgs_small.arff': ('https://www.openml.org/data/download/2063675/phpZLgL9q', None, None)},
        'binary', 'accuracy', higgs_small),
    'year': entry(  # JackDunnNZ/UCIData.jl: src/data/regression/year-prediction-msd.jl; NVIDIA/gbm-bench
        'YearPredictionMSD: 515,345 songs, 90 numbers each; the last 51,630 are the test', 'CC BY 4.0',
        {'YearPredictionMSD.txt.zip': (
            f'{UCI}/00203/YearPredictionMSD.txt.zip', None,
            'sha256:06f801af323bb7798e800583acce4ea1ed2697ac12c23f4424aea0a7a3d09e11')},
        'regression', 'rmse', last_rows_test, part='YearPredictionMSD.txt.zip!YearPredictionMSD.txt',
        first_test_row=463_715, ending='.csv', header=False,
        label_column='c0'),
    # proteins
    'pfam': entry(  # ProteinsWebTeam/pfam-docs: docs/ftp-site.rst has the https form of the current release
        'Pfam 32.0: domains of proteins, of 50 to 1,024 residues', 'CC0',
        {'Pfam-A.fasta.gz': (
            'https://ftp.ebi.ac.uk/pub/databases/Pfam/releases/Pfam32.0/Pfam-A.fasta.gz', None, None)},
        None, None, as_it_stands, parts=[(DRAW, 'Pfam-A.fasta.gz')], shortest=50, longest=1024),
    'remote_homology': tape('remote_homology', 'fold_label', 'multiclass', 'accuracy', 'test_fold_holdout',
                            'which of 1,195 folds; 12,312 / 736 / 718 proteins'),
    'fluorescence': tape('fluorescence', 'log_fluorescence', 'regression', 'spearman', 'test',
                         'how brightly a mutant of GFP shines; 21,446 / 5,362 / 27,217'),
    'stability': tape('stability', 'stability_score', 'regression', 'spearman', 'test',
                      'how well a small protein withstands proteases; 53,614 / 2,512 / 12,851'),
    # molecules
    'guacamol': entry(  # BenevolentAI/guacamol: README.md (with the md5); the files are drawn from ChEMBL 24
        'GuacaMol: 1,591,378 molecules as SMILES', 'files not stated (code: MIT; ChEMBL: CC BY-SA 3.0)',
        {'guacamol_v1_train.smiles': (f'{FIGSHARE}/13612760', None, 'md5:05ad85d871958a05c02ab51a4fde8530'),
         'guacamol_v1_valid.smiles': (f'{FIGSHARE}/13612766', None, 'md5:e53db4bff7dc4784123ae6df72e3b1f0'),
         'guacamol_v1_test.smiles': (f'{FIGSHARE}/13612757', None, 'md5:677b757ccec4809febd83850b43e1616')},
        None, None, as_it_stands, parts=[(TRAIN, 'guacamol_v1_train.smiles'), (VAL, 'guacamol_v1_valid.smiles'),
                                         (TEST, 'guacamol_v1_test.smiles')]),
    'bbbp': moleculenet('BBBP.csv', 'md5:66286cb9e6b148bd75d80c870df580fb', 'smiles', 'p_np', 'binary',
                        'roc_auc', 'does it pass from blood to brain; 2,050 molecules, RDKit reads 2,039'),
    'bace': moleculenet('bace.csv', 'md5:ba7f8fa3fdf463a811fa7edea8c982c2', 'mol', 'Class', 'binary',
                        'roc_auc', 'does it inhibit beta-secretase 1; 1,513 molecules'),
    'hiv': moleculenet('HIV.csv', 'md5:9ad10c88f82f1dac7eb5c52b668c30a7', 'smiles', 'HIV_active', 'binary',
                       'roc_auc', 'does it stop the virus; 41,127 molecules'),
    'esol': moleculenet('delaney-processed.csv', 'md5:0c90a51668d446b9e3ab77e67662bd1c', 'smiles',
                        'measured log solubility in mols per litre', 'regression', 'rmse',
                        'log solubility in water; 1,128 molecules'),
    'freesolv': moleculenet('SAMPL.csv', None, 'smiles', 'expt', 'regression', 'rmse',
                            'free energy of solvation in kcal/mol; 642 molecules'),
    'lipo': moleculenet('Lipophilicity.csv', 'md5:85a0e1cb8b38b0dfc3f96ff47a57f0ab', 'smiles', 'exp',
                        'regression', 'rmse', 'log of the octanol / water ratio; 4,200 molecules'),
    # text
    'wiki_books': entry(
        'English Wikipedia (21 M passages) and BooksCorpus (74 M sentences) in windows of 1,022 bytes',
        'Wikipedia: CC BY-SA 3.0 (this file: CC BY-NC 4.0); BooksCorpus: none granted',
        {'psgs_w100.tsv.gz': (  # facebookresearch/DPR: dpr/data/download_data.py; huggingface/datasets
            f'{FACEBOOK}/dpr/wikipedia_split/psgs_w100.tsv.gz', 4_694_541_059,
            'sha256:c39b020c855a2b5c25ffef3abe4a3b6f9b829ad7dbc14ec3d163d34d7c53ea8d'),
         'bookcorpus.tar.bz2': (  # huggingface/datasets: datasets/bookcorpus
            'https://storage.googleapis.com/huggingface-nlp/datasets/bookcorpus/bookcorpus.tar.bz2',
            1_179_510_242, 'sha256:03a29333b2b35e98a375b6ad7d2f1651835655cd348fb89c864136bce69a964c')},
        None, None, wiki_books),
    'mnli': glue(*MNLI, 'does the first sentence entail the second; 392,702 / 9,815', dev='dev_matched'),
    'mnli_mm': glue(*MNLI, 'mnli on the 9,832 mismatched rows', dev='dev_mismatched'),
    'qqp': glue('QQP-clean.zip', 41_696_084,
                '40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0', 'question1,question2',
                'is_duplicate', 'binary', 'f1', 'the same question; 363,846 / 40,430', folder='QQP'),
    'qnli': glue('QNLIv2.zip', 10_627_589, 'e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5',
                 'question,sentence', 'label', 'binary', 'accuracy', 'is the answer in it; 104,743 / 5,463',
                 folder='QNLI'),
    'sst2': glue('SST-2.zip', 7_439_277, 'd67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa',
                 'sentence', 'label', 'binary', 'accuracy', 'praise or blame; 67,349 / 872'),
    # The paper says accuracy for CoLA, but prints 0.0 for scratch: that is Matthews correlation, as GLUE
    # scores it. (Always answering "acceptable" has an accuracy of 69.1 % and a correlation of 0.)
    'cola': glue('CoLA.zip', 376_971, 'f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff',
                 'sentence', 'label', 'binary', 'matthews', 'is it English; 8,551 / 1,043',
                 header=['source', 'label', 'mark', 'sentence']),
    'stsb': glue('STS-B.zip', 802_872, 'e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85',
                 'sentence1,sentence2', 'score', 'regression', 'spearman', 'how alike, 0 to 5; 5,749 / 1,500'),
    'rte': glue('RTE.zip', 697_150, '6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee',
                'sentence1,sentence2', 'label', 'binary', 'accuracy', 'entailment; 2,490 / 277'),
    'mrpc': entry(  # huggingface/datasets: as glue
        'GLUE: a paraphrase or not; 3,668 / 408; tested on its dev rows', 'not stated',
        {'msr_paraphrase_train.txt': (
            f'{FACEBOOK}/senteval/senteval_data/msr_paraphrase_train.txt', 1_047_044,
            'sha256:60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89'),
         'mrpc_dev_ids.tsv': (
            f'{FACEBOOK}/glue/data/mrpc_dev_ids.tsv', 6_222,
            'sha256:971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7')},
        'binary', 'f1', mrpc),
    # images
    'imagenet100': entry(  # HobbitLong/CMC: imagenet100.txt
        '100 classes of ImageNet: put or link its folder, with train/ and val/, at DATA_DIR/downloads',
        'ImageNet: for non-commercial research, on request',
        {'imagenet': (None, None, None), 'imagenet100.txt': (
            'https://raw.githubusercontent.com/HobbitLong/CMC/master/imagenet100.txt', 1_000, None)},
        'multiclass', 'accuracy', imagenet100),
}
