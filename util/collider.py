"""
The built-in data set: a toy Monte Carlo of UCI HIGGS (Baldi, Sadowski, Whiteson, arXiv:1402.4735).

    signal      g g -> H0 -> W H+-,  H+- -> W h0,  h0 -> b b
    background  g g -> t t,  each t -> W b

One W decays to a lepton and a neutrino, the other to two quarks. Both classes end in the same particles, l nu q
q b b: only the masses of the particles on the way tell them apart. An event is made in the order in which
nature makes it:

    partons       the collision and the decays: the true four-momenta
    detect        what the detector measures of them, the cuts, and the masses that physicists compute from it
    collider      events of both classes that pass the cuts: 28 columns and a label

    pt       transverse momentum, across the beams       E, px, py, pz   four-momentum, (.., 4); GeV, c = 1
    phi      azimuth, the angle around the beams         met             missing transverse momentum
    eta      pseudorapidity: 0 across the beams,         btag            0, 1 or 2: how much a jet looks like
             large along them                                            that of a b quark
"""

from typing import NamedTuple

import numpy as np

# masses in GeV
M_H0 = 425.0
M_HPM = 325.0
M_h0 = 125.0
M_TOP = 173.0
M_W = 80.4
M_B = 4.7

SIGNAL_SHARE = 0.53  # as in UCI HIGGS
PT_CUT = 20.0  # GeV: the lepton and each jet have at least that much,
ETA_CUT = 2.5  # and are not closer to the beams than that
JETS = ('b1', 'b2', 'q1', 'q2', 'isr')  # the partons that make jets, two b quarks first

HIGGS_COLUMNS = [
    'lepton_pt', 'lepton_eta', 'lepton_phi', 'met', 'met_phi',
    'jet1_pt', 'jet1_eta', 'jet1_phi', 'jet1_btag',  # the hardest jet
    'jet2_pt', 'jet2_eta', 'jet2_phi', 'jet2_btag',
    'jet3_pt', 'jet3_eta', 'jet3_phi', 'jet3_btag',
    'jet4_pt', 'jet4_eta', 'jet4_phi', 'jet4_btag',
    'm_jj', 'm_jjj', 'm_lv', 'm_jlv', 'm_bb', 'm_wbb', 'm_wwbb',  # j, b: jets; l: lepton; v: neutrino
]


def collider(n, seed):
    """
    n events in the columns of UCI HIGGS: 21 measured quantities, then 7 masses that are computed from them.
    -> x (n, 28) float32, y (n,) int64: 1 is signal, 53 % of the events, and 0 background
    """
    rng = np.random.default_rng(seed)
    x = np.empty((n, 28), np.float32)
    y = (rng.random(n) < SIGNAL_SHARE).astype(np.int64)
    for label in (0, 1):
        todo = np.flatnonzero(y == label)
        while len(todo):  # collide again in place of the events that fail the cuts
            truth = partons(label, len(todo), rng)
            events, passed = detect(truth, rng)
            x[todo[passed]] = events[passed]
            todo = todo[~passed]
    return x, y


# -----------------------------------------------------------------------------
# four-momenta

def mass(p):
    """Invariant mass of four-momenta: sqrt(E^2 - |p|^2), (.., 4) -> (..)"""
    return np.sqrt(np.maximum(p[..., 0]**2 - (p[..., 1:]**2).sum(-1), 0))


def massless(pt, eta, phi):
    """Transverse momentum, pseudorapidity and azimuth (..) -> four-momenta without mass (.., 4)."""
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], -1)


def pt_eta_phi(p):
    """Four-momenta (.., 4) -> transverse momentum, pseudorapidity and azimuth, each (..)."""
    pt = np.hypot(p[..., 1], p[..., 2])
    return pt, np.arcsinh(p[..., 3] / pt), np.arctan2(p[..., 2], p[..., 1])


def boost(p, parent):
    """Lorentz boost: p (n, 4) from the rest frame of parent (n, 4) to the frame in which parent is given."""
    m = mass(parent)
    energy = (parent[:, 0] * p[:, 0] + (parent[:, 1:] * p[:, 1:]).sum(1)) / m
    gain = (p[:, 0] + energy) / (parent[:, 0] + m)
    return np.column_stack([energy, p[:, 1:] + gain[:, None] * parent[:, 1:]])


# -----------------------------------------------------------------------------
# the truth: a collision and its decays

def partons(signal, n, rng):
    """
    The true four-momenta of n events of one class: {particle: (n, 4)}.

    'initial' is the H0 or the t t pair. It decays to lepton, nu, q1, q2, b1, b2. 'isr' is a gluon that one of
    the incoming gluons radiates (initial-state radiation): 'initial' recoils against it.
    """
    p = collide(signal, n, rng)
    if signal:
        w1, p['hpm'] = two_body(p['initial'], M_W, M_HPM, rng)
        w2, p['h0'] = two_body(p['hpm'], M_W, M_h0, rng)
        p['b1'], p['b2'] = two_body(p['h0'], M_B, M_B, rng)
    else:
        p['t1'], p['t2'] = two_body(p['initial'], M_TOP, M_TOP, rng)
        w1, p['b1'] = two_body(p['t1'], M_W, M_B, rng)
        w2, p['b2'] = two_body(p['t2'], M_W, M_B, rng)
    first_is_leptonic = rng.random((n, 1)) < 0.5
    p['w_lep'] = np.where(first_is_leptonic, w1, w2)
    p['w_had'] = np.where(first_is_leptonic, w2, w1)
    p['lepton'], p['nu'] = two_body(p['w_lep'], 0.0, 0.0, rng)
    p['q1'], p['q2'] = two_body(p['w_had'], 0.0, 0.0, rng)
    return p


def collide(signal, n, rng):
    """What two gluons make: {'initial', 'isr'}, (n, 4) each, which balance each other across the beams."""
    if signal:
        m = np.full(n, M_H0)
    else:
        m = 2 * M_TOP + rng.gamma(1.5, 70.0, n)  # from the threshold of two tops on, then falling
    rapidity = rng.normal(0, 0.8, n)  # along the beams
    pt = rng.exponential(70.0, n)
    phi = rng.uniform(-np.pi, np.pi, n)
    mt = np.hypot(m, pt)  # transverse mass
    px = pt * np.cos(phi)
    py = pt * np.sin(phi)
    initial = np.stack([mt * np.cosh(rapidity), px, py, mt * np.sinh(rapidity)], 1)
    gluon_eta = rng.normal(0, 2.0, n)
    return {'initial': initial, 'isr': massless(pt, gluon_eta, phi + np.pi)}


def two_body(parent, m1, m2, rng):
    """
    Decay of parent (n, 4) into particles of masses m1 and m2 -> two (n, 4). In the rest frame of the parent
    they fly apart in opposite directions, all directions being equally likely: spin is left out.
    """
    n = len(parent)
    m = mass(parent)
    k = np.sqrt((m**2 - (m1 + m2)**2) * (m**2 - (m1 - m2)**2)) / (2 * m)  # the momentum of each, at rest
    cos = rng.uniform(-1, 1, n)
    phi = rng.uniform(-np.pi, np.pi, n)
    sin = np.sqrt(1 - cos**2)
    direction = np.stack([sin * np.cos(phi), sin * np.sin(phi), cos], 1)  # (n, 3)
    momentum = k[:, None] * direction
    first = np.column_stack([np.hypot(k, m1), momentum])
    second = np.column_stack([np.hypot(k, m2), -momentum])
    return boost(first, parent), boost(second, parent)


# -----------------------------------------------------------------------------
# the detector

class Jets(NamedTuple):
    """Sprays of particles, one from each quark or gluon: measured quantities, each (n, number of jets)."""
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    btag: np.ndarray

    def pick(self, order):
        """The jets at the places order (n, k), event by event."""
        return Jets(*(np.take_along_axis(quantity, order, 1) for quantity in self))


def detect(truth, rng):
    """
    What the detector makes of the partons (see `partons`): the 28 columns (n, 28), and which events pass the
    cuts, (n,) bool.
    """
    lepton_pt, lepton_eta, lepton_phi = measure_lepton(truth['lepton'], rng)
    jets = measure_jets(np.stack([truth[name] for name in JETS], 1), rng)
    lepton = massless(lepton_pt, lepton_eta, lepton_phi)
    met = measure_met(lepton, massless(jets.pt, jets.eta, jets.phi), rng)  # (n, 2): px and py

    jets, jets_pass = hardest_four(jets)
    passed = jets_pass & (lepton_pt > PT_CUT) & (abs(lepton_eta) < ETA_CUT)

    met_size = np.sqrt((met**2).sum(1))
    columns = [lepton_pt, lepton_eta, lepton_phi, met_size, np.arctan2(met[:, 1], met[:, 0])]
    for k in range(4):
        columns += [jets.pt[:, k], jets.eta[:, k], jets.phi[:, k], jets.btag[:, k]]
    nu = neutrino(lepton, lepton_pt, lepton_eta, met)
    columns += masses(lepton, nu, jets)
    return np.stack(columns, 1), passed


def measure_lepton(lepton, rng):
    """pt to 2 %, the directions exactly: (n, 4) -> pt, eta, phi, each (n,)."""
    pt, eta, phi = pt_eta_phi(lepton)
    pt = pt * (1 + 0.02 * rng.normal(size=pt.shape))
    return pt, eta, phi


def measure_jets(momenta, rng):
    """
    True four-momenta (n, 5, 4) in the order of JETS -> Jets (n, 5). The energy of a jet fluctuates with the
    number of the particles in it, so by 1 / sqrt(E), and its direction a little. Of the b quarks 80 % get the
    loose b-tag and 65 % the tight one; of the others 8 % and 2 % do, by mistake.
    """
    pt, eta, phi = pt_eta_phi(momenta)
    resolution = np.hypot(1 / np.sqrt(pt * np.cosh(eta)), 0.1)
    pt = pt * np.maximum(1 + resolution * rng.normal(size=pt.shape), 0.1)
    eta = rng.normal(eta, 0.05)
    phi = (rng.normal(phi, 0.05) + np.pi) % (2 * np.pi) - np.pi

    is_b = np.arange(len(JETS)) < 2
    u = rng.random(pt.shape)
    loose = u < np.where(is_b, 0.8, 0.08)
    tight = u < np.where(is_b, 0.65, 0.02)
    return Jets(pt, eta, phi, btag=1.0 * loose + tight)


def measure_met(lepton, jets, rng):
    """
    Missing transverse momentum: lepton (n, 4), jets (n, 5, 4) -> px, py (n, 2). The beams bring none, so what
    is missing is the neutrino's, and every error of measurement.
    """
    seen = lepton + jets.sum(1)
    return rng.normal(-seen[:, 1:3], 15.0)


def hardest_four(jets):
    """
    Jets (n, 5) -> the four of largest pt, Jets (n, 4), the gluon perhaps among them; and where they pass the
    cuts: four jets within reach of the detector, of which one has a b-tag, (n,) bool.
    """
    in_reach = (jets.pt > PT_CUT) & (abs(jets.eta) < ETA_CUT)
    hardest_first = np.argsort(np.where(in_reach, -jets.pt, 0), 1)
    jets = jets.pick(hardest_first[:, :4])
    return jets, (in_reach.sum(1) >= 4) & (jets.btag.sum(1) > 0)


# -----------------------------------------------------------------------------
# what physicists compute from the measurement

def neutrino(lepton, lepton_pt, lepton_eta, met):
    """
    The neutrino's four-momentum (n, 4). Across the beams it is met; its pz solves m(lepton, neutrino) = m_W. Of
    the two solutions of this quadratic equation the one with the smaller |pz| is taken; where they are complex
    (met was measured badly), their real part.
    """
    # m_W^2 / 2 = E_l E_nu - p_l . p_nu, in which all but pz is known; a is the part that is known
    met_squared = (met**2).sum(1)
    a = M_W**2 / 2 + (lepton[:, 1:3] * met).sum(1)
    root = lepton[:, 0] * np.sqrt(np.maximum(a**2 - lepton_pt**2 * met_squared, 0))
    pz = (a * lepton[:, 3] - np.sign(lepton_eta) * root) / lepton_pt**2
    return np.column_stack([np.sqrt(met_squared + pz**2), met, pz])


def masses(lepton, nu, jets):
    """
    The last seven of HIGGS_COLUMNS, a list of (n,), after a guess which jet is which: the two with the best
    b-tags are the b quarks' (of equal tags the harder), the other two come from the hadronic W.
    """
    best_tags_first = np.argsort(-jets.btag, 1, kind='stable')
    jets = jets.pick(best_tags_first)
    b1, b2, j1, j2 = massless(jets.pt.T, jets.eta.T, jets.phi.T)  # (n, 4) each
    w_had = j1 + j2
    w_lep = lepton + nu
    bb = b1 + b2
    m_jjj, m_jlv = pair(w_had, w_lep, b1, b2)
    return [mass(w_had), m_jjj, mass(w_lep), m_jlv, mass(bb), mass(w_had + bb), mass(w_had + w_lep + bb)]


def pair(w_had, w_lep, b1, b2):
    """Each b belongs to a W, in the way that makes the two masses most alike, as those of two tops would be."""
    m_jjj, m_jlv = mass(w_had + b1), mass(w_lep + b2)
    m_jjj_crossed, m_jlv_crossed = mass(w_had + b2), mass(w_lep + b1)
    crossed = abs(m_jjj_crossed - m_jlv_crossed) < abs(m_jjj - m_jlv)
    return np.where(crossed, m_jjj_crossed, m_jjj), np.where(crossed, m_jlv_crossed, m_jlv)
