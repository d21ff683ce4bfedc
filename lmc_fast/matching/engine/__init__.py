"""What searches over weights: gains, descent, assignments inside owners, Frank-Wolfe, many models."""
