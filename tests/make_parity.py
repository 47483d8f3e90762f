"""
Makes tests/parity.pt and tests/sma_tiny/ with the authors' code. tests/test_parity.py compares our code with
these files, and does not need the authors' code itself:

    git clone https://github.com/Johnathan-Xie/sma
    python -m venv theirs
    theirs/bin/pip install torch 'numpy<2' 'huggingface-hub<0.20' tokenizers==0.13.3 regex pyyaml \\
        safetensors requests tqdm filelock packaging
    PYTHONPATH=sma/src theirs/bin/python tests/make_parity.py

parity.pt holds small models of the authors, which run in float64. Their weights are random multiples of 2^-8,
which float16 stores exactly. For each model there are:
  - its config, weights and inputs;
  - for several ratios the mask, the loss and the gradient norms, once with all queries drawn and once with a
    few queries, which are stored too, and for the first ratio the logits;
  - the logits and gradient norms of SMAForSequenceClassification, which has weights of its own.
It also holds a fine-tuning run from sma_tiny/: the data, the weights of the new head, and the validation loss
after each step.

sma_tiny/ is a folder that the authors' save_pretrained writes, in float32, with the weights as
pytorch_model.bin and as model.safetensors.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.models.sma.modeling_sma import SMAConfig, SMAForSequenceClassification, SMAForSSL

HERE, B, N = Path(__file__).resolve().parent, 3, 12
LENGTHS = torch.tensor([N, 9, 5])
RATIOS = (0.15, 0.3, 0.5, 0.75)
SHAPES = {'self-attention, bytes, padding': dict(kind='self_attention', d_raw=0),
          'self-attention, floats': dict(kind='self_attention', d_raw=1),
          'cross-attention, bytes, padding': dict(kind='cross_attention', d_raw=0, bias=False),
          'cross-attention, pixels': dict(kind='cross_attention', d_raw=3, first_heads=1, decoder_heads=1,
                                          qk=None, widen=2)}


def config(kind, d_raw, bias=True, first_heads=2, decoder_heads=2, qk=8, widen=1, n=N, e=12, d=16, **more):
    e = d if kind == 'self_attention' else e
    decoder = dict(query_num_channels=None, v_channels=None, qk_channels=qk, num_heads=decoder_heads,
                   widening_factor=widen, share_decoder_queries=True, **more)
    noise = dict(masking_ratio=0.3, num_per_query=1, varying_length=not d_raw)
    return SMAConfig(
        encoder_type=kind, input_type='continuous' if d_raw else 'discrete', input_channels=d_raw or 1,
        max_position_embeddings=n, embedded_channels=e, latent_channels=d, qk_channels=8, v_channels=d,
        num_latents=5, num_self_attends_per_block=2, num_self_attention_heads=2,
        num_cross_attention_heads=first_heads, self_attention_widening_factor=3,
        cross_attention_widening_factor=3, dense_use_bias=bias, decoder_heads=2, num_labels=3,
        cross_train_noising_args=[['RandomlySelectedCrossAttentionMasking', noise]],
        teacher_args=dict(reconstruction_decoder_args=decoder,
                          reconstruction_loss_fn='mse' if d_raw else 'crossentropy'))


def randomise(model, seed):
    """Gives all weights random values that float16 stores exactly, also those that start as 0 or 1."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        one = 1.0 * ('norm' in name and name.endswith('weight'))
        p.data = ((torch.randn(p.shape, generator=g) * 0.3 + one) * 256).round() / 256
    return model.train()


def packed(model):
    """
    The model's state_dict as one float16 tensor with all numbers, and {name: (where it starts, shape)}. Weights
    that share memory are stored once.
    """
    once, parts, at = {}, [], {}
    for k, t in model.state_dict().items():
        if t.data_ptr() not in once:
            once[t.data_ptr()] = sum(map(len, parts))
            parts.append(t.half().flatten())
            assert torch.equal(parts[-1].double(), t.flatten())
        at[k] = once[t.data_ptr()], list(t.shape)
    return torch.cat(parts), at


def norms(model):
    return torch.stack([p.grad.norm() for p in model.parameters()])


def step(model, x, real, ratio, per_query, seed):
    """One step with these settings -> mask, loss, logits at hidden inputs, drawn queries, gradient norms."""
    mask = model.perceiver.encoder.cross_attention.attention.attention.train_noising_function.transforms[0]
    mask.masking_ratio, mask.num_per_query = ratio, per_query
    g, drawn, seen, randperm = torch.Generator().manual_seed(seed), [], {}, torch.randperm

    def recorded(n, **kwargs):
        drawn.append(randperm(int(n), generator=g))
        return drawn[-1]

    def look(module, args, kwargs, out):
        seen.update(logits=out.logits, hidden=kwargs['loss_mask'])
    hook = model.teacher.reconstruction_decoder.register_forward_hook(look, with_kwargs=True)
    torch.randperm = recorded
    model.zero_grad()
    loss = model(inputs=x, attention_mask=real).loss
    torch.randperm = randperm
    hook.remove()
    loss.backward()
    hidden = seen['hidden'] == 1
    fixed = x.is_floating_point() or model.config.encoder_type == 'cross_attention'
    counts = [round(n * ratio / per_query) for n in ([N] * B if fixed else LENGTHS.tolist())]
    return dict(ratio=ratio, hidden=hidden, loss=loss.item(), logits=seen['logits'][hidden].detach(),
                queries=[p[:k].tolist() for p, k in zip(drawn, counts)], norms=norms(model))


def main():
    cases = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        g = torch.Generator().manual_seed(i)
        valid = torch.arange(N) < (LENGTHS if not shape['d_raw'] else torch.full((B,), N))[:, None]
        x = (torch.randn(B, N, shape['d_raw'], generator=g) if shape['d_raw'] else
             torch.randint(4, 262, (B, N), generator=g) * valid)
        model = randomise(SMAForSSL(config(**shape)), i)
        every = [step(model, x, valid.long(), r, 1e-3, 0) for r in RATIOS]
        few = [step(model, x, valid.long(), r, p, j)
               for j, (r, p) in enumerate(((0.3, 1.0), (0.5, 2.0), (0.75, 2.0)))]
        for run in every:
            run.pop('queries')
        for run in every[1:] + few[1:]:
            run.pop('logits')
        tuned = randomise(SMAForSequenceClassification(config(**shape)), 10 + i)
        answer = tuned(inputs=x, attention_mask=valid.long()).logits
        answer.square().sum().backward()
        names, tuned_names = ([k for k, _ in m.named_parameters()] for m in (model, tuned))
        cases[name] = dict(
            x=x, valid=valid, state=packed(model),
            config={**model.config.to_dict(), 'architectures': ['SMAForSSL']},
            names=names, every=every, few=few, answer=answer.detach(), tuned_norms=norms(tuned),
            tuned_names=tuned_names, tuned_state=packed(tuned),
            tuned_config={**tuned.config.to_dict(), 'architectures': ['SMAForSequenceClassification']})
    # a folder of save_pretrained, with those options of the model that rename weights or leave them out
    shape = config('cross_attention', 0, bias=False, e=8, share_embedding_weights=True)
    tiny = randomise(SMAForSSL(shape), 99)
    x, valid = (cases['cross-attention, bytes, padding'][k] for k in ('x', 'valid'))
    run = step(tiny, x, valid.long(), 0.3, 1e-3, 0)
    cases['sma_tiny'] = {k: run[k] for k in ('hidden', 'loss', 'ratio')}
    folder = HERE / 'sma_tiny'
    tiny.float().save_pretrained(folder)
    state, once = torch.load(folder / 'pytorch_model.bin', weights_only=True), {}
    for k, t in state.items():  # shared tensors are stored once, as newer versions of transformers do
        once.setdefault(t.data_ptr(), (k, t))
    save_file(dict(once.values()), folder / 'model.safetensors', {'format': 'pt'})
    cases['tuning'] = tune(folder)
    torch.save({k: plain(v) for k, v in cases.items()}, HERE / 'parity.pt')


def tune(folder, n_step=12, size=6):
    """
    Fine-tunes from the folder with AdamW and clipped gradients, as the authors' trainer does. -> the data, the
    weights of the new head, and the validation loss after each step
    """
    g = torch.Generator().manual_seed(5)
    model = SMAForSequenceClassification.from_pretrained(folder, num_labels=3).double()
    bytes_too, model.perceiver.decoder.encoder_input_preprocessor = model.perceiver.input_preprocessor, None
    head = {k: v.half() for k, v in randomise(model.perceiver.decoder, 6).state_dict().items()}
    model.perceiver.decoder.encoder_input_preprocessor = bytes_too  # its weights came with the folder
    x, y = torch.randint(4, 262, (5 * size, N), generator=g), torch.randint(3, (5 * size,), generator=g)
    valid = torch.arange(N) < torch.randint(4, N + 1, (5 * size, 1), generator=g)
    optimizer, curve = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0), []
    for step in range(n_step):
        at = torch.arange(size) + size * (step % 3)  # the last 2 x size rows are for validation
        model(inputs=x[at], attention_mask=valid[at].long(), labels=y[at]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            val = slice(3 * size, None)
            curve.append(model(inputs=x[val], attention_mask=valid[val].long(), labels=y[val]).loss.item())
    return dict(x=x, y=y, valid=valid, head=head, curve=curve, size=size)


def plain(case):
    """Removes from the configs what is no plain Python value, so that no class of the authors is saved."""
    known = int, float, str, bool, list, dict, type(None)
    for k in {'config', 'tuned_config'} & case.keys():
        case[k] = {a: b for a, b in case[k].items() if isinstance(b, known)}
    return case


if __name__ == '__main__':
    torch.set_default_dtype(torch.float64)
    main()
