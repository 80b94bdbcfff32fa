"""`--mode=dry_run`: the train step compiled for a TPU slice, on any machine."""
