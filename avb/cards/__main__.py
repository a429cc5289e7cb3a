import sys

from avb.cards.card import main

sys.exit(main())
