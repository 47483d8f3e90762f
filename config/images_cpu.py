"""
Pre-training on small images, pixel by pixel, with a small Perceiver.

    python pretrain.py config/images_cpu.py --dataset=photos/                           guided masks
    python pretrain.py config/images_cpu.py --dataset=photos/ --mask=random             the baseline
    python pretrain.py config/images_cpu.py --dataset=photos/ --image_size=32 --seq_len=1024 --max_steps=1000

The folder has images (photos/*.jpg), or a folder for each class (photos/CLASS/*.jpg), or photos/train and
photos/val with either of these in them.
For one CPU core: about half an hour. The last command takes a few minutes.
Expected: masks like the picture under "What masks hide" in docs/RESULTS.md.
"""
image_size = 64
embed_dim = 64
seq_len = 4096
n_layer = 4
qk_dim = 64
n_head = 4
v_dim = 128
n_latent = 64
mlp_ratio = 1
mask_ratio = 0.85 if mask == 'random' else 0.75  # Table 11b
batch_size = 32
max_steps = 3000
lr = 1e-3
warmup_steps = 150
out_dir = f'out/images_cpu/{mask}'
log_interval = 100
eval_interval = 1000
save_interval = 500
