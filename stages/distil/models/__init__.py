"""Running models: loading, device and precision, batches, greedy decoding, LoRA, resuming.

May import: interface, weights.
"""
