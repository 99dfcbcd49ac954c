"""Methods that start from a dense network and end with a sparse one."""
