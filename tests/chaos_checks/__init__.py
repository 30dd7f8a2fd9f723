"""The checks of ``tests.chaos`` notice what they are for: here promises are broken by hand."""
