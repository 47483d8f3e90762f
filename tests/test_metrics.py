"""util/metrics.py against scikit-learn and scipy."""

import numpy as np
import pytest

from util import metrics
from util.errors import UserError
from util.metrics import METRICS


@pytest.mark.parametrize('seed', range(5))
def test_metrics_of_two_classes_are_scikit_learns(seed):
    sk = pytest.importorskip('sklearn.metrics', reason='scikit-learn is the oracle of the metrics')
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 200)
    p = np.round(rng.normal(size=200), 1)  # with ties
    assert np.isclose(metrics.accuracy(y, p), sk.accuracy_score(y, p > 0))
    assert np.isclose(metrics.log_loss(y, p), sk.log_loss(y, 1 / (1 + np.exp(-p))))
    assert np.isclose(metrics.roc_auc(y, p), sk.roc_auc_score(y, p))
    assert np.isclose(metrics.f1(y, p), sk.f1_score(y, p > 0))
    assert np.isclose(metrics.f1(y, p, positive=0), sk.f1_score(y, p > 0, pos_label=0))
    assert np.isclose(metrics.matthews(y, p), sk.matthews_corrcoef(y, p > 0))


@pytest.mark.parametrize('seed', range(5))
def test_metrics_of_several_classes_are_scikit_learns(seed):
    sk = pytest.importorskip('sklearn.metrics', reason='scikit-learn is the oracle of the metrics')
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, 200)
    logits = rng.normal(size=(200, 4))
    assert np.isclose(metrics.accuracy(y, logits), sk.accuracy_score(y, logits.argmax(1)))
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.isclose(metrics.log_loss(y, logits), sk.log_loss(y, share))
    logits[:, 2] -= 9  # a class that is never predicted
    assert np.isclose(metrics.macro_f1(y, logits), sk.f1_score(y, logits.argmax(1), average='macro'))


@pytest.mark.parametrize('seed', range(5))
def test_metrics_of_numbers_are_scikit_learns_and_scipys(seed):
    sk = pytest.importorskip('sklearn.metrics', reason='scikit-learn is the oracle of the metrics')
    stats = pytest.importorskip('scipy.stats', reason='scipy is the oracle of Spearman')
    rng = np.random.default_rng(seed)
    y, p = np.round(rng.normal(size=(2, 200)), 1)
    assert np.isclose(metrics.rmse(y, p), sk.mean_squared_error(y, p) ** 0.5)
    assert np.isclose(metrics.mae(y, p), sk.mean_absolute_error(y, p))
    assert np.isclose(metrics.r2(y, p), sk.r2_score(y, p))
    assert np.isclose(metrics.spearman(y, p), stats.spearmanr(y, p).statistic)


def test_metrics_at_the_edges():
    assert metrics.spearman(np.arange(3), np.zeros(3)) == 0
    assert metrics.f1(np.zeros(3), -np.ones(3)) == 0
    with pytest.raises(UserError, match='both classes'):
        metrics.roc_auc(np.ones(3), np.arange(3.0))


def test_a_logit_of_zero_is_class_0_for_either_positive_class():
    """So that F1 agrees with the written predictions: of equal probabilities the first class is taken."""
    y = np.array([0, 0, 1])
    p = np.array([0.0, 1.0, 1.0])
    assert metrics.f1(y, p) == pytest.approx(2 / 3)  # 1 of 2 predicted right, 1 of 1 found
    assert metrics.f1(y, p, positive=0) == pytest.approx(2 / 3)  # 1 of 1 predicted right, 1 of 2 found
    assert metrics.accuracy(y, p) == pytest.approx(2 / 3)


@pytest.mark.parametrize('name', METRICS)
def test_a_good_prediction_scores_better_than_a_bad_one(name):
    """Of every metric and each of its targets: a wrong direction would keep the worst checkpoint."""
    metric = METRICS[name]
    for target in metric.targets:
        if target == 'regression':
            y = np.array([0.5, 1.0, 2.5, 3.0, 5.0])
        else:
            y = np.array([0, 1, 0, 1, 1])
        if target == 'multiclass':
            good = np.eye(2)[y]
            bad = good[:, ::-1]
        else:
            good = y - 0.4
            bad = -good
        is_higher = metric.function(y, good) > metric.function(y, bad)
        assert metric.function(y, good) != metric.function(y, bad)
        assert is_higher == metric.higher_is_better
