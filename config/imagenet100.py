"""
Images as 36,864 pixels without neighbours: Table 11 of the paper, its Perceiver, on ImageNet-100.

    python pretrain.py config/imagenet100.py                            or --mask=random, the baseline
    torchrun --nproc_per_node=8 pretrain.py config/imagenet100.py
    python pretrain.py config/imagenet100.py --dataset=photos/ --image_size=96 --seq_len=9216   your folder

For GPUs: 200 passes over 126,689 images. The patch masks of the paper's comparison: --mask=patch.
Expected (paper, Table 5, after config/finetune_imagenet100.py without / with augmentation):
random 77.6 / 85.6 %, guided 78.5 / 86.1 %, patch 79.6 / 84.3 %.
"""
dataset = 'imagenet100'
image_size = 192
# Table 11a
embed_dim = 196
seq_len = 36864
n_layer = 8
qk_dim = 768
n_head = 8
v_dim = 768
n_latent = 512  # attention type: cross-attention
mlp_ratio = 1  # the paper does not say; Perceiver IO's
# Table 11b
mask_ratio = 0.85 if mask == 'random' else 0.75
lr = 1e-4
epochs = 200
batch_size = 128
weight_decay = 0.01
warmup_steps = 5000  # the authors' code

out_dir = f'out/imagenet100/{mask}'
eval_interval = 5000
save_interval = 5000
