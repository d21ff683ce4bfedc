"""Experiments on real data: data sets, models, training, and the demo."""
