"""Losses and gradients against values computed independently, row by row, in plain Python and numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from valuealign.objectives import OBJECTIVES
from valuealign.objectives.branches import log_mass
from valuealign.objectives.kto import LambdaRule, mismatch
from valuealign.types import Borrowed, Wanted

CELL = [0, 0, 0, 1, 1, 2, 2, 2]
LOGP = [-2.0, -1.5, -3.0, -5.0, -7.0, -0.7, -2.2, -1.9]
REF = [-2.5, -1.0, -3.5, -6.0, -6.5, -1.1, -2.0, -1.5]
DESIRABLE = [0.2, 0.5, 0.3, 2.0, 0.0, 1.0, 3.0, 0.5]
UNDESIRABLE = [0.3, 0.1, 0.6, 0.0, 1.5, 0.5, 0.0, 2.5]
POSITION = [0.0, 1.0, 4.0, math.nan, math.nan, 1.0, 2.0, 3.0]
CLOSED = [True, False, True]
WEIGHT = [1.0, 2.0, 0.5]


def make_wanted(dtype: torch.dtype = torch.float64, **change: Any) -> Wanted:
    fields: dict[str, Any] = {
        "desirable_N": DESIRABLE,
        "undesirable_N": UNDESIRABLE,
        "position_N": POSITION,
        "reference_N": REF,
        "weight_C": WEIGHT,
    } | change
    cell = torch.tensor(fields.pop("cell_N", CELL))
    closed = torch.tensor(fields.pop("closed_C", CLOSED))
    return Wanted(cell_N=cell, closed_C=closed, **{k: torch.tensor(v, dtype=dtype) for k, v in fields.items()})


def mean(terms: Any) -> Tensor:
    return terms.loss.total / terms.loss.count


def cells_of(values: list[float]) -> list[np.ndarray]:
    return [np.array([v for v, c in zip(values, CELL, strict=True) if c == cell]) for cell in range(3)]


def renormalise(values: np.ndarray) -> np.ndarray:
    return values - math.log(sum(math.exp(v) for v in values))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def kto_by_rows(logp: list[float], *, beta: float, lambda_d: float, lambda_u: float, z0_open: float) -> float:
    """The published loss, one row (x, y, label) at a time."""
    total = count = 0.0
    for c, (lp, ref, d, u) in enumerate(
        zip(cells_of(logp), cells_of(REF), cells_of(DESIRABLE), cells_of(UNDESIRABLE), strict=True)
    ):
        if CLOSED[c]:
            lp, ref = renormalise(lp), renormalise(ref)
            z0 = float(sum(np.exp(lp) * (lp - ref)))
        else:
            z0 = z0_open
        for k in range(len(lp)):
            r = float(lp[k] - ref[k])
            total += WEIGHT[c] * d[k] * (lambda_d - lambda_d * sigma(beta * (r - z0)))
            total += WEIGHT[c] * u[k] * (lambda_u - lambda_u * sigma(beta * (z0 - r)))
            count += WEIGHT[c] * (d[k] + u[k])
    return total / count


def test_kto_matches_rows() -> None:
    got = mean(
        OBJECTIVES["kto"].loss(
            torch.tensor(LOGP, dtype=torch.float64),
            make_wanted(),
            beta=0.4,
            lambda_d=1.3,
            lambda_u=0.8,
            z0_open=torch.tensor(0.25),
        )
    )
    assert float(got) == pytest.approx(kto_by_rows(LOGP, beta=0.4, lambda_d=1.3, lambda_u=0.8, z0_open=0.25), abs=1e-12)


def test_kto_gradient_by_hand() -> None:
    """On open cells dL/dlogp_k = -beta sigma'(beta (r - z0)) (lambda_d d_k - lambda_u u_k) w / mass."""
    logp = torch.tensor(LOGP, dtype=torch.float64, requires_grad=True)
    wanted = make_wanted(closed_C=[False, False, False])
    beta, lambda_d, lambda_u, z0 = 0.7, 1.2, 0.9, 0.3
    mean(
        OBJECTIVES["kto"].loss(
            logp, wanted, beta=beta, lambda_d=lambda_d, lambda_u=lambda_u, z0_open=torch.tensor(z0, dtype=torch.float64)
        )
    ).backward()
    mass = sum(WEIGHT[c] * (d + u) for c, d, u in zip(CELL, DESIRABLE, UNDESIRABLE, strict=True))
    for k, c in enumerate(CELL):
        s = sigma(beta * (LOGP[k] - REF[k] - z0))
        want = -beta * s * (1 - s) * (lambda_d * DESIRABLE[k] - lambda_u * UNDESIRABLE[k]) * WEIGHT[c] / mass
        assert float(logp.grad[k]) == pytest.approx(want, abs=1e-12)


def test_no_gradient_through_z0() -> None:
    """The gradient on a closed cell is that of the loss with z0 held fixed (finite differences)."""
    wanted = make_wanted()
    logp = torch.tensor(LOGP, dtype=torch.float64, requires_grad=True)
    mean(OBJECTIVES["kto"].loss(logp, wanted, beta=0.5, z0_open=torch.tensor(0.1))).backward()

    def held(values: np.ndarray) -> float:
        total = count = 0.0
        fixed = cells_of(LOGP)
        for c, (lp, ref, d, u) in enumerate(
            zip(cells_of(list(values)), cells_of(REF), cells_of(DESIRABLE), cells_of(UNDESIRABLE), strict=True)
        ):
            z0 = 0.1
            if CLOSED[c]:
                q, lp, ref = renormalise(fixed[c]), renormalise(lp), renormalise(ref)
                z0 = float(sum(np.exp(q) * (q - ref)))
            r = lp - ref
            total += WEIGHT[c] * sum(
                d * (1 - np.vectorize(sigma)(0.5 * (r - z0))) + u * (1 - np.vectorize(sigma)(0.5 * (z0 - r)))
            )
            count += WEIGHT[c] * float(sum(d + u))
        return total / count

    for k in range(len(LOGP)):
        step = np.zeros(len(LOGP))
        step[k] = 1e-6
        slope = (held(np.array(LOGP) + step) - held(np.array(LOGP) - step)) / 2e-6
        assert float(logp.grad[k]) == pytest.approx(slope, abs=1e-8)


def test_collapse_is_exact() -> None:
    """Respondents' rows one by one give the loss and gradient of their collapsed masses."""
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(3)), bool(rng.integers(2)), float(rng.uniform(0.2, 3))) for _ in range(200)]
    lp, ref = torch.tensor([-1.0, -2.0, -1.7], dtype=torch.float64), [-1.4, -1.2, -2.0]

    def loss(logp: Tensor, wanted: Wanted) -> Tensor:
        return mean(OBJECTIVES["kto"].loss(logp, wanted, beta=0.3, lambda_d=1.1, z0_open=torch.tensor(0.2)))

    one = lp.clone().requires_grad_()
    masses = {
        (k, d): sum(w for key, label, w in rows if (key, label) == (k, d)) for k in range(3) for d in (True, False)
    }
    collapsed = loss(
        one,
        make_wanted(
            cell_N=[0, 0, 0],
            desirable_N=[masses[k, True] for k in range(3)],
            undesirable_N=[masses[k, False] for k in range(3)],
            position_N=[math.nan] * 3,
            reference_N=ref,
            weight_C=[1.0],
            closed_C=[False],
        ),
    )
    collapsed.backward()
    each = lp.clone().requires_grad_()
    index = torch.tensor([k for k, _, _ in rows])
    expanded = loss(
        each[index],
        make_wanted(
            cell_N=list(range(200)),
            desirable_N=[w * d for _, d, w in rows],
            undesirable_N=[w * (not d) for _, d, w in rows],
            position_N=[math.nan] * 200,
            reference_N=[ref[k] for k, _, _ in rows],
            weight_C=[1.0] * 200,
            closed_C=[False] * 200,
        ),
    )
    expanded.backward()
    assert float(collapsed) == pytest.approx(float(expanded), abs=1e-13)
    torch.testing.assert_close(one.grad, each.grad, atol=1e-13, rtol=0)


def test_dpo_matches_pairs() -> None:
    total = count = 0.0
    grad = np.zeros(len(LOGP))
    beta, first = 0.6, [0, 3, 5]
    for c, (lp, ref, d, u) in enumerate(
        zip(cells_of(LOGP), cells_of(REF), cells_of(DESIRABLE), cells_of(UNDESIRABLE), strict=True)
    ):
        r = lp - ref if not CLOSED[c] else renormalise(lp) - renormalise(ref)
        for i in range(len(lp)):
            for j in range(len(lp)):
                w = WEIGHT[c] * d[i] * u[j] / sum(u)
                total += -w * math.log(sigma(beta * (r[i] - r[j])))
                count += w
                # The renormaliser cancels in r_i - r_j, and pairs (i, i) have no gradient.
                slope = -w * beta * (1 - sigma(beta * (r[i] - r[j])))
                grad[first[c] + i] += slope
                grad[first[c] + j] -= slope
    logp = torch.tensor(LOGP, dtype=torch.float64, requires_grad=True)
    got = mean(OBJECTIVES["dpo"].loss(logp, make_wanted(), beta=beta))
    got.backward()
    assert float(got) == pytest.approx(total / count, abs=1e-12)
    np.testing.assert_allclose(logp.grad.numpy(), grad / count, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
@pytest.mark.parametrize("free", [False, True])
def test_dpo_with_label_smoothing_and_without_a_reference_matches_pairs(smoothing: float, free: bool) -> None:
    total = count = 0.0
    beta = 0.6
    for c, (lp, ref, d, u) in enumerate(
        zip(cells_of(LOGP), cells_of(REF), cells_of(DESIRABLE), cells_of(UNDESIRABLE), strict=True)
    ):
        r = lp if free else lp - ref  # what renormalises a closed cell cancels in a pair
        for i in range(len(r)):
            for j in range(len(r)):
                right = sigma(beta * (r[i] - r[j]))
                w = WEIGHT[c] * d[i] * u[j] / sum(u)
                total -= w * ((1 - smoothing) * math.log(right) + smoothing * math.log(1 - right))
                count += w
    got = mean(
        OBJECTIVES["dpo"].loss(
            torch.tensor(LOGP, dtype=torch.float64),
            make_wanted(),
            beta=beta,
            label_smoothing=smoothing,
            reference_free=free,
        )
    )
    assert float(got) == pytest.approx(total / count, abs=1e-12)


def test_kto_without_a_reference_takes_a_uniform_one() -> None:
    """On a closed cell r = log(K q) and z0 = log K - H(q); on open text the constant is left out."""
    total = count = 0.0
    beta, z0_open = 0.4, -1.5
    for c, (lp, d, u) in enumerate(zip(cells_of(LOGP), cells_of(DESIRABLE), cells_of(UNDESIRABLE), strict=True)):
        r, z0 = lp, z0_open
        if CLOSED[c]:
            q = np.exp(renormalise(lp))
            r, z0 = np.log(len(q) * q), math.log(len(q)) + float(q @ np.log(q))
        for k in range(len(r)):
            total += WEIGHT[c] * d[k] * 1.3 * (1 - sigma(beta * (r[k] - z0)))
            total += WEIGHT[c] * u[k] * 0.8 * (1 - sigma(beta * (z0 - r[k])))
            count += WEIGHT[c] * (d[k] + u[k])
    got = mean(
        OBJECTIVES["kto"].loss(
            torch.tensor(LOGP, dtype=torch.float64),
            make_wanted(),
            beta=beta,
            lambda_d=1.3,
            lambda_u=0.8,
            z0_open=torch.tensor(z0_open, dtype=torch.float64),
            reference_free=True,
        )
    )
    assert float(got) == pytest.approx(total / count, abs=1e-12)


@pytest.mark.parametrize("distance", ["kl", "wasserstein"])
def test_distribution_matches_cells(distance: str) -> None:
    total = count = 0.0
    for c, (lp, d, pos) in enumerate(zip(cells_of(LOGP), cells_of(DESIRABLE), cells_of(POSITION), strict=True)):
        p, q = d / d.sum(), np.exp(renormalise(lp))
        if distance == "kl":
            loss = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        elif math.isnan(pos[0]):
            loss = abs(p - q).sum() / 2
        else:
            loss = sum(abs(p[: i + 1].sum() - q[: i + 1].sum()) * (pos[i + 1] - pos[i]) for i in range(len(p) - 1)) / (
                pos[-1] - pos[0]
            )
        loss -= 0.2 * math.log(np.exp(lp).sum())
        total += WEIGHT[c] * d.sum() * loss
        count += WEIGHT[c] * d.sum()
    got = mean(
        OBJECTIVES["distribution"].loss(
            torch.tensor(LOGP, dtype=torch.float64), make_wanted(), distance=distance, raw_mass=0.2
        )
    )
    assert float(got) == pytest.approx(total / count, abs=1e-12)


def test_sft_is_likelihood_of_the_desirable() -> None:
    got = mean(OBJECTIVES["sft"].loss(torch.tensor(LOGP, dtype=torch.float64), make_wanted()))
    weights = [WEIGHT[c] * d for c, d in zip(CELL, DESIRABLE, strict=True)]
    assert float(got) == pytest.approx(
        -sum(w * lp for w, lp in zip(weights, LOGP, strict=True)) / sum(weights), abs=1e-12
    )


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_keeps_the_contract(name: str) -> None:
    """The count is the mass known beforehand, padding changes nothing, statistics carry no gradient."""
    objective, hyper = OBJECTIVES[name], {"beta": 0.1} if name in ("kto", "dpo") else {}
    logp = torch.tensor(LOGP, dtype=torch.float64, requires_grad=True)
    terms = objective.loss(logp, make_wanted(), **hyper)
    assert float(terms.loss.count) == pytest.approx(float(objective.mass(make_wanted())))
    assert all(not s.total.requires_grad for s in terms.stats.values())
    padded = make_wanted(weight_C=[1.0, 0.0, 0.5])
    alone = make_wanted(
        cell_N=[0, 0, 0, 1, 1, 1],
        **{
            k: [v for v, c in zip(values, CELL, strict=True) if c != 1]
            for k, values in (
                ("desirable_N", DESIRABLE),
                ("undesirable_N", UNDESIRABLE),
                ("position_N", POSITION),
                ("reference_N", REF),
            )
        },
        weight_C=[1.0, 0.5],
        closed_C=[True, True],
    )
    few = torch.tensor([v for v, c in zip(LOGP, CELL, strict=True) if c != 1], dtype=torch.float64)
    assert float(mean(objective.loss(logp, padded, **hyper))) == pytest.approx(
        float(mean(objective.loss(few, alone, **hyper))), abs=1e-12
    )


def _descend(shares: list[float], reference: list[float], **hyper: Any) -> np.ndarray:
    k = len(shares)
    theta = torch.tensor(reference, dtype=torch.float64, requires_grad=True)
    negatives = hyper.get("negatives")
    undesirable = [0.0] * k if negatives == "policy" else [(1 - p) / (k - 1) for p in shares]
    wanted = make_wanted(
        cell_N=[0] * k,
        desirable_N=shares,
        undesirable_N=undesirable,
        position_N=[math.nan] * k,
        reference_N=torch.tensor(reference).log_softmax(0).tolist(),
        weight_C=[1.0],
        closed_C=[True],
    )
    optimizer = torch.optim.Adam([theta], lr=0.02)
    for _ in range(4000):
        optimizer.zero_grad()
        mean(OBJECTIVES["kto"].loss(theta.log_softmax(0), wanted, **hyper)).backward()
        optimizer.step()
    return theta.softmax(0).detach().numpy()


def test_policy_negatives_have_the_people_as_fixed_point_and_human_ones_collapse() -> None:
    shares, reference = [0.42, 0.27, 0.17, 0.10, 0.04], [0.3, -0.5, 0.2, 0.6, -0.1]
    kept = _descend(shares, reference, beta=0.5, negatives="policy")
    np.testing.assert_allclose(kept, shares, atol=0.01)
    collapsed = _descend(shares, reference, beta=0.5)
    entropy = [-float(np.sum(p * np.log(p + 1e-300))) for p in (collapsed, np.array(shares))]
    assert entropy[0] < 0.5 * entropy[1] and np.sort(collapsed)[:3].sum() < 0.01


def test_mismatch_is_the_mass_weighted_log_ratio() -> None:
    branch, group, weight = [1, 1, 4, 7, 3], [0, 1, 1, 0, 1], [0.5, 2.0, 1.0, 3.0, 0.0]
    reads = Borrowed(
        torch.tensor(branch), torch.tensor(group), torch.tensor(weight), torch.zeros(2, 8, dtype=torch.long), groups=2
    )
    logp = torch.tensor(LOGP, requires_grad=True)
    found = mismatch(logp, make_wanted(torch.float32), reads)
    assert not found.requires_grad
    for z0 in range(2):
        mine = [(w, LOGP[b] - REF[b]) for b, g, w in zip(branch, group, weight, strict=True) if g == z0]
        assert found[:, z0].tolist() == pytest.approx([sum(w * r for w, r in mine), sum(w for w, _ in mine)], rel=1e-6)


def test_kto_takes_a_z0_for_each_mass_of_each_branch() -> None:
    """Equal numbers are the scalar; unequal ones are those of the rows' own losses."""
    logp, wanted = torch.tensor(LOGP, dtype=torch.float64), make_wanted(closed_C=[False] * 3)
    hyper = {"beta": 0.4, "lambda_d": 1.3, "lambda_u": 0.8}
    whole = OBJECTIVES["kto"].loss(logp, wanted, z0_open=torch.full((2, 8), 0.25, dtype=torch.float64), **hyper)
    same = OBJECTIVES["kto"].loss(logp, wanted, z0_open=torch.tensor(0.25, dtype=torch.float64), **hyper)
    assert float(mean(whole)) == float(mean(same))
    z0 = np.random.default_rng(1).uniform(0, 2, (2, 8))
    got = mean(OBJECTIVES["kto"].loss(logp, wanted, z0_open=torch.tensor(z0), **hyper))
    total = count = 0.0
    for n, c in enumerate(CELL):
        r = LOGP[n] - REF[n]
        total += WEIGHT[c] * DESIRABLE[n] * 1.3 * (1 - sigma(0.4 * (r - z0[0, n])))
        total += WEIGHT[c] * UNDESIRABLE[n] * 0.8 * (1 - sigma(0.4 * (z0[1, n] - r)))
        count += WEIGHT[c] * (DESIRABLE[n] + UNDESIRABLE[n])
    assert float(got) == pytest.approx(total / count, abs=1e-12)


def test_lambda_rule_and_log_mass() -> None:
    rule = LambdaRule(1.0, 2.5, 30, 10)
    assert rule.ratio == pytest.approx(1.2) and rule.holds and "within" in str(rule)
    assert not LambdaRule(1.0, 1.0, 30, 10).holds
    far = torch.tensor([-900.0, -901.0, -3.0])
    assert log_mass(far, torch.tensor([0, 0, 1]), 2).tolist() == pytest.approx(
        [-900 + math.log1p(math.exp(-1)), -3.0], rel=1e-6
    )


def test_reward_matches_pairs() -> None:
    total = count = 0.0
    margin, centre = 0.3, 0.02
    for c, (s, d, u) in enumerate(zip(cells_of(LOGP), cells_of(DESIRABLE), cells_of(UNDESIRABLE), strict=True)):
        for i in range(len(s)):
            for j in range(len(s)):
                w = WEIGHT[c] * d[i] * u[j] / sum(u)
                total += w * (-math.log(sigma(s[i] - s[j] - margin)) + centre * (s[i] + s[j]) ** 2)
                count += w
    scores = torch.tensor(LOGP, dtype=torch.float64)
    assert float(mean(OBJECTIVES["reward"].loss(scores, make_wanted(), margin=margin, centre=centre))) == pytest.approx(
        total / count, abs=1e-12
    )
    # Without a centre the level of all scores is free; with one it is not.
    plain, raised = (float(mean(OBJECTIVES["reward"].loss(scores + up, make_wanted()))) for up in (0, 5))
    assert plain == pytest.approx(raised, abs=1e-12)
