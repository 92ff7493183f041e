"""Smoothers: a few optimisation steps on one objective."""
