"""What the hierarchy gains: the default method against its smoother on the finest level alone, for the same seconds.

The finest level begins with the coefficients that the default draws there, and goes on with steps of the same smoother
until the time is over that the default took, starts included.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import statistics

from accuracy import ROWS, Row

import kanmg

TIMES_BETTER = 10.0


def fine_alone(
    row: Row, problem: kanmg.problems.base.Problem, hierarchy: kanmg.Hierarchy, seed: int, seconds: float
) -> kanmg.Solution:
    """Smooth on the finest level only, for so many seconds."""
    method = row.method or kanmg.default_method(problem, hierarchy)
    alone = kanmg.NestedIteration(method.smoother, steps=1_000_000)
    level = kanmg.Hierarchy([hierarchy[-1].network])

    def stop(record: kanmg.Record) -> None:
        if record.seconds >= seconds:
            raise StopIteration

    return kanmg.solve(problem, level, method=alone, seed=seed, progress=False, throw=False, callback=stop)


def main() -> int:
    arguments = harness.parse_arguments(
        __doc__,
        ("--only", {"action": "append", "default": [], "help": "rows whose names contain this"}),
        ("--seeds", {"type": int, "default": 0, "help": "number of seeds; 5, or 1 if quick"}),
    )
    seeds = range(arguments.seeds or (1 if arguments.quick else 5))
    report, table = harness.Report(), []
    for name, row in ROWS.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        errors: dict[str, list[float]] = {"nested": [], "alone": []}
        for seed in seeds:
            model = row.make(seed)
            hierarchy = model.hierarchy(**row.hierarchy)
            nested = kanmg.solve(model.problem, hierarchy, method=row.method, seed=seed, progress=False, throw=False)
            alone = fine_alone(row, model.problem, hierarchy, seed, nested.seconds)
            for key, solution in (("nested", nested), ("alone", alone)):
                errors[key].append(row.error_of(model, solution))
            print(
                f"{name}, seed {seed}: nested {errors['nested'][-1]:.1e} in {nested.seconds:.1f} s, "
                f"alone {errors['alone'][-1]:.1e} in {alone.seconds:.1f} s",
                flush=True,
            )
        medians = {key: statistics.median(values) for key, values in errors.items()}
        gain = medians["alone"] / medians["nested"]
        table.append((name, f"{medians['nested']:.1e}", f"{medians['alone']:.1e}", f"{gain:.0f}"))
        report.at_least(f"{name}: times smaller error", gain, TIMES_BETTER)
    print(f"\nMedian errors of {len(seeds)} seed{'s' if len(seeds) > 1 else ''} at equal time\n")
    harness.print_table(("problem", "nested iteration", "finest level alone", "ratio"), table)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
