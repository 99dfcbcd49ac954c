"""From a configuration to a result file, on one machine."""
