"""Video files in and out: everything that touches PyAV or Pillow."""
