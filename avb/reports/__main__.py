import sys

from avb.reports.command import main

sys.exit(main())
