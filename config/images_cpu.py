"""
Pre-training on small images, pixel by pixel, with a small Perceiver.

    python pretrain.py config/images_cpu.py --dataset=photos/                           guided masks
    python pretrain.py config/images_cpu.py --dataset=photos/ --mask=random             the baseline
    python pretrain.py config/images_cpu.py --dataset=photos/ --image_size=32 --seq_len=1024

The folder has images (photos/*.jpg), or a folder for each class (photos/CLASS/*.jpg), or photos/train and
photos/val with either of these in them.
For one CPU core: about ten minutes. The last command takes half as long.
Expected: masks like the first picture of README.md. "What masks hide" in docs/RESULTS.md has the numbers.
"""
image_size = 48
embed_dim = 32
seq_len = 2304
n_layer = 4
qk_dim = 64
n_head = 4
v_dim = 64
n_latent = 32
mlp_ratio = 1
mask_ratio = 0.5  # 0.75 (Table 11b) hides so much that in so few steps the masks look like random ones
batch_size = 16
max_steps = 2000
lr = 3e-3
warmup_steps = 100
out_dir = f'out/images_cpu/{mask}'
log_interval = 100
eval_interval = 1000
save_interval = 500
