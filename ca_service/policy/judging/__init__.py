"""The checks that a policy stands for, and what they look at."""
