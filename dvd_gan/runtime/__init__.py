"""Common parts of all modes: start and exit of the program, processes, files, errors, configs."""
