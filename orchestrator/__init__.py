"""A stateless replica: the HTTP API and the queue, on Postgres."""
