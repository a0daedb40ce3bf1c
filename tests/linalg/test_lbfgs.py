"""The batched minimiser on functions whose least is known."""

import pytest
import torch

from mmxai.linalg.lbfgs import BatchedLBFGS

P, K = 5, 12


def quadratics(dtype=torch.float32):
    """Matrices `[P, K, K]` of condition 1 to 100, minima `[P, K]`, and least values."""
    draw = torch.Generator().manual_seed(0)
    turns = torch.linalg.qr(torch.randn(P, K, K, generator=draw, dtype=torch.float64))[0]
    sizes = torch.stack([torch.logspace(0, i / 2, K, dtype=torch.float64) for i in range(P)])
    return (turns * sizes[:, None]) @ turns.mT, torch.randn(P, K, generator=draw, dtype=torch.float64)


def run(function, start, inverse, steps=200, **options):
    minimise = BatchedLBFGS(start, **options)
    seen = []
    for _ in range(steps):
        value, gradient = function(minimise.trial)
        minimise.tell(value, gradient, inverse)
        seen.append(minimise.value.clone())
        if minimise.finished.all():
            break
    return minimise, torch.stack(seen)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_quadratics_of_any_scale_of_the_guess(size):
    matrix, least = quadratics()

    def function(x):
        away = x.double() - least
        pushed = (matrix @ away[..., None])[..., 0]
        return 1 + (away * pushed).sum(1) / 2, pushed.to(x.dtype)

    inverse = size / matrix.diagonal(dim1=1, dim2=2).float()
    found, values = run(function, torch.zeros(P, K), inverse, tolerance=1e-5)
    assert found.converged.all()
    assert (
        found.value - 1 < 2e-4
    ).all()  # an estimate, off by more the worse the guess: here conditions of 1e4
    assert (values[1:] <= values[:-1] * (1 + 1e-6)).all()  # never worse than it was


def test_a_step_out_of_the_domain_is_shortened_for_that_problem_alone():
    """x - log x is infinite or NaN below 0; the other problem's full steps go on."""
    scale = torch.tensor([[1.0], [100.0]])

    def function(x):
        y = x / scale
        return (y - y.log()).sum(1).double(), (1 - 1 / y) / scale

    found, _ = run(function, torch.full((2, 1), 5.0), torch.full((2, 1), 500.0), tolerance=1e-7)
    assert found.converged.all()
    torch.testing.assert_close(found.point, scale, rtol=1e-2, atol=0)


def test_the_guess_saves_evaluations():
    _, least = quadratics()
    sizes = torch.logspace(0, 4, K, dtype=torch.float64)

    def function(x):
        away = x.double() - least
        return 1 + (sizes * away.square()).sum(1) / 2, (sizes * away).to(x.dtype)

    _, blind = run(function, torch.zeros(P, K), torch.full((P, K), 1e-4))
    _, told = run(function, torch.zeros(P, K), (1 / sizes).float().expand(P, K))
    assert len(told) <= 3 < len(blind)


def test_dropped_problems_leave_the_others_as_they_were():
    matrix, least = quadratics()

    def function(x, which):
        away = x.double() - least[which]
        pushed = (matrix[which] @ away[..., None])[..., 0]
        return 1 + (away * pushed).sum(1) / 2, pushed.to(x.dtype)

    inverse = 1 / matrix.diagonal(dim1=1, dim2=2).float()
    everything, some = torch.arange(P), torch.tensor([1, 4])
    whole, part = (BatchedLBFGS(torch.zeros(P, K), tolerance=1e-12) for _ in range(2))
    for i in range(12):
        whole.tell(*function(whole.trial, everything), inverse)
        part.tell(*function(part.trial, some if i > 5 else everything), inverse[some] if i > 5 else inverse)
        if i == 5:
            part.keep(some)
    torch.testing.assert_close(part.value, whole.value[some])
    torch.testing.assert_close(part.point, whole.point[some])


def test_what_cannot_be_made_better_ends_and_is_not_called_converged():
    """A gradient that points the wrong way: no step is good."""
    found, _ = run(
        lambda x: (1 + x.square().sum(1).double(), -2 * x), torch.ones(1, 2), torch.ones(1, 2), tolerance=1e-9
    )
    assert found.finished.all() and not found.converged.any()
    assert torch.equal(found.point, torch.ones(1, 2))
