"""Clips and captions as a trainer reads them: made by `prepare`, opened by `open_dataset`."""
