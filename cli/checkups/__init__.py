"""What ``moonyard doctor`` looks at beside the runner's machine: files, orchestrators, the database, master keys."""
