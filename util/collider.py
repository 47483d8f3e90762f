"""
The built-in data set: a toy Monte Carlo of UCI HIGGS (Baldi, Sadowski, Whiteson, arXiv:1402.4735).

    signal      g g -> H0 -> W H+-, H+- -> W h0, h0 -> b b
    background  g g -> t t, each t -> W b

One W makes a lepton and a neutrino, the other two quarks. Both classes end in the same particles,
l nu q q b b: only the masses on the way tell them apart. Four-vectors are (E, px, py, pz), in GeV (c = 1).
"""

import numpy as np

M_H0, M_HPM, M_h0, M_TOP, M_W, M_B = 425., 325., 125., 173., 80.4, 4.7
HIGGS_COLUMNS = (['lepton_pt', 'lepton_eta', 'lepton_phi', 'met', 'met_phi']
                 + [f'jet{k}_{what}' for k in (1, 2, 3, 4) for what in ('pt', 'eta', 'phi', 'btag')]
                 + ['m_jj', 'm_jjj', 'm_lv', 'm_jlv', 'm_bb', 'm_wbb', 'm_wwbb'])


def mass(p):
    return np.sqrt(np.maximum(p[..., 0]**2 - (p[..., 1:]**2).sum(-1), 0))


def massless(pt, eta, phi):
    """Transverse momentum, pseudorapidity and azimuth (...) -> four-momentum (..., 4)."""
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], -1)


def pt_eta_phi(p):
    pt = np.hypot(p[..., 1], p[..., 2])
    return pt, np.arcsinh(p[..., 3] / pt), np.arctan2(p[..., 2], p[..., 1])


def boost(p, parent):
    """Takes p (n, 4) from the rest frame of parent to the frame where parent (n, 4) is given."""
    energy = (parent[:, 0] * p[:, 0] + (parent[:, 1:] * p[:, 1:]).sum(1)) / mass(parent)
    gain = (p[:, 0] + energy) / (parent[:, 0] + mass(parent))
    return np.column_stack([energy, p[:, 1:] + gain[:, None] * parent[:, 1:]])


def two_body(parent, m1, m2, rng):
    """Isotropic decay of parent (n, 4) into masses m1 and m2 -> two (n, 4). Spin is left out."""
    n, m = len(parent), mass(parent)
    k = np.sqrt((m**2 - (m1 + m2)**2) * (m**2 - (m1 - m2)**2)) / (2 * m)       # the momentum of each, at rest
    cos, phi = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    sin = np.sqrt(1 - cos**2)
    p = k[:, None] * np.stack([sin * np.cos(phi), sin * np.sin(phi), cos], 1)
    return tuple(boost(np.column_stack([np.hypot(k, m_i), p_i]), parent) for m_i, p_i in ((m1, p), (m2, -p)))


def partons(signal, n, rng):
    """The truth of n events of one class, a dict of (n, 4): 'initial' is the H0 or the t t pair, which decays
    to lepton, nu, q1, q2, b1, b2; 'isr' is the gluon (initial-state radiation) that it recoils against."""
    m = np.full(n, M_H0) if signal else 2 * M_TOP + rng.gamma(1.5, 70., n)     # a threshold, then falling
    rapidity, pt, phi = rng.normal(0, 0.8, n), rng.exponential(70., n), rng.uniform(-np.pi, np.pi, n)
    mt, px, py = np.hypot(m, pt), pt * np.cos(phi), pt * np.sin(phi)
    initial = np.stack([mt * np.cosh(rapidity), px, py, mt * np.sinh(rapidity)], 1)
    p = {'initial': initial, 'isr': massless(pt, rng.normal(0, 2., n), phi + np.pi)}
    if signal:
        w1, p['hpm'] = two_body(initial, M_W, M_HPM, rng)
        w2, p['h0'] = two_body(p['hpm'], M_W, M_h0, rng)
        p['b1'], p['b2'] = two_body(p['h0'], M_B, M_B, rng)
    else:
        p['t1'], p['t2'] = two_body(initial, M_TOP, M_TOP, rng)
        w1, p['b1'] = two_body(p['t1'], M_W, M_B, rng)
        w2, p['b2'] = two_body(p['t2'], M_W, M_B, rng)
    first = rng.random((n, 1)) < 0.5                                           # which W is the leptonic one
    p['w_lep'], p['w_had'] = np.where(first, w1, w2), np.where(first, w2, w1)
    p['lepton'], p['nu'] = two_body(p['w_lep'], 0., 0., rng)
    p['q1'], p['q2'] = two_body(p['w_had'], 0., 0., rng)
    return p


def detect(p, rng):
    """What the detector makes of the partons -> 28 columns (n, 28), and which events pass the cuts (n,)."""
    # measure: energies fluctuate with the number of shower particles, so by 1 / sqrt(E); directions a little
    l_pt, l_eta, l_phi = pt_eta_phi(p['lepton'])
    l_pt = l_pt * (1 + 0.02 * rng.normal(size=l_pt.shape))
    pt, eta, phi = pt_eta_phi(np.stack([p[k] for k in ('b1', 'b2', 'q1', 'q2', 'isr')], 1))      # each (n, 5)
    sigma = np.hypot(1 / np.sqrt(pt * np.cosh(eta)), 0.1)
    pt = pt * np.maximum(1 + sigma * rng.normal(size=pt.shape), 0.1)
    eta, phi = rng.normal(eta, 0.05), (rng.normal(phi, 0.05) + np.pi) % (2 * np.pi) - np.pi
    u, is_b = rng.random(pt.shape), np.arange(5) < 2
    btag = 1. * (u < np.where(is_b, 0.8, 0.08)) + (u < np.where(is_b, 0.65, 0.02))   # none, loose, tight
    lepton, jets = massless(l_pt, l_eta, l_phi), massless(pt, eta, phi)
    # the beams bring no transverse momentum: what is missing is the neutrino, and every error of measurement
    met = rng.normal(-(lepton + jets.sum(1))[:, 1:3], 15.)

    # the cuts, and the four hardest jets: the gluon may be among them
    seen = (pt > 20) & (abs(eta) < 2.5)
    lead = np.argsort(np.where(seen, -pt, 0), 1)[:, :4]
    pt, eta, phi, btag = (np.take_along_axis(a, lead, 1) for a in (pt, eta, phi, btag))
    passed = (l_pt > 20) & (abs(l_eta) < 2.5) & (seen.sum(1) >= 4) & (btag.sum(1) > 0)

    # the neutrino's pz solves m_lv = m_W, a quadratic: the smaller |pz|, or the real part where it is complex
    met_sq, a = (met**2).sum(1), M_W**2 / 2 + (lepton[:, 1:3] * met).sum(1)
    root = lepton[:, 0] * np.sqrt(np.maximum(a**2 - l_pt**2 * met_sq, 0))
    nu_pz = (a * lepton[:, 3] - np.sign(l_eta) * root) / l_pt**2
    nu = np.column_stack([np.sqrt(met_sq + nu_pz**2), met, nu_pz])

    # who is who is a guess: the best two tags (then the harder) are the b's, the other two jets the hadronic
    # W, and the b's go to the W's in the way that makes two masses most alike, as two tops would be
    order = np.argsort(-btag, 1, kind='stable')
    b1, b2, j1, j2 = massless(*(np.take_along_axis(a, order, 1).T for a in (pt, eta, phi)))      # each (n, 4)
    w_had, w_lep, bb = j1 + j2, lepton + nu, b1 + b2
    tops = np.array([[mass(w_had + b1), mass(w_lep + b2)], [mass(w_had + b2), mass(w_lep + b1)]])
    m_jjj, m_jlv = np.where(np.diff(abs(tops[:, 0] - tops[:, 1]), axis=0) < 0, tops[1], tops[0])
    low = [l_pt, l_eta, l_phi, np.sqrt(met_sq), np.arctan2(met[:, 1], met[:, 0])]
    low += [a[:, k] for k in range(4) for a in (pt, eta, phi, btag)]
    high = [mass(w_had), m_jjj, mass(w_lep), m_jlv, mass(bb), mass(w_had + bb), mass(w_had + w_lep + bb)]
    return np.stack(low + high, 1), passed


def collider(n, seed):
    """Events in the columns of UCI HIGGS: 21 measured quantities, then 7 masses computed from them.
    -> x (n, 28) float32, y (n,) int64: 1 is signal, 53 %, and 0 background."""
    rng = np.random.default_rng(seed)
    x, y = np.empty((n, 28), np.float32), (rng.random(n) < 0.53).astype(np.int64)
    for label in (0, 1):
        todo = np.flatnonzero(y == label)
        while len(todo):                                                    # until each has passed the cuts
            events, passed = detect(partons(label, len(todo), rng), rng)
            x[todo[passed]] = events[passed]
            todo = todo[~passed]
    return x, y
