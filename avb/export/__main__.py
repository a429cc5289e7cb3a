import sys

from avb.export.command import main

sys.exit(main())
