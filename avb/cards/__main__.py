import sys

from avb.cards.command import main

sys.exit(main())
