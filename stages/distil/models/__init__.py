"""A model at work: loading, device and precision, batches, greedy texts, LoRA, resuming.

May import: interface, weights.
"""
