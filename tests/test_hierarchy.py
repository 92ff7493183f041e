"""Level, Transfer, Hierarchy, uniform_hierarchy: construction, the three transfers, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kanmg.errors import (
    DeviceError,
    DtypeError,
    KanmgTypeError,
    KanmgValueError,
    NestingError,
    ShapeError,
)
from kanmg.evaluators.base import Jet
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.evaluators.strips import StripProduct
from kanmg.hierarchy import Hierarchy, Transfer, _normal_products, uniform_hierarchy
from kanmg.network import Affine, Network, Spline
from kanmg.splines.knots import Knots, clamped_knots, knots_from_breakpoints, refine, uniform_knots
from kanmg.testing.oracle import oracle_value

CUBIC = uniform_knots(5, degree=3)
MIXED = Network(
    [
        Affine(2, 3),
        Spline(
            3, 4, knots=[CUBIC, clamped_knots(5, degree=3), knots_from_breakpoints([-1, 0, 0.1, 0.3, 0.4, 1], degree=3)]
        ),
        Affine(4, 2, bias=False),
        Spline(2, 2, knots=uniform_knots(3, degree=2), outside="linear"),
    ],
    domain=(-1, 1),
)


def hierarchy_of(network: Network, num_levels: int = 3, **options) -> Hierarchy:
    return Hierarchy.from_network(network, num_levels, evaluator="reference", **options)


def drawn(network: Network, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, network.num_coefficients)


# ------------------------------------------------------------------------------------------------------- construction


def test_uniform_hierarchy_doubles_the_cells() -> None:
    hierarchy = uniform_hierarchy((2, 5, 1), num_intervals=3, num_levels=3, degree=2, evaluator="reference")
    assert [level.index for level in hierarchy] == [0, 1, 2]
    for level, cells in zip(hierarchy, (3, 6, 12), strict=True):
        knots = uniform_knots(cells, degree=2)
        assert level.network == Network([Spline(2, 5, knots=knots), Spline(5, 1, knots=knots)])
        assert level.evaluator.network is level.network
    assert (hierarchy.num_levels, hierarchy.widths, len(hierarchy.transfers)) == (3, (2, 5, 1), 2)
    assert (hierarchy.dtype, hierarchy.device) == (np.dtype("float64"), "cpu")


def test_affine_lift_gives_the_papers_parameter_counts() -> None:
    hierarchy = uniform_hierarchy((2, 5, 1), lift="affine", domain=[(0, 1), (2, 3)], evaluator="reference")
    assert [level.network.num_coefficients for level in hierarchy] == [55, 80, 130, 230]
    assert hierarchy[0].network.layers[0] == Affine(2, 5)
    assert hierarchy.domain == hierarchy[3].network.domain == ((0.0, 1.0), (2.0, 3.0))


def test_domain_is_that_of_the_inputs_and_hidden_intervals_are_unit() -> None:
    hierarchy = uniform_hierarchy(
        (2, 3, 1), domain=[(0, 1), (5, 9)], outside="clamp", num_levels=2, evaluator="reference"
    )
    first, second = hierarchy[1].network.layers
    assert first.domain == hierarchy.domain == ((0.0, 1.0), (5.0, 9.0))
    assert second.domain == ((-1.0, 1.0),) * 3
    assert first.outside == second.outside == "clamp"


def test_hierarchy_is_an_immutable_sequence() -> None:
    hierarchy = hierarchy_of(MIXED)
    assert hierarchy[-1] is hierarchy[2]
    assert hierarchy[:2] == (hierarchy[0], hierarchy[1])
    assert next(reversed(hierarchy)).index == 2
    with pytest.raises(IndexError):
        hierarchy[3]
    for name in ("dtype", "transfers", "num_levels"):
        with pytest.raises(AttributeError):
            setattr(hierarchy, name, None)
    with pytest.raises(AttributeError):
        hierarchy[0].index = 1


def test_networks_by_hand_may_skip_levels_and_differ_in_exterior_knots() -> None:
    thirds = (
        Network([Spline(1, 1, knots=uniform_knots(2, degree=2))]),
        Network([Spline(1, 1, knots=uniform_knots(6, degree=2))]),
    )
    hierarchy = Hierarchy(thirds, evaluator="reference")
    theta = drawn(thirds[0])
    x = np.linspace(-1, 1, 41)[:, None]
    np.testing.assert_allclose(
        oracle_value(thirds[1], hierarchy.prolong(theta), x), oracle_value(thirds[0], theta, x), atol=1e-14
    )


def test_evaluators_by_name_class_or_function() -> None:
    built = []

    def factory(network: Network, dtype: np.dtype) -> ReferenceEvaluator:
        built.append((network, dtype))
        return ReferenceEvaluator(network, dtype)

    for choice in ("reference", ReferenceEvaluator, factory):
        hierarchy = Hierarchy.from_network(MIXED, 2, dtype="float32", evaluator=choice)
        assert {type(level.evaluator) for level in hierarchy} == {ReferenceEvaluator}
        assert {level.evaluator.dtype for level in hierarchy} == {np.dtype("float32")}
    assert built == [(MIXED, np.dtype("float32")), (MIXED.refine(), np.dtype("float32"))]


def test_table() -> None:
    text = str(hierarchy_of(MIXED, 2, dtype=torch.float32))
    non_zeros = sum(matrix.nnz for matrix in hierarchy_of(MIXED, 2).transfers[0].prolongation)
    assert text.splitlines() == [
        "Hierarchy of 2 levels: widths (2, 3, 4, 2, 2), float32, cpu",
        "level  cells  coefficients  non-zeros of P  J^T J  evaluator",
        "    0   5, 3           133               -  dense  reference",
        f"    1  10, 6           205             {non_zeros}  dense  reference",
    ]
    assert repr(hierarchy_of(MIXED, 1)) == (
        "<Hierarchy of 1 level: widths (2, 3, 4, 2, 2), float64, cpu, 133 coefficients on the finest>"
    )
    assert "    0      -             3               -  dense  reference" in str(
        hierarchy_of(Network([Affine(2, 1)]), 2)
    )


@pytest.mark.parametrize(
    ("degree", "evaluator", "expected"),
    [
        (3, "cpu", ["dense", "strips to order 2"]),
        (3, "dense", ["dense", "strips to order 2"]),
        (2, "cpu", ["dense", "strips"]),
        (3, "reference", ["dense", "dense"]),
    ],
)
def test_table_tells_how_normal_equations_are_assembled(degree, evaluator, expected) -> None:
    """Derivatives of order above 2 are not the kernels', whatever the cells; degree 2 has none."""
    network = Network([Spline(2, 3, knots=uniform_knots(1, degree=degree))])
    hierarchy = Hierarchy.from_network(network, 5, evaluator=evaluator)
    products = [_normal_products(hierarchy[index]) for index in (0, 4)]
    assert products == expected
    assert all(text in line for text, line in zip(products, np.take(str(hierarchy).splitlines(), (2, 6)), strict=True))


@pytest.mark.parametrize("order", [0, 2, 3])
def test_the_table_says_what_is_computed(monkeypatch, order) -> None:
    network = Network([Spline(1, 1, knots=uniform_knots(16, degree=3))])
    evaluator = Hierarchy.from_network(network, 1, evaluator="cpu")[0].evaluator
    multiplied = []
    monkeypatch.setattr(StripProduct, "multiply", lambda *_: multiplied.append(order) or (0.0, 0.0))
    ones = np.ones((1, 5, 1))
    jet = Jet(ones[0], (ones,) * order)
    evaluator.jet_gauss_newton(drawn(network), np.zeros((5, 1)), np.ones((1, 1)), [jet], ones[0])
    assert bool(multiplied) == (evaluator.normal_product(order) == "strips") == (order < 3)


# ----------------------------------------------------------------------------------------------------------- transfers


@pytest.mark.parametrize("outside", ["extend", "linear", "clamp"])
def test_prolongation_preserves_the_values_inside_and_outside(outside: str) -> None:
    layers = [
        Spline(2, 3, knots=CUBIC, outside=outside),
        Spline(3, 2, knots=clamped_knots(3, degree=2), outside=outside),
    ]
    hierarchy = hierarchy_of(Network(layers))
    x = np.random.default_rng(0).uniform(-1.2, 1.2, (300, 2))
    theta = drawn(hierarchy[0].network)
    expected = hierarchy[0].evaluator.value(theta, x)
    for level in hierarchy:
        values = level.evaluator.value(hierarchy.prolong(theta, 0, level.index), x)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_matrices_act_on_each_layers_array_with_the_output_index_last() -> None:
    transfer = hierarchy_of(MIXED, 2).transfers[0]
    theta, gradient = drawn(transfer.coarse), drawn(transfer.fine)
    for matrices, method, vector, source, target in (
        (transfer.prolongation, transfer.prolong, theta, transfer.coarse, transfer.fine),
        (transfer.restriction, transfer.restrict, gradient, transfer.fine, transfer.coarse),
        (transfer.injection, transfer.inject, gradient, transfer.fine, transfer.coarse),
    ):
        parts = [
            (matrix @ part.reshape(-1, layer.num_outputs)).ravel()
            for matrix, part, layer in zip(matrices, source.unflatten(vector), source.layers, strict=True)
        ]
        np.testing.assert_allclose(method(vector), np.concatenate(parts), rtol=1e-13, atol=1e-14)
        assert [matrix.shape[0] for matrix in matrices] == [np.prod(layer.shape[:-1]) for layer in target.layers]


def test_restriction_is_the_transpose_of_prolongation() -> None:
    transfer = hierarchy_of(MIXED, 2).transfers[0]
    theta, gradient = drawn(transfer.coarse, 1), drawn(transfer.fine, 2)
    assert gradient @ transfer.prolong(theta) == pytest.approx(transfer.restrict(gradient) @ theta, rel=1e-13)
    for up, down in zip(transfer.prolongation, transfer.restriction, strict=True):
        assert abs(up.T - down).nnz == 0


@pytest.mark.parametrize("kind", ["l2", "pinv"])
def test_injection_undoes_prolongation(kind: str) -> None:
    transfer = hierarchy_of(MIXED, 2).transfers[0]
    theta = drawn(transfer.coarse)
    np.testing.assert_allclose(transfer.inject(transfer.prolong(theta), kind), theta, atol=1e-13)


def test_kinds_of_injection_differ_on_what_is_no_coarse_function() -> None:
    transfer = hierarchy_of(MIXED, 2).transfers[0]
    theta = drawn(transfer.fine)
    assert np.abs(transfer.inject(theta) - transfer.inject(theta, "pinv")).max() > 0.01
    np.testing.assert_array_equal(transfer.inject(theta), transfer.inject(theta, "l2"))
    with pytest.raises(KanmgValueError, match=r"kind"):
        transfer.inject(theta, "copy")


def test_affine_layers_are_transferred_to_the_bit() -> None:
    transfer = hierarchy_of(MIXED, 2).transfers[0]
    coarse, fine = drawn(transfer.coarse), drawn(transfer.fine)
    for number in (0, 2):
        np.testing.assert_array_equal(
            transfer.fine.unflatten(transfer.prolong(coarse))[number], transfer.coarse.unflatten(coarse)[number]
        )
        for down in (transfer.restrict, transfer.inject):
            np.testing.assert_array_equal(
                transfer.coarse.unflatten(down(fine))[number], transfer.fine.unflatten(fine)[number]
            )


def test_float32_hierarchies_cast_the_float64_matrices() -> None:
    single, double = (hierarchy_of(MIXED, 2, dtype=dtype).transfers[0] for dtype in ("float32", "float64"))
    for low, high in zip(single.prolongation, double.prolongation, strict=True):
        assert low.dtype == np.float32
        np.testing.assert_array_equal(low.data, high.data.astype(np.float32))
    theta = drawn(MIXED).astype(np.float32)
    fine = single.prolong(theta)
    assert {fine.dtype, single.restrict(fine).dtype, single.inject(fine).dtype} == {np.dtype("float32")}
    np.testing.assert_allclose(single.inject(fine), theta, atol=1e-5)


def test_prolong_over_several_levels_is_the_composition_and_returns_what_came_in() -> None:
    hierarchy = hierarchy_of(MIXED)
    theta = drawn(MIXED)
    first, second = hierarchy.transfers
    np.testing.assert_array_equal(hierarchy.prolong(theta), second.prolong(first.prolong(theta)))
    np.testing.assert_array_equal(hierarchy.prolong(theta, 0, 1), first.prolong(theta))
    copy = hierarchy.prolong(theta, 0, 0)
    np.testing.assert_array_equal(copy, theta)
    assert not np.shares_memory(copy, theta)
    tensor = hierarchy.prolong(torch.tensor(theta), 0, -1)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), hierarchy.prolong(theta))


def test_transfers_refuse_vectors_of_other_levels() -> None:
    transfer = hierarchy_of(MIXED, 2).transfers[0]
    for method, network in (
        (transfer.prolong, transfer.fine),
        (transfer.restrict, transfer.coarse),
        (transfer.inject, transfer.coarse),
    ):
        with pytest.raises(ShapeError, match=rf"\({network.num_coefficients},\) but the network"):
            method(drawn(network))


# ------------------------------------------------------------------------------------------------------------ refusals


def levels_with(coarse: Knots, fine: Knots, **options) -> tuple[Network, Network]:
    return tuple(
        Network([Affine(1, 2), Spline(2, 2, knots=CUBIC), Spline(2, 1, knots=knots, **options)])
        for knots in (coarse, fine)
    )


def test_levels_that_do_not_nest() -> None:
    coarse = knots_from_breakpoints([-1, 0.375, 1], degree=3)
    with pytest.raises(NestingError) as caught:
        Hierarchy(levels_with(coarse, uniform_knots(4, degree=3)), evaluator="reference")
    assert str(caught.value) == (
        "level 1 does not contain level 0 in layer 2: knot 0.375 is missing. Build the levels with "
        "`kanmg.refine(knots)`."
    )
    with pytest.raises(
        NestingError, match=r"level 2 does not contain level 1 in layer 2: knot -0.6 is missing \(and 3 more\)"
    ):
        Hierarchy(
            (*levels_with(CUBIC, CUBIC), levels_with(CUBIC, uniform_knots(7, degree=3))[1]), evaluator="reference"
        )


def test_levels_that_differ_in_anything_else_do_not_nest() -> None:
    coarse, _ = levels_with(CUBIC, CUBIC)
    _, other_degree = levels_with(CUBIC, uniform_knots(5, degree=4))
    with pytest.raises(NestingError, match=r"in layer 2: its `degree` is 4, on the coarser level 3"):
        Hierarchy([coarse, other_degree], evaluator="reference")
    _, other_policy = levels_with(CUBIC, CUBIC, outside="clamp")
    with pytest.raises(NestingError, match=r"in layer 2: its `outside` is 'clamp', on the coarser level 'extend'"):
        Hierarchy([coarse, other_policy], evaluator="reference")
    _, other_domain = levels_with(CUBIC, uniform_knots(10, degree=3, domain=(-3, 1)))
    with pytest.raises(NestingError, match=r"in layer 2: .*domain"):
        Hierarchy([coarse, other_domain], evaluator="reference")
    with pytest.raises(NestingError, match=r"in layer 0: its `type` is Spline, on the coarser level Affine"):
        Hierarchy([coarse, Network([Spline(1, 2, knots=CUBIC), *coarse.layers[1:]])], evaluator="reference")
    with pytest.raises(NestingError, match=r"in layer 0: its `bias` is False"):
        Hierarchy([coarse, Network([Affine(1, 2, bias=False), *coarse.layers[1:]])], evaluator="reference")
    with pytest.raises(NestingError, match=r"level 1 has 2 layers but level 0 has 3"):
        Hierarchy([coarse, Network(coarse.layers[:2])], evaluator="reference")


def test_rightmost_input_is_named_when_the_knots_differ() -> None:
    coarse = Network([Spline(2, 1, knots=[CUBIC, clamped_knots(5, degree=3)])])
    fine = Network([Spline(2, 1, knots=[refine(CUBIC), clamped_knots(10, degree=3, domain=(-1, 1.5))])])
    with pytest.raises(NestingError, match=r"in layer 0 \(input 1\): knot"):
        Transfer(0, coarse, fine, np.dtype("float64"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_levels": 0}, KanmgValueError, r"`num_levels` is 0. At least 1 level is required"),
        ({"num_levels": 2.0}, KanmgTypeError, r"`num_levels` is 2.0 of type `float`"),
        ({"num_levels": True}, KanmgTypeError, r"`num_levels` is True of type `bool`"),
        ({"degree": True}, KanmgTypeError, r"`degree` is True of type `bool`"),
        ({"num_intervals": True}, KanmgTypeError, r"`num_intervals` is True of type `bool`"),
        ({"widths": 2}, KanmgTypeError, r"`widths=2` is a int. Pass the numbers of .*`widths=\(2, 5, 1\)`"),
        ({"widths": None}, KanmgTypeError, r"`widths=None` is a NoneType"),
        ({"widths": "21"}, KanmgTypeError, r"`widths='21'` is a str"),
        ({"num_intervals": 0}, KanmgValueError, r"`num_intervals` is 0"),
        ({"degree": 0}, KanmgValueError, r"`degree` is 0"),
        ({"widths": (2,)}, KanmgValueError, r"`widths=\(2,\)` has 1 entries, but at least 2 are required"),
        ({"widths": (2, 1), "lift": "affine"}, KanmgValueError, r"at least 3 are required with an affine lift"),
        ({"widths": (2, 0, 1)}, KanmgValueError, r"`num_outputs=0`"),
        ({"widths": (2.0, 1)}, KanmgTypeError, r"`widths=\(2.0, 1\)` holds 2.0. Pass integers, such as"),
        ({"widths": (2, True)}, KanmgTypeError, r"holds True. Pass integers"),
        ({"num_intervals": 10**15}, KanmgValueError, r"more than 268435456: the knots alone would take 8e\+06 GB"),
        (
            {"num_levels": 40},
            KanmgValueError,
            r"finest of 40 levels .* more than 268435456 .* Use `num_levels=23` or fewer",
        ),
        ({"num_levels": 10**12}, KanmgValueError, r"Use `num_levels=23` or fewer"),
        ({"widths": (20_000, 20_000)}, KanmgValueError, r"more than 268435456 .* Use fewer cells or narrower layers"),
        ({"lift": "linear"}, KanmgValueError, r"`lift='linear'` is unknown. Write `lift='affine'`"),
        ({"outside": "wrap"}, KanmgValueError, r"`outside='wrap'` is unknown"),
        ({"domain": (1, -1)}, KanmgValueError, r"the interval \(1, -1\)"),
        ({"domain": [(0, 1)] * 3}, ShapeError, r"has 3 intervals but there are 2 inputs"),
        ({"dtype": "float16"}, DtypeError, r"`dtype='float16'` is not supported"),
        ({"device": "cuda"}, DeviceError, r"`device='cuda'` was asked for.*Use `device='cpu'`"),
        ({"device": "abacus"}, DeviceError, r"`device='abacus'` is unknown. Valid devices are"),
        (
            {"evaluator": "fast"},
            KanmgValueError,
            r"`evaluator='fast'` is unknown. Use 'auto', 'cpu', 'cuda', 'dense', 'reference'",
        ),
        ({"evaluator": lambda *_: None}, KanmgTypeError, r"`evaluator` returned a NoneType"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        uniform_hierarchy(**{"widths": (2, 3, 1), "evaluator": "reference"} | arguments)


def test_the_largest_number_of_levels_is_that_with_room_for_the_coefficients(monkeypatch) -> None:
    network = uniform_hierarchy((2, 3, 1), num_levels=1, evaluator="reference")[0].network
    for limit in range(72, 400):
        monkeypatch.setattr("kanmg.hierarchy_checks.MAX_COEFFICIENTS", limit)
        networks = [network]
        while (finer := networks[-1].refine()).num_coefficients <= limit:
            networks.append(finer)
        assert len(Hierarchy.from_network(network, len(networks), evaluator="reference")) == len(networks)
        with pytest.raises(KanmgValueError, match=f"Use `num_levels={len(networks)}` or fewer"):
            Hierarchy.from_network(network, len(networks) + 1, evaluator="reference")


def test_what_are_no_networks_is_refused() -> None:
    with pytest.raises(KanmgValueError, match=r"got no networks"):
        Hierarchy([])
    with pytest.raises(KanmgTypeError, match=r"entry 1 of `networks` is a Spline.*from_network"):
        Hierarchy([MIXED, MIXED.layers[1]])
    with pytest.raises(KanmgTypeError, match=r"`network` is a list. Pass a `kanmg.Network`"):
        Hierarchy.from_network([MIXED], 2)


@pytest.mark.parametrize("level", [1.5, "1", None, True])
def test_numbers_of_levels_are_integers(level: object) -> None:
    hierarchy = uniform_hierarchy((1, 1), num_levels=2, evaluator="reference")
    theta = np.zeros(hierarchy[0].network.num_coefficients)
    with pytest.raises(KanmgTypeError, match=f"{level!r} is no number of a level. Pass an integer, 0 to 1"):
        hierarchy.prolong(theta, 0, level)
    assert hierarchy.prolong(theta, np.int64(0), np.int64(-1)).shape == (13,)


def test_prolong_downwards_is_refused() -> None:
    hierarchy = hierarchy_of(MIXED)
    with pytest.raises(KanmgValueError, match=r"`source=2` is finer than `target=0`.*transfers\[1\].inject"):
        hierarchy.prolong(drawn(hierarchy[2].network), 2, 0)
    with pytest.raises(KanmgValueError, match=r"no level 3: the hierarchy has levels 0 to 2"):
        hierarchy.prolong(drawn(MIXED), 0, 3)
    with pytest.raises(ShapeError):
        hierarchy.prolong(drawn(MIXED), 1, 1)
