"""collider.py: physics on parton truth, the detector on what it measured."""

import numpy as np
import pytest

from util.collider import (
    HIGGS_COLUMNS,
    M_B,
    M_H0,
    M_HPM,
    M_TOP,
    M_W,
    M_h0,
    boost,
    collider,
    detect,
    mass,
    massless,
    partons,
    pt_eta_phi,
    two_body,
)

COL = {name: k for k, name in enumerate(HIGGS_COLUMNS)}


def truth(signal, n=20000, seed=0):
    return partons(signal, n, np.random.default_rng(seed))


def to_rest(p, parent):
    """The inverse of boost, which is the boost by the parent with its momentum turned around."""
    return boost(p, parent * [1, -1, -1, -1])


def test_two_body_conserves_and_reconstructs():
    rng = np.random.default_rng(0)
    parent = np.column_stack([np.zeros(5000), rng.normal(0, 300, (5000, 3))])
    parent[:, 0] = np.sqrt(M_TOP**2 + (parent[:, 1:]**2).sum(1))
    a, b = two_body(parent, M_W, M_B, rng)
    np.testing.assert_allclose(a + b, parent, rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(mass(a), M_W, rtol=1e-8)
    np.testing.assert_allclose(mass(b), M_B, rtol=1e-6)
    np.testing.assert_allclose(to_rest(parent, parent), np.tile([M_TOP, 0, 0, 0], (5000, 1)), atol=1e-8)
    np.testing.assert_allclose(boost(to_rest(a, parent), parent), a, rtol=1e-8, atol=1e-8)
    # at rest, the momentum of each daughter is textbook kinematics
    k = np.linalg.norm(to_rest(a, parent)[:, 1:], axis=1)
    expected = np.sqrt((M_TOP**2 - (M_W + M_B)**2) * (M_TOP**2 - (M_W - M_B)**2)) / (2 * M_TOP)
    np.testing.assert_allclose(k, expected, rtol=1e-8)


@pytest.mark.parametrize('signal', [0, 1])
def test_momentum_is_conserved_along_the_chain(signal):
    p = truth(signal)
    def close(total, parts):
        np.testing.assert_allclose(sum(p[k] for k in parts), p[total], rtol=1e-9, atol=1e-6)

    close('initial', ['lepton', 'nu', 'q1', 'q2', 'b1', 'b2'])
    close('w_lep', ['lepton', 'nu'])
    close('w_had', ['q1', 'q2'])
    if signal:
        close('h0', ['b1', 'b2'])
    else:
        close('initial', ['t1', 't2'])
    np.testing.assert_allclose((p['initial'] + p['isr'])[:, 1:3], 0, atol=1e-9)     # as before the collision


@pytest.mark.parametrize('signal', [0, 1])
def test_truth_masses(signal):
    p = truth(signal)
    is_mass = lambda v, m: np.testing.assert_allclose(mass(v), m, rtol=1e-7)
    is_mass(p['lepton'] + p['nu'], M_W)
    is_mass(p['q1'] + p['q2'], M_W)
    for name in ('lepton', 'nu', 'q1', 'q2', 'isr', 'b1', 'b2'):
        np.testing.assert_allclose(mass(p[name])**2, M_B**2 if name[0] == 'b' else 0, atol=1e-3)
    w = np.stack([p['w_lep'], p['w_had']])
    if signal:
        is_mass(p['b1'] + p['b2'], M_h0)
        is_mass(p['initial'], M_H0)
        hpm = mass(w + p['b1'] + p['b2'])                        # one of the two W's comes from the H+-
        np.testing.assert_allclose(abs(hpm - M_HPM).min(0), 0, atol=1e-5)
        assert 0.48 < (abs(hpm - M_HPM).argmin(0) == 0).mean() < 0.52
    else:
        assert mass(p['initial']).min() > 2 * M_TOP - 1e-6
        straight, crossed = (abs(np.stack([mass(w[0] + a), mass(w[1] + b)]) - M_TOP).max(0)
                             for a, b in ((p['b1'], p['b2']), (p['b2'], p['b1'])))
        np.testing.assert_allclose(np.minimum(straight, crossed), 0, atol=1e-5)
        assert 0.48 < (straight < crossed).mean() < 0.52


@pytest.mark.parametrize('signal,parent,child', [(1, 'initial', 'hpm'), (1, 'hpm', 'h0'), (1, 'h0', 'b1'),
                                                 (0, 'initial', 't1'), (0, 't1', 'b1'),
                                                 (0, 'w_lep', 'lepton'), (1, 'w_had', 'q1')])
def test_decays_are_isotropic_in_the_rest_frame(signal, parent, child):
    stats = pytest.importorskip('scipy.stats', reason='scipy is the oracle of isotropy')
    p = truth(signal, 10000, seed=1)
    k = to_rest(p[child], p[parent])[:, 1:]
    cos, phi = k[:, 2] / np.linalg.norm(k, axis=1), np.arctan2(k[:, 1], k[:, 0])
    assert stats.kstest(cos, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert stats.kstest(phi, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(cos, phi)[0, 1]) < 0.04


def test_collider_coordinates_round_trip():
    rng = np.random.default_rng(0)
    pt, eta, phi = rng.exponential(50, 1000) + 1, rng.normal(0, 2, 1000), rng.uniform(-np.pi, np.pi, 1000)
    np.testing.assert_allclose(pt_eta_phi(massless(pt, eta, phi)), (pt, eta, phi), rtol=1e-8, atol=1e-12)


def test_columns():
    x, y = collider(10000, seed=0)
    assert x.shape == (10000, 28) and x.dtype == np.float32 and y.shape == (10000,) and y.dtype == np.int64
    assert len(HIGGS_COLUMNS) == len(COL) == 28 and np.isfinite(x).all()
    of = lambda what: x[:, [k for name, k in COL.items() if name.endswith(what)]]
    assert of('_pt').shape[1] == 5 and of('_pt').min() >= 20
    assert of('_eta').shape[1] == 5 and abs(of('_eta')).max() <= 2.5
    assert of('_phi').shape[1] == 6 and abs(of('_phi')).max() <= np.pi + 1e-6
    jets = of('_pt')[:, 1:]
    assert (np.diff(jets, axis=1) <= 0).all()
    assert set(np.unique(of('_btag'))) == {0, 1, 2} and of('_btag').max(1).min() > 0
    assert x[:, COL['met']].min() >= 0
    assert (x[:, 21:] >= 0).all() and (x[:, COL['m_lv']] > M_W - 0.1).all()         # above m_W where complex
    assert abs(np.median(x[:, COL['m_lv']]) - M_W) < 0.01
    m_bb, m_wbb, m_wwbb = x[:, 25:].T
    assert (m_bb <= m_wbb).all() and (m_wbb <= m_wwbb).all()


def test_masses_come_from_the_measured_columns():
    x = collider(2000, seed=1)[0].astype(np.float64)
    jets, tags = x[:, 5:21].reshape(-1, 4, 4)[..., :3], x[:, 8:21:4]
    order = np.argsort(-tags, 1, kind='stable')
    b1, b2, j1, j2 = massless(*(np.take_along_axis(jets[..., k], order, 1).T for k in range(3)))
    np.testing.assert_allclose(x[:, COL['m_jj']], mass(j1 + j2), rtol=1e-3)
    np.testing.assert_allclose(x[:, COL['m_bb']], mass(b1 + b2), rtol=1e-3)
    np.testing.assert_allclose(x[:, COL['m_wbb']], mass(j1 + j2 + b1 + b2), rtol=1e-3)
    # the neutrino, by a scan: of the pz with m_lv = m_W, the one nearer to 0 gives the column m_wwbb
    l_pt, l_eta, l_phi, met, met_phi = x[:, :5].T
    pz, checked = np.linspace(-3000, 3000, 60001), 0
    for k in np.flatnonzero(x[:, COL['m_lv']] < M_W + 0.001)[:50]:
        lepton, ones = massless(l_pt[k], l_eta[k], l_phi[k]), np.ones_like(pz)
        nu = massless(met[k] * ones, np.arcsinh(pz / met[k]), met_phi[k] * ones)
        crossing = np.flatnonzero(np.diff(np.sign(mass(lepton + nu) - M_W)))
        if len(crossing) == 2:                                              # or the two nearly coincide
            near = nu[crossing[abs(pz[crossing]).argmin()]]
            total = mass((j1 + j2 + b1 + b2)[k] + lepton + near)
            assert abs(total / x[k, COL['m_wwbb']] - 1) < 2e-3
            # of the two ways to pair b's and W's, the columns hold the one with the two masses most alike
            pairs = [(mass((j1 + j2)[k] + b[k]), mass(lepton + near + c[k])) for b, c in ((b1, b2), (b2, b1))]
            alike = min(pairs, key=lambda m: abs(m[0] - m[1]))
            np.testing.assert_allclose(x[k, [COL['m_jjj'], COL['m_jlv']]], alike, rtol=1e-2)
            checked += 1
    assert checked > 30


@pytest.mark.parametrize('signal', [0, 1])
def test_the_detector_sees_the_partons(signal):
    p = truth(signal)
    x, passed = detect(p, np.random.default_rng(1))
    assert x.shape == (20000, 28) and 0.5 < passed.mean() < 0.75
    lepton, met, nu_phi = pt_eta_phi(p['lepton']), x[:, COL['met']], pt_eta_phi(p['nu'])[2]
    assert 0.015 < (x[:, 0] / lepton[0] - 1).std() < 0.025 and np.allclose(x[:, 1:3], np.stack(lepton[1:], 1))
    assert np.cos(x[:, COL['met_phi']] - nu_phi)[met > 40].mean() > 0.7        # points along the neutrino
    assert 0.2 < np.corrcoef(met, pt_eta_phi(p['nu'])[0])[0, 1] < 0.99


def test_the_peaks_are_where_the_masses_are():
    x, y = collider(20000, seed=2)
    s, b = x[y == 1], x[y == 0]
    near = lambda rows, name, m, width: (abs(rows[:, COL[name]] - m) < width).mean()
    assert near(s, 'm_bb', M_h0, 25) > 1.5 * near(b, 'm_bb', M_h0, 25)
    assert near(s, 'm_jj', M_W, 20) > 0.25 and near(b, 'm_jj', M_W, 20) > 0.25
    assert near(b, 'm_jjj', M_TOP, 30) > 1.1 * near(s, 'm_jjj', M_TOP, 30)
    assert near(s, 'm_wwbb', M_H0, 60) > 1.2 * near(b, 'm_wwbb', M_H0, 60)


def test_seeds():
    x, y = collider(3000, seed=7)
    again, y_again = collider(3000, seed=7)
    assert np.array_equal(x, again) and np.array_equal(y, y_again)
    other = collider(3000, seed=8)[0]
    assert not np.isin(x[:, 0], other[:, 0]).all() and not np.array_equal(x, other)
    assert len(np.unique(x, axis=0)) == 3000


@pytest.mark.parametrize('n', [1, 2, 17])
def test_any_number_of_events(n):
    for seed in range(5):
        x, y = collider(n, seed)
        assert x.shape == (n, 28) and y.shape == (n,) and np.isfinite(x).all()


def test_signal_fraction():
    y = collider(20000, seed=3)[1]
    assert set(np.unique(y)) == {0, 1} and abs(y.mean() - 0.53) < 0.015              # four standard errors


def test_learnable_but_not_easy():
    ensemble = pytest.importorskip('sklearn.ensemble', reason='scikit-learn judges the collider')
    x, y = collider(30000, seed=4)
    fit = lambda cols: ensemble.HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(
        x[:20000, cols], y[:20000]).score(x[20000:, cols], y[20000:])
    every, low, high = fit(slice(0, 28)), fit(slice(0, 21)), fit(slice(21, 28))
    assert 0.70 < every < 0.85
    assert 0.55 < low < high                                                # as in HIGGS, for shallow models
