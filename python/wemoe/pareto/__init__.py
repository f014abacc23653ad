"""Pareto fronts: one routed model for all preferences between tasks, its training, and what is measured of it."""
