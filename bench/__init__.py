"""The benchmark: every cell of fusedrnn beside its peers and beside the machine's own limit."""
