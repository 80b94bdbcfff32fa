"""Where videos come from. Only `shapes` and `array_file` work without TensorFlow."""
