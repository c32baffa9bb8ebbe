"""``python -m results.reference RUN``: make a run the reference of its paper."""

import argparse
import sys

from common.errors import UserError
from results.reference import add_arguments, run

parser = argparse.ArgumentParser(prog="python -m results.reference", description="Make a run the reference.")
add_arguments(parser)
try:
    sys.exit(run(parser.parse_args()))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
