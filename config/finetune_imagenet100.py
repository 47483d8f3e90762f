"""
ImageNet-100 from pixels: Table 11c of the paper, after config/imagenet100.py.

    python finetune.py config/finetune_imagenet100.py
    python finetune.py config/finetune_imagenet100.py --augment --drop_path=0.1 --out_dir=out/augmented
    python finetune.py config/finetune_imagenet100.py --init_from=scratch --epochs=300
    torchrun --nproc_per_node=8 finetune.py config/finetune_imagenet100.py

For GPUs: 200 passes over 126,689 images of 36,864 pixels for each checkpoint. Paper: scratch for 300.
With augmentation the paper's random masks need --drop_path=0.3 (section 5.4.2), guided ones do not.
Expected (paper, Table 5, accuracy on the validation images, without / with augmentation):
scratch 52.5 / 62.7 %, random 77.6 / 85.6 %, guided 78.5 / 86.1 %, patch 79.6 / 84.3 %.
"""
dataset = 'imagenet100'
image_size = 192
init_from = ('scratch', 'out/imagenet100')
# Table 11c
lr = 1e-4
epochs = 200
batch_size = 128
weight_decay = 0.01
warmup_steps = 10000  # the authors' code
seeds = 0
# what `scratch` looks like when no checkpoint is named
embed_dim = 196
seq_len = 36864
n_layer = 8
qk_dim = 768
n_head = 8
v_dim = 768
n_latent = 512
mlp_ratio = 1

out_dir = 'out/finetune_imagenet100'
