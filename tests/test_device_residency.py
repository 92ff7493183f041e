"""What a run computes with stays on the device: no arrays go there or come back while a level is smoothed."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from cuda_standin import COMPILER, NO_COMPILER, Standin
from pretend_device import Pretending, Spy, is_there

import kanmg
from kanmg.errors import DeviceError, DtypeError
from kanmg.fairing import FairedObjective
from kanmg.transfers import padded

needs_compiler = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

X = np.random.default_rng(0).uniform(-1, 1, (150, 2))
Y = np.exp(np.sin(np.pi * X[:, :1]) + X[:, 1:] ** 2)
INTERFACE = np.stack([np.zeros(20), np.linspace(-1, 1, 20)], axis=1)
FAST, RATE = kanmg.Constant("fast", 1.5, easier=1.0), kanmg.Parameter("rate", 0.5)


def reaction(x, u):
    return u.d("x", "x") + FAST * u.d("y", "y") + RATE * u.value - torch.sin(3 * x[:, 0])


def measured(x, u, data):  # noqa: ARG001 - points come first
    return u.value - data


def poisson(x, u):
    return u.d("x", "x") + u.d("y", "y") - x[:, 0]


def both(x, u):
    return torch.stack([u.d("x", "y") - x[:, 0], u.value * u.d("y")], dim=1)


def jump(x, u):  # noqa: ARG001 - points come first
    return u.d("x", side="+") - 2 * u.d("x", side="-")


def collocation(*terms, **options):
    return kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=terms, **options)


def folded(x):
    return torch.stack([x[:, 0], x[:, 1], x[:, 0].abs()], dim=1)


# A problem, the widths of its networks, and how many arrays of points its finest level sees.
PROBLEMS = {
    "regression": (kanmg.Regression(X, Y, weights=np.linspace(1, 2, 150), validation=0.1), (2, 3, 1), 2),
    "far values": (kanmg.Regression(X, 1e4 + 1e3 * Y), (2, 3, 1), 2),
    "equation": (
        collocation(
            kanmg.Term("equation", reaction, X, candidates=X[::-1] * 0.9),
            kanmg.Term("system", both, X[:50], point_weights=np.linspace(0, 1, 50)),
            kanmg.Term("data", measured, X[:20], data=np.ones(20), weight=3.0),
        ),
        (2, 3, 1),
        4,
    ),
    "map": (
        collocation(
            kanmg.Term("equation", poisson, X),
            kanmg.Term("jump", jump, INTERFACE, normals=np.tile([1.0, 0.0], (20, 1))),
            inputs=folded,
            transform={"u": kanmg.Transform(offset=lambda x: x[:, 1], factor=lambda x: 1 - x[:, 0] ** 2)},
        ),
        (3, 3, 1),
        2,
    ),
}
SMOOTHERS = {
    "lbfgs": kanmg.LBFGS(),
    "bfgs": kanmg.BFGS(update="broyden"),
    "adam": kanmg.Adam(),
    "levenberg_marquardt": kanmg.LevenbergMarquardt(),
    "torch_adam": kanmg.TorchOptimizer(torch.optim.Adam, lr=1e-3),
    "torch_lbfgs": kanmg.TorchOptimizer(torch.optim.LBFGS, lr=1e-2, max_iter=3),
    "relu_lbfgs": kanmg.ChangeOfBasis(kanmg.LBFGS()),
    "relu_adam": kanmg.ChangeOfBasis(kanmg.Adam(step_size=1e-5), "spline", "relu"),
    "gram_levenberg_marquardt": kanmg.Metric(kanmg.LevenbergMarquardt()),
}
VCYCLE = partial(kanmg.VCycle, pre_steps=2, post_steps=2, coarse_steps=4)
METHODS = {
    "galerkin": VCYCLE(kanmg.LBFGS()),
    "galerkin, normal equations": VCYCLE(kanmg.LevenbergMarquardt()),
    "galerkin, fewer samples": VCYCLE(kanmg.LBFGS(), coarse_fraction=0.5),
    "tau": VCYCLE(kanmg.LBFGS(), variant="tau"),
    "tau, normal equations": VCYCLE(kanmg.LevenbergMarquardt(), variant="tau"),
    "full multigrid": kanmg.FullMultigrid(kanmg.LBFGS(), steps=3, coarse_steps=6),
    "starts, refit": kanmg.NestedIteration(steps=4, starts=kanmg.Starts(3, 4, 0.5, keep=2, further_steps=2), refit=1),
    "fairing": kanmg.NestedIteration(steps=4, hold_back=0.2, fair=True, starts=1),
    "projection": kanmg.NestedIteration(kanmg.LevenbergMarquardt(projection=True), steps=2),
}
ON_EQUATIONS = {
    "weights": kanmg.NestedIteration(
        steps=6, attention=kanmg.Attention(every=3), balance=kanmg.Balance(every=3), starts=1
    ),
    "redraw": kanmg.NestedIteration(steps=4, redraw=0.5, starts=1),
    "continuation": kanmg.NestedIteration(steps=4, continuation=kanmg.Continuation(2, 3), starts=1),
}


def solved(problem, widths, evaluator, method, *, free_knots=False, **options):
    hierarchy = kanmg.uniform_hierarchy(widths, num_levels=2, evaluator=evaluator, free_knots=free_knots)
    return kanmg.solve(problem, hierarchy, method=method, throw=False, max_cycles=1, **options), hierarchy


def assert_agree(own, expected, tolerance=1e-6):
    assert isinstance(own.coefficients, np.ndarray)
    assert own.loss == pytest.approx(expected.loss, rel=tolerance)
    np.testing.assert_allclose(own.history.column("loss"), expected.history.column("loss"), rtol=tolerance)
    assert own.parameters == pytest.approx(expected.parameters, rel=tolerance)


@needs_compiler
class TestPretendedDevice:
    """Tensors of the pretended device and others do not mix, as on CUDA, and its evaluator takes nothing else."""

    spy = staticmethod(partial(Spy, device="cpu"))

    @pytest.mark.parametrize("smoother", SMOOTHERS)
    @pytest.mark.parametrize("name", PROBLEMS)
    def test_solves_agree_and_points_are_copied_once(self, name, smoother):
        problem, widths, num_arrays = PROBLEMS[name]
        method = kanmg.NestedIteration(SMOOTHERS[smoother], steps=4, starts=1)
        expected, _ = solved(problem, widths, "cpu", method)
        copies, records = [], []

        def note(record):
            copies.append(mode.copies)
            records.append(record)

        with Pretending() as mode:
            own, hierarchy = solved(problem, widths, self.spy, method, callback=note)
        assert_agree(own, expected)
        calls = hierarchy[1].evaluator.seen
        assert calls
        assert all(call.has_tensors for call in calls)
        assert len({call.address for call in calls}) <= num_arrays
        steps = zip(records, records[1:], copies, copies[1:], strict=False)
        between = [after - before for a, b, before, after in steps if a.event == b.event == "smooth"]
        # Between two levels there is more to do.
        assert between.count(0) >= len(between) - 1

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("name", ["regression", "equation"])
    def test_methods_agree(self, name, method):
        problem, widths, _ = PROBLEMS[name]
        expected, _ = solved(problem, widths, "cpu", METHODS[method])
        with Pretending():
            own, hierarchy = solved(problem, widths, self.spy, METHODS[method])
        assert_agree(own, expected, 1e-4)
        assert all(call.has_tensors for level in hierarchy for call in level.evaluator.seen)

    @pytest.mark.parametrize("method", ON_EQUATIONS)
    def test_what_only_equations_have(self, method):
        problem, widths, _ = PROBLEMS["equation"]
        chosen = problem if method != "weights" else PROBLEMS["map"][0]
        widths = widths if method != "weights" else PROBLEMS["map"][1]
        expected, _ = solved(chosen, widths, "cpu", ON_EQUATIONS[method])
        with Pretending():
            own, _ = solved(chosen, widths, self.spy, ON_EQUATIONS[method])
        assert_agree(own, expected)

    @pytest.mark.parametrize("smoother", ["lbfgs", "levenberg_marquardt"])
    @pytest.mark.parametrize("name", ["regression", "equation", "map"])
    def test_free_knots(self, name, smoother):
        """Points stay on the device; vectors come to the host, where knots are computed."""
        problem, widths, num_arrays = PROBLEMS[name]
        method = kanmg.NestedIteration(SMOOTHERS[smoother], steps=4, starts=1)
        expected, _ = solved(problem, widths, "cpu", method, free_knots=True)
        with Pretending():
            own, hierarchy = solved(problem, widths, self.spy, method, free_knots=True)
        assert_agree(own, expected, 1e-4)
        calls = hierarchy[1].evaluator.inner.seen
        assert calls
        assert all(call.has_tensors for call in calls)
        assert len({call.address for call in calls}) <= num_arrays

    def test_fairing_stays_there(self, monkeypatch):
        copies, step = [], kanmg.LevenbergMarquardt.step

        def counted(smoother, objective, *arguments):
            before = mode.copies
            result = step(smoother, objective, *arguments)
            copies.extend([mode.copies - before] * isinstance(objective, FairedObjective))
            return result

        monkeypatch.setattr(kanmg.LevenbergMarquardt, "step", counted)
        problem, widths, _ = PROBLEMS["regression"]
        with Pretending() as mode:
            solved(problem, widths, self.spy, METHODS["fairing"])
        assert copies
        assert not any(copies)

    @pytest.mark.parametrize("smoother", ["adam", "torch_adam"])
    def test_mini_batches(self, smoother):
        problem = kanmg.Regression(X, Y, batch_size=32, validation=0.2)
        method = kanmg.NestedIteration(SMOOTHERS[smoother], steps=9)
        expected, _ = solved(problem, (2, 3, 1), "cpu", method)
        copies = []
        with Pretending() as mode:
            options = {"callback": lambda _: copies.append(mode.copies)}
            own, hierarchy = solved(problem, (2, 3, 1), self.spy, method, **options)
        assert_agree(own, expected)
        assert all(call.has_tensors for call in hierarchy[1].evaluator.seen)
        # The order of each of five epochs, a transfer, and the points that are held back.
        assert np.count_nonzero(np.diff(copies)) <= 7

    def test_numbers_read_in_a_step(self):
        """A loss and the norm of its gradient."""
        problem, widths, _ = PROBLEMS["equation"]
        numbers = []
        with Pretending() as mode:
            method = kanmg.NestedIteration(kanmg.Adam(), steps=6)
            solved(problem, widths, self.spy, method, callback=lambda _: numbers.append(mode.numbers))
        steps = np.diff(numbers)
        assert np.median(steps) == 2
        assert steps.max() <= 3  # one more, the loss on other points, at the end of a level

    def test_chunks_of_points_change_nothing(self, monkeypatch):
        pairs = ("equation", kanmg.LevenbergMarquardt()), ("map", kanmg.LBFGS()), ("regression", kanmg.LBFGS())
        for name, smoother in pairs:
            problem, widths, _ = PROBLEMS[name]
            expected, _ = solved(problem, widths, "cpu", kanmg.NestedIteration(smoother, steps=3))
            with Pretending(), monkeypatch.context() as patch:
                patch.setattr("kanmg.problems.bound_term._DEVICE_ENTRIES", 200)
                patch.setattr("kanmg.problems.samples.DEVICE_ENTRIES", 200)
                own, _ = solved(problem, widths, self.spy, kanmg.NestedIteration(smoother, steps=3))
            assert_agree(own, expected)

    def test_conjugate_gradients_compute_on_the_host(self):
        problem, widths, _ = PROBLEMS["equation"]
        smoother = kanmg.LevenbergMarquardt(linear_solver="cg", cg_iterations=5)
        method = kanmg.NestedIteration(smoother, steps=2, starts=1)
        expected, _ = solved(problem, widths, "cpu", method)
        with Pretending():
            own, _ = solved(problem, widths, self.spy, method)
        assert_agree(own, expected, 1e-4)

    def test_third_derivatives_are_computed_on_the_host(self):
        term = kanmg.Term("equation", lambda x, u: u.d("x", "x", "x") + u.value - x[:, 0], X[:40])
        problem = collocation(term, kanmg.Term("value", lambda x, u: u.value - RATE * x[:, 0], X))
        for smoother in (kanmg.LBFGS(), kanmg.LevenbergMarquardt()):
            method = kanmg.NestedIteration(smoother, steps=3, starts=1)
            expected, _ = solved(problem, (2, 3, 1), "cpu", method)
            with Pretending():
                own, _ = solved(problem, (2, 3, 1), self.spy, method)
            assert_agree(own, expected)

    def test_tensors_of_a_residual_must_be_on_the_device(self):
        def residual(x, u):
            return u.value - torch.ones(len(x), dtype=x.dtype)

        problem = collocation(kanmg.Term("ones", residual, X))
        with Pretending(), pytest.raises(DeviceError, match=r"term 'ones' .* `torch.tensor\(..., device=x.device\)`"):
            solved(problem, (2, 3, 1), self.spy, kanmg.NestedIteration(steps=1))

    def test_a_run_goes_on_from_its_checkpoint(self, tmp_path, monkeypatch):
        monkeypatch.setattr("kanmg.storage._is_elsewhere", is_there)
        for number, (name, method) in enumerate(
            [("equation", VCYCLE(kanmg.LBFGS(), variant="tau"))]
            + [("regression", kanmg.NestedIteration(smoother, steps=4)) for smoother in SMOOTHERS.values()]
        ):
            problem, widths, _ = PROBLEMS[name]
            path = tmp_path / f"{number}.run"

            def stop(record):
                if record.step == 5:
                    raise StopIteration

            with Pretending():
                expected, _ = solved(problem, widths, self.spy, method)
                solved(problem, widths, self.spy, method, checkpoint=path, callback=stop)
                own, _ = solved(problem, widths, self.spy, method, checkpoint=path)
            np.testing.assert_array_equal(own.coefficients, expected.coefficients)
            assert own.loss == expected.loss


# ----------------------------------------------------------------------------------------------------------- one by one


class Quartic(kanmg.Problem):
    """A user's problem, which knows of no tensors."""

    num_samples = len(X)

    def loss(self, evaluator, theta, batch=None):  # noqa: ARG002
        return float(np.mean((evaluator.value(theta, X) - Y) ** 4))

    def loss_and_gradient(self, evaluator, theta, batch=None):  # noqa: ARG002
        errors = evaluator.value(theta, X) - Y
        return float(np.mean(errors**4)), evaluator.adjoint(theta, X, 4 * errors**3 / len(X))[0] + np.zeros_like(theta)

    def training_inputs(self):
        return X

    def subset(self, fraction):  # noqa: ARG002
        return self

    def fingerprint(self):
        return "quartic"


@needs_compiler
def test_problems_that_know_of_no_tensors_get_arrays():
    method = VCYCLE(kanmg.LBFGS())
    expected, _ = solved(Quartic(), (2, 3, 1), "cpu", method)
    with Pretending():
        own, hierarchy = solved(Quartic(), (2, 3, 1), partial(Spy, device="cpu"), method)
    assert_agree(own, expected)
    assert not any(call.has_tensors for call in hierarchy[1].evaluator.seen)


@needs_compiler
def test_objectives_return_what_they_got():
    problem, widths, _ = PROBLEMS["equation"]
    hierarchy = kanmg.uniform_hierarchy(widths, num_levels=1, evaluator=partial(Spy, device="cpu"))
    objective = kanmg.Objective(problem, hierarchy[0])
    theta = np.append(np.random.default_rng(1).standard_normal(hierarchy[0].network.num_coefficients), 0.3)
    with Pretending():
        there = torch.from_numpy(theta).to(torch.device("cpu"))
        loss, gradient = objective.value_and_gradient(theta)
        other, gradient_there = objective.value_and_gradient(there)
        seed = objective.residuals(theta)
        pulled, pulled_there = objective.pull_back(theta, seed), objective.pull_back(there, objective.residuals(there))
    assert loss == other
    assert isinstance(gradient, np.ndarray)
    assert is_there(gradient_there)
    np.testing.assert_array_equal(gradient, gradient_there.numpy())
    assert isinstance(seed, np.ndarray)
    np.testing.assert_array_equal(pulled, pulled_there.numpy())
    with pytest.raises(DtypeError, match=r"`theta` is float32 but `hierarchy` was built with `dtype='float64'`"):
        objective.value(there.float())


@needs_compiler
@pytest.mark.parametrize("name", ["equation", "map"])
def test_solutions_of_tensors(name):
    problem, widths, _ = PROBLEMS[name]
    with Pretending():
        solution, _ = solved(problem, widths, partial(Spy, device="cpu"), kanmg.NestedIteration(steps=3))
        there = torch.from_numpy(X).to(torch.device("cpu"))
        pairs = [(solution(X), solution(there)), (solution(X[0]), solution(there[0]))]
        requests = [("x",), ("x", "y"), *[("x", "x", "y")] * (name == "equation")]
        pairs += [(solution.derivative(X, *names), solution.derivative(there, *names)) for names in requests]
        for expected, own in pairs:
            assert isinstance(expected, np.ndarray)
            assert isinstance(own, torch.Tensor)
            assert own.shape == expected.shape
    for expected, own in pairs:
        np.testing.assert_allclose(own.numpy(), expected, rtol=1e-12, atol=1e-12)


def marched(**options):
    t = np.linspace(0, 2, 41).reshape(-1, 1)
    terms = [
        kanmg.Term("equation", lambda x, u: u.d("t") + u.value + 0 * x[:, 0], t),
        kanmg.Term("initial", lambda x, u: u.value - 1 - x[:, 0], t[:1]),
    ]
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=terms)
    hierarchy = kanmg.uniform_hierarchy((1, 1), num_levels=2, domain=(0, 2), **options)
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=2)
    return kanmg.march(problem, hierarchy, windows=2, method=method).loss


@needs_compiler
def test_time_windows():
    assert marched(evaluator=partial(Standin, device="cpu")) == pytest.approx(marched(), rel=1e-6)


@needs_compiler
@pytest.mark.parametrize("size", [0, 2])
def test_transfers_of_tensors(size):
    hierarchy = kanmg.uniform_hierarchy((2, 3, 1), num_levels=2, lift="affine", evaluator="reference")
    (transfer,) = padded(hierarchy.transfers, size)
    random = np.random.default_rng(2)
    coarse, fine = (random.standard_normal(level.network.num_coefficients + size) for level in hierarchy)
    matrix = random.standard_normal((len(fine), len(fine)))
    matrix = matrix + matrix.T
    for method, vector in (("prolong", coarse), ("restrict", fine), ("inject", fine), ("restrict_matrix", matrix)):
        with Pretending():
            own = getattr(transfer, method)(torch.from_numpy(vector).to(torch.device("cpu")))
            assert is_there(own)
        np.testing.assert_allclose(own.numpy(), getattr(transfer, method)(vector), rtol=1e-13, atol=1e-13)
    copied = pickle.loads(pickle.dumps(hierarchy))  # noqa: S301 - our own
    np.testing.assert_array_equal(copied.transfers[0].prolong(coarse[: len(coarse) - size]).shape, (len(fine) - size,))


@needs_compiler
def test_hierarchies_prolong_tensors():
    hierarchy = kanmg.uniform_hierarchy((1, 1), num_levels=3, evaluator=partial(Standin, device="cpu"))
    theta = torch.arange(8, dtype=torch.float64)
    np.testing.assert_allclose(hierarchy.prolong(theta).numpy(), hierarchy.prolong(theta.numpy()))


@needs_compiler
@pytest.mark.parametrize("name", ["regression", "equation"])
def test_files_and_copies_of_problems_hold_nothing_of_a_device(name):
    problem, widths, _ = PROBLEMS[name]
    problem = copy.deepcopy(problem)
    before = pickle.dumps(problem)
    for batch in (None, 1):
        other = problem if batch is None else kanmg.Regression(X, Y, batch_size=50)
        method = kanmg.NestedIteration(kanmg.Adam(), steps=2)
        solved(other, widths, partial(Standin, device="cpu"), method)
        assert b"torch" not in pickle.dumps(other)
    assert len(pickle.dumps(problem)) == len(before)


@needs_compiler
def test_copies_on_a_device_are_released_with_the_problem():
    problem = kanmg.Regression(X, Y)
    solved(problem, (2, 3, 1), partial(Standin, device="cpu"), kanmg.NestedIteration(steps=2))
    there = weakref.ref(problem._samples.on(torch.device("cpu")).x)
    assert there() is not None
    del problem
    gc.collect()
    assert there() is None


# ------------------------------------------------------------------------------------------------------------ on a GPU


def on_both(problem, widths, method, *, free_knots=False, **options):
    """Solve on the CPU and on the GPU."""
    results = []
    for device in ("cpu", "cuda"):
        hierarchy = kanmg.uniform_hierarchy(widths, num_levels=2, device=device, free_knots=free_knots)
        results.append(kanmg.solve(problem, hierarchy, method=method, throw=False, max_cycles=1, **options))
    return results


@pytest.mark.gpu
@pytest.mark.parametrize("smoother", SMOOTHERS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_gpu_solves_agree(name, smoother):
    problem, widths, _ = PROBLEMS[name]
    expected, own = on_both(problem, widths, kanmg.NestedIteration(SMOOTHERS[smoother], steps=4, starts=1))
    assert_agree(own, expected, 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["regression", "equation"])
def test_gpu_methods_agree(name, method):
    problem, widths, _ = PROBLEMS[name]
    expected, own = on_both(problem, widths, METHODS[method])
    assert_agree(own, expected, 1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("smoother", ["lbfgs", "levenberg_marquardt"])
@pytest.mark.parametrize("name", ["regression", "equation", "map"])
def test_gpu_free_knots(name, smoother):
    problem, widths, _ = PROBLEMS[name]
    method = kanmg.NestedIteration(SMOOTHERS[smoother], steps=4, starts=1)
    expected, own = on_both(problem, widths, method, free_knots=True)
    assert_agree(own, expected, 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ON_EQUATIONS)
def test_gpu_what_only_equations_have(method):
    name = "map" if method == "weights" else "equation"
    expected, own = on_both(*PROBLEMS[name][:2], ON_EQUATIONS[method])
    assert_agree(own, expected, 1e-4)


@pytest.mark.gpu
def test_gpu_mini_batches_single_precision_and_third_derivatives():
    x, y = X.astype(np.float32), Y.astype(np.float32)
    hierarchy = kanmg.uniform_hierarchy((2, 3, 1), num_levels=2, device="cuda", dtype="float32")
    method = kanmg.NestedIteration(kanmg.Adam(), steps=9)
    solution = kanmg.solve(kanmg.Regression(x, y, batch_size=32, validation=0.2), hierarchy, method=method)
    assert solution.coefficients.dtype == np.float32
    term = kanmg.Term("equation", lambda x, u: u.d("x", "x", "x") + u.value - x[:, 0], X)
    expected, own = on_both(collocation(term), (2, 3, 1), kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=3))
    assert_agree(own, expected, 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_gpu_a_run_goes_on_from_its_checkpoint(smoother, tmp_path):
    problem, widths, _ = PROBLEMS["equation"]
    hierarchy = kanmg.uniform_hierarchy(widths, num_levels=2, device="cuda")
    method = kanmg.NestedIteration(SMOOTHERS[smoother], steps=4, starts=1)

    def stop(record):
        if record.step == 5:
            raise StopIteration

    expected = kanmg.solve(problem, hierarchy, method=method)
    kanmg.solve(problem, hierarchy, method=method, checkpoint=tmp_path / "run", callback=stop)
    own = kanmg.solve(problem, hierarchy, method=method, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(own.coefficients, expected.coefficients)


@pytest.mark.gpu
def test_gpu_solutions_of_tensors_and_time_windows():
    assert marched(device="cuda") == pytest.approx(marched(), rel=1e-6)
    problem, widths, _ = PROBLEMS["map"]
    for chosen, sizes in ((kanmg.Regression(X, Y), (2, 3, 1)), (problem, widths)):
        hierarchy = kanmg.uniform_hierarchy(sizes, num_levels=1, device="cuda")
        solution = kanmg.solve(chosen, hierarchy, method=kanmg.NestedIteration(steps=3))
        there = torch.tensor(X, device="cuda")
        for own, expected in (
            (solution(there), solution(X)),
            (solution.derivative(there, 0), solution.derivative(X, 0)),
            (solution.derivative(there, 0, 1), solution.derivative(X, 0, 1)),
        ):
            assert own.is_cuda
            np.testing.assert_allclose(own.cpu().numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
def test_gpu_tensors_of_a_residual_must_be_on_the_device():
    def residual(x, u):
        return u.value - torch.ones(len(x), dtype=x.dtype)

    hierarchy = kanmg.uniform_hierarchy((2, 3, 1), num_levels=1, device="cuda")
    with pytest.raises(DeviceError, match=r"device=x.device"):
        kanmg.solve(collocation(kanmg.Term("ones", residual, X)), hierarchy)


def synchronisations(function):
    """Count how often the host waits for the device: copies of arrays, and numbers that are read."""
    function()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["regression", "equation", "map"])
def test_gpu_the_host_waits_for_one_number_in_an_evaluation(name):
    problem, widths, _ = PROBLEMS[name]
    hierarchy = kanmg.uniform_hierarchy(widths, num_levels=1, device="cuda")
    objective = kanmg.Objective(problem, hierarchy[0])
    size = hierarchy[0].network.num_coefficients + problem.num_parameters
    theta = torch.full((size,), 0.1, dtype=torch.float64, device="cuda")
    assert synchronisations(lambda: objective.value_and_gradient(theta)) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("smoother", "most"), [("adam", 2), ("lbfgs", 12), ("bfgs", 14), ("levenberg_marquardt", 30)])
@pytest.mark.parametrize("name", ["regression", "equation"])
def test_gpu_the_host_waits_for_few_numbers_in_a_step(name, smoother, most):
    problem, widths, _ = PROBLEMS[name]
    hierarchy = kanmg.uniform_hierarchy(widths, num_levels=1, device="cuda")
    objective, own = kanmg.Objective(problem, hierarchy[0]), SMOOTHERS[smoother]
    theta = kanmg.initial_coefficients(hierarchy[0].network, X, seed=0)
    theta = torch.tensor(np.append(theta, problem.initial_parameters), device="cuda")
    reached = [(theta, own.init(objective, theta))]

    def step():
        before = objective.evaluations
        theta, state, _ = own.step(objective, *reached[-1])
        reached.append((theta, state))
        evaluations.append(objective.evaluations - before)

    evaluations = []
    found = synchronisations(step)
    assert found <= most + 2 * max(0, evaluations[-1] - 1)
