"""
Fine-tuning on GLUE: single sentences and pairs of sentences as bytes. Settings of Table 12c of the paper.

    python finetune.py config/finetune_glue.py                          RTE, after config/text.py
    python finetune.py config/finetune_glue.py --task=mnli              or qqp, qnli, sst2, cola, stsb, mrpc
    python eval.py --ckpt=out/finetune_mnli/CHECKPOINT.pt --dataset=mnli_mm          its mismatched rows

For GPUs. The time has not been measured.
Memory: at most 5 GB for a step of this batch on one GPU. Fits GPUs of 24, 40 and 80 GB.
The test rows are GLUE's dev rows, as in the paper. The validation rows are a share of the training rows.
Expected (paper, Table 4, in %). The score is F1 for qqp and mrpc, Matthews correlation for cola, Spearman
correlation for stsb, and accuracy for the others.

               mnli   qqp  qnli  sst2  cola  stsb  mrpc   rte
    scratch    43.5  75.4  61.6  60.3   0.0  28.0  70.3  49.1
    random     75.9  88.7  84.7  86.8  36.2  83.4  76.2  55.2
    guided     77.5  89.1  87.4  88.3  43.3  84.6  80.9  62.1
"""
task = task or 'rte'  # the value of --task, if there is one
dataset = task
val_share = 0.02 if task in ('mnli', 'qqp', 'qnli', 'sst2') else 0.1  # of the training rows
# Table 12c
weight_decay = 0.01
lr = 2e-5
epochs = 30
batch_size = 32
warmup_steps = 200  # not in the table: the authors' code

# what to start from, and output
init_from = ('scratch', 'out/text')
out_dir = f'out/finetune_{task}'
