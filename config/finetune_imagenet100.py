"""
Fine-tuning on ImageNet-100 from pixels, after config/imagenet100.py. Settings of Table 11c of the paper.

    python finetune.py config/finetune_imagenet100.py
    python finetune.py config/finetune_imagenet100.py --augment --drop_path=0.1 --out_dir=out/augmented
    python finetune.py config/finetune_imagenet100.py --init_from=scratch --epochs=300    as in Table 11c
    torchrun --nproc_per_node=8 finetune.py config/finetune_imagenet100.py               8 GPUs

For GPUs: 200 passes over 126,689 images of 36,864 pixels, for each pre-trained model. The time has not been
measured. With --augment the paper's models that were pre-trained with random masks need --drop_path=0.3
(section 5.4.2). Those pre-trained with guided or patch masks do not.
Memory: at most 39 GB for a step of this batch on one GPU. Fits a GPU of 80 GB.
Expected (paper, Table 5, accuracy on the validation images, in %):

                without    with augmentation
    scratch        52.5                 62.7
    random         77.6                 85.6
    guided         78.5                 86.1
    patch          79.6                 84.3
"""
dataset = 'imagenet100'
image_size = 192
init_from = ('scratch', 'out/imagenet100')
# Table 11c
lr = 1e-4
epochs = 200
batch_size = 128
weight_decay = 0.01
warmup_steps = 10000  # not in the table: the authors' code
seeds = 0
# Table 11a: the model from scratch, if --init_from names no checkpoint
embed_dim = 196
seq_len = 36864
n_layer = 8
qk_dim = 768
n_head = 8
v_dim = 768
n_latent = 512
mlp_ratio = 1  # not in the table; Perceiver IO has 1

# output
out_dir = 'out/finetune_imagenet100'
