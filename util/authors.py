"""The weights that the authors published (github.com/Johnathan-Xie/sma), turned into a checkpoint of ours."""

import json
import math
import os
import re
from pathlib import Path

import torch

from model import N_IDS, SMAConfig, build
from util.download import download
from util.errors import UserError, fail
from util.tensors import read_pt, read_safetensors

HUB = 'https://huggingface.co'

# (pattern in a name of theirs, what it is in ours), replaced one after the other
THEIR_NAMES = [
    (r'^(perceiver|teacher\.student_model)\.', ''),  # the teacher is saved with the student in it
    (r'^(.*decoder|teacher)\.encoder_input_preproces+or\.', 'input_preprocessor.'),
    (r'^decoder\.decoder_latents\.latents$', 'head_query'),
    (r'^decoder\.', 'head.'),
    (r'^teacher\.reconstruction_decoder\.', 'decoder.'),
    (r'\.decoding_cross_attention\.', '.layer.'),
    (r'\.pre_layernorm\.', '.ln_H.'),
    (r'\.final_layernorm\.', '.ln_out.'),
    (r'\.(final_project|embedding_layer)\.', '.out.'),
    (r'^input_preprocessor\.(embeddings|input_projection)\.', 'value_embedding.'),
    (r'^input_preprocessor\.position_embeddings\.weight$', 'P'),
    (r'^input_preprocessor\.layernorm\.', 'ln_embed.'),
    (r'^encoding_latents\.latents$', 'latents'),
    (r'^encoder\.cross_attention\.', 'first.'),
    (r'^encoder\.self_attends\.', 'blocks.'),
    (r'\.attention\.attention\.layernorm1\.', '.ln_query.'),
    (r'\.attention\.attention\.', '.'),
    (r'\.attention\.output\.dense\.', '.proj.'),
    (r'\.layernorm\.', '.ln_mlp.'),
    (r'\.mlp\.dense1\.', '.fc.'),
    (r'\.mlp\.dense2\.', '.fc_proj.'),
]
THEIR_NAMES = [(re.compile(pattern), ours) for pattern, ours in THEIR_NAMES]

# Settings that matter in their training alone, and their usual values. Others are named, and left out here.
TRAINING_ONLY = {
    'head_aggregation': 'mean', 'exclude_seen_reconstruction': True, 'target_mean': None, 'target_std': None,
    'target_clip': None, 'reconstruction_weighted_loss': None, 'share_embedding_weights': None,
    'mask_self': None, 'select_initial_ratio': None,
}


# -----------------------------------------------------------------------------
# their files

def is_theirs(path):
    """Whether a path means weights of the authors: hf:OWNER/NAME, or a folder with a config.json."""
    if str(path).startswith('hf:'):
        return True
    if os.path.exists(Path(path, 'last.pt')):
        return False
    return os.path.exists(Path(path, 'config.json'))


def load_theirs(path, data_dir):
    """
    Read a folder of theirs, or fetch hf:OWNER/NAME to DATA_DIR/downloads. -> a checkpoint as `from_theirs`
    makes it, and a sentence that describes it. Fails if the files are damaged or ask for something that is not
    here.
    """
    if str(path).startswith('hf:'):
        config_file, weights_file = fetch_files(path, data_dir)
    else:
        config_file = Path(path, 'config.json')
        weights_file = Path(path, 'model.safetensors')
        if not weights_file.exists():
            weights_file = Path(path, 'pytorch_model.bin')
    try:
        their_config = json.loads(config_file.read_text(encoding='utf-8'))
        if weights_file.suffix == '.safetensors':
            state = read_safetensors(weights_file)
        else:
            state = read_pt(weights_file)
        return from_theirs(their_config, state)
    except UserError as error:
        fail(f'{path}: {error}')
    except Exception as error:  # a damaged file can raise nearly anything
        fail(f'{path}: {weights_file.name} or config.json is damaged, cut short or of another format '
             f'({type(error).__name__}: {error})')


def fetch_files(path, data_dir):
    """The paths of config.json and the weights of hf:OWNER/NAME, fetched from huggingface.co if need be."""
    repository = str(path).removeprefix('hf:')
    if not re.fullmatch(r'\w[\w.-]*/\w[\w.-]*', repository):
        fail(f'{path} must be hf:OWNER/NAME, as huggingface.co names it')

    def fetch(file):
        name = f'{repository}/resolve/main/{file}'
        return download(name, f'{HUB}/{name}', None, None, data_dir)

    config_file = fetch('config.json')
    try:
        weights_file = fetch('model.safetensors')
    except UserError:  # not there
        weights_file = fetch('pytorch_model.bin')
    return config_file, weights_file


# -----------------------------------------------------------------------------
# from theirs to ours

def from_theirs(their_config, state):
    """
    Their config.json, a dict, and their weights, {name: tensor} -> a checkpoint of ours, a dict with model,
    model_args, norm, columns and config, and a sentence that describes it.
    """
    refuse_unknown_settings(their_config)
    is_tuned = is_fine_tuned(their_config)
    weights, n_copies, n_unused = rename_weights(state, is_tuned)
    n_out = len(weights['head.out.bias']) if is_tuned else 0
    args = model_args_of(their_config, n_out)
    n_blocks = count_blocks(weights)
    if args['n_layer'] > n_blocks + 1:  # a billion layers would take for ever to build
        fail(f'config.json asks for {args["n_layer"]} layers, and the weights have {n_blocks + 1}')
    with torch.device('meta'):  # no memory is taken yet: config.json may claim any size
        model = build(args)
    add_what_is_left_out(weights, model, has_biases=their_config.get('dense_use_bias'))

    config = masking_of(their_config)
    if args['d_raw'] == 3:
        config['image_size'] = math.isqrt(args['seq_len'])
    # None: the files do not say how floats were scaled, so the scale is fitted to the data at hand
    norm = None if args['d_raw'] else {'kind': 'none'}
    args = {**vars(SMAConfig()), **args}
    checkpoint = dict(model=weights, model_args=args, norm=norm, columns=None, config=config)

    encoder = 'Perceiver' if args['n_latent'] else 'Transformer'
    n_parameters = sum(p.numel() for p in model.parameters())
    left_out = [f'{n_copies} copies', f'{n_unused} unused weights', *unusual_settings(their_config)]
    sentence = (f'{architecture(their_config)}, a {encoder} of {args["n_layer"]} layers, {n_parameters:,} '
                f'parameters; left out: {", ".join(left_out)}')
    return checkpoint, sentence


def setting(settings, name, default):
    """A setting of theirs, or the default where it is not there, null or empty."""
    value = settings.get(name)
    return value if value else default


def architecture(their_config):
    """The name of their class, SMAForSSL if the file does not say."""
    return setting(their_config, 'architectures', ['SMAForSSL'])[0]


def is_fine_tuned(their_config):
    return architecture(their_config) == 'SMAForSequenceClassification'


def teacher_of(their_config):
    """Their settings of pre-training, a dict."""
    return setting(their_config, 'teacher_args', {})


def decoder_of(their_config):
    """Their settings of the decoder that reconstructs, a dict."""
    return setting(teacher_of(their_config), 'reconstruction_decoder_args', {})


def refuse_unknown_settings(their_config):
    """Fail if config.json asks for a part that our model does not have."""
    d = their_config['latent_channels']
    qk_dim = setting(their_config, 'qk_channels', d)
    mlp_ratio = their_config['self_attention_widening_factor']
    demand(their_config, v_channels=d, num_blocks=1, hidden_act='gelu', use_query_residual=True,
           final_project=True, use_position_embeddings=True)
    if their_config['input_type'] == 'discrete':
        demand(their_config, num_discrete_tokens=N_IDS)
    if their_config['encoder_type'] == 'cross_attention':
        demand(their_config, cross_attention_widening_factor=mlp_ratio, encoder_cross_attention_channels=qk_dim)
    if is_fine_tuned(their_config):
        demand(their_config, decoder_type='cross_attention', decoder_latent_channels=d,
               decoder_attention_channels=qk_dim, decoder_heads=their_config['num_self_attention_heads'],
               num_outputs=1, post_decoder_layers=None)
        return
    demand({'architecture': architecture(their_config)}, architecture='SMAForSSL')
    e = their_config['embedded_channels']
    decoder = {'share_decoder_queries': False, **decoder_of(their_config)}  # False where theirs does not say
    demand(decoder, share_decoder_queries=True, query_num_channels=e, v_channels=e, use_query_residual=False,
           add_mask_token=False, post_decoder_layers=None)


def demand(settings, **wanted):
    """Fail unless the settings that are there have these values. None is their default, and that is ours."""
    for name, value in wanted.items():
        if settings.get(name, value) not in (value, None):
            fail(f'config.json asks for {name}={settings[name]!r}, and there is only {value!r} here')


def model_args_of(their_config, n_out):
    """The fields of SMAConfig that differ from its defaults, or may."""
    c = their_config
    is_perceiver = c['encoder_type'] == 'cross_attention'
    embed_dim = c['embedded_channels']
    v_dim = c['latent_channels']
    qk_dim = setting(c, 'qk_channels', v_dim)
    n_head = c['num_self_attention_heads']
    mlp_ratio = c['self_attention_widening_factor']
    args = dict(
        d_raw=0 if c['input_type'] == 'discrete' else c['input_channels'],
        embed_dim=embed_dim, seq_len=c['max_position_embeddings'], n_layer=1 + c['num_self_attends_per_block'],
        qk_dim=qk_dim, n_head=n_head, v_dim=v_dim, n_latent=c['num_latents'] if is_perceiver else 0,
        mlp_ratio=mlp_ratio, n_out=n_out, head_residual=1)
    # the others are left at 0 where that means the same
    if is_perceiver and c['num_cross_attention_heads'] != n_head:
        args['first_heads'] = c['num_cross_attention_heads']
    if mlp_ratio != 1:
        args['head_mlp_ratio'] = 1
    if is_fine_tuned(c):
        return args
    decoder = decoder_of(c)
    decoder_heads = setting(decoder, 'num_heads', c['decoder_heads'])
    if decoder_heads != math.gcd(n_head, embed_dim):
        args['decoder_heads'] = decoder_heads
    decoder_qk_dim = setting(decoder, 'qk_channels', embed_dim)
    if decoder_qk_dim != qk_dim:
        args['decoder_qk_dim'] = decoder_qk_dim
    decoder_mlp_ratio = decoder.get('widening_factor', 1)
    if decoder_mlp_ratio != mlp_ratio:
        args['decoder_mlp_ratio'] = decoder_mlp_ratio
    return args


def rename_weights(state, is_tuned):
    """
    -> {our name: tensor}, how many tensors were there more than once, and how many belong to nothing that we
    have: a teacher that averages the student, and the head of a model that was not fine-tuned.
    """
    weights = {}
    n_copies = n_unused = 0
    for name, tensor in state.items():
        for pattern, ours in THEIR_NAMES:
            name = pattern.sub(ours, name)
        if name.startswith('teacher.ema') or (name.startswith('head') and not is_tuned):
            n_unused += 1
            continue
        if name in weights:
            n_copies += 1
        weights[name] = tensor
    return weights, n_copies, n_unused


def count_blocks(weights):
    """
    How many blocks after the masking layer have a weight, by the numbers in names like blocks.3.fc.weight.
    """
    numbers = {name.split('.')[1] for name in weights if name.startswith('blocks.')}
    return len(numbers)


def add_what_is_left_out(weights, model, has_biases):
    """
    Add what their files do not repeat: the decoder's last matrix where it is the table of bytes, and biases
    where their Linear layers have none, as zeros. The length of a bias is that of its matrix, which is there.
    """
    if 'decoder.out.bias' in weights:
        weights.setdefault('decoder.out.weight', weights['value_embedding.weight'])
    if has_biases:
        return
    for name in model.state_dict():
        matrix = weights.get(name.removesuffix('bias') + 'weight')
        if name.endswith('.bias') and name not in weights and matrix is not None:
            weights[name] = torch.zeros(len(matrix), dtype=weights['P'].dtype)


def masking_of(their_config):
    """The knobs mask, mask_ratio and n_query of their pre-training."""
    noise = noise_of(their_config)
    mask_ratio = noise.get('masking_ratio', 0.5)
    inputs_per_query = noise.get('num_per_query', 576)
    n_query = round(their_config['max_position_embeddings'] * mask_ratio / inputs_per_query)
    mask = 'guided' if their_config.get('cross_train_noising_args') else 'random'
    return dict(mask=mask, mask_ratio=mask_ratio, n_query=max(n_query, 1))


def noise_of(their_config):
    """
    Their settings of the mask, a dict: in the file a list of pairs (name, settings), of which the first counts.
    """
    transforms = their_config.get('cross_train_noising_args')
    if not transforms:
        transforms = setting(teacher_of(their_config), 'train_transform_args', [['', {}]])
    return transforms[0][1]


def unusual_settings(their_config):
    """The names of settings that only their training knows, where they are not the usual ones."""
    asked = {**TRAINING_ONLY, **teacher_of(their_config), **decoder_of(their_config), **noise_of(their_config)}
    return [name for name, usual in TRAINING_ONLY.items() if (asked[name] or None) != usual]
