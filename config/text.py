"""
English as bytes: Table 12 of the paper, its Perceiver and masks, on Wikipedia and BooksCorpus.

    python pretrain.py config/text.py                                   or --mask=random, the baseline
    torchrun --nproc_per_node=8 pretrain.py config/text.py
    python pretrain.py config/text.py --dataset=books.txt --window=1022         a text of yours

For GPUs. The word masks of the paper's comparison: --mask=word.
Expected: Table 4 of the paper, after config/finetune_glue.py.
"""
dataset = 'wiki_books'
# Table 12a
embed_dim = 512
seq_len = 1024
n_layer = 16
qk_dim = 256
n_head = 8
v_dim = 1024
n_latent = 256  # attention type: cross-attention
mlp_ratio = 1  # the paper does not say; Perceiver IO's
# Table 12b
mask_ratio = 0.2 if mask == 'random' else 0.15
lr = 1e-4
epochs = 10
batch_size = 256
weight_decay = 0.01
warmup_steps = 5000  # the authors' code

val_share = 0.001
test_share = 0.0
out_dir = f'out/text/{mask}'
eval_interval = 5000
save_interval = 5000
