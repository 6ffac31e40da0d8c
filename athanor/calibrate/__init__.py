"""Measuring the machine that this process runs on, as a cluster that the planner takes."""
