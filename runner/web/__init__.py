"""HTTP from the runner, for jobs: where they may connect to, how often, and one request with all its hops."""
