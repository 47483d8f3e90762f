"""
What a checkpoint is worth: scores, and embeddings of a user's file.

    python eval.py --ckpt=out/collider/guided                                     masked loss on the test rows
    python eval.py --ckpt=out/finetune_collider/out-collider-guided-lr0.001-seed0.pt      test score
    python eval.py --ckpt=... --split=valid
    python eval.py --ckpt=... --dataset=new.csv --label_column=y --split=all      the same on another file
    python eval.py --ckpt=out/collider/guided --embed=new.csv                     new.embeddings.npy, a vector a row

The data are those the checkpoint was trained on, unless --dataset names others; its statistics scale the floats.
"""

from pathlib import Path

import numpy as np

from configurator import configure, fail
from data import Dataset, prepare, scoring
from masking import check_masks
from model import build, load, load_weights, masked_loss, outputs
from pretrain import cut, say, score_rows, set_up

# -----------------------------------------------------------------------------
ckpt = ''  # a checkpoint of pretrain.py or finetune.py, or a folder with last.pt
split = 'test'  # rows to score: train, valid, test or all
embed: str | None = None  # a file: write one vector for each of its rows
embed_out: str | None = None  # where to; None = FILE.embeddings.npy in the current folder
# other data than the checkpoint's own
dataset: str | None = None  # a name from data.py, or a file
data_dir = 'datasets'  # prepared data sets are kept here
input_column: str | None = None  # csv: one text column, or number columns 'a,b,c'; None = all but the label. npz: 'X'
label_column: str | None = None  # csv: the label's column. npz: 'y'
split_column: str | None = None  # csv: a column that says train, valid or test
valid_file: str | None = None  # validation rows in a file of their own
test_file: str | None = None  # test rows in a file of their own
valid_share = 0.02  # without those: the share of rows drawn for validation
test_share = 0.1  # and for the test
# masks of a pre-trained checkpoint; None = those it was trained with
mask: str | None = None  # guided or random
mask_ratio: float | None = None  # share of the inputs hidden
# run
batch_size = 256  # samples at a time
device = 'auto'  # auto = cuda, else mps, else cpu
dtype = 'auto'  # of autocast: auto = bfloat16 (else float16) on cuda, float32 elsewhere
# -----------------------------------------------------------------------------
_DATA_KNOBS = ('input_column', 'label_column', 'split_column', 'valid_file', 'test_file', 'valid_share', 'test_share')


def data_of(config, checkpoint, run):
    """The data set to look at: the checkpoint's own, or the one that the knobs name; fits the model or fails."""
    own = {k: checkpoint['config'][k] for k in ('dataset', *_DATA_KNOBS)}
    source = config['embed'] or config['dataset']
    if source is None:
        knobs = own
    else:
        knobs = {k: config[k] for k in _DATA_KNOBS}
        knobs['dataset'] = source
    dataset = Dataset(prepare({**knobs, 'data_dir': config['data_dir']}))
    args = checkpoint['model_args']
    have, want = (f'{n} inputs of {d_raw} float(s)' if d_raw else 'byte sequences'
                  for n, d_raw in ((dataset.n, dataset.d_raw), (args['seq_len'], args['d_raw'])))
    if have != want:
        fail(f'{knobs["dataset"]} holds {have}, the checkpoint wants {want}: see input_column and label_column')
    dataset.norm = checkpoint['norm']
    cut(dataset, args['seq_len'], checkpoint['config']['max_len'], run)
    return dataset


def main():
    config = configure(globals())
    if not config['ckpt']:
        fail('say which checkpoint: --ckpt=out/...')
    if config['split'] not in ('train', 'valid', 'test', 'all'):
        fail(f'split={config["split"]!r}: train, valid, test or all')
    checkpoint = load(config['ckpt'], keys=('model', 'model_args', 'config', 'norm'))
    run = set_up(config)
    if run.world > 1:
        fail('eval.py runs as one process: start it with python, not torchrun')
    dataset = data_of(config, checkpoint, run)
    model = build(checkpoint['model_args'])
    load_weights(model, checkpoint['model'])
    model.to(run.device)

    if config['embed']:
        for why, n in dataset.meta['left_out'].items():  # else the vectors would not be those of the file's rows
            fail(f'{config["embed"]} has {n} {why}: take them out first')
        rows = np.arange(len(dataset.y))
        batches = scoring(dataset, rows, config['batch_size'], run)
        vectors = outputs(model.features, model, (len(rows), model.config.v_dim), batches, run.device, run.autocast)
        path = Path(config['embed_out'] or Path(config['embed']).name.split('.')[0] + '.embeddings.npy')
        np.save(path, vectors.cpu().numpy())
        say(run, f'{path}: {len(rows):,} vectors of {model.config.v_dim} float32, in the order of the rows')
        return

    rows = np.arange(len(dataset.y)) if config['split'] == 'all' else dataset.rows(config['split'])
    head = checkpoint.get('head')
    if head:
        rows = rows[~np.isnan(dataset.y[rows])]
    if not len(rows):
        fail(f'there are no{" labelled" if head else ""} {config["split"]} rows to score')
    if head:
        value = score_rows(model, dataset, rows, head, config, run)
        say(run, f'{head["metric"]} on {len(rows):,} {config["split"]} rows: {value:.4f}')
    else:
        own = checkpoint['config']
        mask = config['mask'] or own['mask']
        ratio = own['mask_ratio'] if config['mask_ratio'] is None else config['mask_ratio']
        check_masks([mask], [ratio], dataset.lengths(rows), dataset.d_raw)
        batches = scoring(dataset, rows, config['batch_size'], run)
        total, hidden = masked_loss(model, batches, mask, ratio, own['n_query'], run.device, run.autocast).tolist()
        say(run, f'masked loss on {len(rows):,} {config["split"]} rows, {mask} masks, ratio {ratio}: '
                 f'{total / hidden:.4f}')


if __name__ == '__main__':
    main()
