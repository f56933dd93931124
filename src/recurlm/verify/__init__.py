"""Verification that a bundle is its PyTorch model: onnxruntime against torch on held-out text.

Whatever differs, or is said that is not so, raises a `VerificationError`.
"""
