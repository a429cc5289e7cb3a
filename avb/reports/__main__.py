import sys

from avb.reports.tables import main

sys.exit(main())
