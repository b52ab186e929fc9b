"""Planner: what a test will cost, from counts of its own code and a short measurement on the machine at hand."""
