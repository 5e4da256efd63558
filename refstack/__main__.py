"""python -m refstack"""

from refstack.cli import main

if __name__ == "__main__":
    main()
