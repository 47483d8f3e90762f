"""What frozen features are worth: simple predictors of the labels from one vector a row."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from util.errors import fail

N_NEIGHBOURS = 20


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both by the mean and standard deviation of the training rows. (k, d), (N, d) -> float64"""
    train = train.double()
    test = test.double()
    mean = train.mean(0)
    std = train.std(0, correction=0).clamp(min=1e-8)
    return (train - mean) / std, (test - mean) / std


def encode_targets(task: dict, y: np.ndarray) -> Tensor:
    """y (k,) of tasks.encode_labels -> (k, n_out) float64: a column a class for multiclass, else one."""
    if task['target'] == 'multiclass':
        return torch.from_numpy(np.eye(len(task['classes']))[y])
    return torch.from_numpy(y[:, None].astype(np.float64))


def nearest_neighbours(task: dict, X: Tensor, Y: Tensor, Z: Tensor) -> Tensor:
    """
    The mean target of the 20 training rows with the most similar vectors (cosine). X (k, d), Y (k, n_out),
    Z (N, d) -> (N, n_out) logits or values: of two classes the share of votes minus 1/2, so that 0 is a draw.
    """
    votes = []
    for part in F.normalize(Z).split(1024):
        similarity = part @ F.normalize(X).T  # (1024, k)
        nearest = similarity.topk(min(N_NEIGHBOURS, len(X))).indices
        votes.append(Y[nearest].mean(1))
    votes = torch.cat(votes)
    return votes - 0.5 if task['target'] == 'binary' else votes


def linear(task: dict, X: Tensor, Y: Tensor, Z: Tensor) -> Tensor:
    """
    Logistic regression, its summed loss + |W|^2 / 2, or ridge regression, its summed squares + |W|^2:
    scikit-learn's defaults. X (k, d), Y (k, n_out), Z (N, d) -> (N, n_out) logits or values
    """
    if task['target'] == 'binary':
        loss_function = F.binary_cross_entropy_with_logits
        penalty = 0.5
    elif task['target'] == 'multiclass':
        loss_function = F.cross_entropy
        penalty = 0.5
    elif task['target'] == 'regression':
        loss_function = F.mse_loss
        penalty = 1.0
    else:
        fail(f'the probe does not know the target {task["target"]!r}')
    W = torch.zeros(X.shape[1], Y.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(1, Y.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=500, line_search_fn='strong_wolfe')

    def closure():
        optimizer.zero_grad()
        loss = loss_function(X @ W + b, Y, reduction='sum') + penalty * W.square().sum()
        loss = loss / len(X)
        loss.backward()
        return loss
    optimizer.step(closure)
    return (Z @ W + b).detach()
