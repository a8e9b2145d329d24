"""The addresses, a file for each dialect and subject."""
