"""Are wrong kernels, wrong checks and a wrong reference found out? See docs/mutation.md.

hand.py     faults written by hand                  tests/test_mutants.py runs them
sample.py   mutants of C files by universalmutator  `make mutants`; equivalent.json explains survivors
tree.py     a changed copy of refstack and its trial; judge.py is the part that runs inside it
"""
