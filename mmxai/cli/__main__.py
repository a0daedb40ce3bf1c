import sys

from mmxai.cli import main

sys.exit(main())
