import sys

from keras_pde.cli import main

if __name__ == "__main__":
    sys.exit(main())
