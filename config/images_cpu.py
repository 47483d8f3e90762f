"""
Small images pixel by pixel, a Perceiver small enough for two CPU cores.

    python pretrain.py config/images_cpu.py --dataset=photos/

Any folder of images: photos/*.jpg, photos/CLASS/*.jpg, or photos/train and photos/val of such. One CPU core:
about half an hour; --image_size=32 --seq_len=1024 --max_steps=1000: a few minutes. The baseline: --mask=random.
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
mask_ratio = 0.85 if mask == 'random' else 0.75  # Table 11
batch_size = 32
max_steps = 3000
lr = 1e-3
warmup_steps = 150
out_dir = f'out/images_cpu/{mask}'
log_interval = 100
eval_interval = 1000
save_interval = 500
