"""Subcommands that need torch and onnx."""
