"""Measuring: tasks, metrics, statistics, the before/after comparison and its report."""
