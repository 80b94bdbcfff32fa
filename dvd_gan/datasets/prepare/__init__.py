"""From folders of videos to record files: TFDS builders, decoding, archives, Beam."""
