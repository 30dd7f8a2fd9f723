"""The statements of the migrations. (A package, so that they are installed with the others.)"""
