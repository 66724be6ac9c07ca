"""TensorRT without ONNX Runtime: engines are built from a bundle's graphs, kept, checked, and run.

keys      which TensorRT and GPU are here; what an engine was made from, and for which GPUs
store     engines on the disk, with the record and seal of the user who built them
building  build an engine from an ONNX graph; only the full TensorRT needs a GPU for it
running   the steps of `Runtime`, in CUDA streams and memory

Importing this loads neither TensorRT nor CUDA.
"""
