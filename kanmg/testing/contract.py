"""What every evaluator must compute: one test class, to be subclassed for each implementation.

All results are compared with dense float64 basis matrices (`kanmg.testing.oracle`), on networks and sizes that are
chosen to break the tiling of kernels and the look-up of cells (`kanmg.testing.cases`). Needs pytest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from kanmg.errors import DomainError, DtypeError, ShapeError
from kanmg.evaluators.base import Jet
from kanmg.evaluators.cost import gradient_cost, value_cost
from kanmg.network import Network, Spline
from kanmg.testing.cases import LAYOUTS, METHODS, NETWORKS, Case, chain, outside_case
from kanmg.testing.oracle import oracle_adjoint, oracle_jacobian, oracle_jet, oracle_jet_jacobian, oracle_value

if TYPE_CHECKING:
    from kanmg.evaluators.base import Evaluator
    from kanmg.network import Outside

__all__ = ["EvaluatorContract"]

Array = npt.NDArray[Any]

_DENSE = [name for name, network in NETWORKS.items() if network.num_coefficients < 1200]
_SIZED = ("cubic", "mixed degree", "wide, few cells")
_POLICIES = ("extend", "linear", "clamp", "zero")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
class EvaluatorContract:
    """Checks that an evaluator computes what it must.

    Subclass it under a name that begins with `Test`, and supply `make`. Change entries of `tolerances` if need be:
    errors relative to the largest number of a result, by dtype and kind of result.

    Examples
    --------
    >>> from kanmg.evaluators.reference import ReferenceEvaluator
    >>> class TestReference(EvaluatorContract):
    ...     def make(self, network, dtype):
    ...         return ReferenceEvaluator(network, dtype)
    >>> TestReference().test_values("cubic", "float64")
    """

    # Rounding grows with the degree, and with the order of the derivative over the cell's length.
    tolerances: ClassVar[dict[str, dict[str, float]]] = {
        "float64": {"value": 1e-13, "first": 1e-12, "second": 1e-10, "gradient": 1e-12},
        "float32": {"value": 1e-5, "first": 1e-4, "second": 2e-3, "gradient": 1e-4},
    }

    def make(self, network: Network, dtype: np.dtype[Any]) -> Evaluator:
        """Build the evaluator under test."""
        raise NotImplementedError("A subclass of `EvaluatorContract` defines `make(self, network, dtype)`.")

    def _make(self, network: Network, dtype: str) -> Evaluator:
        return self.make(network, np.dtype(dtype))

    def _check(self, actual: Array, expected: Array, dtype: str, kind: str) -> None:
        """Compare with the oracle: shape, dtype, and error relative to the largest number."""
        assert isinstance(actual, np.ndarray)
        assert actual.dtype == np.dtype(dtype)
        assert actual.shape == expected.shape
        if actual.size:
            error = np.abs(actual - expected).max() / (np.abs(expected).max() or 1.0)
            assert error <= self.tolerances[dtype][kind], f"relative error {error:.2e}"

    @pytest.mark.parametrize("name", NETWORKS)
    def test_values(self, name: str, dtype: str) -> None:
        """Values are those of the oracle."""
        case = Case.drawn(NETWORKS[name], dtype)
        actual = self._make(case.network, dtype).value(case.theta, case.x)
        self._check(actual, oracle_value(case.network, case.theta, case.x), dtype, "value")

    @pytest.mark.parametrize("name", NETWORKS)
    def test_jets(self, name: str, dtype: str) -> None:
        """Derivatives of order 1 and 2 are those of the oracle; lower orders are a part of higher ones."""
        case = Case.drawn(NETWORKS[name], dtype)
        evaluator = self._make(case.network, dtype)
        expected = oracle_jet(case.network, case.theta, case.x, case.directions)
        for order in (0, 1, 2):
            jet = evaluator.jet(case.theta, case.x, case.directions, order)
            self._check(jet.value, expected.value, dtype, "value")
            assert len(jet.derivatives) == order
            for actual, wanted, kind in zip(jet.derivatives, expected[1:], ("first", "second"), strict=False):
                self._check(actual, wanted, dtype, kind)

    @pytest.mark.parametrize("name", NETWORKS)
    def test_adjoints(self, name: str, dtype: str) -> None:
        """Gradients with respect to coefficients and points are those of the oracle."""
        case = Case.drawn(NETWORKS[name], dtype)
        actual = self._make(case.network, dtype).adjoint(case.theta, case.x, case.y)
        expected = oracle_adjoint(case.network, case.theta, case.x, case.y)
        self._check(actual[0], expected[0], dtype, "gradient")
        self._check(actual[1], expected[1], dtype, "first")

    @pytest.mark.parametrize("name", NETWORKS)
    def test_squared_errors(self, name: str, dtype: str) -> None:
        """Loss and gradient are those of the oracle, with and without weights, and agree with the loss alone."""
        case = Case.drawn(NETWORKS[name], dtype)
        evaluator = self._make(case.network, dtype)
        for weights in (None, case.weights):
            loss, gradient = evaluator.squared_error(case.theta, case.x, case.y, weights)
            expected = case.squared_error(weights)
            assert isinstance(loss, float)
            assert loss == pytest.approx(expected[0], rel=10 * self.tolerances[dtype]["value"])
            self._check(gradient, expected[1], dtype, "gradient")
            alone = evaluator.squared_error_value(case.theta, case.x, case.y, weights)
            assert alone == pytest.approx(loss, rel=self.tolerances[dtype]["value"])

    @pytest.mark.parametrize("name", _DENSE)
    def test_jacobians_and_their_products(self, name: str, dtype: str) -> None:
        """The dense Jacobian, its products and the Gauss-Newton system are those of the oracle."""
        case = Case.drawn(NETWORKS[name], dtype, num_samples=20)
        evaluator = self._make(case.network, dtype)
        jacobian = oracle_jacobian(case.network, case.theta, case.x)
        self._check(evaluator.jacobian(case.theta, case.x), jacobian, dtype, "gradient")
        product = evaluator.jvp(case.theta, case.x, case.tangent)
        self._check(product, jacobian @ case.tangent, dtype, "gradient")
        for weights in (None, case.weights):
            matrix, vector = evaluator.gauss_newton(case.theta, case.x, case.y, weights)
            weighted = jacobian if weights is None else weights[:, None, None] * jacobian
            self._check(matrix, np.einsum("nqc,nqd->cd", weighted, jacobian, optimize=True), dtype, "gradient")
            self._check(vector, np.einsum("nqc,nq->c", weighted, case.y), dtype, "gradient")

    @pytest.mark.parametrize("name", _DENSE)
    def test_adjoints_of_jets(self, name: str, dtype: str) -> None:
        """Gradients of sums over values and derivatives are those of the oracle, in sum and for every sample."""
        case = Case.drawn(NETWORKS[name], dtype, num_samples=20)
        evaluator = self._make(case.network, dtype)
        parts = oracle_jet_jacobian(case.network, case.theta, case.x, case.directions)
        seeds = (case.cotangents.value, *case.cotangents.derivatives)
        rows = np.zeros((20, case.network.num_coefficients))
        for order, kind in enumerate(("gradient", "first", "second")):
            rows = rows + _weighted_rows(parts[order], seeds[order])
            jet = Jet(seeds[0], seeds[1 : order + 1])
            self._check(evaluator.jet_jacobian(case.theta, case.x, case.directions, jet), rows, dtype, kind)
            actual = evaluator.jet_adjoint(case.theta, case.x, case.directions, jet)
            self._check(actual, rows.sum(axis=0), dtype, kind)

    @pytest.mark.parametrize("name", NETWORKS)
    def test_jets_along_curved_paths(self, name: str, dtype: str) -> None:
        """Every point may move in its own directions, along curves; the first order does not see the curvatures."""
        case = Case.drawn(NETWORKS[name], dtype).curved()
        evaluator = self._make(case.network, dtype)
        expected = oracle_jet(case.network, case.theta, case.x, case.directions, case.curvatures)
        for order in (1, 2):
            jet = evaluator.jet(case.theta, case.x, case.directions, order, curvatures=case.curvatures)
            self._check(jet.value, expected.value, dtype, "value")
            assert len(jet.derivatives) == order
            for actual, wanted, kind in zip(jet.derivatives, expected[1:], ("first", "second"), strict=False):
                self._check(actual, wanted, dtype, kind)
        straight = evaluator.jet(case.theta, case.x, case.directions, 2).derivatives[1]
        self._check(straight, oracle_jet(case.network, case.theta, case.x, case.directions).second, dtype, "second")

    @pytest.mark.parametrize("name", _DENSE)
    def test_adjoints_of_jets_along_curved_paths(self, name: str, dtype: str) -> None:
        """Gradients of sums over such jets are those of the oracle, in sum and for every sample."""
        case = Case.drawn(NETWORKS[name], dtype, num_samples=20).curved()
        evaluator = self._make(case.network, dtype)
        parts = oracle_jet_jacobian(case.network, case.theta, case.x, case.directions, case.curvatures)
        rows = _rows_of_jet(parts, case.cotangents)
        self._check(case.call(evaluator, "jet_jacobian"), rows, dtype, "second")
        self._check(case.call(evaluator, "jet_adjoint"), rows.sum(axis=0), dtype, "second")

    @pytest.mark.parametrize("name", _DENSE)
    def test_gauss_newton_of_jets(self, name: str, dtype: str) -> None:
        """Gauss-Newton systems of two residuals that depend on jets are products of their dense Jacobians."""
        case = Case.drawn(NETWORKS[name], dtype, num_samples=20).curved()
        evaluator = self._make(case.network, dtype)
        parts = oracle_jet_jacobian(case.network, case.theta, case.x, case.directions, case.curvatures)
        cotangents = [case.cotangents, Jet(case.y, tuple(entry[::-1] for entry in case.cotangents.derivatives))]
        residuals = np.stack([case.weights, case.weights**2], axis=1)
        rows = np.stack([_rows_of_jet(parts, jet) for jet in cotangents], axis=1)
        matrix, vector = evaluator.jet_gauss_newton(
            case.theta, case.x, case.directions, cotangents, residuals, curvatures=case.curvatures
        )
        self._check(matrix, np.einsum("nrc,nrd->cd", rows, rows, optimize=True), dtype, "second")
        self._check(vector, np.einsum("nrc,nr->c", rows, residuals), dtype, "second")

    def test_straight_paths_of_every_point_are_those_of_all_points(self, dtype: str) -> None:
        """Directions repeated for every point, and curvatures of zero, change no bit."""
        case = Case.drawn(NETWORKS["cubic"], dtype)
        own = np.repeat(case.directions[:, None, :], len(case.x), axis=1)
        repeated = replace(case, directions=own, curvatures=np.zeros_like(own))
        evaluator = self._make(case.network, dtype)
        for result, expected in zip(repeated.results(evaluator), case.results(evaluator), strict=True):
            np.testing.assert_array_equal(result, expected)

    @pytest.mark.parametrize("num_samples", [0, 1, 127, 128, 129, 1023])
    @pytest.mark.parametrize("name", _SIZED)
    def test_any_number_of_samples(self, name: str, num_samples: int, dtype: str) -> None:
        """Sizes around those of blocks and vectors, nothing at all included."""
        case = Case.drawn(NETWORKS[name], dtype, num_samples)
        evaluator = self._make(case.network, dtype)
        expected = oracle_adjoint(case.network, case.theta, case.x, case.y)
        value = evaluator.value(case.theta, case.x)
        self._check(value, oracle_value(case.network, case.theta, case.x), dtype, "value")
        gradient, x_gradient = evaluator.adjoint(case.theta, case.x, case.y)
        self._check(gradient, expected[0], dtype, "gradient")
        self._check(x_gradient, expected[1], dtype, "first")
        loss, gradient = evaluator.squared_error(case.theta, case.x, case.y)
        wanted = case.squared_error(None)
        assert loss == pytest.approx(wanted[0], rel=10 * self.tolerances[dtype]["value"])
        self._check(gradient, wanted[1], dtype, "gradient")

    @pytest.mark.parametrize("num_samples", [0, 1, 129])
    def test_any_number_of_samples_in_dense_results(self, num_samples: int, dtype: str) -> None:
        """Jets, Jacobians and Gauss-Newton systems of no, one and many samples."""
        case = Case.drawn(NETWORKS["cubic"], dtype, num_samples)
        evaluator = self._make(case.network, dtype)
        curved = case.curved()
        jet = curved.call(evaluator, "jet")
        expected = oracle_jet(case.network, case.theta, case.x, curved.directions, curved.curvatures)
        self._check(jet.derivatives[1], expected.second, dtype, "second")
        jacobian = oracle_jacobian(case.network, case.theta, case.x)
        self._check(evaluator.jacobian(case.theta, case.x), jacobian, dtype, "gradient")
        self._check(evaluator.jvp(case.theta, case.x, case.tangent), jacobian @ case.tangent, dtype, "gradient")
        matrix, vector = evaluator.gauss_newton(case.theta, case.x, case.y, case.weights)
        self._check(matrix, np.einsum("n,nqc,nqd->cd", case.weights, jacobian, jacobian), dtype, "gradient")
        self._check(vector, np.einsum("n,nqc,nq->c", case.weights, jacobian, case.y), dtype, "gradient")
        seeds = case.cotangents.value, *case.cotangents.derivatives
        parts = oracle_jet_jacobian(case.network, case.theta, case.x, case.directions)
        for num_lines in (0, 1, 3):
            lines = case.directions[:num_lines]
            jet = evaluator.jet(case.theta, case.x, lines, 2)
            expected = oracle_jet(case.network, case.theta, case.x, lines)
            self._check(jet.derivatives[1], expected.second, dtype, "second")
            cotangents = Jet(seeds[0], tuple(seed[:num_lines] for seed in seeds[1:]))
            rows = _weighted_rows(parts[0], seeds[0])
            for part, seed in zip(parts[1:], cotangents.derivatives, strict=True):
                rows = rows + _weighted_rows(part[:num_lines], seed)
            self._check(evaluator.jet_jacobian(case.theta, case.x, lines, cotangents), rows, dtype, "second")
            gradient = evaluator.jet_adjoint(case.theta, case.x, lines, cotangents)
            self._check(gradient, rows.sum(axis=0), dtype, "second")

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_memory_layout(self, layout: str, dtype: str) -> None:
        """The layout of the arguments changes no bit of the results, and no argument is written to."""
        plain = Case.drawn(NETWORKS["cubic"], dtype)
        evaluator = self._make(plain.network, dtype)
        for case in (plain, plain.curved()):
            arranged = case.arranged(layout)
            for result, expected in zip(arranged.results(evaluator), case.results(evaluator), strict=True):
                assert type(result) is type(expected)
                np.testing.assert_array_equal(result, expected)
            for name in ("theta", "x", "y", "weights", "tangent", "directions"):
                argument = getattr(arranged, name)
                array = argument.detach().numpy() if "tensor" in layout else argument
                np.testing.assert_array_equal(array, getattr(case, name))

    @pytest.mark.parametrize("name", ["cubic", "degree 1", "degree 5, deep", "clamped", "non-uniform", "mixed degree"])
    def test_points_on_breakpoints_and_at_the_ends(self, name: str, dtype: str) -> None:
        """At a breakpoint the right cell counts, at the right end the last; next to it no value jumps."""
        network = NETWORKS[name]
        case = Case.drawn(network, dtype)
        first = network.layers[0]
        assert isinstance(first, Spline)
        ends = np.stack([knots.breakpoints for knots in first.knots], axis=1)
        on = (np.round(ends * 2.0**20) / 2.0**20).astype(dtype)
        x = np.concatenate([on, np.nextafter(on, -9, dtype=dtype), np.nextafter(on, 9, dtype=dtype)])
        evaluator = self._make(network, dtype)
        jet = evaluator.jet(case.theta, x, case.directions, 1)
        expected = oracle_jet(network, case.theta, x, case.directions)
        self._check(jet.value, expected.value, dtype, "value")
        self._check(evaluator.value(case.theta, x), expected.value, dtype, "value")
        # The slopes of degree 1 jump: next to a breakpoint rounding may choose either cell.
        rows = slice(len(on)) if first.degree == 1 else slice(None)
        self._check(jet.derivatives[0][:, rows], expected.first[:, rows], dtype, "first")

    @pytest.mark.parametrize("outside", _POLICIES)
    @pytest.mark.parametrize("kind", ["uniform", "clamped", "non-uniform"])
    def test_policies_outside_the_interval(self, outside: Outside, kind: str, dtype: str) -> None:
        """Each policy in values, derivatives and gradients, outside the first layer's interval and the second's."""
        case = outside_case(kind, outside, dtype)
        evaluator = self._make(case.network, dtype)
        expected = oracle_jet(case.network, case.theta, case.x, case.directions)
        jet = evaluator.jet(case.theta, case.x, case.directions, 2)
        self._check(evaluator.value(case.theta, case.x), expected.value, dtype, "value")
        self._check(jet.value, expected.value, dtype, "value")
        self._check(jet.derivatives[0], expected.first, dtype, "first")
        self._check(jet.derivatives[1], expected.second, dtype, "second")
        gradient, x_gradient = evaluator.adjoint(case.theta, case.x, case.y)
        wanted = oracle_adjoint(case.network, case.theta, case.x, case.y)
        self._check(gradient, wanted[0], dtype, "gradient")
        self._check(x_gradient, wanted[1], dtype, "first")
        jacobian = oracle_jacobian(case.network, case.theta, case.x)
        self._check(evaluator.jacobian(case.theta, case.x), jacobian, dtype, "gradient")
        self._check(evaluator.jvp(case.theta, case.x, case.tangent), jacobian @ case.tangent, dtype, "gradient")
        parts = oracle_jet_jacobian(case.network, case.theta, case.x, case.directions)
        rows = _rows_of_jet(parts, case.cotangents)
        actual = evaluator.jet_jacobian(case.theta, case.x, case.directions, case.cotangents)
        self._check(actual, rows, dtype, "second")

    def test_error_policy_refuses_and_names_the_interval(self, dtype: str) -> None:
        """Points or hidden values outside raise `DomainError` in every method; inside, nothing happens."""
        network = chain((2, 3, 1), 3, 5, outside="error")
        case = Case.drawn(network, dtype, reach=0.0)
        evaluator = self._make(network, dtype)
        ends = np.array([[-1.0, 1.0], [1.0, -1.0]], dtype)
        first_layer = Network(network.layers[:1])
        first_theta = case.theta[: first_layer.num_coefficients]
        inside = self._make(first_layer, dtype).value(first_theta, np.concatenate([case.x, ends]))
        self._check(inside, oracle_value(first_layer, first_theta, np.concatenate([case.x, ends])), dtype, "value")
        far = case.x.copy()
        far[7, 1] = 1.25
        for refused in (replace(case, x=far), replace(case, theta=3 * case.theta)):
            for method in METHODS:
                with pytest.raises(DomainError, match=r"outside"):
                    refused.call(evaluator, method)

    def test_finite_differences(self, dtype: str) -> None:
        """Gradients, jets and products agree with differences of the evaluator's own values."""
        case = Case.drawn(NETWORKS["cubic"], dtype)
        evaluator = self._make(case.network, dtype)
        step, tolerance = {"float64": (1e-5, 1e-7), "float32": (1e-2, 1e-2)}[dtype]
        h, line = np.dtype(dtype).type(step), case.directions[0]
        thetas = case.theta - h * case.tangent, case.theta + h * case.tangent

        def check(actual: Any, values: list[Any]) -> None:
            expected = np.asarray((values[1] - values[0]) / (2 * h))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())

        check(evaluator.jvp(case.theta, case.x, case.tangent), [evaluator.value(theta, case.x) for theta in thetas])
        gradient, x_gradient = evaluator.adjoint(case.theta, case.x, case.y)
        products = [(case.y * evaluator.value(theta, case.x)).sum() for theta in thetas]
        check(gradient @ case.tangent, products)
        losses = [evaluator.squared_error_value(theta, case.x, case.y) for theta in thetas]
        check(evaluator.squared_error(case.theta, case.x, case.y)[1] @ case.tangent, losses)
        shifted = [evaluator.value(case.theta, case.x + sign * h * line) for sign in (-1, 1)]
        check(evaluator.jet(case.theta, case.x, line[None], 1).derivatives[0][0], shifted)
        check(x_gradient @ line, [(case.y * values).sum(axis=1) for values in shifted])
        curved = case.curved()
        lines, bends = curved.directions[:1], curved.curvatures[:1]
        # Farther along the path x + t v + t^2 c / 2 its direction is v + t c. Third derivatives want a shorter step.
        h = h / 10
        paths = [(case.x + t * lines[0] + t * t / 2 * bends[0], lines + t * bends) for t in (-h, h)]
        first = [evaluator.jet(case.theta, *path, 1).derivatives[0] for path in paths]
        check(evaluator.jet(case.theta, case.x, lines, 2, curvatures=bends).derivatives[1], first)

    def test_same_input_same_bits(self, dtype: str) -> None:
        """Every result is the same to the last bit, also from another evaluator of the same network."""
        case = Case.drawn(NETWORKS["cubic"], dtype, num_samples=1500)
        first, second = self._make(case.network, dtype), self._make(case.network, dtype)
        results = [case.results(evaluator) for evaluator in (first, first, second)]
        for again in results[1:]:
            for result, expected in zip(again, results[0], strict=True):
                np.testing.assert_array_equal(result, expected)

    @pytest.mark.parametrize("outside", _POLICIES)
    def test_numbers_that_are_not_finite_or_huge_do_no_harm(self, outside: Outside, dtype: str) -> None:
        """NaN in a row of points gives NaN in this row only; NaN in the coefficients shows in loss and gradient."""
        network = chain((2, 3, 1), 3, 5, outside=outside)
        case = Case.drawn(network, dtype)
        evaluator = self._make(network, dtype)
        expected = evaluator.value(case.theta, case.x)
        x = case.x.copy()
        x[3, 0] = np.nan
        values = evaluator.value(case.theta, x)
        assert np.isnan(values[3]).all()
        others = np.arange(len(x)) != 3
        np.testing.assert_array_equal(values[others], expected[others])
        theta = np.full_like(case.theta, np.nan)
        loss, gradient = evaluator.squared_error(theta, case.x, case.y)
        assert np.isnan(loss)
        assert np.isnan(gradient).any()
        with np.errstate(all="ignore"):
            for scale in (1e30, np.inf):
                huge = np.asarray(case.theta * np.dtype(dtype).type(scale))
                assert evaluator.value(huge, case.x).shape == expected.shape
                assert evaluator.squared_error(huge, case.x, case.y)[1].shape == huge.shape

    @pytest.mark.parametrize("kind", ["uniform", "clamped", "non-uniform"])
    @pytest.mark.parametrize("outside", ["clamp", "zero"])
    def test_how_far_outside_does_not_matter(self, outside: Outside, kind: str, dtype: str) -> None:
        """With the value at the end, or with zero, not even of points at infinity, values and all derivatives."""
        case = outside_case(kind, outside, dtype).curved()
        evaluator, results = self._make(case.network, dtype), []
        for far in (9.0, 1e30, np.inf):
            case.x[3, 0], case.x[4, 1], case.x[5] = far, -far, (far, -far)
            results.append(case.results(evaluator))
        for others in results[1:]:
            for result, expected in zip(others, results[0], strict=True):
                assert np.isfinite(expected).all()
                np.testing.assert_array_equal(result, expected)

    def test_arguments_that_do_not_fit_are_refused(self, dtype: str) -> None:
        """Wrong shapes and dtypes raise before any memory is touched."""
        case = Case.drawn(NETWORKS["cubic"], dtype)
        evaluator = self._make(case.network, dtype)
        other = "float32" if dtype == "float64" else "float64"
        with pytest.raises(DtypeError, match=other):
            evaluator.value(case.theta, case.x.astype(other))
        with pytest.raises(DtypeError, match=other):
            evaluator.value(case.theta.astype(other), case.x)
        for theta, x in ((case.theta[:-1], case.x), (case.theta, case.x[:, :1]), (case.theta, case.x[0])):
            with pytest.raises(ShapeError):
                evaluator.value(theta, x)
        with pytest.raises(ShapeError):
            evaluator.squared_error(case.theta, case.x, case.y[:-1])
        with pytest.raises(ShapeError):
            evaluator.squared_error(case.theta, case.x, case.y, case.weights[:-1])
        with pytest.raises(ShapeError):
            evaluator.adjoint(case.theta, case.x, case.y[:, 0])
        with pytest.raises(ShapeError):
            evaluator.gauss_newton(case.theta, case.x, case.y[:-1])
        with pytest.raises(ShapeError):
            evaluator.jvp(case.theta, case.x, case.tangent[:-1])
        with pytest.raises(ShapeError):
            evaluator.jet(case.theta, case.x, case.directions[:, :1], 1)
        curved = case.curved()
        for directions, curvatures in ((curved.directions[:, 1:], None), (case.directions[:1], curved.curvatures)):
            with pytest.raises(ShapeError, match="directions" if curvatures is None else "curvatures"):
                evaluator.jet(case.theta, case.x, directions, 2, curvatures=curvatures)
        for method in (evaluator.jet_adjoint, evaluator.jet_jacobian):
            value, derivatives = case.cotangents
            for wrong in (Jet(value[:-1], derivatives), Jet(value, (derivatives[0][1:],))):
                with pytest.raises(ShapeError):
                    method(case.theta, case.x, case.directions, wrong)
            with pytest.raises(DtypeError, match=other):
                method(case.theta, case.x, case.directions, Jet(value.astype(other), ()))

    def test_cost_is_the_counted_one(self, dtype: str) -> None:
        """Work units compare evaluators and levels, so all count alike."""
        for network in NETWORKS.values():
            evaluator = self._make(network, dtype)
            assert evaluator.cost_per_sample == gradient_cost(network)
            assert evaluator.value_cost_per_sample == value_cost(network)


def _rows_of_jet(parts: tuple[Array, ...], cotangents: Jet) -> Array:
    """Sum all orders of a jet's Jacobian, weighted, over the outputs and directions of every sample."""
    seeds = cotangents.value, *cotangents.derivatives
    return np.asarray(sum(_weighted_rows(*pair) for pair in zip(parts, seeds, strict=True)))


def _weighted_rows(part: Array, seeds: Array) -> Array:
    """Sum one order of a jet's Jacobian, weighted, over the outputs and directions of every sample."""
    rows: Array = np.einsum("...nqc,...nq->...nc", part, seeds)
    return rows if rows.ndim == 2 else rows.sum(axis=0)
