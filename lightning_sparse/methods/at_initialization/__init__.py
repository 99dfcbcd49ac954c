"""Methods that prune a network once, before it is trained."""
