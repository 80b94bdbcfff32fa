"""Data sets and the input pipeline. Only data.name=array_file, with .npz files (see `shapes`), needs no TensorFlow."""
