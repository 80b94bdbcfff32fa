"""What every mode runs on: the program's start and end, processes, files, errors, configs."""
