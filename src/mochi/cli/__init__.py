"""The command line. It reads the environment and prints, so that nothing below has to."""
