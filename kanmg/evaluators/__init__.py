"""Evaluators: values, derivatives and adjoints of one network on one device."""
