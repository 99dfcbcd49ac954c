"""A package, because other directories of tests have modules of the same names."""
