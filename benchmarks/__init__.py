"""Benchmarks: scoring pictures and measuring speed, outside of training."""
