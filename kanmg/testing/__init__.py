"""What tests of kanmg, and of extensions of it, are made of.

`contract`: the checks that every evaluator must pass (needs pytest); `cases`: its networks and arguments; `oracle`:
networks evaluated with dense float64 matrices; `strategies` and `networks`: knots, networks and nested ones drawn by
hypothesis.
"""
