from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import (
    DeviceError,
    DomainError,
    DtypeError,
    KanmgTypeError,
    KanmgValueError,
    NonFiniteError,
    ShapeError,
)
from kanmg.problems.regression import Regression


def data(num_samples=50, num_outputs=1, dtype="float64"):
    rng = np.random.default_rng(1)
    x = rng.uniform(-1.0, 1.0, (num_samples, 2))
    y = np.stack([np.sin((q + 1.0) * x[:, 0]) + x[:, 1] for q in range(num_outputs)], axis=1)
    return x.astype(dtype), y.astype(dtype)


def make_level(num_outputs=1, dtype="float64", domain=(-1.0, 1.0), widths=None):
    widths = (2, 3, num_outputs) if widths is None else widths
    hierarchy = kanmg.uniform_hierarchy(
        widths, degree=2, num_intervals=3, num_levels=1, domain=domain, dtype=dtype, evaluator="reference"
    )
    return hierarchy[0]


def coefficients(level, seed=2):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(level.network.num_coefficients).astype(level.evaluator.dtype)


@pytest.fixture(scope="module")
def level():
    return make_level()


@pytest.fixture(scope="module")
def evaluator(level):
    return level.evaluator


@pytest.fixture(scope="module")
def theta(level):
    return coefficients(level)


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_loss_is_torchs_mse_loss(num_outputs):
    level = make_level(num_outputs)
    theta = coefficients(level)
    x, y = data(num_outputs=num_outputs)
    values = level.evaluator.value(theta, x)
    expected = torch.nn.functional.mse_loss(torch.from_numpy(values), torch.from_numpy(y)).item()
    problem = Regression(x, y)
    assert problem.loss(level.evaluator, theta) == pytest.approx(expected, rel=1e-14)
    assert problem.loss_and_gradient(level.evaluator, theta)[0] == pytest.approx(expected, rel=1e-14)


def test_weights_make_a_weighted_mean(evaluator, theta):
    x, y = data()
    weights = np.random.default_rng(7).uniform(0.0, 2.0, len(x))
    squares = np.sum((evaluator.value(theta, x) - y) ** 2, axis=1)
    problem = Regression(x, y, weights=weights)
    assert problem.loss(evaluator, theta) == pytest.approx(np.average(squares, weights=weights), rel=1e-13)


def test_integer_weights_are_repetitions(evaluator, theta):
    x, y = data()
    repeats = np.random.default_rng(7).integers(0, 4, len(x))
    weighted = Regression(x, y, weights=repeats.astype(float)).loss_and_gradient(evaluator, theta)
    repeated = Regression(x.repeat(repeats, axis=0), y.repeat(repeats, axis=0)).loss_and_gradient(evaluator, theta)
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-13)
    assert weighted[1] == pytest.approx(repeated[1], rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch", [None, 0, 3])
def test_gradient_agrees_with_finite_differences(evaluator, theta, weighted, batch):
    x, y = data()
    problem = Regression(
        x, y, weights=np.random.default_rng(7).uniform(0.0, 1.0, len(x)) if weighted else None, batch_size=13
    )
    loss, gradient = problem.loss_and_gradient(evaluator, theta, batch)
    assert loss == pytest.approx(problem.loss(evaluator, theta, batch), rel=1e-14)
    h = 1e-6
    for i in range(0, len(theta), 5):
        shift = h * np.eye(len(theta))[i]
        slope = (problem.loss(evaluator, theta + shift, batch) - problem.loss(evaluator, theta - shift, batch)) / (
            2 * h
        )
        assert gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_one_column_may_come_as_a_vector(evaluator, theta):
    x, y = data()
    assert Regression(x, y[:, 0]).loss(evaluator, theta) == Regression(x, y).loss(evaluator, theta)


@pytest.mark.parametrize("layout", ["fortran", "strided", "torch", "list"])
def test_layout_and_kind_of_the_data_do_not_matter(evaluator, theta, layout):
    x, y = data()
    convert = {
        "fortran": np.asfortranarray,
        "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
        "torch": torch.from_numpy,
        "list": np.ndarray.tolist,
    }[layout]
    plain, other = Regression(x, y, seed=3), Regression(convert(x), convert(y), seed=3)
    assert other.loss(evaluator, theta) == pytest.approx(plain.loss(evaluator, theta), rel=1e-14)
    assert other.fingerprint() == plain.fingerprint()


# -------------------------------------------------------------------------------------------------------- mini-batches


@pytest.mark.parametrize("weighted", [False, True])
def test_an_epochs_batches_have_the_full_loss_and_gradient_as_mean(evaluator, theta, weighted):
    x, y = data(53)
    weights = np.random.default_rng(7).uniform(0.0, 1.0, len(x)) if weighted else None
    full = Regression(x, y, weights=weights).loss_and_gradient(evaluator, theta)
    problem = Regression(x, y, weights=weights, batch_size=10)
    assert problem.steps_per_epoch == 6
    for epoch in range(2):
        numbers = range(6 * epoch, 6 * (epoch + 1))
        parts = [problem.loss_and_gradient(evaluator, theta, number) for number in numbers]
        sizes = np.array([problem.batch_length(number) for number in numbers])
        assert sizes.tolist() == [10, 10, 10, 10, 10, 3]
        assert np.average([loss for loss, _ in parts], weights=sizes) == pytest.approx(full[0], rel=1e-13)
        mean = np.average([gradient for _, gradient in parts], weights=sizes, axis=0)
        assert mean == pytest.approx(full[1], rel=1e-10, abs=1e-13)


def test_batches_are_the_same_in_any_order(evaluator, theta):
    x, y = data()
    there, back = Regression(x, y, batch_size=8, seed=5), Regression(x, y, batch_size=8, seed=5)
    forwards = [there.loss(evaluator, theta, number) for number in range(20)]
    backwards = [back.loss(evaluator, theta, number) for number in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 20
    assert there.loss(evaluator, theta, 7) == forwards[7]


def test_seeds_order_the_batches(evaluator, theta):
    x, y = data()
    losses = {Regression(x, y, batch_size=8, seed=seed).loss(evaluator, theta, 0) for seed in range(4)}
    assert len(losses) == 4


def test_without_batches_the_number_means_nothing(evaluator, theta):
    x, y = data()
    problem = Regression(x, y, batch_size=50)
    assert problem.steps_per_epoch == 1
    assert problem.loss(evaluator, theta, 17) == problem.loss(evaluator, theta)
    assert problem.batch_length(17) == problem.batch_length() == 50


def test_work_is_counted_per_sample(evaluator):
    x, y = data(53)
    problem = Regression(x, y, batch_size=10)
    assert problem.work(evaluator) == 53 * evaluator.cost_per_sample
    assert problem.work(evaluator, gradient=False) == 53 * evaluator.value_cost_per_sample
    assert problem.work(evaluator, 5) == 3 * evaluator.cost_per_sample


# ---------------------------------------------------------------------------------------------------------- validation


def test_held_back_samples_are_disjoint_from_the_others():
    x = np.linspace(-1.0, 1.0, 200).reshape(-1, 1)
    level = make_level(widths=(1, 1))
    theta = coefficients(level)
    problem = Regression(x, x, validation=0.25, seed=1)
    assert (problem.num_samples, problem.num_validation) == (150, 50)
    held_back, rest = problem._validation.rows, problem._samples.rows
    assert np.array_equal(np.sort(np.concatenate([held_back, rest])), np.arange(200))
    expected = Regression(x[held_back], x[held_back]).loss(level.evaluator, theta)
    assert problem.validation_loss(level.evaluator, theta) == pytest.approx(expected, rel=1e-13)
    expected = Regression(x[rest], x[rest]).loss(level.evaluator, theta)
    assert problem.loss(level.evaluator, theta) == pytest.approx(expected, rel=1e-13)
    assert not np.array_equal(Regression(x, x, validation=0.25, seed=2)._validation.rows, held_back)


def test_validation_is_weighted_like_the_samples(evaluator, theta):
    x, y = data()
    weights = np.random.default_rng(7).uniform(0.5, 1.0, len(x))
    problem = Regression(x, y, weights=weights, validation=0.4)
    rows = problem._validation.rows
    expected = Regression(x[rows], y[rows], weights=weights[rows]).loss(evaluator, theta)
    assert problem.validation_loss(evaluator, theta) == pytest.approx(expected, rel=1e-13)


def test_validation_may_be_a_pair(evaluator, theta):
    x, y = data()
    outside = 3.0 * x
    problem = Regression(x, y, validation=(outside, y[:, 0]))
    assert (problem.num_samples, problem.num_validation) == (50, 50)
    assert problem.validation_loss(evaluator, theta) == Regression(outside, y).loss(evaluator, theta)
    assert problem.loss(evaluator, theta) == Regression(x, y).loss(evaluator, theta)


def test_no_validation_no_loss(evaluator, theta):
    assert Regression(*data()).validation_loss(evaluator, theta) is None


def test_held_back_samples_are_in_no_batch():
    x, y = data()
    problem = Regression(x, y, validation=0.2, batch_size=7)
    visited = np.concatenate([problem._choose(number)[0].rows for number in range(problem.steps_per_epoch)])
    assert np.array_equal(np.sort(visited), problem._samples.rows)


# ------------------------------------------------------------------------------------------------------- coarse levels


def test_subsets_are_nested_and_reproducible():
    problem = Regression(*data(200))
    rows = {fraction: set(problem.subset(fraction)._samples.rows.tolist()) for fraction in (0.1, 0.25, 0.5)}
    assert [len(rows[fraction]) for fraction in rows] == [20, 50, 100]
    assert rows[0.1] < rows[0.25] < rows[0.5]
    assert set(Regression(*data(200)).subset(0.25)._samples.rows.tolist()) == rows[0.25]


def test_subset_of_all_is_the_problem_itself():
    problem = Regression(*data())
    assert problem.subset(1.0) is problem
    assert problem.subset(1e-9).num_samples == 1


def test_subset_keeps_weights_validation_and_steps_per_epoch(evaluator, theta):
    x, y = data(200)
    weights = np.random.default_rng(7).uniform(0.0, 1.0, len(x))
    problem = Regression(x, y, weights=weights, validation=0.2, batch_size=16, seed=4)
    part = problem.subset(0.5)
    rows = part._samples.rows
    assert set(rows.tolist()) < set(problem._samples.rows.tolist())
    assert part.steps_per_epoch == problem.steps_per_epoch == 10
    expected = Regression(x[rows], y[rows], weights=weights[rows]).loss(evaluator, theta)
    assert part.loss(evaluator, theta) == pytest.approx(expected, rel=1e-13)
    assert part.validation_loss(evaluator, theta) == problem.validation_loss(evaluator, theta)
    assert problem.num_samples == 160


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_bad_fractions(fraction):
    with pytest.raises(KanmgValueError, match=r"`subset` got `fraction=.*`\. It must lie in \(0, 1\]\."):
        Regression(*data()).subset(fraction)


# ------------------------------------------------------------------------------------------------- what a run needs


def test_training_inputs_are_all_points_of_small_problems():
    x, y = data()
    assert np.array_equal(Regression(x, y).training_inputs(), x)
    problem = Regression(x, y, validation=0.2)
    assert np.array_equal(problem.training_inputs(), x[problem._samples.rows])


def test_training_inputs_are_few_and_spread_on_a_grid():
    side = np.linspace(-1.0, 1.0, 128)
    x = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    inputs = Regression(x, x[:, 0], seed=1).training_inputs()
    assert inputs.shape == (4096, 2)
    assert len(np.unique(inputs, axis=0)) == 4096
    assert [len(np.unique(inputs[:, column])) for column in range(2)] == [128, 128]
    assert np.array_equal(inputs, Regression(x, x[:, 0], seed=1).training_inputs())


def test_fingerprints_see_data_weights_and_options():
    x, y = data()
    changed = x.copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], 2.0)
    weights = np.ones(len(x))
    problems = [
        Regression(x, y),
        Regression(changed, y),
        Regression(x, 2.0 * y),
        Regression(x[::-1], y),
        Regression(x.astype("float32"), y.astype("float32")),
        Regression(x, y, weights=weights),
        Regression(x, y, weights=2.0 * weights),
        Regression(x, y, batch_size=8),
        Regression(x, y, batch_size=9),
        Regression(x, y, seed=1),
        Regression(x, y, validation=0.2),
        Regression(x, y, validation=0.2, seed=1),
        Regression(x, y, validation=(x, y)),
        Regression(x, y).subset(0.5),
    ]
    assert len({problem.fingerprint() for problem in problems}) == len(problems)
    assert Regression(x, y).fingerprint() == Regression(x.copy(), y.copy()).fingerprint()


def test_repr_is_short():
    problem = Regression(*data(), batch_size=8, validation=0.2)
    assert repr(problem) == "Regression(40 samples, 10 for validation, batches of 8, 2 -> 1, float64)"


def test_data_are_shared_not_copied():
    x, y = data()
    problem = Regression(torch.from_numpy(x), y)
    assert np.shares_memory(problem._samples.x, x)
    assert np.shares_memory(problem._samples.y, y)


# --------------------------------------------------------------------------------------------------------------- memory


class Sum:
    """An evaluator that looks at everything it gets without making arrays."""

    cost_per_sample = value_cost_per_sample = 1.0

    def __init__(self):
        self.samples = 0

    def squared_error(self, theta, x, y, weights=None):
        self.samples += len(x)
        return float(x.sum() + y.sum() + (0.0 if weights is None else weights.sum())), theta.copy()

    def squared_error_value(self, theta, x, y, weights=None):
        return self.squared_error(theta, x, y, weights)[0]


@pytest.fixture(scope="module")
def million():
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (1_000_000, 2))
    return x, x[:, 0] * x[:, 1], np.abs(x[:, 1])


def peak_of(action):
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_million_samples_are_never_copied(million):
    x, y, weights = million
    level, evaluator, theta = make_level(), Sum(), np.zeros(4)

    def everything():
        problem = Regression(x, y, weights=weights, validation=(x, y))
        problem.check_level(level)
        problem.fingerprint()
        problem.training_inputs()
        problem.loss(evaluator, theta)
        problem.loss_and_gradient(evaluator, theta)
        problem.validation_loss(evaluator, theta)

    assert peak_of(everything) < 4e6
    assert evaluator.samples == 3_000_000


def test_chosen_samples_of_a_million_cost_their_index_and_one_chunk(million):
    x, y, _ = million
    evaluator, theta = Sum(), np.zeros(4)
    problem = Regression(x, y, batch_size=1000, validation=0.1)
    index_bytes = 4 * 1_000_000
    assert peak_of(lambda: Regression(x, y, validation=0.1)) < 3 * index_bytes
    assert peak_of(lambda: problem.loss_and_gradient(evaluator, theta)) < 4e6
    assert peak_of(lambda: problem.validation_loss(evaluator, theta)) < 4e6
    assert evaluator.samples == 1_000_000
    assert peak_of(lambda: problem.loss_and_gradient(evaluator, theta, 0)) < 2 * index_bytes
    assert peak_of(lambda: problem.loss_and_gradient(evaluator, theta, 1)) < 2e5


# ------------------------------------------------------------------------------------------------------------ bad input


def with_value(array, value, index=(3, 0)):
    changed = array.copy()
    changed[index] = value
    return changed


X, Y = data()
WEIGHTS = np.ones(50)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X[:0], Y[:0]), {}, ShapeError, "`x` is empty: its shape is (0, 2). Pass at least one sample."),
        (
            (X[:, 0], Y),
            {},
            ShapeError,
            (
                "`x` has shape (50,) but one row per sample is required, (N, d); for one column write "
                "`x.reshape(-1, 1)`."
            ),
        ),
        ((X, Y[:, :, None]), {}, ShapeError, "`y` has shape (50, 1, 1) but one row per sample is required, (N, d)."),
        (
            (X, Y[:49]),
            {},
            ShapeError,
            ("`x` has 50 rows, `y` has 49 rows. Pass the same number of rows in each, one per sample."),
        ),
        (
            (X, Y),
            {"weights": WEIGHTS[:9]},
            ShapeError,
            (
                "`x` has 50 rows, `y` has 50 rows, `weights` has 9 rows. Pass the same number of rows in each, "
                "one per sample."
            ),
        ),
        (
            (X, Y),
            {"weights": WEIGHTS[:, None]},
            ShapeError,
            ("`weights` has shape (50, 1) but one weight per sample is required, (N,). Write `weights.reshape(-1)`."),
        ),
        (
            (with_value(X, np.nan), Y),
            {},
            NonFiniteError,
            ("`x` contains 1 NaN or infinite value (the first in row 3). Remove or replace them."),
        ),
        (
            (X, with_value(Y, np.inf)),
            {},
            NonFiniteError,
            ("`y` contains 1 NaN or infinite value (the first in row 3). Remove or replace them."),
        ),
        (
            (X, Y),
            {"weights": with_value(WEIGHTS, np.nan, 3)},
            NonFiniteError,
            ("`weights` contains 1 NaN or infinite value (the first in row 3). Remove or replace them."),
        ),
        (
            (X, Y),
            {"weights": with_value(WEIGHTS, -0.5, 3)},
            KanmgValueError,
            (
                "`weights` contains 1 negative value (smallest -0.5). Weights must not be negative; use 0 to "
                "leave a sample out."
            ),
        ),
        (
            (X, Y),
            {"weights": 0.0 * WEIGHTS},
            KanmgValueError,
            ("the `weights` of all 50 samples are 0. At least one must be positive."),
        ),
        (
            (X, Y.astype("float32")),
            {},
            DtypeError,
            (
                "`y` is float32 but `x` is float64. Convert one of them, such as `y.astype('float64')` in NumPy "
                "or `y.to(torch.float64)` in torch."
            ),
        ),
        (
            (X, Y),
            {"weights": WEIGHTS.astype("float32")},
            DtypeError,
            (
                "`weights` is float32 but `x` is float64. Convert one of them, such as "
                "`weights.astype('float64')` in NumPy or `weights.to(torch.float64)` in torch."
            ),
        ),
        (
            (X.astype(int), Y),
            {},
            DtypeError,
            ("`x` has dtype int64; float64 or float32 is required. Write `x.astype('float64')`."),
        ),
        (
            (torch.zeros(5, 2, device="meta"), Y),
            {},
            DeviceError,
            ("`x` is a tensor on meta; it must be on the CPU. Write `x.cpu()`."),
        ),
        ((X, Y), {"batch_size": 0}, KanmgValueError, "`batch_size=0` is too small. It must be at least 1."),
        ((X, Y), {"batch_size": 2.5}, KanmgTypeError, "`batch_size=2.5` is a float. Pass an integer, at least 1."),
        ((X, Y), {"seed": -1}, KanmgValueError, "`seed=-1` is too small. It must be at least 0."),
        ((X, Y), {"seed": None}, KanmgTypeError, "`seed=None` is a NoneType. Pass an integer, at least 0."),
        (
            (X, Y),
            {"validation": 1.0},
            KanmgValueError,
            ("`validation=1` is no fraction of the samples. Pass a number from (0, 1), or a pair `(x, y)`."),
        ),
        (
            (X, Y),
            {"validation": -0.1},
            KanmgValueError,
            ("`validation=-0.1` is no fraction of the samples. Pass a number from (0, 1), or a pair `(x, y)`."),
        ),
        (
            (X, Y),
            {"validation": 0.001},
            KanmgValueError,
            (
                "`validation=0.001` holds back 0 of 50 samples. At least one must be held back and one be left: "
                "pass more samples, or a pair `(x, y)`."
            ),
        ),
        (
            (X, Y),
            {"validation": "10 %"},
            KanmgTypeError,
            ("`validation` is a str. Pass a fraction of the samples from (0, 1), or a pair `(x, y)`."),
        ),
        (
            (X, Y),
            {"validation": True},
            KanmgTypeError,
            ("`validation` is a bool. Pass a fraction of the samples from (0, 1), or a pair `(x, y)`."),
        ),
        (
            (X, Y),
            {"validation": (X,)},
            KanmgTypeError,
            ("`validation` is a tuple. Pass a fraction of the samples from (0, 1), or a pair `(x, y)`."),
        ),
        (
            (X, Y),
            {"validation": (X, Y[:9])},
            ShapeError,
            (
                "`validation[0]` has 50 rows, `validation[1]` has 9 rows. Pass the same number of rows in each, "
                "one per sample."
            ),
        ),
        (
            (X, Y),
            {"validation": (X[:, :1], Y)},
            ShapeError,
            (
                "`validation[0]` has shape (50, 1) but `x` has shape (50, 2). Pass arrays with the same number "
                "of columns."
            ),
        ),
        (
            (X, Y),
            {"validation": (X.astype("float32"), Y.astype("float32"))},
            DtypeError,
            (
                "`validation[0]` is float32 but `x` is float64. Convert one of them, such as "
                "`validation[0].astype('float64')` in NumPy or `validation[0].to(torch.float64)` in torch."
            ),
        ),
    ],
)
def test_bad_data_and_options(arguments, options, error, message):
    with pytest.raises(error) as caught:
        Regression(*arguments, **options)
    assert str(caught.value) == message


def test_weights_of_held_back_samples_may_not_vanish():
    problem = Regression(X, Y, validation=0.1)
    weights = WEIGHTS.copy()
    weights[problem._validation.rows] = 0.0
    with pytest.raises(KanmgValueError, match="the `weights` of all 5 held-back samples are 0"):
        Regression(X, Y, weights=weights, validation=0.1)


@pytest.mark.parametrize(
    ("problem", "options", "error", "message"),
    [
        (
            Regression(X, Y),
            {"widths": (3, 2, 1)},
            ShapeError,
            (
                "`x` has 2 columns but `hierarchy` was built for 3 inputs (`widths=(3, 2, 1)`). Pass points of "
                "shape (N, 3)."
            ),
        ),
        (
            Regression(X, Y),
            {"num_outputs": 2},
            ShapeError,
            (
                "`y` has 1 column but `hierarchy` was built for 2 outputs (`widths=(2, 3, 2)`). Pass values of "
                "shape (N, 2)."
            ),
        ),
        (
            Regression(X.astype("float32"), Y.astype("float32")),
            {},
            DtypeError,
            (
                "`x` is float32 but `hierarchy` was built with `dtype='float64'`. Convert the data "
                "(`x.astype('float64')` in NumPy, `x.to(torch.float64)` in torch), or build the hierarchy with "
                "`dtype='float32'`."
            ),
        ),
        (
            Regression(with_value(X, 1.31), Y),
            {},
            DomainError,
            (
                "`x` contains 1 value outside the domain [-1, 1] of input 0 (largest 1.31). Build the hierarchy "
                "with a `domain` that holds them, or drop them."
            ),
        ),
    ],
)
def test_hierarchies_that_do_not_fit(problem, options, error, message):
    with pytest.raises(error) as caught:
        problem.check([make_level(**options)])
    assert str(caught.value) == message


def test_points_on_the_ends_of_the_domain_are_inside():
    x = np.array([[0.0, 0.1], [0.1, 0.0]], dtype="float32")
    Regression(x, x[:, 0]).check([make_level(dtype="float32", domain=(0.0, 0.1))])


# ---------------------------------------------------------------------------------------------------- sums of squares


def weighted(num_outputs, *, weights=True, **options):
    x, y = data(num_outputs=num_outputs)
    values = np.random.default_rng(3).uniform(0.0, 2.0, len(x)) if weights else None
    return Regression(x, y, weights=values, **options)


SUMS = pytest.mark.parametrize(
    "make",
    [
        lambda: weighted(1, weights=False),
        lambda: weighted(1),
        lambda: weighted(3),
        lambda: weighted(3).subset(0.4),
        lambda: weighted(3, validation=0.2),
        lambda: weighted(3, batch_size=7),
    ],
    ids=["plain", "weights", "outputs", "subset", "validation", "batches"],
)


def case(make):
    problem = make()
    level = make_level(problem.num_outputs)
    return problem, level.evaluator, coefficients(level)


@SUMS
def test_the_loss_is_the_sum_of_the_squared_residuals(make):
    problem, evaluator, theta = case(make)
    residuals = problem.residuals(evaluator, theta)
    assert residuals.shape == (problem.num_residuals,) == (problem.num_samples * problem.num_outputs,)
    assert residuals @ residuals == pytest.approx(problem.loss(evaluator, theta), rel=1e-13)


@SUMS
def test_pulled_back_vectors_are_those_of_finite_differences(make):
    problem, evaluator, theta = case(make)
    rng, h = np.random.default_rng(4), 1e-6
    cotangents = rng.standard_normal(problem.num_residuals)
    pulled_back = problem.pull_back(evaluator, theta, cotangents)
    for direction in rng.standard_normal((5, len(theta))):
        ahead, back = (problem.residuals(evaluator, theta + sign * h * direction) for sign in (1, -1))
        assert pulled_back @ direction == pytest.approx(cotangents @ (ahead - back) / (2 * h), rel=1e-6, abs=1e-8)


@SUMS
def test_normal_equations_agree_with_loss_gradient_and_finite_differences(make):
    problem, evaluator, theta = case(make)
    loss, gradient, matrix = problem.normal_equations(evaluator, theta)
    expected_loss, expected_gradient = problem.loss_and_gradient(evaluator, theta)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    assert gradient == pytest.approx(expected_gradient, rel=1e-10, abs=1e-13)
    assert gradient == pytest.approx(
        2.0 * problem.pull_back(evaluator, theta, problem.residuals(evaluator, theta)), rel=1e-10, abs=1e-13
    )
    h = 1e-6
    columns = [
        (problem.residuals(evaluator, theta + h * unit) - problem.residuals(evaluator, theta - h * unit)) / (2 * h)
        for unit in np.eye(len(theta))
    ]
    assert matrix == pytest.approx(2.0 * np.array(columns) @ np.array(columns).T, rel=1e-6, abs=1e-8)


def test_sums_of_squares_of_samples_in_many_chunks(monkeypatch):
    problem, evaluator, theta = case(lambda: weighted(3).subset(0.9))
    expected = problem.normal_equations(evaluator, theta)
    residuals = problem.residuals(evaluator, theta)
    pulled_back = problem.pull_back(evaluator, theta, residuals)

    def small_chunks(num_rows, row_size):  # noqa: ARG001
        return (slice(i, min(i + 7, num_rows)) for i in range(0, num_rows, 7))

    monkeypatch.setattr("kanmg.problems.samples.row_chunks", small_chunks)
    again = weighted(3).subset(0.9)
    assert len(list(again._samples.pieces())) > 1
    assert again.residuals(evaluator, theta) == pytest.approx(residuals, rel=1e-13)
    assert again.pull_back(evaluator, theta, residuals) == pytest.approx(pulled_back, rel=1e-12, abs=1e-14)
    for chunked, whole in zip(again.normal_equations(evaluator, theta), expected, strict=True):
        assert chunked == pytest.approx(whole, rel=1e-12, abs=1e-14)


def test_sums_of_squares_in_float32():
    x, y = data(dtype="float32")
    level = make_level(dtype="float32")
    problem, evaluator, theta = Regression(x, y), level.evaluator, coefficients(level)
    residuals = problem.residuals(evaluator, theta)
    loss, gradient, matrix = problem.normal_equations(evaluator, theta)
    pulled_back = problem.pull_back(evaluator, theta, residuals)
    assert {array.dtype for array in (residuals, gradient, matrix, pulled_back)} == {np.dtype("float32")}
    assert loss == pytest.approx(problem.loss(evaluator, theta), rel=1e-5)
    assert matrix == pytest.approx(matrix.T)


@pytest.mark.parametrize("size", [1e-200, 1e-76, 1e76, 1e200])
def test_values_whose_powers_overflow_or_vanish_are_refused(size):
    x = np.linspace(0.0, 1.0, 50).reshape(-1, 1)
    with pytest.raises(KanmgValueError, match=r"values `y` is 1\.0e[-+]\d+, .*Divide `y` by a number"):
        kanmg.Regression(x, size * x)
    kanmg.Regression(x, 0.0 * x)
    kanmg.Regression(x, np.where(x > 0.5, 1e-300, 1.0))
