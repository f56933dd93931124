"""Verification that a bundle is its PyTorch model: onnxruntime against torch on held-out text."""
