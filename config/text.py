"""
Pre-training on English text as bytes: Wikipedia and BooksCorpus, with the Perceiver and masks of Table 12.

    python pretrain.py config/text.py                                   guided masks
    python pretrain.py config/text.py --mask=random                     the baseline
    python pretrain.py config/text.py --mask=word                       whole words, also in Table 12
    torchrun --nproc_per_node=8 pretrain.py config/text.py              8 GPUs
    python pretrain.py config/text.py --dataset=books.txt --window=1022         your own text

For GPUs: ten passes over both. The time has not been measured.
Memory: at most 31 GB for a step of this batch on one GPU. Fits GPUs of 40 and 80 GB.
Expected (paper, Table 4, average over GLUE in %, after config/finetune_glue.py, which lists the tasks):
random 73.4, guided 76.7, word 75.6.
"""
dataset = 'wiki_books'
# Table 12a
embed_dim = 512
seq_len = 1024
n_layer = 16
qk_dim = 256
n_head = 8
v_dim = 1024
n_latent = 256  # a Perceiver ("cross-attention")
mlp_ratio = 1  # not in the table; Perceiver IO has 1
# Table 12b
mask_ratio = 0.2 if mask == 'random' else 0.15
mask_anneal = 0.0  # guided masks from the first step, as the paper has them
lr = 1e-4
epochs = 10
batch_size = 256
weight_decay = 0.01
warmup_steps = 5000  # not in the table: the authors' code

# splits and output
val_share = 0.001
test_share = 0.0
out_dir = f'out/text/{mask}'
eval_interval = 5000
save_interval = 5000
