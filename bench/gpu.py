"""Measurements on one NVIDIA GPU, ours against others' in one run.

python bench/gpu.py --list
python bench/gpu.py                   # all of them; needs a CUDA device
python bench/gpu.py --tiny            # the same code at small sizes on a CPU; nothing is kept
"""

from rows import run

if __name__ == "__main__":
    run("cuda", __doc__)
