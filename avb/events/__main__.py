import sys

from avb.events.command import main

sys.exit(main())
