"""Other programs that run jobs, each installed by its own package manager into .moonyard/bench and run as it comes."""
