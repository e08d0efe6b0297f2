"""The inner loops: arrays in, arrays out; numpy and numba, and torch in guided_step alone. No files, no checks, no
logging, no settings; `compiling` alone finds a folder for machine code, and says where there is none.

The folder is reached as `tumorcast.kernels` (tumorcast/kernels links here) and under no other name: a second name would
compile, cache and load every kernel twice.
"""

if __name__ != "tumorcast.kernels":
    raise ImportError(f"this package is tumorcast.kernels, not {__name__!r}: write `import tumorcast.kernels`")
