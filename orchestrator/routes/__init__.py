"""The routes of the HTTP API, a module for each who calls them: what a request says, and what it is answered."""
