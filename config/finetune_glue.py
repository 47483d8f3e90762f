"""
GLUE: single sentences and pairs of them, as bytes. Table 12c of the paper.

    python finetune.py config/finetune_glue.py                          rte, after config/text.py
    python finetune.py config/finetune_glue.py --task=mnli              or qqp, qnli, sst2, cola, stsb, mrpc
    python eval.py --ckpt=out/finetune_mnli/CHECKPOINT.pt --dataset=mnli_mm          its mismatched rows

For GPUs. The dev rows are the test, as in the paper; validation rows are a share of the training rows.
Expected (paper, Table 4, in %: mnli / qqp / qnli / sst2 / cola / stsb / mrpc / rte; F1 of qqp and mrpc,
Matthews of cola, Spearman of stsb, else accuracy):
scratch 43.5 / 75.4 / 61.6 / 60.3 / 0.0 / 28.0 / 70.3 / 49.1,
random 75.9 / 88.7 / 84.7 / 86.8 / 36.2 / 83.4 / 76.2 / 55.2,
guided 77.5 / 89.1 / 87.4 / 88.3 / 43.3 / 84.6 / 80.9 / 62.1.
"""
task = task or 'rte'  # a config sees the command line
dataset = task
val_share = 0.02 if task in ('mnli', 'qqp', 'qnli', 'sst2') else 0.1
# Table 12c
weight_decay = 0.01
lr = 2e-5
epochs = 30
batch_size = 32
warmup_steps = 200  # the authors' code

init_from = ('scratch', 'out/text')
out_dir = f'out/finetune_{task}'
