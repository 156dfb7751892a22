import sys

from keras_pde.cli import main

sys.exit(main())
