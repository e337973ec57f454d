"""A policy at other times than now."""
