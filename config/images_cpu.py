"""
Small images pixel by pixel, a Perceiver small enough for two CPU cores.

    python pretrain.py config/images_cpu.py --dataset=photos/

Any folder of images: photos/*.jpg, photos/CLASS/*.jpg, or photos/train and photos/val of such. Two CPU cores: a few
minutes for each mask. To look at larger images: --image_size=48 --seq_len=2304.
"""
image_size = 32
embed_dim = 64
seq_len = 1024
n_layer = 4
qk_dim = 64
n_head = 4
v_dim = 128
n_latent = 64
mask = ('random', 'guided')
mask_ratio = (0.85, 0.75)  # Table 11
n_query = 4
batch_size = 32
max_steps = 1000
lr = 1e-3
warmup_steps = 100
out_dir = 'out/images_cpu'
log_interval = 100
eval_interval = 500
save_interval = 500
