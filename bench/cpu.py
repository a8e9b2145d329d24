"""Measurements on a CPU, ours against others' in one run.

python bench/cpu.py --list
OMP_NUM_THREADS=2 python bench/cpu.py denoise-two-cores
"""

from rows import run

if __name__ == "__main__":
    run("cpu", __doc__)
