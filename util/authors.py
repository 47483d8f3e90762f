"""The weights of the authors (github.com/Johnathan-Xie/sma) as ours."""

import math
import re

import torch

from model import N_IDS, SMAConfig, build
from util.errors import fail

THEIR_NAMES = [  # (part of a name of theirs, ours), replaced one after the other
    (re.compile(theirs), ours) for theirs, ours in (
        (r'^(perceiver|teacher\.student_model)\.', ''),  # the teacher is saved with the student in it
        (r'^(.*decoder|teacher)\.encoder_input_preproces+or\.', 'input_preprocessor.'),
        (r'^decoder\.decoder_latents\.latents$', 'head_query'), (r'^decoder\.', 'head.'),
        (r'^teacher\.reconstruction_decoder\.', 'decoder.'), (r'\.decoding_cross_attention\.', '.layer.'),
        (r'\.pre_layernorm\.', '.ln_H.'), (r'\.final_layernorm\.', '.ln_out.'),
        (r'\.(final_project|embedding_layer)\.', '.out.'),
        (r'^input_preprocessor\.(embeddings|input_projection)\.', 'value_embedding.'),
        (r'^input_preprocessor\.position_embeddings\.weight$', 'P'),
        (r'^input_preprocessor\.layernorm\.', 'ln_embed.'), (r'^encoding_latents\.latents$', 'latents'),
        (r'^encoder\.cross_attention\.', 'first.'), (r'^encoder\.self_attends\.', 'blocks.'),
        (r'\.attention\.attention\.layernorm1\.', '.ln_query.'), (r'\.attention\.attention\.', '.'),
        (r'\.attention\.output\.dense\.', '.proj.'), (r'\.layernorm\.', '.ln_mlp.'),
        (r'\.mlp\.dense1\.', '.fc.'), (r'\.mlp\.dense2\.', '.fc_proj.'))]


def from_theirs(c, state):
    """Their config.json, a dict, and weights -> a checkpoint of ours, and a sentence on what was read."""
    def only(have, **want):  # None is their default, which is ours
        for k, v in want.items():
            if have.get(k, v) not in (v, None):
                fail(f'config.json asks for {k}={have[k]!r}, and there is only {v!r} here')

    kind, teacher = (c.get('architectures') or ['SMAForSSL'])[0], c.get('teacher_args') or {}
    tuned, decoder = kind == 'SMAForSequenceClassification', teacher.get('reconstruction_decoder_args') or {}
    cross, discrete = c['encoder_type'] == 'cross_attention', c['input_type'] == 'discrete'
    d, e, h = c['latent_channels'], c['embedded_channels'], c['num_self_attention_heads']
    n, qk, ratio = c['max_position_embeddings'], c['qk_channels'] or d, c['self_attention_widening_factor']
    only(c, v_channels=d, num_blocks=1, hidden_act='gelu', use_query_residual=True, final_project=True,
         use_position_embeddings=True, **{'num_discrete_tokens': N_IDS} if discrete else {})
    if cross:
        only(c, cross_attention_widening_factor=ratio, encoder_cross_attention_channels=qk)
    if tuned:
        only(c, decoder_type='cross_attention', decoder_latent_channels=d, decoder_attention_channels=qk,
             decoder_heads=h, num_outputs=1, post_decoder_layers=None)
    else:
        only({'share_decoder_queries': False, **decoder, 'architecture': kind}, architecture='SMAForSSL',
             share_decoder_queries=True, query_num_channels=e, v_channels=e, use_query_residual=False,
             add_mask_token=False, post_decoder_layers=None)
    args = dict(d_raw=0 if discrete else c['input_channels'], embed_dim=e, seq_len=n, qk_dim=qk, n_head=h,
                v_dim=d, n_layer=1 + c['num_self_attends_per_block'], n_latent=c['num_latents'] * cross,
                mlp_ratio=ratio, n_out=len(state['perceiver.decoder.final_project.bias']) if tuned else 0)
    others = dict(first_heads=(c['num_cross_attention_heads'] if cross else h, h),  # (theirs, what 0 means)
                  head_mlp_ratio=(1, ratio), head_residual=(1, 0))
    if not tuned:
        others.update(decoder_heads=(decoder.get('num_heads') or c['decoder_heads'], math.gcd(h, e)),
                      decoder_qk_dim=(decoder.get('qk_channels') or e, qk),
                      decoder_mlp_ratio=(decoder.get('widening_factor', 1), ratio))
    args.update({k: has for k, (has, same) in others.items() if has != same})

    weights, n_copy, n_unused = {}, 0, 0
    for name, t in state.items():
        for theirs, ours in THEIR_NAMES:
            name = theirs.sub(ours, name)
        unused = name.startswith('teacher.ema') or name.startswith('head') and not tuned
        n_copy, n_unused = n_copy + (name in weights), n_unused + unused
        weights.update({} if unused else {name: t})
    if 'decoder.out.bias' in weights:  # the decoder's last matrix may be the table of bytes, kept once
        weights.setdefault('decoder.out.weight', weights['value_embedding.weight'])
    with torch.device('meta'):
        model = build(args)
    for name, p in model.state_dict().items():  # a Linear of theirs may have no bias
        if name.endswith('.bias') and not c.get('dense_use_bias'):
            weights.setdefault(name, torch.zeros(p.shape, dtype=weights['P'].dtype))

    guided = c.get('cross_train_noising_args')
    noise = (guided or teacher.get('train_transform_args') or [['', {}]])[0][1]
    mask_ratio = noise.get('masking_ratio', 0.5)
    config = dict(mask='guided' if guided else 'random', mask_ratio=mask_ratio,
                  n_query=max(round(n * mask_ratio / noise.get('num_per_query', 576)), 1))
    config.update({'image_size': math.isqrt(n)} if args['d_raw'] == 3 else {})
    usual = {'head_aggregation': 'mean', 'exclude_seen_reconstruction': True, **dict.fromkeys(
        ('target_mean', 'target_std', 'target_clip', 'reconstruction_weighted_loss', 'share_embedding_weights',
         'mask_self', 'select_initial_ratio'))}  # matters to training alone: named, and left out
    asked = {**usual, **teacher, **decoder, **noise}
    about = (f'{kind}, a {"Perceiver" if cross else "Transformer"} of {args["n_layer"]} layers, '
             f'{sum(p.numel() for p in model.parameters()):,} parameters; left out: {n_copy} copies, '
             f'{n_unused} unused weights' + ''.join(f', {k}' for k in usual if (asked[k] or None) != usual[k]))
    norm = {'kind': 'none'} if discrete else None  # None: the files do not say; fitted to the data at hand
    return dict(model=weights, model_args={**vars(SMAConfig()), **args}, norm=norm, columns=None,
                config=config), about
