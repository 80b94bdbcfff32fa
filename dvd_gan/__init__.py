"""DVD-GAN (Clark, Donahue, Simonyan 2019) in JAX and Flax, from a laptop CPU to a TPU pod."""
