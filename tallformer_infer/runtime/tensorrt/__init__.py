"""TensorRT without ONNX Runtime: engines are built from a bundle's graphs, kept, checked, and run.

library   which TensorRT is installed: the full one, or TensorRT-RTX
targets   for which GPUs an engine is
keys      what an engine was made from and for, and the name of its file
seal      whether an engine was built by this user
store     engines on the disk
building  an ONNX graph to an engine; a GPU is needed by the full TensorRT only
cuda      streams, events and memory
running   one engine, double-buffered
runtime   the three steps of `Runtime`

Importing this loads neither TensorRT nor CUDA.
"""
