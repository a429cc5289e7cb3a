import sys

from avb.calibration.command import main

sys.exit(main())
