"""Listeners of a training: a page, TensorBoard, Weights & Biases."""
