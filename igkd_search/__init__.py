"""Compress image classifiers by distillation guided by Integrated Gradients, tuned by Optuna."""

__version__ = "0.1.0"
