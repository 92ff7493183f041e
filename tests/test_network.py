"""Spline, Affine and Network: shapes, layout, values as keys, refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.network import Affine, Network, Spline, as_domain
from kanmg.splines.knots import clamped_knots, refine, uniform_knots

CUBIC = uniform_knots(5, degree=3)


def test_paper_parameter_counts() -> None:
    """The counts that arXiv 2603.04827 prints for [2, 5, 1] and [2, 20, 20, 1] with a linear lift."""
    small = Network([Affine(2, 5), Spline(5, 1, knots=CUBIC)])
    assert small.num_coefficients == 55
    assert small.refine().refine().refine().num_coefficients == 230
    large = Network([Affine(2, 20), Spline(20, 20, knots=CUBIC), Spline(20, 1, knots=CUBIC)])
    assert large.num_coefficients - 60 == 3360
    assert large.refine().refine().num_coefficients - 60 == 9660


def test_spline_takes_one_knot_vector_for_all_inputs_or_one_each() -> None:
    other = clamped_knots(5, degree=3, domain=(0, 2))
    assert Spline(3, 2, knots=CUBIC).knots == (CUBIC,) * 3
    layer = Spline(2, 4, knots=[CUBIC, other], outside="linear")
    assert layer.knots == (CUBIC, other)
    assert layer.shape == (2, 8, 4)
    assert layer.domain == ((-1.0, 1.0), (0.0, 2.0))
    assert (layer.degree, layer.num_intervals, layer.num_basis) == (3, 5, 8)


def test_refine_bisects_splines_and_leaves_affine_layers_alone() -> None:
    other = clamped_knots(5, degree=3, domain=(0, 2))
    affine = Affine(3, 2, bias=False)
    network = Network([affine, Spline(2, 1, knots=[CUBIC, other], outside="clamp")], domain=(0, 1))
    fine = network.refine()
    assert fine.layers[0] is affine
    assert fine.layers[1] == Spline(2, 1, knots=[refine(CUBIC), refine(other)], outside="clamp")
    assert fine.domain == network.domain == ((0.0, 1.0),) * 3


def test_flat_vector_lies_layer_after_layer_with_the_output_index_fastest() -> None:
    network = Network([Spline(2, 3, knots=CUBIC), Affine(3, 2), Affine(2, 1, bias=False)])
    theta = np.arange(network.num_coefficients, dtype=np.float32)
    spline, affine, last = network.unflatten(theta)
    assert network.offsets == (0, 48, 56, 58)
    assert [part.shape for part in (spline, affine, last)] == [layer.shape for layer in network.layers]
    assert (spline[1, 2, 1], affine[3, 1], last[1, 0]) == (24 + 6 + 1, 48 + 7, 57)
    affine[3, 0] = -1.0
    assert theta[54] == -1.0
    joined = network.flatten([spline, affine, last])
    np.testing.assert_array_equal(joined, theta)
    assert joined.dtype == np.float32


def test_flatten_and_unflatten_of_tensors_are_differentiable() -> None:
    network = Network([Spline(2, 3, knots=CUBIC), Affine(3, 1)])
    theta = torch.arange(network.num_coefficients, dtype=torch.float64, requires_grad=True)
    joined = network.flatten([2 * part for part in network.unflatten(theta)])
    joined.sum().backward()
    assert theta.grad is not None
    assert torch.equal(theta.grad, torch.full_like(theta, 2.0))


def test_networks_are_values() -> None:
    def build() -> Network:
        return Network([Spline(2, 3, knots=uniform_knots(5, degree=3)), Affine(3, 1)])

    assert build() == build()
    assert hash(build()) == hash(build())
    assert len({build(), build(), build().refine()}) == 2
    assert copy.deepcopy(build()) == build()
    assert build() != Network([Spline(2, 3, knots=CUBIC, outside="zero"), Affine(3, 1)])
    with pytest.raises(AttributeError):
        build().layers = ()


def test_repr_can_be_read() -> None:
    network = Network([Affine(2, 5, bias=False), Spline(5, 1, knots=CUBIC)], domain=(0, 1))
    assert repr(network) == (
        "Network([Affine(2, 5, bias=False), Spline(5, 1, knots=Knots(num_intervals=5, degree=3, domain=(-1.0, 1.0), "
        "uniform), outside='extend')], domain=((0.0, 1.0), (0.0, 1.0)))"
    )
    both = Spline(2, 1, knots=[CUBIC, clamped_knots(5, degree=3)])
    assert "uniform), Knots(" in repr(both)


def test_domain_of_the_inputs() -> None:
    assert Network([Spline(2, 1, knots=CUBIC)]).domain == ((-1.0, 1.0),) * 2
    assert Network([Affine(2, 1)]).domain is None
    assert Network([Affine(2, 1)], domain=[(0, 1), (2, 3)]).domain == ((0.0, 1.0), (2.0, 3.0))
    assert as_domain([0, 1], 3)
    assert as_domain((0, 1), 3) == ((0.0, 1.0),) * 3
    with pytest.raises(KanmgValueError, match=r"contradicts the knots of the first layer"):
        Network([Spline(2, 1, knots=CUBIC)], domain=(0, 1))


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ((1, 0), r"the interval \(1, 0\)"),
        ((0, np.inf), r"the interval \(0, inf\)"),
        ([(0, 1), (0, 1), (0, 1)], r"has 3 intervals but there are 2 inputs"),
        ([(0, 1), "ab"], r"'ab', which is not a pair"),
        (((0, 1), (0, 1, 2)), r"\(0, 1, 2\), which is not a pair"),
    ],
)
def test_bad_domains_are_refused(domain: object, message: str) -> None:
    with pytest.raises(KanmgValueError, match=message):
        Network([Affine(2, 1)], domain=domain)


def test_contradicting_widths_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"layer 0 has 5 outputs but layer 1 has 4 inputs. Write e.g. `Spline\(5, 1"):
        Network([Affine(2, 5), Spline(4, 1, knots=CUBIC)])


def test_knots_that_do_not_fit_the_layer_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"has 3 inputs but got 2 knot vectors"):
        Spline(3, 1, knots=[CUBIC, CUBIC])
    with pytest.raises(KanmgValueError, match=r"`degree` \[2, 3\]"):
        Spline(2, 1, knots=[CUBIC, uniform_knots(5, degree=2)])
    with pytest.raises(KanmgValueError, match=r"`num_intervals` \[5, 6\]"):
        Spline(2, 1, knots=[CUBIC, uniform_knots(6, degree=3)])
    with pytest.raises(KanmgTypeError, match=r"got ndarray.*kanmg.uniform_knots"):
        Spline(1, 1, knots=[np.linspace(0, 1, 5)])
    with pytest.raises(KanmgTypeError, match=r"must be `Knots`"):
        Spline(1, 1, knots=5)


def test_other_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(KanmgValueError, match=r"'periodic'.*'extend', 'linear', 'clamp', 'zero', 'error'"):
        Spline(1, 1, knots=CUBIC, outside="periodic")
    with pytest.raises(KanmgValueError, match=r"`num_outputs=0`"):
        Spline(1, 0, knots=CUBIC)
    with pytest.raises(KanmgTypeError, match=r"`num_inputs=2.0`"):
        Affine(2.0, 1)
    with pytest.raises(KanmgValueError, match=r"no layers"):
        Network([])
    with pytest.raises(KanmgTypeError, match=r"layer 0 is a Linear"):
        Network([torch.nn.Linear(2, 1)])


def test_wrong_coefficients_are_refused() -> None:
    network = Network([Affine(2, 5), Spline(5, 1, knots=CUBIC)])
    with pytest.raises(ShapeError, match=r"\(54,\) but the network with `widths=\(2, 5, 1\)` has 55"):
        network.unflatten(np.zeros(54))
    with pytest.raises(ShapeError, match=r"\[\(3, 5\), \(8, 5, 1\)\].*\[\(3, 5\), \(5, 8, 1\)\]"):
        network.flatten([np.zeros((3, 5)), np.zeros((8, 5, 1))])
