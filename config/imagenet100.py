"""
Pre-training on ImageNet-100, each image as 36,864 pixels, with the Perceiver and masks of Table 11.

    python pretrain.py config/imagenet100.py                            guided masks
    python pretrain.py config/imagenet100.py --mask=random              the baseline
    python pretrain.py config/imagenet100.py --mask=patch               square patches, also in Table 11
    torchrun --nproc_per_node=8 pretrain.py config/imagenet100.py       8 GPUs
    python pretrain.py config/imagenet100.py --dataset=photos/ --image_size=96 --seq_len=9216   your own folder

For GPUs: 200 passes over 126,689 images. The time has not been measured.
Memory: at most 52 GB for a step of this batch on one GPU. Fits a GPU of 80 GB.
For a CPU take config/images_cpu.py.
Expected (paper, Table 5, accuracy in % after config/finetune_imagenet100.py without / with augmentation):
random 77.6 / 85.6, guided 78.5 / 86.1, patch 79.6 / 84.3.
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
n_latent = 512  # a Perceiver ("cross-attention")
mlp_ratio = 1  # not in the table; Perceiver IO has 1
# Table 11b
mask_ratio = 0.85 if mask == 'random' else 0.75
mask_anneal = 0.0  # guided masks from the first step, as the paper has them
lr = 1e-4
epochs = 200
batch_size = 128
weight_decay = 0.01
warmup_steps = 5000  # not in the table: the authors' code

# output
out_dir = f'out/imagenet100/{mask}'
eval_interval = 5000
save_interval = 5000
