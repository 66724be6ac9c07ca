"""TensorRT without ONNX Runtime: engines are built from a bundle's graphs, kept, checked, and run.

library   which TensorRT is installed: the full one, or TensorRT-RTX
keys      what an engine was made from, and for which GPUs; the name of its file
store     engines on the disk, with the record and seal of the user who built them
building  build an engine from an ONNX graph; only the full TensorRT needs a GPU for it
running   CUDA streams and memory, and an engine that runs in them
runtime   the three steps of `Runtime`

Importing this loads neither TensorRT nor CUDA.
"""
