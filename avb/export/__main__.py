import sys

from avb.export.exporting import main

sys.exit(main())
