"""Kernels compiled for another processor, run by an emulator, held to the reference here: `make neon`

serve.c     the program that runs there: reads a kernel's arguments, calls it, writes its output
verify.py   compiles it with the kernels, and lends it to the harness as if it were the openmp backend
"""
